"""`agentrl rollout`: play and store groups of episodes, no update."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import asdict

import click
from rich.console import Console

from agentrl.cli.player import local_player
from agentrl.cli.progress import EpisodeBar
from agentrl.cli.report import print_report
from agentrl.config import Config, load_config
from agentrl.rollout.evaluate import recorded_status
from agentrl.rollout.group import group_specs, play_groups
from agentrl.rollout.report import report
from agentrl.rollout.setup import batch_tasks
from agentrl.store.db import Store
from agentrl.types import Episode

__all__ = ["command"]


@click.command("rollout")
@click.argument("config_file", metavar="CONFIG")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--batches", type=click.IntRange(min=1), default=1, show_default=True, help="Batches to play.")
@click.option("--json", "as_json", is_flag=True, help="Print the run and its report as JSON.")
def command(config_file: str, overrides: tuple[str, ...], batches: int, as_json: bool) -> None:
    """Play the training tasks of CONFIG in groups and store every episode, without updating the policy."""
    config = load_config(config_file, overrides)
    console = Console(stderr=as_json)
    with Store.open(config.store_url) as store:
        run_id, episodes = asyncio.run(_play(config, store, batches, console))
    summary = report(episodes)
    if as_json:
        click.echo(json.dumps({"run": run_id, "report": asdict(summary)}))
        return
    print_report(console, summary, f"run {run_id}: {config.env.id}, train split")
    console.print(f"trajectories: {config.store_url}   recompute credit: agentrl credit --run {run_id} ...")


async def _play(config: Config, store: Store, batches: int, console: Console) -> tuple[str, list[Episode]]:
    rollout = config.rollout
    async with local_player(config) as player:
        tasks = player.env.tasks("train")
        run_id = store.add_run(
            name=config.run.name, env=config.env.id, config=config.to_json(), config_hash=config.hash
        )
        groups = [
            group
            for batch in range(batches)
            for group in group_specs(
                batch_tasks(tasks, count=rollout.tasks_per_batch, batch=batch, seed=config.run.seed),
                size=rollout.group_size,
                seed=config.run.seed,
                batch=batch,
                prefix=f"{config.hash[:8]}-rollout",
                config_hash=config.hash,
            )
        ]
        played: dict[str, Sequence[Episode]] = {}
        playing = play_groups(player, groups, concurrency=rollout.concurrency)
        with (
            recorded_status(store, run_id),
            EpisodeBar(console, "playing", len(groups) * rollout.group_size) as bar,
        ):
            async with aclosing(playing) as finished:
                async for group in finished:
                    place = int(group[0].group_id.rpartition("-")[2])
                    await asyncio.to_thread(
                        store.add_episodes, run_id, group, position=place * rollout.group_size
                    )
                    played[group[0].group_id] = group
                    bar.group_done(group)
    return run_id, [episode for group in groups for episode in played[group.group_id]]

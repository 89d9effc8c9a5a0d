"""`agentrl rollout`: play and store groups of episodes, no update."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict

import click

from agentrl.config import load_config

__all__ = ["command"]


@click.command("rollout")
@click.argument("config_file", metavar="CONFIG")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--batches", type=click.IntRange(min=1), default=1, show_default=True, help="Batches to play.")
@click.option("--json", "as_json", is_flag=True, help="Print the run and its report as JSON.")
def command(config_file: str, overrides: tuple[str, ...], batches: int, as_json: bool) -> None:
    """Play the training tasks of CONFIG in groups and store every episode, without updating the policy."""
    from rich.console import Console

    from agentrl.cli.player import local_player
    from agentrl.cli.progress import EpisodeBar
    from agentrl.cli.report import print_report
    from agentrl.rollout.collect import Collected, collect
    from agentrl.rollout.report import report
    from agentrl.store.db import Store

    config = load_config(config_file, overrides)
    console = Console(stderr=as_json)

    async def play(store: Store) -> Collected:
        async with local_player(config) as player:
            episodes = batches * config.rollout.tasks_per_batch * config.rollout.group_size
            with EpisodeBar(console, "playing", episodes) as bar:
                return await collect(config, player, store, batches, bar.group_done)

    with Store.open(config.store_url) as store:
        run_id, episodes = asyncio.run(play(store))
    summary = report(episodes)
    if as_json:
        click.echo(json.dumps({"run": run_id, "report": asdict(summary)}))
        return
    print_report(console, summary, f"run {run_id}: {config.env.id}, train split")
    console.print(f"trajectories: {config.store_url}   recompute credit: agentrl credit --run {run_id} ...")

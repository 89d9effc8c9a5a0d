"""`agentrl eval`: success on held-out tasks, with a 95 % interval per task kind, and pass@k."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from agentrl.cli.player import local_player
from agentrl.cli.progress import EpisodeBar
from agentrl.cli.report import print_report
from agentrl.config import Config, load_config, run_config
from agentrl.rollout.report import Report

__all__ = ["command"]


@click.command("eval")
@click.argument("config_or_run", metavar="CONFIG|RUN")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--split", help="Split to play (default: eval.split).")
@click.option("--episodes", type=click.IntRange(min=1), help="Tasks to play (default: eval.tasks).")
@click.option("--samples", type=click.IntRange(min=1), help="Episodes per task, for pass@k.")
@click.option("--runs", "runs_dir", type=click.Path(path_type=Path), default=Path("runs"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    config_or_run: str,
    overrides: tuple[str, ...],
    split: str | None,
    episodes: int | None,
    samples: int | None,
    runs_dir: Path,
    as_json: bool,
) -> None:
    """Play held-out tasks with the policy of a CONFIG file, or with the latest weights of a RUN.

    Episodes are stored as a run of their own.
    """
    given = list(overrides)
    options = {"eval.split": split, "eval.tasks": episodes, "eval.samples": samples}
    given += [f"{key}={value}" for key, value in options.items() if value is not None]
    if config_or_run.endswith(".toml"):
        config, name = load_config(config_or_run, given), Path(config_or_run).stem
    else:
        config, name = _of_run(runs_dir, config_or_run, given), config_or_run
    console = Console(stderr=as_json)
    result = asyncio.run(_evaluate(config, name, console))
    if as_json:
        click.echo(json.dumps(asdict(result)))
    else:
        print_report(
            console, result, f"{config.eval.split} of {config.env.id}, temperature {config.eval.temperature}"
        )


def _of_run(runs_dir: Path, run_id: str, overrides: list[str]) -> Config:
    started = run_config(runs_dir, run_id)

    from agentrl.train.checkpoint import latest_checkpoint

    checkpoint = latest_checkpoint(runs_dir / run_id / "checkpoints")
    weights = started.policy.checkpoint if checkpoint is None else checkpoint / "policy"
    return run_config(runs_dir, run_id, [f"policy.checkpoint={json.dumps(str(weights))}", *overrides])


async def _evaluate(config: Config, name: str, console: Console) -> Report:
    from agentrl.rollout.evaluate import evaluate_into_store
    from agentrl.store.db import Store

    with Store.open(config.store_url) as store:
        async with local_player(config) as player:
            episodes = min(config.eval.tasks, len(player.env.tasks(config.eval.split))) * config.eval.samples
            with EpisodeBar(console, "playing", episodes) as bar:
                return await evaluate_into_store(
                    config, player, store, name=name, label="eval", parent=None, on_group=bar.group_done
                )

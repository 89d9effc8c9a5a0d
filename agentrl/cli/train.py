"""`agentrl train`: a base model by behaviour cloning ([clone]), or reinforcement learning ([train])."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from agentrl.cli.progress import EpisodeBar, StageBar, TrainBar
from agentrl.cli.report import print_comparison
from agentrl.config import Config, load_config, run_config
from agentrl.errors import ConfigError
from agentrl.types import Episode

__all__ = ["command"]

RUNS = Path("runs")


@click.command("train")
@click.argument("config_file", metavar="[CONFIG]", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--resume", "run_id", metavar="RUN", help="Continue this run from its last checkpoint.")
@click.option("--runs", "runs_dir", type=click.Path(path_type=Path), default=RUNS, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def command(
    config_file: str | None, overrides: tuple[str, ...], run_id: str | None, runs_dir: Path, as_json: bool
) -> None:
    """Train as CONFIG says: a file, or one that ships; e.g. configs/quickstart.toml train.lr=1e-4.

    Ctrl-C stops at once. `--resume RUN` goes on from the last checkpoint and ends with the same weights as
    a run that was never interrupted.
    """
    if run_id is None and config_file is None:
        raise ConfigError("config.missing", "which config? e.g. agentrl train configs/quickstart.toml")
    console = Console(stderr=as_json)
    if run_id is not None:
        run_config(runs_dir, run_id)  # a run that does not exist is said before torch is loaded
        given = overrides if config_file is None else (config_file, *overrides)
        result = _learn(console, resume=(runs_dir, run_id, given))
    else:
        config = load_config(str(config_file), overrides)
        result = _clone(console, config) if config.clone is not None else _learn(console, config=config)
    if as_json:
        click.echo(json.dumps(result))


def _clone(console: Console, config: Config) -> dict[str, Any]:
    from agentrl.train.base import build_base
    from agentrl.train.model import pick_device

    console.print(f"playing expert episodes of {config.env.id}, then training a new model from nothing")
    with StageBar(console) as bar:
        out = build_base(config, device=pick_device(config.policy.device), watch=bar.step)
    console.print(f"base model in {out}; try it: agentrl eval <config> policy.checkpoint={out}")
    return {"model": str(out)}


@contextmanager
def _one_report() -> Generator[None]:
    """Say nothing for TensorBoard's thread: its error is raised again where we next write to it."""
    report = threading.excepthook

    def unless_tensorboard(failure: threading.ExceptHookArgs) -> None:
        if not type(failure.thread).__module__.startswith("tensorboard."):
            report(failure)

    threading.excepthook = unless_tensorboard
    try:
        yield
    finally:
        threading.excepthook = report


@_one_report()
def _learn(
    console: Console,
    *,
    config: Config | None = None,
    resume: tuple[Path, str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    from agentrl.train.run import open_run, resume_run
    from agentrl.train.session import run_session

    if resume is not None:
        run = resume_run(*resume)
    else:
        assert config is not None
        run = open_run(config)
    config = run.config
    where = "" if config.run.dir == RUNS else f" --runs {config.run.dir}"
    console.print(
        f"run [bold]{run.run_id}[/bold]: {config.env.id}, credit {config.credit.get('preset', 'custom')}"
    )
    with ExitStack() as bars:

        def watch_eval(label: str) -> Callable[[Sequence[Episode]], None]:
            bars.close()
            title = f"held-out, {label} training"
            episodes = config.eval.tasks * config.eval.samples
            return bars.enter_context(EpisodeBar(console, title, episodes)).group_done

        watch = _LazyBar(console, run.next_step, config, bars)
        try:
            session = asyncio.run(run_session(run, watch, watch_eval))
        except KeyboardInterrupt:
            bars.close()
            click.echo(
                f"agentrl: stopped after {run.next_step} of {config.train.steps} steps; what was played is "
                f"stored; go on with: agentrl train --resume {run.run_id}{where}",
                err=True,
            )
            sys.exit(130)
    title = f"{config.eval.split} of {config.env.id}, before and after {config.train.steps} steps"
    print_comparison(console, session.before, session.after, title)
    console.print(f"trajectories: {config.store_url}   picture: {session.picture}")
    console.print(f"play again: agentrl eval {run.run_id}{where}   list runs: agentrl runs")
    return {
        "run": run.run_id,
        "before": asdict(session.before),
        "after": asdict(session.after),
        "picture": str(session.picture),
    }


class _LazyBar:
    """A training bar that appears when training begins, after the evaluation's has gone."""

    def __init__(self, console: Console, first_step: int, config: Config, bars: ExitStack) -> None:
        self._make = lambda: TrainBar(
            console,
            first_step,
            config.train.steps,
            config.rollout.tasks_per_batch * config.rollout.group_size,
        )
        self._bars = bars
        self._bar: TrainBar | None = None

    def _shown(self) -> TrainBar:
        if self._bar is None:
            self._bars.close()
            self._bar = self._bars.enter_context(self._make())
        return self._bar

    def group_done(self, group: Sequence[Episode]) -> None:
        self._shown().group_done(group)

    def step_done(self, step: int, metrics: Any) -> None:
        self._shown().step_done(step, metrics)

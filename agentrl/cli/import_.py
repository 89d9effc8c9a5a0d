"""`agentrl import`: episodes from a file, as a new run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentrl.errors import AgentRLError, ConfigError
from agentrl.store import DEFAULT_URL, URL_VARIABLE

if TYPE_CHECKING:
    from agentrl.store.db import Store
    from agentrl.types import Episode

__all__ = ["command"]

EPISODES_PER_TRANSACTION = 64


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--store", "url", envvar=URL_VARIABLE, default=DEFAULT_URL, show_default=True, show_envvar=True)
@click.option("--name", help="Name of the new run; the file's name without its ending by default.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object when done.")
def command(file: Path, url: str, name: str | None, as_json: bool) -> None:
    """Read the episodes of FILE (.jsonl or .parquet) into a new run of the store.

    A file that turns out to be wrong half-way leaves a run with status "failed" that holds what came before.
    """
    from agentrl.store.db import Store

    episodes = _read(file)
    first = next(episodes, None)
    if first is None:
        raise ConfigError("cli.empty", f"{file} holds no episodes; nothing was imported")
    with Store.open(url) as store:
        run_id = store.add_run(
            name=name or file.stem, env=first.env or "unknown", config={"imported_from": file.name}
        )
        count = _add(store, run_id, chain([first], episodes))
    if as_json:
        click.echo(json.dumps({"run": run_id, "file": str(file), "episodes": count}))
    else:
        click.echo(f"{count:,} episodes of {file} -> {run_id}")


def _read(file: Path) -> Iterator[Episode]:
    from agentrl.store.parquet import read_parquet
    from agentrl.store.record import read_jsonl

    if file.suffix == ".parquet":
        return read_parquet(file)
    if file.suffix in (".jsonl", ".ndjson"):
        return read_jsonl(file)
    raise ConfigError("cli.format", f"cannot tell the format of {file}; end its name in .jsonl or .parquet")


def _add(store: Store, run_id: str, episodes: Iterable[Episode]) -> int:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    from agentrl.store.entries import RunStatus

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("importing, {task.completed:,.0f} episodes so far"))
    waiting = iter(episodes)
    count = 0
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task("importing", total=None)
            while chunk := list(islice(waiting, EPISODES_PER_TRANSACTION)):
                count += store.add_episodes(run_id, chunk)
                progress.update(task, completed=count)
    except AgentRLError:
        store.set_status(run_id, RunStatus.FAILED)
        raise
    store.set_status(run_id, RunStatus.FINISHED)
    return count

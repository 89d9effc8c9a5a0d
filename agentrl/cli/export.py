"""`agentrl export`: a run's episodes as a file."""

from __future__ import annotations

import json
from pathlib import Path

import click

from agentrl.errors import ConfigError
from agentrl.store import DEFAULT_URL, URL_VARIABLE

__all__ = ["command"]


@click.command("export")
@click.argument("run")
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--store", "url", envvar=URL_VARIABLE, default=DEFAULT_URL, show_default=True, show_envvar=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object when done.")
def command(run: str, out: Path, url: str, as_json: bool) -> None:
    """Write the episodes of RUN (an id, a name, or the beginning of an id) to OUT (.jsonl or .parquet).

    OUT is written whole or not at all. Episodes that a resumed run played again are not in it.
    """
    from rich.console import Console
    from rich.progress import track

    from agentrl.store.db import Store
    from agentrl.store.entries import RunStats
    from agentrl.store.parquet import write_parquet
    from agentrl.store.record import write_jsonl

    writers = {".jsonl": write_jsonl, ".parquet": write_parquet}
    write = writers.get(out.suffix)
    if write is None:
        raise ConfigError(
            "cli.format", f"cannot tell the format of {out}; end its name in .jsonl or .parquet"
        )
    with Store.open(url, create=False) as store:
        run_id = store.find_run(run).run_id
        total = store.stats().get(run_id, RunStats()).episodes
        console = Console(stderr=True)
        episodes = track(
            store.episodes(run_id), "exporting", total, console=console, disable=not console.is_terminal
        )
        count = write(out, episodes)
    if as_json:
        click.echo(json.dumps({"run": run_id, "out": str(out), "episodes": count}))
    else:
        click.echo(f"{count:,} episodes of {run_id} -> {out}")

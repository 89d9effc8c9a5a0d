"""`agentrl runs`: what a store holds, one line a run."""

from __future__ import annotations

import json

import click

from agentrl.store import DEFAULT_URL, URL_VARIABLE

__all__ = ["command"]

PIPED_COLUMNS = 160
"""Width of the table where there is no terminal to ask: wide enough to grep."""


@click.command("runs")
@click.option("--store", "url", envvar=URL_VARIABLE, default=DEFAULT_URL, show_default=True, show_envvar=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def command(url: str, as_json: bool) -> None:
    """List the runs of a store, the newest first: their episodes, batches and success rate."""
    from agentrl.store.db import Store
    from agentrl.store.entries import RunStats

    with Store.open(url, create=False) as store:
        runs, stats = store.list_runs(), store.stats()
    rows = [(run, stats.get(run.run_id, RunStats())) for run in runs]
    if as_json:
        found = [
            {
                "run": run.run_id,
                "name": run.name,
                "env": run.env,
                "status": run.status.value,
                "episodes": counts.episodes,
                "failed": counts.failed,
                "success_rate": counts.success_rate,
                "batches": counts.batches,
                "created": run.created,
            }
            for run, counts in rows
        ]
        click.echo(json.dumps(found))
        return
    if not rows:
        click.echo(f"no runs in {store.url} yet")
        return

    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column, narrowest in (("run", 10), ("name", 5), ("env", 5)):
        table.add_column(column, overflow="fold", min_width=narrowest)
    table.add_column("status", no_wrap=True)
    for column in ("episodes", "success", "batches"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("created", no_wrap=True)
    for run, counts in rows:
        table.add_row(
            run.run_id,
            run.name,
            run.env,
            run.status.value,
            f"{counts.episodes:,}" + (f" ({counts.failed:,} failed)" if counts.failed else ""),
            "-" if counts.success_rate is None else f"{counts.success_rate:.1%}",
            f"{counts.batches:,}",
            run.created[5:16].replace("T", " "),
        )
    console = Console()
    if not console.is_terminal:
        console.width = PIPED_COLUMNS
    console.print(table)

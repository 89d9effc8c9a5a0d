"""`agentrl bench`: measure speed side by side with a baseline; a table, or one JSON object."""

from __future__ import annotations

import importlib
import json
import os
import platform
from typing import Any

import click

from agentrl.errors import ConfigError

__all__ = ["command"]

SUITES = {
    "credit": {"credit": "agentrl.cli.bench_credit"},
    "rollout": {"rollout": "agentrl.cli.bench_rollout"},
    "services": {"alfworld-engine": "envs.alfworld.bench", "wire": "services._bench.rows"},
    "store": {"store": "agentrl.cli.bench_store"},
    "train": {"train": "agentrl.cli.bench_train"},
}
"""What can be measured -> its parts; each module has `rows()`."""


@click.command("bench")
@click.argument("what", type=click.Choice(sorted(SUITES)))
@click.option("--only", help="One part of the suite, by name.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(what: str, only: str | None, as_json: bool) -> None:
    """Measure WHAT: each row is a value beside the baseline's value in the same run, and their ratio."""
    parts = SUITES[what]
    if only is not None and only not in parts:
        raise ConfigError("bench.unknown", f"bench {what} has no part {only!r}; parts: {', '.join(parts)}")
    rows: list[dict[str, Any]] = []
    for name, module in parts.items():
        if only in (None, name):
            rows += importlib.import_module(module).rows()
    if as_json:
        click.echo(json.dumps({"bench": what, "machine": machine(), "rows": rows}))
    else:
        _print(what, rows)


def machine() -> dict[str, Any]:
    """Say what the figures were measured on."""
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def _print(what: str, rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"agentrl bench {what}  ({machine()['cores']} cores, Python {machine()['python']})")
    for column in ("what", "value", "unit", "baseline", "baseline value", "ratio"):
        table.add_column(column, justify="left" if column in ("what", "unit", "baseline") else "right")
    for row in rows:
        numbers = ("" if row[key] is None else f"{row[key]:,.4g}" for key in ("value", "baseline_value"))
        value, baseline_value = numbers
        ratio = "" if row["ratio"] is None else f"{row['ratio']:,.4g}x"
        table.add_row(row["what"], value, row["unit"], row["baseline"] or "", baseline_value, ratio)
    Console().print(table)

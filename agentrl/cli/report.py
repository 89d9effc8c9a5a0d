"""Reports as tables: success by task kind, one column a policy."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from agentrl.rollout.report import KindReport, Report

__all__ = ["print_comparison", "print_report"]


def print_report(console: Console, report: Report, title: str) -> None:
    """Print success with its 95 % interval per task kind, pass@k, stop reasons and errors."""
    table = Table(title=title)
    for column in ("tasks", "episodes", "success", "95 % interval", "turns"):
        table.add_column(column, justify="left" if column == "tasks" else "right")
    for row in (*report.kinds, report.overall):
        table.add_row(row.kind, str(row.episodes), f"{row.rate:.1%}", _interval(row), f"{row.mean_turns:.1f}")
    console.print(table)
    console.print("  ".join(f"pass@{k} {rate:.1%}" for k, rate in report.pass_at.items()))
    stops = ", ".join(f"{reason} {count}" for reason, count in sorted(report.stop_reasons.items()))
    console.print(
        f"mean return {report.mean_return:.2f}, valid actions {report.valid_action_share:.1%}, "
        f"ended by: {stops}"
    )
    if report.errors:
        errors = ", ".join(f"{code} {count}" for code, count in sorted(report.errors.items()))
        console.print(f"[red]failed episodes (counted as no success): {errors}[/red]")


def print_comparison(console: Console, before: Report, after: Report, title: str) -> None:
    """Print success by task kind before and after training, with the difference in points."""
    table = Table(title=title)
    table.add_column("tasks")
    for column in ("episodes", "before", "after", "change"):
        table.add_column(column, justify="right")
    earlier = {row.kind: row for row in before.kinds}
    pairs = [(earlier.get(row.kind), row) for row in after.kinds] + [(before.overall, after.overall)]
    for was, now in pairs:
        table.add_row(
            now.kind,
            str(now.episodes),
            "" if was is None else f"{was.rate:.1%} {_interval(was)}",
            f"{now.rate:.1%} {_interval(now)}",
            "" if was is None else f"{100 * (now.rate - was.rate):+.1f} points",
        )
    console.print(table)


def _interval(row: KindReport) -> str:
    return f"({100 * row.low:.0f}–{100 * row.high:.0f})"

"""The picture of a run: success while training, and before against after by task kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from agentrl.rollout.report import Report

__all__ = ["plot_run"]


def plot_run(
    path: Path, steps: Sequence[Mapping[str, float]], before: Report | None, after: Report | None, title: str
) -> None:
    """Write a PNG with success per training step (left) and held-out success by task kind (right)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    learning, held_out = figure.subplots(1, 2, width_ratios=(1, 1.2))
    figure.suptitle(title)
    success = [row["episode/success_rate"] for row in steps]
    learning.plot(range(1, len(success) + 1), success, marker="o", markersize=3, color="#2a6f97")
    learning.set(xlabel="training step", ylabel="success of sampled episodes", ylim=(0, 1))
    learning.set_title("while training")
    learning.grid(alpha=0.3)
    if before is not None and after is not None:
        kinds = ["all", *(row.kind for row in after.kinds)]
        for offset, report, label, colour in (
            (-0.2, before, "before", "#a9bcc9"),
            (0.2, after, "after", "#2a6f97"),
        ):
            rows = {row.kind: row for row in (report.overall, *report.kinds)}
            chosen = [rows[kind] for kind in kinds if kind in rows]
            places = [kinds.index(row.kind) + offset for row in chosen]
            spread = [
                [max(0.0, row.rate - row.low) for row in chosen],
                [max(0.0, row.high - row.rate) for row in chosen],
            ]
            rates = [row.rate for row in chosen]
            held_out.barh(places, rates, 0.36, xerr=spread, label=label, color=colour, ecolor="#5c677d")
        held_out.set_yticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds], fontsize=8)
        held_out.invert_yaxis()
        held_out.set(xlim=(0, 1), xlabel="held-out success, 95 % interval")
        held_out.legend(loc="lower right")
        held_out.set_title("held-out tasks, before and after")
    figure.savefig(path, dpi=130)

"""The picture of a run."""

from pathlib import Path

import pytest

from agentrl.rollout.report import report
from agentrl.train.plot import plot_run
from agentrl.types import Episode, StopReason


def outcomes(*correct: bool) -> list[Episode]:
    return [
        Episode(f"e{i}", f"g{i}", "task", "env", 0, (), StopReason.TERMINATED, correct=won)
        for i, won in enumerate(correct)
    ]


@pytest.mark.parametrize("wins", [0, 3, 7, 35])
def test_any_rate_can_be_drawn(tmp_path: Path, wins: int) -> None:
    """At 0 and 1 the interval's end differs from the rate by a rounding error of either sign."""
    shown = report(outcomes(*([True] * wins + [False] * (35 - wins))))
    file = tmp_path / "report.png"
    plot_run(file, [{"episode/success_rate": 0.5}], shown, shown, "a run")
    assert file.read_bytes().startswith(b"\x89PNG")

from __future__ import annotations

import pytest

from agentrl.cli import bench_rollout


def test_rows_hold_value_baseline_and_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_rollout, "SESSIONS", (2,))
    (row,) = bench_rollout.rows()
    assert set(row) == {"what", "value", "unit", "baseline", "baseline_value", "ratio"}
    assert row["value"] > 0
    assert row["ratio"] == row["value"] / row["baseline_value"]

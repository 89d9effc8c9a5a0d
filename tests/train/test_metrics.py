"""Metrics survive crashes and resumption, and say what the run that survived did."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from agentrl.errors import StoreError
from agentrl.train.metrics import MetricsLog, read_metrics


def test_steps_after_the_resume_point_are_left_out(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    with MetricsLog(tmp_path, tensorboard=False) as log:
        for step in range(4):
            log.log(step, {"actor/pg_loss": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "actor/pg')
    with MetricsLog(tmp_path, resume_step=1, tensorboard=False) as log:
        log.log(2, {"actor/pg_loss": 20.0})
    assert [(r["step"], r["actor/pg_loss"]) for r in read_metrics(tmp_path)] == [
        (0, 0.0),
        (1, 1.0),
        (2, 20.0),
    ]
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 7


def test_every_step_is_on_disk_and_in_the_sink_at_once(tmp_path: Path) -> None:
    kept: list[tuple[int, dict[str, float]]] = []
    log = MetricsLog(tmp_path, lambda step, metrics: kept.append((step, dict(metrics))), tensorboard=False)
    log.log(3, {"a": 1, "b": math.nan})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 3, "a": 1.0, "b": None}
    assert kept[0][0] == 3
    log.close()
    log.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with MetricsLog(tmp_path) as log:
        log.log(1, {"actor/lr": 0.5})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("actor/lr")] == [(1, 0.5)]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write metrics"):
        MetricsLog(tmp_path / "file")

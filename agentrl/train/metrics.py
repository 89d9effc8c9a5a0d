"""A run's numbers: one JSON line a step, flushed at once, and TensorBoard beside it.

The file is only ever appended to. Resuming writes a marker line, and `read_metrics` leaves out the steps
that a run took after the checkpoint it later resumed from.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from agentrl.errors import StoreError

__all__ = ["MetricsLog", "read_metrics"]

FILE = "metrics.jsonl"
RESUMED = "resumed_from"


class MetricsLog:
    """Record metrics by step; a context manager.

    Args:
        folder: where metrics.jsonl and TensorBoard's event files go.
        store_sink: called with (step, metrics) as well, to keep them in the trajectory store.
        resume_step: last step of the checkpoint that the run continues from.
        tensorboard: also write event files, when the package is installed.
    """

    def __init__(
        self,
        folder: str | Path,
        store_sink: Callable[[int, Mapping[str, float]], None] | None = None,
        *,
        resume_step: int | None = None,
        tensorboard: bool = True,
    ) -> None:
        self._folder = Path(folder)
        self._sink = store_sink
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            torn = _is_torn(self._folder / FILE)
            self._file = (self._folder / FILE).open("a", encoding="utf-8")
            if torn:
                self._file.write("\n")
        except OSError as error:
            raise StoreError(
                "metrics.unwritable", f"cannot write metrics to {self._folder}: {error}"
            ) from error
        self._writer: Any = _summary_writer(self._folder, resume_step) if tensorboard else None
        if resume_step is not None:
            self._write({RESUMED: resume_step})

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one step; a number that is not finite is written as null."""
        plain = {name: float(value) for name, value in metrics.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in plain.items()}
        self._write({"step": step, **finite})
        if self._writer is not None:
            for name, value in plain.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()
        if self._sink is not None:
            self._sink(step, plain)

    def close(self) -> None:
        """Close the files; idempotent."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> MetricsLog:
        """Return the log itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files."""
        self.close()

    def _write(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """Return the records of the run's surviving steps, ascending; a line cut off by a crash is left out."""
    by_step: dict[int, dict[str, Any]] = {}
    try:
        lines = (Path(folder) / FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            record: dict[str, Any] = json.loads(line)
        except ValueError:
            continue
        if RESUMED in record:
            by_step = {step: kept for step, kept in by_step.items() if step <= record[RESUMED]}
        else:
            by_step[record["step"]] = record
    return [by_step[step] for step in sorted(by_step)]


def _is_torn(file: Path) -> bool:
    if not file.exists() or not file.stat().st_size:
        return False
    with file.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) != b"\n"


def _summary_writer(folder: Path, resume_step: int | None) -> Any:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        return None
    writer: Any = SummaryWriter
    return writer(str(folder / "tensorboard"), purge_step=None if resume_step is None else resume_step + 1)

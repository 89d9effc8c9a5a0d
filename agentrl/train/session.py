"""A whole training session: held-out play before, the loop, the same play after, a report and a picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from agentrl.errors import ConfigError, StoreError, boundary
from agentrl.rollout.evaluate import GroupWatcher, evaluate_into_store, recorded_status
from agentrl.rollout.report import Report
from agentrl.store.files import replacing
from agentrl.train.loop import train
from agentrl.train.metrics import read_metrics
from agentrl.train.plot import plot_run
from agentrl.train.run import Run, Watcher

__all__ = ["Session", "run_session"]


@dataclass(frozen=True, slots=True)
class Session:
    """What a session showed."""

    run_id: str
    before: Report
    after: Report
    picture: Path


async def run_session(run: Run, watch: Watcher, watch_eval: Callable[[str], GroupWatcher]) -> Session:
    """Evaluate, train, evaluate; what a resumed run has already evaluated is not played again.

    Whatever ends it, the run is closed with a status that says how, and can be resumed.
    """
    try:
        with recorded_status(run.store, run.run_id):
            before = await _held_out(run, "before", watch_eval)
            if run.next_step < run.config.train.steps:
                # A finished run that is given more steps: what it could do earlier is not the result.
                (run.dir / "after.json").unlink(missing_ok=True)
            await train(run, watch)
            after = await _held_out(run, "after", watch_eval)
            picture = run.dir / "report.png"
            with boundary(StoreError, "run.unwritable", f"drawing {picture}"):
                plot_run(picture, read_metrics(run.dir), before, after, f"{run.run_id} ({run.config.env.id})")
            return Session(run.run_id, before, after, picture)
    finally:
        await run.close()


async def _held_out(run: Run, label: str, watch_eval: Callable[[str], GroupWatcher]) -> Report:
    file = run.dir / f"{label}.json"
    if file.exists():
        with boundary(ConfigError, "run.unreadable", f"reading {file}"):
            return TypeAdapter(Report).validate_json(file.read_bytes())
    report = await evaluate_into_store(
        run.config,
        run.player,
        run.store,
        name=run.run_id,
        label=label,
        parent=run.run_id,
        on_group=watch_eval(label),
    )
    with replacing(file) as draft:
        draft.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    return report

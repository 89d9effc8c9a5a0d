"""Progress on the terminal: a bar that says how far, how well and how fast."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from agentrl.types import Episode

__all__ = ["EpisodeBar", "TrainBar"]


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TextColumn("eta"),
        TimeRemainingColumn(compact=True),
        console=console,
        refresh_per_second=4,
    )


class EpisodeBar:
    """Counts episodes of one rollout; use as a context manager and as the watcher of groups."""

    def __init__(self, console: Console, title: str, episodes: int) -> None:
        self._progress = _bar(console)
        self._task = self._progress.add_task(title, total=episodes, status="")
        self._successes = self._episodes = self._tokens = 0
        self._started_s = time.monotonic()

    def __enter__(self) -> EpisodeBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def group_done(self, group: Sequence[Episode]) -> None:
        """Advance by the episodes of a finished group."""
        self._episodes += len(group)
        self._successes += sum(bool(e.correct) for e in group)
        self._tokens += sum(t.num_tokens or 0 for e in group for t in e.turns)
        tokens_per_s = self._tokens / max(1e-9, time.monotonic() - self._started_s)
        status = f"success {self._successes / self._episodes:.0%}  {tokens_per_s:,.0f} tok/s"
        self._progress.update(self._task, advance=len(group), status=status)


class TrainBar:
    """Counts training steps, with the episodes of the step that is being played."""

    def __init__(self, console: Console, first_step: int, steps: int, episodes_per_step: int) -> None:
        self._console = console
        self._per_step = episodes_per_step
        self._progress = _bar(console)
        self._task = self._progress.add_task("training", total=steps, completed=first_step, status="")
        self._played = 0
        self._last = ""

    def __enter__(self) -> TrainBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def group_done(self, group: Sequence[Episode]) -> None:
        """Show how much of this step has been played."""
        self._played += len(group)
        self._show(f"playing {self._played}/{self._per_step}")

    def step_done(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show a finished step's figures and print them as a line where there is no terminal."""
        self._played = 0
        self._last = (
            f"success {metrics['episode/success_rate']:.0%}  "
            f"turns {metrics.get('episode/length/mean', 0.0):.1f}  "
            f"entropy {metrics.get('actor/entropy', 0.0):.2f}  "
            f"{metrics['perf/throughput']:,.0f} tok/s"
        )
        self._progress.update(self._task, completed=step + 1)
        self._show("")
        if not self._console.is_terminal:
            self._console.print(f"step {step + 1}: {self._last}  ({metrics['timing_s/step']:.1f} s)")

    def _show(self, doing: str) -> None:
        self._progress.update(self._task, status=f"{self._last}  {doing}".strip())


class StageBar:
    """Shows the stages of building a base model: steps, loss, tokens per second."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("[bold]{task.description}"), TextColumn("{task.fields[status]}"), console=console
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> StageBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, stage: str, steps: int, tokens: int, metrics: Mapping[str, float]) -> None:
        """Note a step of a stage."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=None, status="")
        shown = "  ".join(f"{name} {value:,.3g}" for name, value in metrics.items())
        status = f"step {steps}  {tokens:,} tokens  {shown}"
        self._progress.update(self._tasks[stage], status=status)
        if not self._console.is_terminal and steps % 100 == 0:
            self._console.print(f"{stage}: {status}")

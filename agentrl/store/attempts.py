"""Which rows of a run count, in a store that deletes nothing.

A run begins with attempt 0. When it is resumed after a crash, the batches past the last commit are played
again: that is a new attempt with `from_batch`, and rows of earlier attempts count only below it. The
attempt that wrote a row is fixed, so a process that is still alive after its run was resumed elsewhere
keeps writing into its own attempt, where it disturbs nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, exists, or_, select, true

from agentrl.store import schema

__all__ = ["Attempts", "counting_everywhere", "load_attempts"]


@dataclass(frozen=True, slots=True)
class Attempts:
    """The attempts of one run, in order: number and first batch."""

    run: int
    begun: tuple[tuple[int, int], ...]

    @property
    def latest(self) -> int:
        """Number of the attempt that is being played."""
        return self.begun[-1][0]

    def count(self, attempt: int, batch: int) -> bool:
        """Whether what `attempt` recorded about `batch` still counts."""
        return all(later <= attempt or batch < from_batch for later, from_batch in self.begun)

    def counting(self, attempt: ColumnElement[int], batch: ColumnElement[int]) -> ColumnElement[bool]:
        """Return `count` as a condition on two columns."""
        if len(self.begun) == 1:
            return true()
        conditions: list[ColumnElement[bool]] = []
        for number, _ in self.begun:
            limits = [from_batch for later, from_batch in self.begun if later > number]
            mine = attempt == number
            conditions.append(and_(mine, batch < min(limits)) if limits else mine)
        return or_(*conditions)


def load_attempts(connection: Connection, run: int) -> Attempts:
    """Return the attempts of a run, by its row number."""
    table = schema.attempts
    rows = connection.execute(
        select(table.c.attempt, table.c.from_batch).where(table.c.run == run).order_by(table.c.attempt)
    )
    return Attempts(run, tuple((row.attempt, row.from_batch) for row in rows))


def counting_everywhere() -> ColumnElement[bool]:
    """Return the condition that an episode counts, for queries over many runs."""
    later, episode = schema.attempts.c, schema.episodes.c
    superseded = exists().where(
        later.run == episode.run, later.attempt > episode.attempt, later.from_batch <= episode.batch
    )
    return ~superseded

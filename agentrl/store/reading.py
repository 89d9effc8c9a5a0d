"""What is read, page by page, each page in a short transaction of its own.

No page holds a transaction open while the caller works on it: an open one would keep SQLite's log from
being folded back and PostgreSQL's old rows from being cleaned up. Rows are never changed or removed, so
pages read one after the other still fit together.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Select, case, exists, func, select, tuple_

from agentrl.errors import StoreError
from agentrl.store import schema
from agentrl.store.attempts import Attempts, counting_everywhere
from agentrl.store.codec import CONTENT_COLUMNS, decode_episode, decompress
from agentrl.store.database import Database
from agentrl.store.entries import EpisodeCredit, EpisodeSummary, Metric, Run, RunStats, RunStatus
from agentrl.types import Episode

__all__ = [
    "Page",
    "credit_row",
    "credits_of",
    "episode_row",
    "episodes_of",
    "metrics_of",
    "page_after",
    "run_from",
    "run_row",
    "run_row_by_name",
    "run_statistics",
    "stream",
    "summary_of",
    "unknown",
]

_T = TypeVar("_T")
_Row = Any  # Core tables do not type their columns, and a row is only ever unpacked here and in codec

_IDS_PER_QUERY = 800


@dataclass(frozen=True, slots=True)
class Page:
    """Which episodes of a run come next: those that count, pass the filters and follow `after`."""

    attempts: Attempts
    size: int
    batch: int | None = None
    group_id: str | None = None
    credit_run: int | None = None
    after: tuple[int, int, int] | None = None

    def query(self) -> Select[Any]:
        """Return the query for the rows of this page, in the order in which readers see episodes."""
        table = schema.episodes.c
        where: list[ColumnElement[bool]] = [
            table.run == self.attempts.run,
            self.attempts.counting(table.attempt, table.batch),
        ]
        if self.batch is not None:
            where.append(table.batch == self.batch)
        if self.group_id is not None:
            where.append(table.group_id == self.group_id)
        if self.credit_run is not None:
            credit = schema.credit_turns.c
            where.append(exists().where(credit.credit_run == self.credit_run, credit.episode == table.id))
        if self.after is not None:
            where.append(tuple_(table.batch, table.position, table.id) > tuple_(*self.after))
        order = (table.batch, table.position, table.id)
        return select(schema.episodes).where(*where).order_by(*order).limit(self.size)


def stream(
    database: Database,
    page: Page,
    limit: int | None,
    load: Callable[[Connection, Sequence[_Row]], list[_T]],
) -> Iterator[_T]:
    """Yield what `load` makes of the rows of a page and of those that follow it, up to `limit`."""
    left = math.inf if limit is None else limit
    while left > 0:
        size = int(min(page.size, left))
        with database.reading("reading episodes") as connection:
            rows = connection.execute(replace(page, size=size).query()).all()
            loaded = load(connection, rows)
        yield from loaded
        if len(rows) < size:
            return
        left -= size
        page = replace(page, after=_place(rows[-1]))


def run_row(connection: Connection, run_id: str) -> _Row:
    """Return the row of a run.

    Raises:
        StoreError: "store.unknown_run".
    """
    row = connection.execute(select(schema.runs).where(schema.runs.c.run_id == run_id)).first()
    if row is None:
        raise unknown("run", run_id, "`agentrl runs` lists those that exist")
    return row


def run_row_by_name(connection: Connection, name: str) -> _Row:
    """Return the row of the run that a person means: its id, its name, or the beginning of its id.

    Raises:
        StoreError: "store.unknown_run", or "store.ambiguous" where several match (the message lists them).
    """
    table = schema.runs.c
    meanings = (table.run_id == name, table.name == name, table.run_id.startswith(name, autoescape=True))
    for meaning in meanings:
        rows = connection.execute(select(schema.runs).where(meaning).order_by(table.id)).all()
        if len(rows) == 1:
            return rows[0]
        if rows:
            ids = [row.run_id for row in rows]
            raise StoreError(
                "store.ambiguous",
                f"{len(ids)} runs are called {name!r}: {', '.join(ids)}; give one of these ids",
                {"runs": ids},
            )
    raise unknown("run", name, "`agentrl runs` lists those that exist")


def credit_row(connection: Connection, credit_run_id: str) -> _Row:
    """Return the row of a credit run, with `run_id`.

    Raises:
        StoreError: "store.unknown_credit_run".
    """
    credit, run = schema.credit_runs, schema.runs
    row = connection.execute(
        select(credit.c.id, credit.c.run, run.c.run_id)
        .join_from(credit, run, credit.c.run == run.c.id)
        .where(credit.c.credit_run_id == credit_run_id)
    ).first()
    if row is None:
        raise unknown("credit_run", credit_run_id, "check the id")
    return row


def episode_row(connection: Connection, episode_id: str, run_id: str | None) -> _Row:
    """Return the row of an episode that counts.

    Raises:
        StoreError: "store.unknown_episode", or "store.ambiguous" where several runs have that id.
    """
    episode, run = schema.episodes, schema.runs
    query = (
        select(episode, run.c.run_id)
        .join_from(episode, run, episode.c.run == run.c.id)
        .where(episode.c.episode_id == episode_id, counting_everywhere())
    )
    if run_id is not None:
        query = query.where(run.c.run_id == run_id)
    rows = connection.execute(query).all()
    if not rows:
        raise unknown("episode", episode_id, "it may belong to another run or store")
    if len(rows) > 1:
        runs = sorted(row.run_id for row in rows)
        raise StoreError(
            "store.ambiguous",
            f"runs {', '.join(runs)} each have an episode {episode_id!r}; say which run",
            {"runs": runs},
        )
    return rows[0]


def page_after(connection: Connection, page: Page, episode_id: str) -> Page:
    """Return the page that begins behind an episode of its run."""
    table = schema.episodes.c
    row = connection.execute(
        select(table.batch, table.position, table.id).where(
            table.run == page.attempts.run,
            table.episode_id == episode_id,
            page.attempts.counting(table.attempt, table.batch),
        )
    ).first()
    if row is None:
        raise unknown("episode", episode_id, "a cursor must be an episode of the run that still counts")
    return replace(page, after=_place(row))


def unknown(noun: str, name: str, advice: str) -> StoreError:
    """Return the error for an id that the store does not have."""
    return StoreError(
        f"store.unknown_{noun}", f"the store has no {noun.replace('_', ' ')} {name!r}; {advice}", {"id": name}
    )


def episodes_of(connection: Connection, rows: Sequence[_Row]) -> list[Episode]:
    """Return the episodes of some rows, complete with turns."""
    turns = _by_episode(connection, schema.turns.c.episode, [row.id for row in rows], schema.turns.c.turn)
    references = {
        reference
        for turn in (turn for of_episode in turns.values() for turn in of_episode)
        for column in CONTENT_COLUMNS
        if (reference := getattr(turn, column)) is not None
    }
    contents = _contents(connection, sorted(references))
    return [decode_episode(row, turns[row.id], contents) for row in rows]


def summary_of(row: _Row) -> EpisodeSummary:
    """Return what a list of episodes shows of a row."""
    return EpisodeSummary(
        episode_id=row.episode_id,
        group_id=row.group_id,
        task_id=row.task_id,
        env=row.env,
        batch=row.batch,
        num_turns=row.num_turns,
        ret=row.ret,
        correct=row.correct,
        stop_reason=row.stop_reason,
        error_code=row.error_code,
        parent_episode_id=row.parent_episode_id,
    )


def credits_of(connection: Connection, credit_run: int, rows: Sequence[_Row]) -> list[EpisodeCredit]:
    """Return what a credit run says about the episodes of some rows."""
    keys = [row.id for row in rows]
    turn, channel = schema.credit_turns.c, schema.credit_channels.c
    turns = _by_episode(connection, turn.episode, keys, turn.turn, turn.credit_run == credit_run)
    channels = _by_episode(connection, channel.episode, keys, channel.name, channel.credit_run == credit_run)
    return [
        EpisodeCredit(
            episode_id=row.episode_id,
            advantages=tuple(each.advantage for each in turns[row.id]),
            terms=_terms(turns[row.id]),
            channels={each.name: tuple(json.loads(each.per_turn)) for each in channels[row.id]},
        )
        for row in rows
    ]


def run_from(row: _Row) -> Run:
    """Return the run of a row."""
    return Run(
        run_id=row.run_id,
        name=row.name,
        created=row.created,
        env=row.env,
        config=json.loads(row.config),
        config_hash=row.config_hash,
        software=json.loads(row.software),
        parent_run_id=row.parent_run_id,
        status=RunStatus(row.status),
    )


def run_statistics(connection: Connection) -> dict[str, RunStats]:
    """Return the counts of every run that has episodes, in one pass over them."""
    table = schema.episodes.c
    rows = connection.execute(
        select(
            schema.runs.c.run_id,
            func.count().label("episodes"),
            func.sum(table.num_turns).label("turns"),
            func.count(table.error_code).label("failed"),
            func.count(table.correct).label("judged"),
            func.sum(case((table.correct.is_(True), 1), else_=0)).label("correct"),
            func.count(table.batch.distinct()).label("batches"),
        )
        .join_from(schema.episodes, schema.runs, table.run == schema.runs.c.id)
        .where(counting_everywhere())
        .group_by(schema.runs.c.run_id)
    )
    return {
        row.run_id: RunStats(
            episodes=row.episodes,
            turns=int(row.turns),
            failed=row.failed,
            judged=row.judged,
            correct=int(row.correct),
            batches=row.batches,
        )
        for row in rows
    }


def metrics_of(connection: Connection, attempts: Attempts, name: str | None) -> list[Metric]:
    """Return the metrics that count, by step and then in the order they came."""
    table = schema.metrics.c
    query = select(table.step, table.name, table.value).where(
        table.run == attempts.run, attempts.counting(table.attempt, table.step)
    )
    if name is not None:
        query = query.where(table.name == name)
    rows = connection.execute(query.order_by(table.step, table.id))
    return [Metric(row.step, row.name, math.nan if row.value is None else row.value) for row in rows]


def _place(row: _Row) -> tuple[int, int, int]:
    return row.batch, row.position, row.id


def _terms(rows: Sequence[_Row]) -> tuple[Mapping[str, float], ...]:
    if all(row.terms is None for row in rows):
        return ()
    return tuple({} if row.terms is None else json.loads(row.terms) for row in rows)


def _by_episode(
    connection: Connection,
    episode: ColumnElement[int],
    keys: Sequence[int],
    order: ColumnElement[Any],
    *conditions: ColumnElement[bool],
) -> Mapping[int, list[_Row]]:
    grouped: defaultdict[int, list[_Row]] = defaultdict(list)
    if keys:
        query = select(episode.table).where(episode.in_(keys), *conditions).order_by(episode, order)
        for row in connection.execute(query):
            grouped[row.episode].append(row)
    return grouped


def _contents(connection: Connection, references: Sequence[int]) -> dict[int, bytes]:
    table = schema.contents.c
    found: dict[int, bytes] = {}
    for start in range(0, len(references), _IDS_PER_QUERY):
        chunk = references[start : start + _IDS_PER_QUERY]
        rows = connection.execute(select(table.id, table.data).where(table.id.in_(chunk)))
        found |= {row.id: decompress(row.data) for row in rows}
    return found

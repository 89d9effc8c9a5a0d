"""What is written, on an open transaction; `db.Store` decides where each one begins and ends."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from agentrl import __version__
from agentrl.errors import AlignmentError, StoreError
from agentrl.store import schema
from agentrl.store.attempts import Attempts
from agentrl.store.codec import CONTENT_COLUMNS, EncodedEpisode, canonical_json, compress
from agentrl.store.entries import EpisodeCredit, RunStatus

__all__ = ["add_attempt", "add_commit", "add_credit", "add_encoded", "add_metrics", "add_run", "now"]

_T = TypeVar("_T")

_NO_TERMS: Final[tuple[Mapping[str, float], ...]] = ({},)

_CHUNK: Final = 800
"""How many values one IN (...) holds: far below any engine's limit on parameters."""


def now() -> str:
    """Return the time as the store writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def add_encoded(
    connection: Connection,
    attempts: Attempts,
    attempt: int,
    encoded: Sequence[EncodedEpisode],
    position: int | None,
) -> int:
    """Add the episodes that are not there yet and return how many those were.

    Raises:
        StoreError: "store.episode_conflict": the id is taken by an episode that says something else.
    """
    fresh = _not_yet_there(connection, attempts, attempt, encoded)
    if not fresh:
        return 0
    contents: dict[bytes, bytes] = {}
    for episode in fresh:
        contents |= episode.contents
    content_ids = _content_ids(connection, contents)
    offsets = {episode.episode_id: offset for offset, episode in enumerate(encoded)}
    first = _next_positions(connection, attempts.run, fresh) if position is None else {}
    rows = [
        {
            **episode.row,
            "run": attempts.run,
            "attempt": attempt,
            "position": first.get(episode.row["batch"], position or 0) + offsets[episode.episode_id],
        }
        for episode in fresh
    ]
    table = schema.episodes
    inserted = connection.execute(insert(table).returning(table.c.id, table.c.episode_id), rows)
    keys = {row.episode_id: row.id for row in inserted}
    turns = [
        {**turn, "episode": keys[episode.episode_id]}
        | {column: turn[column] and content_ids[turn[column]] for column in CONTENT_COLUMNS}
        for episode in fresh
        for turn in episode.turns
    ]
    if turns:
        connection.execute(insert(schema.turns), turns)
    return len(fresh)


def add_run(connection: Connection, run: Mapping[str, Any]) -> None:
    """Add a run that begins now, with its attempt 0.

    Raises:
        StoreError: "store.run_exists".
    """
    table = schema.runs
    if connection.execute(select(table.c.id).where(table.c.run_id == run["run_id"])).first():
        raise StoreError(
            "store.run_exists",
            f"the store already has a run {run['run_id']!r}; resume it or choose another id",
        )
    software = json.dumps({"agentrl": __version__, "python": platform.python_version()})
    row = {**run, "created": now(), "software": software, "status": RunStatus.RUNNING.value}
    key = connection.execute(insert(table).values(row).returning(table.c.id)).scalar_one()
    add_attempt(connection, key, 0, 0)


def add_attempt(connection: Connection, run: int, attempt: int, from_batch: int) -> None:
    """Begin an attempt: rows of earlier ones count only below `from_batch`."""
    row = {"run": run, "attempt": attempt, "from_batch": from_batch, "created": now()}
    connection.execute(insert(schema.attempts), [row])


def add_commit(connection: Connection, run: int, attempt: int, batch: int, checkpoint: str) -> None:
    """Record that the checkpoint of a training step is safe; saying the same again is allowed.

    Raises:
        StoreError: "store.commit_conflict": the step was committed with another checkpoint.
    """
    table = schema.commits
    known = connection.execute(
        select(table.c.checkpoint).where(
            table.c.run == run, table.c.attempt == attempt, table.c.batch == batch
        )
    ).scalar()
    if known is None:
        row = {"run": run, "attempt": attempt, "batch": batch, "checkpoint": checkpoint, "created": now()}
        connection.execute(insert(table), [row])
    elif known != checkpoint:
        raise StoreError(
            "store.commit_conflict",
            f"batch {batch} is already committed with checkpoint {known!r}, not {checkpoint!r}; "
            "two processes may be training the same run",
        )


def add_metrics(
    connection: Connection, run: int, attempt: int, step: int, values: Mapping[str, float]
) -> None:
    """Record values of a step; NaN becomes null, which both engines keep."""
    rows = [
        {
            "run": run,
            "attempt": attempt,
            "step": step,
            "name": name,
            "value": None if math.isnan(value) else value,
        }
        for name, value in ((name, float(value)) for name, value in values.items())
    ]
    if rows:
        connection.execute(insert(schema.metrics), rows)


def add_credit(
    connection: Connection, attempts: Attempts, credit_run: int, results: Sequence[EpisodeCredit]
) -> int:
    """Add the credit of episodes to a credit run and return how many episodes those were.

    Raises:
        AlignmentError: not one advantage, term set or channel value per turn, or a number is not finite.
        StoreError: "store.unknown_episode": the run has no such episode.
    """
    for chunk in _chunks(results):
        _add_credit_chunk(connection, attempts, credit_run, chunk)
    return len(results)


def _add_credit_chunk(
    connection: Connection, attempts: Attempts, credit_run: int, results: Sequence[EpisodeCredit]
) -> None:
    turns_of = _turn_indices(connection, attempts, [result.episode_id for result in results])
    turn_rows: list[dict[str, Any]] = []
    channel_rows: list[dict[str, Any]] = []
    for result in results:
        if result.episode_id not in turns_of:
            raise StoreError(
                "store.unknown_episode",
                f"cannot store credit: the run has no episode {result.episode_id!r}",
                {"episode_id": result.episode_id},
            )
        episode, indices = turns_of[result.episode_id]
        _check_credit(result, len(indices))
        terms = result.terms or _NO_TERMS * len(indices)
        of_episode = {"credit_run": credit_run, "episode": episode}
        for index, advantage, term in zip(indices, result.advantages, terms, strict=True):
            text = canonical_json(term, f"terms of {result.episode_id!r}") if term else None
            turn_rows.append({**of_episode, "turn": index, "advantage": advantage, "terms": text})
        for name, values in result.channels.items():
            text = canonical_json(values, f"channel {name!r} of {result.episode_id!r}")
            channel_rows.append({**of_episode, "name": name, "per_turn": text})
    _refuse_overwriting(connection, credit_run, turn_rows)
    for table, rows in ((schema.credit_turns, turn_rows), (schema.credit_channels, channel_rows)):
        if rows:
            connection.execute(insert(table), rows)


def _check_credit(result: EpisodeCredit, num_turns: int) -> None:
    lengths = {"advantages": len(result.advantages)}
    if result.terms:
        lengths["terms"] = len(result.terms)
    lengths |= {f"channel {name!r}": len(values) for name, values in result.channels.items()}
    numbers: list[float | None] = [*result.advantages]
    numbers += [value for term in result.terms for value in term.values()]
    numbers += [value for values in result.channels.values() for value in values]
    wrong = [f"{length} {name}" for name, length in lengths.items() if length != num_turns]
    wrong += [f"the value {value}" for value in numbers if value is not None and not math.isfinite(value)][:1]
    if wrong:
        raise AlignmentError(
            "store.misaligned",
            f"credit of episode {result.episode_id!r}: {', '.join(wrong)} "
            f"for {num_turns} turns; nothing was stored",
            {"episode_id": result.episode_id},
        )


def _refuse_overwriting(connection: Connection, credit_run: int, rows: Sequence[Mapping[str, Any]]) -> None:
    table = schema.credit_turns.c
    keys = list({row["episode"] for row in rows})
    found = connection.execute(
        select(schema.episodes.c.episode_id)
        .join_from(schema.credit_turns, schema.episodes, table.episode == schema.episodes.c.id)
        .where(table.credit_run == credit_run, table.episode.in_(keys))
        .limit(1)
    ).scalar()
    if found is not None:
        raise StoreError(
            "store.credit_conflict",
            f"this credit run already says something about episode {found!r}; "
            "a second opinion is a new credit run",
            {"episode_id": found},
        )


def _turn_indices(
    connection: Connection, attempts: Attempts, episode_ids: Sequence[str]
) -> dict[str, tuple[int, list[int]]]:
    episode, turn = schema.episodes.c, schema.turns.c
    found: dict[str, tuple[int, list[int]]] = {}
    rows = connection.execute(
        select(episode.episode_id, episode.id, turn.turn)
        .join_from(schema.episodes, schema.turns, episode.id == turn.episode, isouter=True)
        .where(
            episode.run == attempts.run,
            episode.episode_id.in_(episode_ids),
            attempts.counting(episode.attempt, episode.batch),
        )
        .order_by(episode.id, turn.turn)
    )
    for row in rows:
        _, indices = found.setdefault(row.episode_id, (row.id, []))
        if row.turn is not None:
            indices.append(row.turn)
    return found


def _not_yet_there(
    connection: Connection, attempts: Attempts, attempt: int, encoded: Sequence[EncodedEpisode]
) -> list[EncodedEpisode]:
    table = schema.episodes.c
    digests: dict[str, bytes] = {}
    for ids in _chunks([episode.episode_id for episode in encoded]):
        rows = connection.execute(
            select(table.episode_id, table.attempt, table.batch, table.digest).where(
                table.run == attempts.run, table.episode_id.in_(ids)
            )
        )
        for row in rows:
            if row.attempt == attempt or attempts.count(row.attempt, row.batch):
                digests[row.episode_id] = row.digest
    fresh: list[EncodedEpisode] = []
    for episode in encoded:
        known = digests.get(episode.episode_id)
        if known is None:
            digests[episode.episode_id] = episode.row["digest"]
            fresh.append(episode)
        elif known != episode.row["digest"]:
            raise StoreError(
                "store.episode_conflict",
                f"the run already has an episode {episode.episode_id!r} that says something else; "
                "what is stored never changes: to play a batch again, begin a new attempt with Store.resume",
                {"episode_id": episode.episode_id},
            )
    return fresh


def _next_positions(connection: Connection, run: int, fresh: Sequence[EncodedEpisode]) -> dict[int, int]:
    table = schema.episodes.c
    batches = {episode.row["batch"] for episode in fresh}
    rows = connection.execute(
        select(table.batch, func.max(table.position).label("last"))
        .where(table.run == run, table.batch.in_(batches))
        .group_by(table.batch)
    )
    return dict.fromkeys(batches, 0) | {row.batch: row.last + 1 for row in rows}


def _content_ids(connection: Connection, contents: Mapping[bytes, bytes]) -> dict[bytes, int]:
    known = _known_contents(connection, list(contents))
    # Sorted, so that two writers who add the same texts wait for each other and never deadlock.
    missing = sorted(contents.keys() - known.keys())
    if missing:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        statement = dialect.insert(schema.contents).on_conflict_do_nothing(index_elements=["digest"])
        connection.execute(
            statement, [{"digest": each, "data": compress(contents[each])} for each in missing]
        )
        known |= _known_contents(connection, missing)
    return known


def _known_contents(connection: Connection, digests: Sequence[bytes]) -> dict[bytes, int]:
    table = schema.contents.c
    known: dict[bytes, int] = {}
    for chunk in _chunks(digests):
        rows = connection.execute(select(table.digest, table.id).where(table.digest.in_(chunk)))
        known |= {row.digest: row.id for row in rows}
    return known


def _chunks(values: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]

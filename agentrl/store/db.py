"""`Store`: the trajectory store, on SQLite or PostgreSQL, with nothing but additions.

    with Store.open("sqlite:///runs/agentrl.db") as store:
        run_id = store.add_run(name="gigpo", env="alfworld", config=resolved, config_hash=digest)
        store.add_episodes(run_id, group)              # one transaction: on disk when it returns
        store.add_metrics(run_id, step, metrics)
        store.commit_batch(run_id, batch, checkpoint)  # the checkpoint with this update is on disk

To resume after a crash, begin a new attempt behind the last commit and play on from there; what the old
attempt had played past it stays in the store but no longer counts:

        last = store.last_committed_batch(run_id)
        store.resume(run_id, from_batch=0 if last is None else last + 1)

Adding an episode twice is allowed (it is there once), unless the second says something else. All methods
may be called from any thread, and by any number of processes.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

from sqlalchemy import Connection, insert, select, update

from agentrl.store import reading, schema, writing
from agentrl.store.attempts import Attempts, load_attempts
from agentrl.store.check import check_episode, check_provenance
from agentrl.store.codec import canonical_json, encode_episode
from agentrl.store.database import Database
from agentrl.store.engine import connect
from agentrl.store.entries import (
    Commit,
    CreditRun,
    EpisodeCredit,
    EpisodeSummary,
    Metric,
    Run,
    RunStats,
    RunStatus,
)
from agentrl.store.faults import parse_url
from agentrl.types import Episode

__all__ = ["Store"]

_EPISODES_PER_PAGE: Final = 32
_SUMMARIES_PER_PAGE: Final = 500


class Store:
    """A trajectory store. Open it with `Store.open`; use it from any thread; close it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._own_attempts: dict[str, int] = {}

    @classmethod
    def open(cls, url: str, *, create: bool = True, busy_timeout_s: float = 30.0) -> Self:
        """Open a store, bringing an older schema up to date.

        Args:
            url: `sqlite:///path` or `postgresql://user@host/database`.
            create: whether an SQLite file that does not exist is made (PostgreSQL databases must exist).
            busy_timeout_s: seconds that a writer waits for another before it gives up with "store.locked".

        Raises:
            StoreError: the store is missing, unreachable, damaged or made by a newer agentrl.
            ConfigError: the PostgreSQL driver is not installed.
        """
        return cls(Database(connect(parse_url(url), create=create, busy_timeout_s=busy_timeout_s)))

    @property
    def url(self) -> str:
        """The store's URL without secrets."""
        return self._database.url

    def close(self) -> None:
        """Close every connection; idempotent."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- runs ---------------------------------------------------------------------------------------

    def add_run(
        self,
        *,
        name: str,
        env: str,
        config: Mapping[str, Any],
        config_hash: str = "",
        run_id: str | None = None,
        parent_run_id: str | None = None,
    ) -> str:
        """Add a run with status "running" and return its id, made from the name where none is given.

        A run with a `config_hash` accepts only episodes that say where they came from (environment and
        its version, task, configuration, policy versions); imported data has none and is taken as it is.

        Raises:
            StoreError: "store.run_exists".
        """
        run_id = run_id or f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}-{secrets.token_hex(4)}"
        row = {
            "run_id": run_id,
            "name": name,
            "env": env,
            "config": canonical_json(config, f"configuration of run {run_id!r}"),
            "config_hash": config_hash,
            "parent_run_id": parent_run_id,
        }
        self._database.write(f"adding run {run_id!r}", lambda connection: writing.add_run(connection, row))
        self._own_attempts[run_id] = 0
        return run_id

    def get_run(self, run_id: str) -> Run:
        """Return a run.

        Raises:
            StoreError: "store.unknown_run".
        """
        with self._database.reading(f"reading run {run_id!r}") as connection:
            return reading.run_from(reading.run_row(connection, run_id))

    def find_run(self, name: str) -> Run:
        """Return the run that a person means: its id, its name, or the beginning of its id.

        Raises:
            StoreError: "store.unknown_run", or "store.ambiguous" where several match.
        """
        with self._database.reading(f"looking for run {name!r}") as connection:
            return reading.run_from(reading.run_row_by_name(connection, name))

    def list_runs(self) -> list[Run]:
        """Return every run, the newest first."""
        with self._database.reading("listing runs") as connection:
            rows = connection.execute(select(schema.runs).order_by(schema.runs.c.id.desc()))
            return [reading.run_from(row) for row in rows]

    def stats(self) -> Mapping[str, RunStats]:
        """Return the counts of every run that has episodes, by run id."""
        with self._database.reading("counting episodes") as connection:
            return reading.run_statistics(connection)

    def set_status(self, run_id: str, status: RunStatus) -> None:
        """Change how far a run has come: the one thing in a store that changes."""

        def work(connection: Connection) -> None:
            key = reading.run_row(connection, run_id).id
            connection.execute(update(schema.runs).where(schema.runs.c.id == key).values(status=status.value))

        self._database.write(f"setting the status of run {run_id!r}", work)

    def resume(self, run_id: str, *, from_batch: int) -> int:
        """Begin a new attempt and return its number: rows of earlier ones count only below `from_batch`.

        What this store adds to the run from now on belongs to the new attempt.
        """

        def work(connection: Connection) -> int:
            attempts = self._attempts(connection, run_id)
            writing.add_attempt(connection, attempts.run, attempts.latest + 1, from_batch)
            return attempts.latest + 1

        attempt = self._database.write(f"resuming run {run_id!r}", work)
        self._own_attempts[run_id] = attempt
        return attempt

    def commit_batch(self, run_id: str, batch: int, checkpoint: str = "") -> None:
        """Record that the checkpoint with the update from `batch` is on disk (call it only then)."""

        def work(connection: Connection) -> None:
            attempts = self._attempts(connection, run_id)
            writing.add_commit(connection, attempts.run, self._own(run_id, attempts), batch, checkpoint)

        self._database.write(f"committing batch {batch} of run {run_id!r}", work)

    def commits(self, run_id: str) -> list[Commit]:
        """Return the commits that count, by batch."""
        table = schema.commits.c
        with self._database.reading(f"reading the commits of run {run_id!r}") as connection:
            attempts = self._attempts(connection, run_id)
            rows = connection.execute(
                select(schema.commits)
                .where(table.run == attempts.run, attempts.counting(table.attempt, table.batch))
                .order_by(table.batch)
            )
            return [Commit(row.batch, row.checkpoint, row.created) for row in rows]

    def last_committed_batch(self, run_id: str) -> int | None:
        """Return the last batch whose update is in a checkpoint; None when there is no such checkpoint."""
        commits = self.commits(run_id)
        return commits[-1].batch if commits else None

    # -- episodes -----------------------------------------------------------------------------------

    def add_episodes(self, run_id: str, episodes: Iterable[Episode], *, position: int | None = None) -> int:
        """Add episodes in one transaction, failed ones too, and return how many were not there yet.

        Args:
            run_id: the run that played them.
            episodes: a group, or any number that fits in memory.
            position: place of the first of them in their batch, which readers follow. Groups that finish
                in any order give theirs, so that what is read does not depend on timing; None means
                behind what the batch already has.

        Raises:
            AlignmentError: tokens, masks and log-probs of an episode disagree (our bug; nothing is stored).
            StoreError: "store.episode_conflict" or "store.provenance", or the database failed.
        """
        checked = list(episodes)
        for episode in checked:
            check_episode(episode)
        encoded = [encode_episode(episode) for episode in checked]

        def work(connection: Connection) -> int:
            if reading.run_row(connection, run_id).config_hash:
                for episode in checked:
                    check_provenance(episode)
            attempts = self._attempts(connection, run_id)
            attempt = self._own(run_id, attempts)
            return writing.add_encoded(connection, attempts, attempt, encoded, position)

        return self._database.write(f"adding {len(checked)} episodes to run {run_id!r}", work)

    def episodes(
        self,
        run_id: str,
        *,
        batch: int | None = None,
        group_id: str | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Episode]:
        """Return the episodes that count, by batch and place in it, read as they are asked for.

        Args:
            run_id: the run.
            batch: only this batch.
            group_id: only this group.
            after: id of the last episode already seen; what follows it is returned.
            limit: at most so many.
        """
        page = self._page(run_id, _EPISODES_PER_PAGE, batch, group_id, after)
        return reading.stream(self._database, page, limit, reading.episodes_of)

    def summaries(
        self,
        run_id: str,
        *,
        batch: int | None = None,
        group_id: str | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> Iterator[EpisodeSummary]:
        """Return what `episodes` does, without turns: for lists of thousands."""
        page = self._page(run_id, _SUMMARIES_PER_PAGE, batch, group_id, after)
        return reading.stream(
            self._database, page, limit, lambda _, rows: [reading.summary_of(row) for row in rows]
        )

    def episode(self, episode_id: str, *, run_id: str | None = None) -> Episode:
        """Return one episode.

        Raises:
            StoreError: "store.unknown_episode", or "store.ambiguous" where several runs have that id.
        """
        with self._database.reading(f"reading episode {episode_id!r}") as connection:
            row = reading.episode_row(connection, episode_id, run_id)
            return reading.episodes_of(connection, [row])[0]

    # -- credit and metrics ---------------------------------------------------------------------------

    def add_credit_run(
        self, run_id: str, config: Mapping[str, Any], results: Iterable[EpisodeCredit] = ()
    ) -> str:
        """Add a credit run, with results or still empty, in one transaction, and return its id.

        Raises:
            AlignmentError: a result does not have one entry per turn, or holds NaN (our bug).
            StoreError: "store.unknown_episode": the run has no such episode.
        """
        credit_run_id = f"credit-{secrets.token_hex(6)}"
        text = canonical_json(config, "credit configuration")
        listed = list(results)

        def work(connection: Connection) -> None:
            attempts = self._attempts(connection, run_id)
            row = {
                "credit_run_id": credit_run_id,
                "run": attempts.run,
                "created": writing.now(),
                "config": text,
            }
            table = schema.credit_runs
            key = connection.execute(insert(table).values(row).returning(table.c.id)).scalar_one()
            writing.add_credit(connection, attempts, key, listed)

        self._database.write(f"adding credit to run {run_id!r}", work)
        return credit_run_id

    def add_credit(self, credit_run_id: str, results: Iterable[EpisodeCredit]) -> None:
        """Add the results of another batch to a credit run; raises as `add_credit_run`."""
        listed = list(results)

        def work(connection: Connection) -> None:
            row = reading.credit_row(connection, credit_run_id)
            attempts = self._attempts(connection, row.run_id)
            writing.add_credit(connection, attempts, row.id, listed)

        self._database.write(f"adding to {credit_run_id!r}", work)

    def credit_runs(self, run_id: str) -> list[CreditRun]:
        """Return the credit runs of a run, the oldest first."""
        table = schema.credit_runs
        with self._database.reading(f"listing the credit of run {run_id!r}") as connection:
            key = reading.run_row(connection, run_id).id
            rows = connection.execute(select(table).where(table.c.run == key).order_by(table.c.id))
            return [CreditRun(row.credit_run_id, run_id, row.created, json.loads(row.config)) for row in rows]

    def credit(self, credit_run_id: str) -> Iterator[EpisodeCredit]:
        """Return what a credit run says, episode by episode, in the order of `episodes`.

        Raises:
            StoreError: "store.unknown_credit_run".
        """
        with self._database.reading(f"reading {credit_run_id!r}") as connection:
            row = reading.credit_row(connection, credit_run_id)
            page = reading.Page(load_attempts(connection, row.run), _SUMMARIES_PER_PAGE, credit_run=row.id)
        return reading.stream(
            self._database, page, None, lambda connection, rows: reading.credits_of(connection, row.id, rows)
        )

    def add_metrics(self, run_id: str, step: int, values: Mapping[str, float]) -> None:
        """Record values of a training step (its batch number); NaN is kept."""

        def work(connection: Connection) -> None:
            attempts = self._attempts(connection, run_id)
            writing.add_metrics(connection, attempts.run, self._own(run_id, attempts), step, values)

        self._database.write(f"adding metrics to run {run_id!r}", work)

    def metrics(self, run_id: str, *, name: str | None = None) -> list[Metric]:
        """Return the metrics that count, by step and then in the order they came; `name` keeps one."""
        with self._database.reading(f"reading the metrics of run {run_id!r}") as connection:
            return reading.metrics_of(connection, self._attempts(connection, run_id), name)

    # -- plumbing -------------------------------------------------------------------------------------

    def _attempts(self, connection: Connection, run_id: str) -> Attempts:
        return load_attempts(connection, reading.run_row(connection, run_id).id)

    def _own(self, run_id: str, attempts: Attempts) -> int:
        return self._own_attempts.get(run_id, attempts.latest)

    def _page(
        self, run_id: str, size: int, batch: int | None, group_id: str | None, after: str | None
    ) -> reading.Page:
        with self._database.reading(f"reading run {run_id!r}") as connection:
            page = reading.Page(self._attempts(connection, run_id), size, batch, group_id)
            return page if after is None else reading.page_after(connection, page, after)

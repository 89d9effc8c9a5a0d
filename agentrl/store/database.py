"""A connected database: short read transactions, write transactions that retry, errors classified once."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import Lock
from typing import Final, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from agentrl.store.engine import writing
from agentrl.store.faults import classified, is_conflict, redacted

__all__ = ["Database"]

_T = TypeVar("_T")

_TRIES: Final = 5
"""How often a transaction is tried when another writer adds the same rows at the same moment."""


class Database:
    """An engine whose every use is one transaction, from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # SQLite polls for its write lock; threads of one process need not.
        self._turn_to_write = Lock()

    @property
    def url(self) -> str:
        """Its URL without secrets."""
        return redacted(self._engine.url)

    def close(self) -> None:
        """Close every connection; idempotent."""
        self._engine.dispose()

    @contextmanager
    def reading(self, doing: str) -> Generator[Connection]:
        """Run a block in a transaction that changes nothing; `doing` says what for, in errors."""
        with classified(doing, self._engine.url), self._engine.connect() as connection:
            yield connection

    def write(self, doing: str, work: Callable[[Connection], _T]) -> _T:
        """Return what `work` returns, as one transaction: all that it wrote is kept, or nothing.

        `work` may run again from the start when another writer was quicker, so it must decide what to
        write from what it reads on its connection.
        """
        with classified(doing, self._engine.url), self._turn_to_write:
            for _ in range(_TRIES - 1):
                try:
                    return self._once(work)
                except DBAPIError as error:
                    if not is_conflict(error):
                        raise
            return self._once(work)

    def _once(self, work: Callable[[Connection], _T]) -> _T:
        with writing(self._engine) as connection:
            return work(connection)

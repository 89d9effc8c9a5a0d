"""What a database says, classified once into `StoreError` codes with one line for people.

    store.url            the URL is not one of ours                 store.missing        no such store
    store.unreachable    no server answers, or it refuses us        store.locked         somebody else writes
    store.disk_full      no room                                    store.read_only      no right to write
    store.not_a_store    the file is not a database                 store.corrupt        the file is damaged
    store.failed         anything else

Whatever the code: the transaction that failed is undone, everything committed before is still there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from agentrl.errors import StoreError

__all__ = ["classified", "is_conflict", "parse_url", "redacted"]

_ADVICE: Final = {
    "store.unreachable": "check that the server runs, its address and the credentials",
    "store.locked": "another process is writing; wait for it to finish, or use PostgreSQL for many writers",
    "store.disk_full": "free some space and resume the run; everything committed before is kept",
    "store.read_only": "check the permissions of the file, its folder and the database user",
    "store.not_a_store": "give the path of a file that agentrl made, or of one that does not exist yet",
    "store.corrupt": "restore the file from a backup; `sqlite3 FILE .recover` may save what is left",
    "store.missing": "check the path or the name of the database",
}

_BY_SQLITE_CODE: Final = {
    sqlite3.SQLITE_FULL: "store.disk_full",
    sqlite3.SQLITE_IOERR_WRITE: "store.disk_full",  # what a quota or a file-size limit looks like
    sqlite3.SQLITE_BUSY: "store.locked",
    sqlite3.SQLITE_LOCKED: "store.locked",
    sqlite3.SQLITE_READONLY: "store.read_only",
    sqlite3.SQLITE_PERM: "store.read_only",
    sqlite3.SQLITE_NOTADB: "store.not_a_store",
    sqlite3.SQLITE_CORRUPT: "store.corrupt",
    sqlite3.SQLITE_CANTOPEN: "store.missing",
}

_BY_SQLSTATE: Final = {
    "08": "store.unreachable",
    "28": "store.unreachable",
    "57P": "store.unreachable",
    "53300": "store.unreachable",
    "3D000": "store.missing",
    "53100": "store.disk_full",
    "55P03": "store.locked",
    "40P01": "store.locked",
    "40001": "store.locked",
    "25006": "store.read_only",
    "42501": "store.read_only",
    "XX001": "store.corrupt",
    "XX002": "store.corrupt",
}
"""SQLSTATE, or the beginning of one, of PostgreSQL."""

_SECRET_PARAMETERS: Final = frozenset({"password", "sslpassword", "passfile"})


def parse_url(url: str) -> URL:
    """Return a store's URL with its driver.

    Raises:
        StoreError: not `sqlite:///path` or `postgresql://user@host/database` (the operator's).
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        parsed = None
    backend = None if parsed is None else parsed.get_backend_name()
    if parsed is not None and backend in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed is not None and backend == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed.set(drivername="sqlite+pysqlite")
    shown = redacted(parsed) if parsed is not None else "the given text"
    raise StoreError(
        "store.url",
        f"{shown} does not name a store; expected sqlite:///path/to/file.db "
        "(four slashes for an absolute path) or postgresql://user@host/database",
    ) from None


def redacted(url: URL) -> str:
    """Return a URL that can be shown: passwords become ***."""
    hidden = {key: "***" for key in url.query if key in _SECRET_PARAMETERS}
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


@contextmanager
def classified(doing: str, url: URL) -> Generator[None]:
    """Turn whatever the database raises into a `StoreError` that says what was being done, and where."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise _store_error(_code(cause), doing, url, _first_line(cause)) from error
    except PoolTimeout as error:
        raise _store_error("store.locked", doing, url, "no free connection") from error
    except SQLAlchemyError as error:
        raise _store_error("store.failed", doing, url, _first_line(error)) from error


def is_conflict(error: DBAPIError) -> bool:
    """Whether another writer was quicker, so that doing the same again will find its rows.

    Deadlocks and serialisation failures count: PostgreSQL undoes one of two writers and expects a retry.
    """
    sqlstate = getattr(error.orig, "sqlstate", None)
    if sqlstate is not None:
        return str(sqlstate) in ("23505", "40P01", "40001")
    return isinstance(error.orig, sqlite3.IntegrityError) and "UNIQUE" in str(error.orig)


def _code(cause: BaseException | None) -> str:
    sqlite_code = getattr(cause, "sqlite_errorcode", None)
    if sqlite_code is not None:
        primary = sqlite_code & 0xFF
        return _BY_SQLITE_CODE.get(sqlite_code) or _BY_SQLITE_CODE.get(primary, "store.failed")
    sqlstate = getattr(cause, "sqlstate", None)
    if sqlstate is not None:
        for known, code in _BY_SQLSTATE.items():
            if str(sqlstate).startswith(known):
                return code
        return "store.failed"
    # A connection that was never made, or broke, has no SQLSTATE; what the server said is in the text.
    if 'database "' in str(cause) and "does not exist" in str(cause):
        return "store.missing"
    return "store.unreachable" if type(cause).__name__ == "OperationalError" else "store.failed"


def _store_error(code: str, doing: str, url: URL, problem: str) -> StoreError:
    advice = _ADVICE.get(code)
    message = f"{doing} in {redacted(url)}: {problem}" + (f"; {advice}" if advice else "")
    return StoreError(code, message, {"store": redacted(url)})


def _first_line(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

"""Open a database, bring its schema up to date, and hand out transactions.

SQLite runs in WAL mode, so readers never wait for the writer, with `synchronous=FULL`: a commit is on
disk when it returns, so a checkpoint never refers to episodes that a power cut took back. That costs one
fsync per group of episodes, which nobody notices beside playing them. Writers take the write lock at the
start (BEGIN IMMEDIATE): a transaction that reads first and is refused the lock later could not be waited for.
"""

from __future__ import annotations

import importlib.util
import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL

from agentrl.errors import ConfigError, StoreError
from agentrl.store.faults import classified, redacted
from agentrl.store.schema import REVISION, VERSION_TABLE

__all__ = ["MIGRATIONS", "connect", "upgrade", "writing"]

MIGRATIONS: Final = Path(__file__).with_name("migrations")

_ONE_UPGRADE: Final = Lock()  # Alembic keeps the migration that it is running in a global
_UPGRADE_LOCK: Final = 7_203_519_646_112_008_041  # any number that nobody else locks on


def connect(url: URL, *, create: bool, busy_timeout_s: float) -> Engine:
    """Return an engine whose schema is the one this version of agentrl uses.

    Args:
        url: as `faults.parse_url` returns it.
        create: whether a store that does not exist is made.
        busy_timeout_s: how long a writer waits for another before "store.locked".

    Raises:
        StoreError: missing, unreachable, not a store, or of a newer schema.
        ConfigError: the PostgreSQL driver is not installed.
    """
    sqlite = url.get_backend_name() == "sqlite"
    if sqlite:
        _prepare_file(url, create=create)
    elif importlib.util.find_spec("psycopg") is None:
        raise ConfigError(
            "store.driver", "a PostgreSQL store needs the driver psycopg: pip install 'agentrl[postgres]'"
        )
    with classified("opening the store", url):
        engine = _sqlite(url, busy_timeout_s) if sqlite else _postgresql(url, busy_timeout_s)
        try:
            if _revision(engine) != REVISION:
                upgrade(engine)
        except BaseException:
            engine.dispose()
            raise
    return engine


@contextmanager
def writing(engine: Engine) -> Generator[Connection]:
    """Run a block as one transaction that may write: all of it is kept or, on any error, none."""
    with engine.connect() as connection:
        connection = connection.execution_options(agentrl_writing=True)
        with connection.begin():
            yield connection


def upgrade(engine: Engine) -> None:
    """Bring an older or empty database to `REVISION`, all of it or, on any error, nothing.

    Raises:
        StoreError: "store.newer_schema" when a newer agentrl made it.
    """
    # Alembic takes a tenth of a second to import, and a store that is up to date never needs it.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with _ONE_UPGRADE, writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
        found = _revision_of(connection)
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if found is not None and found not in known:
            raise StoreError(
                "store.newer_schema",
                f"{redacted(engine.url)} has schema revision {found}, this agentrl knows up to {REVISION}: "
                "a newer agentrl made it; upgrade agentrl, or use another store",
                {"found": found, "known": REVISION},
            )
        if found is None and engine.dialect.name == "sqlite" and inspect(connection).get_table_names():
            raise StoreError(
                "store.not_a_store",
                f"{redacted(engine.url)} is a database of another program; "
                "give the path of a file that agentrl made, or of one that does not exist yet",
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _revision(engine: Engine) -> str | None:
    with engine.connect() as connection:
        return _revision_of(connection)


def _revision_of(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()


def _prepare_file(url: URL, *, create: bool) -> None:
    name = url.database or ""
    if name.startswith("file:"):  # an SQLite URI: its own mode= says whether it may be created
        return
    path = Path(name)
    if path.is_dir():
        raise StoreError("store.not_a_store", f"{redacted(url)}: {path} is a folder; name a file in it")
    if path.exists():
        return
    if not create:
        raise StoreError(
            "store.missing",
            f"there is no store at {redacted(url)}; check the path (--store, AGENTRL_STORE), "
            "or run `agentrl train` or `agentrl import` to make one",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            "store.file", f"cannot make the folder of {redacted(url)}: {error.strerror}"
        ) from error


def _sqlite(url: URL, busy_timeout_s: float) -> Engine:
    engine = create_engine(url, connect_args={"timeout": busy_timeout_s}, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def configure(raw: Any, _record: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        # Python's driver would begin transactions by itself, and too late; `begin` below does it.
        raw.isolation_level = None
        raw.execute("PRAGMA foreign_keys=ON")
        raw.execute("PRAGMA synchronous=FULL")
        # Otherwise INSERT OR REPLACE would delete rows without asking the append-only triggers.
        raw.execute("PRAGMA recursive_triggers=ON")
        _use_wal(raw, time.monotonic() + busy_timeout_s)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:  # pyright: ignore[reportUnusedFunction]
        is_writing = connection.get_execution_options().get("agentrl_writing", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writing else "BEGIN")

    return engine


def _use_wal(raw: Any, deadline: float) -> None:
    """Switch to WAL; SQLite does not apply its busy timeout here, so two openers need this loop."""
    while True:
        try:
            raw.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_READONLY:
                return
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _postgresql(url: URL, busy_timeout_s: float) -> Engine:
    engine = create_engine(
        url,
        connect_args={"connect_timeout": 10, "application_name": "agentrl"},
        hide_parameters=True,
        pool_pre_ping=True,
    )

    @event.listens_for(engine, "connect")
    def configure(raw: Any, _record: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        with raw.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = {int(busy_timeout_s * 1000)}")
        raw.commit()

    return engine

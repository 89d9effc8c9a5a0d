"""A store on each engine: an SQLite file, and a real PostgreSQL that the tests start themselves."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine

from agentrl.store.db import Store
from agentrl.store.faults import parse_url
from agentrl.types import Episode, StopReason, Turn

PASSWORD = "open-sesame"  # a throw-away server on a private socket, and proof that messages never show it


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server that listens on a Unix socket only."""

    socket_dir: Path

    def url(self, database: str, password: str = PASSWORD) -> str:
        return f"postgresql://tester:{password}@/{database}?host={self.socket_dir}"

    def create_database(self, name: str) -> str:
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'agentrl[postgres]'")
    initdb, postgres = _binary("initdb"), _binary("postgres")
    if initdb is None or postgres is None:
        pytest.skip("no PostgreSQL binaries here (initdb, postgres); apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="agentrl-pg-"))
    become = _unprivileged(folder)
    (folder / "password").write_text(PASSWORD)
    data = folder / "data"
    try:
        auth = ["--auth=scram-sha-256", "--username=tester", f"--pwfile={folder / 'password'}"]
        quick = ["--no-sync", "--encoding=UTF8", "--locale=C"]
        subprocess.run(
            [initdb, "-D", data, *auth, *quick], check=True, capture_output=True, cwd=folder, **become
        )
        settings = [
            "listen_addresses=",
            f"unix_socket_directories={folder}",
            "fsync=off",
            "shared_buffers=32MB",
        ]
        options = [part for setting in settings for part in ("-c", setting)]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [postgres, "-D", data, *options], stdout=log, stderr=log, cwd=folder, **become
            )
            try:
                server = Server(folder)
                _wait_until_ready(server, process, folder / "log")
                yield server
            finally:
                process.send_signal(
                    signal.SIGINT
                )  # "fast shutdown": sessions are cut, nothing is left behind
                process.wait(timeout=30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    server: Server = request.getfixturevalue("postgresql")
    return server.create_database(f"test{next(_DATABASES)}")


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with Store.open(store_url) as opened:
        yield opened


@pytest.fixture
def engine(store: Store, store_url: str) -> Iterator[Engine]:
    """The same database, without the store's manners."""
    engine = create_engine(parse_url(store_url))
    yield engine
    engine.dispose()


@pytest.fixture
def run_id(store: Store) -> str:
    return store.add_run(name="test", env="echo", config={"seed": 1})


@pytest.fixture
def make_episode() -> Callable[..., Episode]:
    return build_episode


def build_episode(episode_id: str = "e0", *, num_turns: int = 3, **changes: Any) -> Episode:
    """Return an episode with every kind of content, the same for the same arguments."""
    fields: dict[str, Any] = {
        "episode_id": episode_id,
        "group_id": "g0",
        "task_id": "t0",
        "env": "echo",
        "env_version": "1",
        "config_hash": "abc",
        "seed": 7,
        "turns": tuple(build_turn(index, episode_id) for index in range(num_turns)),
        "stop_reason": StopReason.TERMINATED,
        "correct": True,
    }
    return Episode(**fields | changes)


def build_turn(index: int, salt: str, **changes: Any) -> Turn:
    """Return a turn whose reply begins with a forced token."""
    fields: dict[str, Any] = {
        "index": index,
        "reward": index / 2,
        "state_key": {"room": index, "holds": ["mug"]},
        "policy_version": 4,
        "observation": f"You are in room {index}. On the table there is a mug. " * 3,
        "reply": f"take mug ({salt})",
        "prompt_ids": (5, 6, 70_000 + index),
        "token_ids": (1, 151_000, 2, index),
        "sampled": (0, 1, 1, 1),
        "logprobs": (-0.5, -0.25, -1.5),
        "entropies": (0.1, 0.2, 0.3),
    }
    return Turn(**fields | changes)


_DATABASES = count()


def _binary(name: str) -> str | None:
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(installed[-1]) if installed else None)


def _unprivileged(folder: Path) -> dict[str, Any]:
    """Return how to start a process that owns `folder`: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    os.chown(folder, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _wait_until_ready(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    import psycopg

    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(server.url("postgres")).close()
            return
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"PostgreSQL did not start:\n{log.read_text()}")
            time.sleep(0.05)

"""What can go wrong outside: one clear line, and nothing that was committed is lost."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError

from agentrl.errors import StoreError
from agentrl.store.db import Store
from agentrl.store.entries import RunStatus
from agentrl.store.faults import classified, parse_url, redacted
from agentrl.types import Episode

MakeEpisode = Callable[..., Episode]

# Adds groups without end and says which are committed; argv: store, run, number of bytes a file may have.
WRITER = """
import resource, sys
from agentrl.errors import StoreError
from agentrl.store.db import Store
from agentrl.types import Episode, StopReason, Turn

url, run_id, limit_bytes = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Store.open(url) as store:
    if limit_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    for group in range(1_000_000):
        turns = tuple(Turn(k, reply=f"{group} {k}", token_ids=tuple(range(800))) for k in range(5))
        ids = [f"{group}-{member}" for member in range(4)]
        episodes = [Episode(i, str(group), "t", "e", 0, turns, StopReason.TERMINATED) for i in ids]
        try:
            store.add_episodes(run_id, episodes)
        except StoreError as error:
            print("refused", error.code, flush=True)
            break
        print(group, flush=True)
"""


def start_writer(url: str, run_id: str, limit_bytes: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, url, run_id, str(limit_bytes)]
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=here)


def assert_all_there(store: Store, run_id: str, groups: int) -> None:
    found = list(store.episodes(run_id))
    assert {f"{group}-{member}" for group in range(groups) for member in range(4)} <= {
        e.episode_id for e in found
    }
    assert len(found) % 4 == 0, "a group is there whole or not at all"
    assert all(len(episode.turns) == 5 for episode in found)


def test_kill_9_loses_nothing_committed(store: Store, run_id: str, store_url: str) -> None:
    writer = start_writer(store_url, run_id)
    assert writer.stdout is not None
    for expected in range(15):
        assert writer.stdout.readline() == f"{expected}\n"
    writer.send_signal(signal.SIGKILL)
    rest = writer.stdout.read().split()
    writer.stdout.close()
    writer.wait()
    assert_all_there(store, run_id, 15 + len(rest))
    store.set_status(run_id, RunStatus.INTERRUPTED)


def test_a_full_disk_loses_nothing_committed(tmp_path: Path, make_episode: MakeEpisode) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with Store.open(url) as store:
        run_id = store.add_run(name="full", env="echo", config={})
    writer = start_writer(url, run_id, limit_bytes=600_000)
    out, _ = writer.communicate(timeout=60)
    *groups, refusal = out.splitlines()
    assert refusal == "refused store.disk_full"
    assert len(groups) > 3
    with Store.open(url) as store:
        assert_all_there(store, run_id, len(groups))
        assert store.add_episodes(run_id, [make_episode()]) == 1


def test_writers_at_the_same_time(store_url: str, make_episode: MakeEpisode) -> None:
    with Store.open(store_url) as store:
        run_id = store.add_run(name="many", env="echo", config={})

    def write(writer: int) -> int:
        added = 0
        with Store.open(store_url) as mine:
            for group in range(6):  # every group by two writers, all with the same texts
                name = (writer // 2, group)
                added += mine.add_episodes(run_id, [make_episode(f"{name}-{member}") for member in range(4)])
        return added

    with ThreadPoolExecutor(6) as pool:
        added = sum(pool.map(write, range(6)))
    with Store.open(store_url) as store:
        found = [episode.episode_id for episode in store.episodes(run_id)]
        assert added == len(found) == len(set(found)) == 3 * 6 * 4


def test_one_store_in_many_threads(store: Store, run_id: str, make_episode: MakeEpisode) -> None:
    def use(number: int) -> None:
        store.add_episodes(run_id, [make_episode(f"e{number}")])
        assert store.episode(f"e{number}") == make_episode(f"e{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(40)))
    assert store.stats()[run_id].episodes == 40


def test_a_lock_is_waited_for_and_then_reported(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with Store.open(f"sqlite:///{path}", busy_timeout_s=0.1) as store:
        other = sqlite3.connect(path)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"adding run .* another process is writing"):
            store.add_run(name="x", env="echo", config={})
        other.rollback()
        other.close()
        store.add_run(name="x", env="echo", config={})


def test_a_read_only_store_can_be_read(
    store: Store, run_id: str, store_url: str, make_episode: MakeEpisode
) -> None:
    store.add_episodes(run_id, [make_episode()])
    url = parse_url(store_url)
    if url.get_backend_name() == "sqlite":
        read_only = f"sqlite:///file:{url.database}?mode=ro&uri=true"
    else:
        read_only = f"{store_url}&options=-cdefault_transaction_read_only%3Don"
    with Store.open(read_only, create=False) as reader:
        assert list(reader.episodes(run_id)) == [make_episode()]
        with pytest.raises(StoreError, match="check the permissions") as caught:
            reader.add_episodes(run_id, [make_episode("new")])
    assert caught.value.code == "store.read_only"


def test_files_that_are_no_store(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("not a database, but long enough to look at" * 10)
    with pytest.raises(StoreError, match=r"store\.not_a_store"):
        Store.open(f"sqlite:///{tmp_path / 'notes.db'}")
    with pytest.raises(StoreError, match="is a folder"):
        Store.open(f"sqlite:///{tmp_path}")
    with pytest.raises(StoreError, match="there is no store at"):
        Store.open(f"sqlite:///{tmp_path / 'none.db'}", create=False)
    with pytest.raises(StoreError, match="cannot make the folder"):
        Store.open(f"sqlite:///{tmp_path / 'notes.db' / 'sub' / 'x.db'}")
    with Store.open(f"sqlite:///{tmp_path / 'new' / 'folder' / 'x.db'}") as store:
        assert store.list_runs() == []


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "mysql://root:hunter2@h/d", "x.db", "", "a:hunter2@b"]
)
def test_urls_that_name_no_store(url: str) -> None:
    with pytest.raises(StoreError, match="expected sqlite:///") as caught:
        Store.open(url)
    assert "hunter2" not in str(caught.value)


def test_passwords_are_never_shown() -> None:
    shown = redacted(
        parse_url("postgres://me:hunter2@host/db?password=hunter2&sslpassword=hunter2&sslmode=require")
    )
    assert "hunter2" not in shown
    assert "sslmode=require" in shown


def test_unreachable_servers(postgresql: Any, tmp_path: Path) -> None:
    for url, code in (
        (f"postgresql://me:hunter2@/db?host={tmp_path}", "store.unreachable"),
        (postgresql.url("postgres", password="hunter2"), "store.unreachable"),
        (postgresql.url("no-such-database"), "store.missing"),
    ):
        with pytest.raises(StoreError) as caught:
            Store.open(url)
        assert caught.value.code == code
        assert "hunter2" not in str(caught.value)
        assert "open-sesame" not in str(caught.value)
        assert "\n" not in caught.value.message


def test_a_full_sqlite_file_is_a_full_disk(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'x.db'}")
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=2")
        connection.exec_driver_sql("CREATE TABLE a (x)")
        with pytest.raises(StoreError, match="free some space") as caught, classified("filling", engine.url):
            connection.exec_driver_sql("CREATE TABLE b (x)")
    engine.dispose()
    assert caught.value.code == "store.disk_full"


@pytest.mark.parametrize(
    ("sqlstate", "code"),
    [
        ("53100", "store.disk_full"),
        ("08006", "store.unreachable"),
        ("57P01", "store.unreachable"),
        ("55P03", "store.locked"),
        ("42P01", "store.failed"),
    ],
)
def test_what_postgresql_reports(sqlstate: str, code: str) -> None:
    class Reported(Exception):
        pass

    reported = Reported("ERROR: what the server said\nDETAIL: more")
    reported.sqlstate = sqlstate  # type: ignore[attr-defined]
    url = parse_url("postgresql://me@host/db")
    with (
        pytest.raises(StoreError, match=r"doing it in .*what the server said") as caught,
        classified("doing it", url),
    ):
        raise DBAPIError("SELECT", {}, reported)
    assert (caught.value.code, "DETAIL" in str(caught.value)) == (code, False)

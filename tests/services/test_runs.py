"""Whole runs against services that are real processes: the bytes of home, and restarts in the middle."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from integration.command import ROOT, RunFolder, finish, start, wait_for
from service_process import ServiceProcess, running_service

from agentrl.store.db import Store
from agentrl.types import Episode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CONFIG = ROOT / "configs" / "quickstart.toml"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
SMALL = [
    "rollout.tasks_per_batch=2",
    "rollout.group_size=2",
    "rollout.max_turns=4",
    f"policy.checkpoint={ROOT}/models/base",
]
TROUBLE = ("session", "worker", "Error", "error", "unreachable", "Traceback", "env.")
"""Words of errors; none of them is one of the games'."""


def steps_taken(service: ServiceProcess) -> float:
    """Return how many steps the service has answered."""
    return service.metric("agentrl_steps_total")


def kill_all(service: ServiceProcess) -> None:
    """End a service as a power cut does."""
    for pid in (*service.worker_pids, service.process.pid):
        os.kill(pid, signal.SIGKILL)
    service.process.wait(30)


def ended_well(running: subprocess.Popen[str]) -> str:
    """Wait for a program, see that it ended well, and return what it printed."""
    with running:
        stdout, stderr = finish(running)
    assert running.returncode == 0, stderr
    assert "Traceback" not in stderr, stderr
    return stdout


def stored(cwd: Path) -> dict[str, list[Episode]]:
    """Return the episodes of every run in a folder; see that none is stored twice, not even unseen."""
    url = f"sqlite:///{cwd / 'runs' / 'agentrl.db'}"
    with closing(sqlite3.connect(cwd / "runs" / "agentrl.db")) as database:
        rows = database.execute("select run, episode_id from episodes").fetchall()
    assert Counter(rows).most_common(1)[0][1] == 1
    with Store.open(url, create=False) as store:
        runs = {run.name: list(store.episodes(run.run_id)) for run in store.list_runs()}
    assert sum(len(episodes) for episodes in runs.values()) == len(rows)
    return runs


def assert_no_error_was_shown(episodes: list[Episode]) -> None:
    """See that what went wrong stands in the episodes' errors and in nothing that a model reads."""
    for episode in episodes:
        for turn in episode.turns:
            found = [word for word in TROUBLE if word in (turn.observation or "")]
            assert not found, (found, turn.observation)
        if episode.error is not None:
            assert episode.error["code"].startswith("env."), episode.error


def test_episodes_are_the_same_bytes_at_home_over_one_worker_and_over_four(tmp_path: Path) -> None:
    settings = [*SMALL, "rollout.tasks_per_batch=4", "rollout.group_size=4", "rollout.max_turns=6"]

    def exported(name: str, *overrides: str) -> bytes:
        cwd = tmp_path / name
        cwd.mkdir()
        said = ended_well(start(cwd, "rollout", CONFIG, *settings, *overrides, "--json", env=ONE_THREAD))
        run = json.loads(said)["run"]
        ended_well(start(cwd, "export", run, "out.jsonl"))
        return (cwd / "out.jsonl").read_bytes()

    at_home = exported("home")
    assert len(at_home.splitlines()) == 16
    assert b'"error":null' in at_home.replace(b": ", b":")
    for workers in ("1", "4"):
        with running_service("env.size=small", "env.instructions=false", "--workers", workers) as service:
            away = exported(f"over {workers}", f"env.url={service.url}")
            assert steps_taken(service) > 0
        assert away == at_home, f"over {workers} workers"


def train(cwd: Path, url: str) -> subprocess.Popen[str]:
    """Begin a tiny training run."""
    tiny = ["train.steps=3", "eval.tasks=2", "run.name=tiny", f"env.url={url}"]
    return start(cwd, "train", CONFIG, *SMALL, *tiny, env=ONE_THREAD)


def test_a_power_cut_of_the_service_in_the_middle_of_training_costs_some_episodes_and_nothing_else(
    tmp_path: Path,
) -> None:
    with running_service("env.size=small", "env.instructions=false", "--workers", "2") as service:
        running = train(tmp_path, service.url)
        # The play before training has two episodes of at most four steps: the ninth is in the first batch.
        wait_for(running, lambda: steps_taken(service) >= 10)
        kill_all(service)
        port = service.port
    with running_service("env.size=small", "env.instructions=false", "--workers", "2", port=port) as service:
        said = ended_well(running)
        assert steps_taken(service) > 0
    assert "Traceback" not in said
    runs = stored(tmp_path)
    (name,) = (name for name in runs if "." not in name)
    trained = runs[name]
    assert Counter(episode.batch for episode in trained) == {0: 4, 1: 4, 2: 4}
    lost = [episode for episode in trained if episode.error is not None]
    assert lost, "the cut came too late to see anything"
    assert {episode.batch for episode in lost} == {0}
    assert {episode.error["code"] for episode in lost if episode.error} <= {
        "env.session.ended",
        "env.session.unknown",
    }
    for episodes in runs.values():
        assert_no_error_was_shown(episodes)
    with RunFolder.only(tmp_path).store() as store:
        assert {str(run.status) for run in store.list_runs()} == {"finished"}


def test_a_restart_of_the_service_with_patience_costs_no_episode(tmp_path: Path) -> None:
    settings: list[Any] = [*SMALL, "rollout.concurrency=2", "rollout.max_turns=6"]
    with running_service("env.size=small", "env.instructions=false") as service:
        running = start(
            tmp_path, "rollout", CONFIG, *settings, f"env.url={service.url}", "--batches", 4, env=ONE_THREAD
        )
        wait_for(running, lambda: steps_taken(service) >= 5)
        log = service.stop()  # waits for the episodes that were begun
        assert (service.process.returncode, "Traceback" in log) == (0, False)
        port = service.port
    with running_service("env.size=small", "env.instructions=false", port=port) as service:
        ended_well(running)
        assert steps_taken(service) > 0
    ((_, episodes),) = stored(tmp_path).items()
    assert len(episodes) == 16
    assert [episode.error for episode in episodes] == [None] * 16
    assert_no_error_was_shown(episodes)


def test_a_service_that_never_comes_back_is_an_error_of_every_episode_and_the_run_ends(
    tmp_path: Path,
) -> None:
    with running_service("env.size=small", "env.instructions=false") as service:
        running = start(
            tmp_path,
            "rollout",
            CONFIG,
            *SMALL,
            f"env.url={service.url}",
            "rollout.step_timeout_s=5",
            env=ONE_THREAD,
        )
        wait_for(running, lambda: steps_taken(service) >= 1)
        kill_all(service)
        ended_well(running)
    ((_, episodes),) = stored(tmp_path).items()
    assert len(episodes) == 4
    assert {episode.error["code"] for episode in episodes if episode.error} <= {
        "env.unreachable",
        "env.step_timeout",
        "env.start_timeout",
    }
    assert any(episode.error for episode in episodes)
    assert_no_error_was_shown(episodes)

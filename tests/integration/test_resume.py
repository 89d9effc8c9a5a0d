"""A run that was killed and resumed is the run that was never killed: episodes, credit, metrics, weights."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from integration.command import PROGRAM, RunFolder, agentrl, finish, start, wait_for
from integration.conftest import InProcess, WriteConfig
from sqlalchemy import create_engine, text

from agentrl.errors import StoreError
from agentrl.store.entries import RunStatus
from agentrl.train.metrics import read_metrics
from agentrl.train.model import ModelShape, new_model, save_model

pytestmark = pytest.mark.slow

KILLED_BEFORE_THE_CHECKPOINT = """
import os, signal
from agentrl.train import run
save = run.save_checkpoint
def killed(root, state, **given):
    if state.step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return save(root, state, **given)
run.save_checkpoint = killed
"""
KILLED_BEHIND_THE_CHECKPOINT = """
import os, signal
from agentrl.store.db import Store
commit = Store.commit_batch
def killed(self, run_id, batch, checkpoint=""):
    if batch == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    commit(self, run_id, batch, checkpoint)
Store.commit_batch = killed
"""


def episodes_in_batch(cwd: Path, batch: int) -> int:
    """Count the stored episodes of a batch of the training run, while it goes on."""
    if not (cwd / "runs" / "agentrl.db").exists():
        return 0
    try:
        run = RunFolder.only(cwd)
        with run.store() as store:
            return sum(1 for _ in store.summaries(run.run_id, batch=batch))
    except (StoreError, ValueError):  # it is only just being made
        return 0


def rows(run: RunFolder) -> dict[str, list[tuple[object, ...]]]:
    """Return every row of every table that a run adds to, superseded ones too."""
    engine = create_engine(run.store_url)
    tables = ("episodes", "turns", "credit_turns", "credit_channels", "metrics", "commits", "attempts")
    with engine.connect() as connection:
        found = {
            name: [tuple(row) for row in connection.execute(text(f"SELECT * FROM {name}"))] for name in tables
        }
    engine.dispose()
    return found


def check_same(run: RunFolder, undisturbed: RunFolder, *, every: int = 1) -> None:
    """See that two finished runs of one config say the same, and that the store is consistent."""
    assert run.records() == undisturbed.records()
    assert run.weights(4) == undisturbed.weights(4)
    credit = run.credit()
    assert credit == undisturbed.credit()
    assert len({each.episode_id for each in credit}) == len(credit) == 16
    assert run.metrics() == undisturbed.metrics()
    assert len({(step, name) for step, name, _ in run.metrics()}) == len(run.metrics())
    assert [row["step"] for row in read_metrics(run.dir)] == [0, 1, 2, 3]
    for label in ("before", "after"):
        assert (run.dir / f"{label}.json").read_bytes() == (undisturbed.dir / f"{label}.json").read_bytes()
    with run.store() as store:
        assert store.get_run(run.run_id).status is RunStatus.FINISHED
        commits = [commit.batch for commit in store.commits(run.run_id)]
    assert commits == list(range(every - 1, 4, every))
    assert (run.dir / "report.png").exists()


def kill_and_look(run: RunFolder) -> tuple[dict[str, list[tuple[object, ...]]], list[bytes]]:
    """Return what a killed run left: its rows, and the episodes of committed batches."""
    with run.store() as store:
        assert store.get_run(run.run_id).status is RunStatus.RUNNING
        last = store.last_committed_batch(run.run_id)
    committed = [
        line for batch in range(0 if last is None else last + 1) for line in run.records(batch=batch)
    ]
    return rows(run), committed


@pytest.mark.parametrize("every", [1, 2])
def test_killed_in_the_middle_of_a_batch(
    finished: RunFolder, write_config: WriteConfig, tmp_path: Path, every: int
) -> None:
    config = write_config(tmp_path, train={"checkpoint_every": every}, rollout={"concurrency": 1})
    # Four held-out games, two batches of four, and the first group of the third.
    with start(tmp_path, "train", config, env={"AGENTRL_TEST_SESSIONS": "14"}) as running:
        wait_for(running, lambda: episodes_in_batch(tmp_path, 2) > 0)
        os.kill(running.pid, signal.SIGKILL)
        finish(running)
    run = RunFolder.only(tmp_path)
    before, committed = kill_and_look(run)
    assert len(committed) == 8
    assert len(run.records(batch=2)) == 2
    agentrl(tmp_path, "train", "--resume", run.run_id)
    assert run.records()[:8] == committed
    after = rows(run)
    for table, kept in before.items():
        assert set(kept) <= set(after[table]), table
    check_same(run, finished, every=every)


@pytest.mark.parametrize(
    ("where", "every", "steps_kept"),
    [(KILLED_BEFORE_THE_CHECKPOINT, 2, 2), (KILLED_BEHIND_THE_CHECKPOINT, 1, 3)],
    ids=["before the checkpoint", "between checkpoint and store"],
)
def test_killed_between_store_and_checkpoint(
    finished: RunFolder, write_config: WriteConfig, tmp_path: Path, where: str, every: int, steps_kept: int
) -> None:
    config = write_config(tmp_path, train={"checkpoint_every": every})
    with start(tmp_path, "train", config, program=where + PROGRAM) as running:
        finish(running)
    assert running.returncode == -signal.SIGKILL
    run = RunFolder.only(tmp_path)
    before, committed = kill_and_look(run)
    assert len(committed) == 8
    said = agentrl(tmp_path, "train", "--resume", run.run_id)
    assert f"step {steps_kept + 1}:" in said
    assert f"step {steps_kept}:" not in said
    assert run.records()[:8] == committed
    after = rows(run)
    for table, kept in before.items():
        assert set(kept) <= set(after[table]), table
    check_same(run, finished, every=every)


def test_killed_while_it_is_evaluated(finished: RunFolder, write_config: WriteConfig, tmp_path: Path) -> None:
    """Before the first checkpoint, a run begins again; the evaluation is one too."""
    with start(tmp_path, "train", write_config(tmp_path), env={"AGENTRL_TEST_SESSIONS": "2"}) as running:
        wait_for(running, lambda: RunFolder.evaluating(tmp_path))
        os.kill(running.pid, signal.SIGKILL)
        finish(running)
    run = RunFolder.only(tmp_path)
    agentrl(tmp_path, "train", "--resume", run.run_id)
    check_same(run, finished)


@pytest.fixture
def copied(finished: RunFolder, tmp_path: Path) -> Iterator[RunFolder]:
    """The finished run in a folder of its own, with one more step to go."""
    shutil.copytree(finished.cwd / "runs", tmp_path / "runs")
    run = replace(finished, cwd=tmp_path)
    yield run
    assert run.records()[:16] == finished.records(), "a refusal lost something"


def test_more_steps_are_trained_and_evaluated_again(copied: RunFolder, finished: RunFolder) -> None:
    """Also from a folder that was moved; what an earlier end of training could do is not the result."""
    agentrl(
        copied.cwd.parent, "train", "--resume", copied.run_id, "train.steps=5", "--runs", copied.cwd / "runs"
    )
    assert [json.loads(line)["batch"] for line in copied.records()] == sorted([0, 1, 2, 3, 4] * 4)
    assert copied.weights(4) == finished.weights(4)
    assert copied.weights(5) != finished.weights(4)
    assert not (copied.cwd.parent / "runs").exists()
    with copied.store() as store:
        after = [run for run in store.list_runs() if run.name == f"{copied.run_id}.after"]
        (version,) = {v for e in store.episodes(after[0].run_id) for v in e.policy_versions}
    assert (len(after), version) == (2, 5)


def test_what_was_played_cannot_be_changed(copied: RunFolder, here: InProcess) -> None:
    resume = ("train", "--resume", copied.run_id)
    said = here.refused(copied.cwd, *resume, "train.lr=0.5", "run.seed=7", "train.steps=9")
    assert "other values of run.seed, train.lr:" in said
    said = here.refused(copied.cwd, *resume, "train.lr_schedule=linear", "train.steps=9")
    assert "other values of train.lr_schedule, train.steps:" in said
    assert "other values of run.dir:" in here.refused(copied.cwd, *resume, "run.dir=elsewhere")
    assert "unknown key train.step" in here.refused(copied.cwd, *resume, "train.step=9")


def test_a_run_that_does_not_exist(copied: RunFolder, here: InProcess) -> None:
    said = here.refused(copied.cwd, "train", "--resume", "tiny-0")
    assert f"there is no run 'tiny-0' in runs; runs: {copied.run_id}" in said
    assert "runs: none" in here.refused(copied.cwd, "train", "--resume", "tiny-0", "--runs", "elsewhere")


@pytest.mark.parametrize("file", ["policy/model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["bit", "cut", "gone"])
def test_a_damaged_checkpoint(copied: RunFolder, here: InProcess, file: str, damage: str) -> None:
    path = copied.dir / "checkpoints" / "step_00000004" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    match damage:
        case "bit":
            path.write_bytes(content)
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case _:
            path.unlink()
    said = here.refused(copied.cwd, "train", "--resume", copied.run_id, "train.steps=9")
    assert path.name in said
    assert "checkpoint.corrupt" in said


def test_a_checkpoint_that_latest_names_and_is_not_there(copied: RunFolder, here: InProcess) -> None:
    shutil.rmtree(copied.dir / "checkpoints" / "step_00000004")
    assert "'step_00000004'" in here.refused(copied.cwd, "train", "--resume", copied.run_id, "train.steps=9")


def test_a_checkpoint_of_another_architecture(copied: RunFolder, here: InProcess, tiny_base: Path) -> None:
    other = copied.cwd / "other"
    shape = ModelShape(hidden=32, layers=3, heads=2, kv_heads=1, head_dim=16, ffn=64, max_position=4096)
    save_model(new_model(shape, 512), tiny_base, other)
    file = copied.dir / "config.json"
    file.write_text(file.read_text().replace(str(tiny_base), str(other)))
    said = here.refused(copied.cwd, "train", "--resume", copied.run_id, "train.steps=9")
    assert "does not fit this model" in said
    assert "checkpoint.architecture" in said


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_damaged_config(copied: RunFolder, here: InProcess, content: str) -> None:
    file = copied.dir / "config.json"
    whole = file.read_text()
    file.write_text(content)
    assert "config.json" in here.refused(copied.cwd, "train", "--resume", copied.run_id)
    file.write_text(whole)


def test_a_store_that_lacks_the_run(copied: RunFolder, here: InProcess) -> None:
    said = here.refused(copied.cwd, "train", "--resume", copied.run_id, "store.url=sqlite:///other.db")
    assert f"the store has no run '{copied.run_id}'" in said


def test_a_run_is_resumed_twice(copied: RunFolder, here: InProcess, finished: RunFolder) -> None:
    """Nothing is left to train: what was evaluated is shown again, and nothing is played."""
    before = rows(copied)
    said = agentrl(copied.cwd, "train", "--resume", copied.run_id, "--json")
    assert json.loads(said)["after"]["overall"]["episodes"] == 4
    after = rows(copied)
    assert {name: len(kept) for name, kept in after.items() if name != "attempts"} == {
        name: len(kept) for name, kept in before.items() if name != "attempts"
    }
    assert copied.credit() == finished.credit()

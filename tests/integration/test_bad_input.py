"""Whatever is wrong with input or disk: exit code 2, one clear line, and nothing that was stored is lost."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from integration.command import PROGRAM, RunFolder, agentrl, finish, start, toml
from integration.conftest import TINY, InProcess, WriteConfig

from agentrl.store.db import Store
from agentrl.store.entries import RunStatus

pytestmark = pytest.mark.slow  # the first of them waits for the finished run


@pytest.fixture
def kept(finished: RunFolder, tmp_path: Path) -> Iterator[RunFolder]:
    """A folder whose store holds a finished run, which must still be there, and alone, at the end."""
    shutil.copytree(finished.cwd / "runs", tmp_path / "runs")
    run = replace(finished, cwd=tmp_path)
    folders = sorted(path.name for path in (tmp_path / "runs").iterdir())
    yield run
    assert sorted(path.name for path in (tmp_path / "runs").iterdir() if "db-" not in path.name) == folders
    with run.store() as store:
        assert len(store.list_runs()) == 3
    assert run.records() == finished.records()
    assert run.credit() == finished.credit()


OVERRIDES = [
    ("train.step=1", "unknown key train.step; known: "),
    ("trian.steps=1", "unknown key trian; known: "),
    ("env.sizes=small", "unknown key sizes; known: "),
    ("train.steps=many", "train.steps: input should be a valid integer"),
    ("train.lr=0", "train.lr: input should be greater than 0"),
    ("rollout.group_size=0", "rollout.group_size"),
    ("env.size=huge", "size: input should be 'small', 'medium' or 'full', got 'huge'"),
    ("env.id=alfwrld", "there is no env 'alfwrld'; those that exist: alfworld"),
    ("env.id=no_such_package:Env", "there is no such module"),
    ("credit.preset=gigpoo", "there is no credit.preset 'gigpoo'; those that exist: "),
    ("credit.gama=1.0", "gama"),
    ("credit.gamma=often", "gamma"),
    ("loss.name=ppoo", "there is no loss 'ppoo'; those that exist: "),
    ("loss.options.clipp=1.0", "loss 'ppo' has no option clipp; its options: "),
    ("loss.aggregation=mean", "loss.aggregation"),
    ("eval.split=moon", "split 'moon'"),
    ("env.data=nowhere", "nowhere"),
    ("policy.checkpoint=nowhere", "there is no model in nowhere"),
    ("store.url=mysql://here/store", "does not name a store"),
    ("store.url=sqlite:///tiny.toml", "store.not_a_store"),
    ("run.dir=tiny.toml", "tiny.toml"),
]


@pytest.mark.parametrize(("override", "expected"), OVERRIDES, ids=[override for override, _ in OVERRIDES])
def test_an_override(
    kept: RunFolder, write_config: WriteConfig, here: InProcess, override: str, expected: str
) -> None:
    assert expected in here.refused(kept.cwd, "train", write_config(kept.cwd), override)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_here(kept: RunFolder, write_config: WriteConfig, here: InProcess) -> None:
    assert "no CUDA device" in here.refused(kept.cwd, "train", write_config(kept.cwd), "policy.device=cuda")


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ({"train": {"steps": 1}}, "missing key env"),
        ({"env": {"size": "small"}}, "missing key env.id"),
        ({**TINY, "clone": {"workers": 1}}, "missing key clone.episodes"),
    ],
    ids=["no environment", "no id", "no number of episodes"],
)
@pytest.mark.parametrize("command", ["train", "eval", "rollout"])
def test_a_key_that_is_missing(
    kept: RunFolder, here: InProcess, command: str, tables: dict[str, dict[str, object]], expected: str
) -> None:
    (kept.cwd / "bad.toml").write_text(toml(tables))
    said = here.refused(kept.cwd, command, "bad.toml")
    assert "bad.toml: " in said
    assert expected in said


@pytest.mark.parametrize("content", [b"[env\n", b"\xff\xfe", b'env = "alfworld"'])
def test_a_file_that_is_no_config(kept: RunFolder, here: InProcess, content: bytes) -> None:
    (kept.cwd / "bad.toml").write_bytes(content)
    assert "bad.toml" in here.refused(kept.cwd, "train", "bad.toml")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def change_config(**changes: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "another architecture": ("config.json", change_config(architectures=["LlamaForCausalLM"]), "Llama"),
    "no architecture": ("config.json", change_config(architectures=None), "Qwen3ForCausalLM"),
    "other shapes": ("config.json", change_config(intermediate_size=96), "weight"),
    "no config": ("config.json", Path.unlink, "config.json"),
    "a torn config": ("config.json", cut, "config.json"),
    "no weights": ("model.safetensors", Path.unlink, "model"),
    "torn weights": ("model.safetensors", cut, "model"),
    "no tokenizer": ("tokenizer.json", Path.unlink, "tokenizer.json"),
    "a torn tokenizer": ("tokenizer.json", cut, "tokenizer.json"),
    "no chat template": ("tokenizer_config.json", change_config(chat_template=None), "chat template"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("command", ["train", "eval"])
def test_a_checkpoint_that_cannot_be_used(
    kept: RunFolder,
    write_config: WriteConfig,
    here: InProcess,
    tiny_base: Path,
    command: str,
    damage: str,
) -> None:
    bad = kept.cwd / "bad"
    shutil.copytree(tiny_base, bad)
    name, spoil, expected = DAMAGE[damage]
    spoil(bad / name)
    said = here.refused(kept.cwd, command, write_config(kept.cwd, policy={"checkpoint": str(bad)}))
    assert str(bad) in said
    assert expected in said


@pytest.mark.parametrize("command", ["train", "eval", "rollout", "runs", "export", "resume"])
def test_a_store_of_a_newer_schema(
    kept: RunFolder, write_config: WriteConfig, here: InProcess, command: str
) -> None:
    database = sqlite3.connect(kept.cwd / "runs" / "agentrl.db")
    (revision,) = database.execute("SELECT version_num FROM agentrl_schema").fetchone()
    with database:
        database.execute("UPDATE agentrl_schema SET version_num = '9999'")
    arguments = {
        "runs": ("runs",),
        "export": ("export", kept.run_id, "out.jsonl"),
        "resume": ("train", "--resume", kept.run_id),
    }.get(command) or (command, write_config(kept.cwd))
    said = here.refused(kept.cwd, *arguments)
    assert "has schema revision 9999" in said
    assert "a newer agentrl made it" in said
    with database:
        database.execute("UPDATE agentrl_schema SET version_num = ?", (revision,))
    database.close()


def hostile_data(here: InProcess, cwd: Path) -> dict[str, Path]:
    """Write games, and spoil all but one of them; return the files by what is wrong with them."""
    here.done(cwd, "games", "data", "--size", "small", "--games", "7", "--split", "valid_unseen")
    files = sorted(cwd.glob("data/json_2.1.1/valid_unseen/*/*/game.tw-pddl"))
    names = ("fine", "grammar", "domain", "deep", "text", "torn", "link")
    return dict(zip(names, files, strict=True))


def test_games_that_cannot_be_read(write_config: WriteConfig, here: InProcess, tmp_path: Path) -> None:
    """A game is data: what is hostile is not run, what cannot be read fails its own episode only."""
    files = hostile_data(here, tmp_path)
    payload = f"__import__('pathlib').Path({str(tmp_path / 'pwned')!r}).touch()"

    def spoil(name: str, key: str, value: object) -> None:
        files[name].write_text(json.dumps(json.loads(files[name].read_text()) | {key: value}))

    spoil("grammar", "grammar", f'grammar :: """\n{{"task": [{{"rhs": "{{{payload}}}"}}]}}\n"""')
    spoil("domain", "pddl_domain", payload)
    spoil("deep", "pddl_problem", "(" * 100_000)
    spoil("text", "pddl_problem", 7)
    cut(files["torn"])
    files["link"].unlink()
    files["link"].symlink_to(tmp_path / "data" / "logic" / "alfred.pddl")

    data = {"id": "alfworld", "train_games": None, "any_reward": None, "data": str(tmp_path / "data")}
    config = write_config(tmp_path, env=data, eval={"tasks": 7})
    code, stdout, stderr = here(tmp_path, "eval", config, "--json")
    assert code == 0, stderr
    report = json.loads(stdout)
    assert report["overall"]["episodes"] == 5, "what is no JSON object is not in the task list"
    assert report["errors"] == {"env.game_unreadable": 4}
    run = RunFolder(tmp_path, "tiny")
    with run.store() as store:
        (found,) = store.list_runs()
        episodes = list(store.episodes(found.run_id))
    errors = {e.task_id.rpartition("/")[2]: e.error for e in episodes}
    for name, error in ((name, errors.get(file.parent.name)) for name, file in files.items()):
        assert (error is not None) is (name in ("grammar", "domain", "deep", "text")), name
        assert error is None or files[name].parent.name in error["message"]
    assert not (tmp_path / "pwned").exists()
    assert "failed episodes (counted as no success): env.game_unreadable 4" in here.done(
        tmp_path, "eval", config
    )


def test_no_game_at_all_can_be_read(write_config: WriteConfig, here: InProcess, tmp_path: Path) -> None:
    """Nothing to train on is said before anything is played; nothing but failures is a run with failures."""
    for file in hostile_data(here, tmp_path).values():
        cut(file)
    shutil.copytree(tmp_path / "data/json_2.1.1/valid_unseen", tmp_path / "data/json_2.1.1/train")
    data = {"id": "alfworld", "train_games": None, "any_reward": None, "data": str(tmp_path / "data")}
    config = write_config(tmp_path, env=data)
    assert "the split has no tasks" in here.refused(tmp_path, "train", config)
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1.4 MB; with the right to grow it later."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("mounting a small file system needs root")
    made = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=1400k", "none", disk], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs here: {made.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def check_failed_well(run: RunFolder, finished: RunFolder, *, at_least: int = 4) -> None:
    """See that a run that the disk stopped left whole groups, in order, and says that it failed."""
    with run.store() as store:
        assert store.get_run(run.run_id).status is RunStatus.FAILED
    played = run.records()
    assert len(played) >= at_least
    assert len(played) % 2 == 0
    assert set(played) <= set(finished.records())


def test_a_full_disk(
    small_disk: Path, finished: RunFolder, write_config: WriteConfig, tmp_path: Path
) -> None:
    """It fills up behind the first step; given room, the run goes on as if it never had."""
    with start(small_disk, "train", write_config(tmp_path)) as running:
        _, stderr = finish(running)
    assert (running.returncode, len(stderr.splitlines())) == (2, 1), stderr
    assert "disk_full" in stderr or "unwritable" in stderr
    run = RunFolder.only(small_disk)
    check_failed_well(run, finished)
    assert not list(run.dir.glob("checkpoints/.*")), "half a checkpoint"
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    agentrl(small_disk, "train", "--resume", run.run_id)
    assert run.records() == finished.records()
    assert run.weights(4) == finished.weights(4)
    assert run.credit() == finished.credit()
    assert run.metrics() == finished.metrics()


def test_a_file_that_may_not_grow(finished: RunFolder, write_config: WriteConfig, tmp_path: Path) -> None:
    """What a quota looks like; the store's file reaches the limit first."""
    limit = f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({200_000}, {resource.RLIM_INFINITY}))
"""
    config = write_config(tmp_path)
    with start(tmp_path, "train", config, program=limit + PROGRAM) as running:
        _, stderr = finish(running)
    assert (running.returncode, len(stderr.splitlines())) == (2, 1), stderr
    assert "disk_full" in stderr
    check_failed_well(RunFolder.only(tmp_path), finished, at_least=0)


FULL = """
import errno, itertools
from matplotlib.figure import Figure
from tensorboard.summary.writer.record_writer import RecordWriter
count, write = itertools.count(), RecordWriter.write
def fails(*given, **more):
    raise OSError(errno.ENOSPC, "No space left on device")
def fails_later(self, data):
    return write(self, data) if next(count) < 60 else fails()
"""


@pytest.mark.parametrize("breaks", ["RecordWriter.write = fails_later", "Figure.savefig = fails"])
def test_a_disk_that_fills_up_at_a_bad_moment(
    finished: RunFolder, write_config: WriteConfig, tmp_path: Path, breaks: str
) -> None:
    """Also where another package's thread finds out: no traceback, and everything up to then is there."""
    with start(tmp_path, "train", write_config(tmp_path), program=f"{FULL}\n{breaks}\n{PROGRAM}") as running:
        _, stderr = finish(running)
    assert (running.returncode, len(stderr.splitlines())) == (2, 1), stderr
    assert "No space left on device" in stderr
    check_failed_well(RunFolder.only(tmp_path), finished)


def test_a_disk_that_is_full_from_the_start(write_config: WriteConfig, tmp_path: Path) -> None:
    program = f"{FULL}\nRecordWriter.write = fails\n{PROGRAM}"
    with start(tmp_path, "train", write_config(tmp_path), program=program) as running:
        _, stderr = finish(running)
    assert (running.returncode, len(stderr.splitlines())) == (2, 1), stderr
    assert "opening the metrics in " in stderr
    with Store.open(f"sqlite:///{tmp_path / 'runs' / 'agentrl.db'}") as store:
        assert store.list_runs() == []


@pytest.mark.parametrize("arguments", [("games", "file"), ("train", "--resume", "x", "--runs", "file")])
def test_a_file_where_a_folder_should_be(here: InProcess, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("")
    here.refused(tmp_path, *arguments)

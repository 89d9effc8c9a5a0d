"""A base model that is trained here in seconds, and one finished run that many tests look at."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from integration.command import RunFolder, agentrl, toml

from agentrl import cli
from agentrl.config import Config, parse_settings
from agentrl.train.base import build_base

ENV = {"id": "integration.flaky:FlakyAlfWorld", "size": "small", "instructions": False, "style": "plain"}
BASE: dict[str, Any] = {
    "run": {"name": "base", "seed": 3},
    "env": {**ENV, "id": "alfworld"},
    "policy": {"threads": 1, "device": "cpu"},
    "model": {
        "hidden": 32,
        "layers": 2,
        "heads": 2,
        "kv_heads": 1,
        "head_dim": 16,
        "ffn": 64,
        "vocab_size": 512,
    },
    "clone": {
        "episodes": 16,
        "tokenizer_episodes": 16,
        "token_budget": 8000,
        "batch_tokens": 800,
        "copy_warmup_steps": 0,
        "observation_weight": 0.0,
        "lr": 0.05,
        "workers": 1,
    },
}
TINY: dict[str, Any] = {
    "run": {"name": "tiny"},
    "env": {**ENV, "train_games": 6, "any_reward": True},
    "policy": {"max_context_tokens": 1024, "threads": 1, "slots": 4, "device": "cpu"},
    "rollout": {
        "tasks_per_batch": 2,
        "group_size": 2,
        "max_turns": 3,
        "max_reply_tokens": 8,
        "concurrency": 4,
    },
    "credit": {"preset": "gigpo"},
    "loss": {"entropy_coef": 0.01},
    "train": {"steps": 4, "lr": 1e-3, "checkpoint_every": 1, "keep_checkpoints": 9},
    "eval": {"tasks": 4, "temperature": 1.0},
}

WriteConfig = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was shown the expert for a second or two."""
    before = torch.get_num_threads()
    config = copy.deepcopy(BASE)
    config["clone"]["out"] = str(tmp_path_factory.mktemp("base"))
    try:
        return build_base(parse_settings(Config, config, where="BASE"), device="cpu", watch=lambda *_: None)
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="session")
def write_config(tiny_base: Path) -> WriteConfig:
    """Write `tiny.toml` into a folder; tables given by name change keys of its tables (None drops one)."""

    def write(folder: Path, **changes: dict[str, Any]) -> Path:
        tables = copy.deepcopy(TINY)
        tables["policy"]["checkpoint"] = str(tiny_base)
        for name, table in changes.items():
            merged = tables.get(name, {}) | table
            tables[name] = {key: value for key, value in merged.items() if value is not None}
        file = folder / "tiny.toml"
        file.write_text(toml(tables))
        return file

    return write


@pytest.fixture(scope="session")
def finished(write_config: WriteConfig, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of four steps that nothing disturbed, with every checkpoint. Look, do not touch."""
    cwd = tmp_path_factory.mktemp("finished")
    (cwd / "stdout").write_text(agentrl(cwd, "train", write_config(cwd)))
    return RunFolder.only(cwd)


class InProcess:
    """Runs `agentrl` in this process: the same `main`, without seconds of imports."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capfd = monkeypatch, capfd

    def __call__(self, cwd: Path, *arguments: object) -> tuple[int, str, str]:
        """Return the exit code, stdout and stderr."""
        environment, path = dict(os.environ), list(sys.path)
        self._capfd.readouterr()
        with self._monkeypatch.context() as patch:
            patch.chdir(cwd)
            patch.setattr(sys, "argv", ["agentrl", *map(str, arguments)])
            try:
                with pytest.raises(SystemExit) as ended:
                    cli.main()
            finally:
                os.environ.clear()
                os.environ.update(environment)
                sys.path[:] = path
        return int(ended.value.code or 0), *self._capfd.readouterr()

    def refused(self, cwd: Path, *arguments: object) -> str:
        """See that the input is refused with exit code 2 and one line, and return that line."""
        code, stdout, stderr = self(cwd, *arguments)
        assert (code, stdout) == (2, ""), (stdout, stderr)
        assert stderr.startswith("agentrl: ")
        assert len(stderr.splitlines()) == 1, stderr
        return stderr.strip()

    def refused_after_output(self, cwd: Path, *arguments: object) -> str:
        """As `refused`, for what is found wrong once work has begun and something was said about it."""
        code, _, stderr = self(cwd, *arguments)
        assert (code, len(stderr.splitlines())) == (2, 1), stderr
        return stderr.strip()

    def done(self, cwd: Path, *arguments: object) -> str:
        """See that it ends well and clean, and return what it printed."""
        code, stdout, stderr = self(cwd, *arguments)
        assert (code, stderr) == (0, ""), stderr
        return stdout


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[InProcess]:
    """`agentrl` in this process."""
    threads = torch.get_num_threads()
    yield InProcess(monkeypatch, capfd)
    torch.set_num_threads(threads)

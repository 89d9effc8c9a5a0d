"""The command line as a user meets it: in a process of its own, which tests may kill, or in this one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentrl.errors import StoreError
from agentrl.store.db import Store
from agentrl.store.record import record_line
from agentrl.types import Episode

__all__ = ["PROGRAM", "ROOT", "RunFolder", "agentrl", "finish", "records", "start", "toml", "wait_for"]

ROOT = Path(__file__).resolve().parents[2]
# Jobs that a shell started in the background ignore Ctrl-C, and so would what the tests start.
PROGRAM = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from agentrl.cli import main; main()"
)
TIMEOUT_S = 240.0
TROUBLE = re.compile(r"Traceback|Warning|Exception|Error")


def start(
    cwd: Path, *arguments: object, program: str = PROGRAM, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start `agentrl` with these arguments in a folder; `program` may patch it first."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def agentrl(cwd: Path, *arguments: object) -> str:
    """Run `agentrl`, see that it ends well and says nothing on stderr, and return what it printed.

    With `--json` stdout is the result alone, and the tables are on stderr.
    """
    with start(cwd, *arguments) as running:
        stdout, stderr = finish(running)
    told = TROUBLE.findall(stderr) if "--json" in arguments else stderr
    assert (running.returncode, len(told)) == (0, 0), stderr
    return stdout


def finish(running: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait for a program to end and return its stdout and stderr."""
    try:
        return running.communicate(timeout=TIMEOUT_S)
    except BaseException:
        running.kill()
        raise


def wait_for(running: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    """Wait until something has happened in a program that must still be running then."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not happened():
        assert running.poll() is None, running.communicate()
        if time.monotonic() > deadline_s:
            running.kill()
            raise TimeoutError("it never happened")
        time.sleep(0.01)


def toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a config file with these tables (JSON's numbers, strings and lists are TOML's)."""
    lines = [
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
        for name, table in tables.items()
    ]
    return "\n".join(lines)


def records(episodes: Sequence[Episode]) -> list[bytes]:
    """Return the episodes as the lines of an export."""
    return [record_line(episode) for episode in episodes]


@dataclass(frozen=True)
class RunFolder:
    """A training run on disk: `cwd/runs/<run id>` and the store beside it."""

    cwd: Path
    run_id: str

    @classmethod
    def only(cls, cwd: Path) -> RunFolder:
        """Return the one run that was trained in a folder."""
        (config,) = (cwd / "runs").glob("*/config.json")
        return cls(cwd, config.parent.name)

    @property
    def dir(self) -> Path:
        return self.cwd / "runs" / self.run_id

    @property
    def store_url(self) -> str:
        return f"sqlite:///{self.cwd / 'runs' / 'agentrl.db'}"

    @classmethod
    def evaluating(cls, cwd: Path) -> bool:
        """Whether the run in a folder has begun its first evaluation (asked while it goes on)."""
        if not (cwd / "runs" / "agentrl.db").exists():
            return False
        try:
            with cls(cwd, "").store() as store:
                return any(run.name.endswith(".before") for run in store.list_runs())
        except StoreError:  # it is only just being made
            return False

    def store(self) -> Store:
        return Store.open(self.store_url, create=False)

    def records(self, *, batch: int | None = None) -> list[bytes]:
        """Return the counting episodes as lines of an export, in the store's order."""
        with self.store() as store:
            return records(list(store.episodes(self.run_id, batch=batch)))

    def weights(self, step: int) -> dict[str, bytes]:
        """Return the bytes of a checkpoint's model and optimiser."""
        folder = self.dir / "checkpoints" / f"step_{step:08d}"
        return {
            name: (folder / name).read_bytes()
            for name in ("policy/model.safetensors", "optimizer.safetensors")
        }

    def metrics(self) -> list[tuple[int, str, float]]:
        """Return the stored metrics of every step, without those that measure time."""
        with self.store() as store:
            found = store.metrics(self.run_id)
        return [(m.step, m.name, m.value) for m in found if not m.name.startswith(("timing_s/", "perf/"))]

    def credit(self) -> list[Any]:
        """Return what the run's own credit says of every counting episode."""
        with self.store() as store:
            (credit_run,) = store.credit_runs(self.run_id)
            return list(store.credit(credit_run.credit_run_id))

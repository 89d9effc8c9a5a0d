"""OpenEnv's own clients, in a process of OpenEnv's own interpreter: it cannot be the one of these tests."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import threading
from collections.abc import Generator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
PUPPET = REPOSITORY / "tests" / "openenv_scripts" / "puppet.py"
MADE_BY = ["make", ".venv/.openenv"]
MAKE_S = 240.0
ANSWER_S = 60.0
STOP_S = 30.0


class NoOpenEnv(Exception):
    """OpenEnv's interpreter is not there and cannot be made."""


class OpenEnvError(Exception):
    """What OpenEnv's client raised."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message


def openenv_python() -> Path:
    """Return OpenEnv's interpreter, made if need be.

    Raises:
        NoOpenEnv: it cannot be made; the message has the end of pip's.
    """
    # Not resolved: the link itself is what makes it an environment.
    python = REPOSITORY / os.environ.get("AGENTRL_OPENENV_PYTHON", ".venv/openenv/bin/python")
    if _works(python):
        return python
    try:
        made = subprocess.run(MADE_BY, cwd=REPOSITORY, capture_output=True, text=True, timeout=MAKE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoOpenEnv(f"{' '.join(MADE_BY)}: {error}") from error
    python = REPOSITORY / ".venv/openenv/bin/python"
    if made.returncode or not _works(python):
        raise NoOpenEnv(f"{' '.join(MADE_BY)} failed: {made.stderr.strip()[-300:]}")
    return python


def _works(python: Path) -> bool:
    try:
        find = "import importlib.util as u; raise SystemExit(u.find_spec('openenv') is None)"
        return subprocess.run([python, "-c", find], timeout=ANSWER_S).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


class OpenEnvProcess:
    """Makes clients over there and has them do things."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._numbers = itertools.count()
        self._due: dict[int, Future[Any]] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def order(self, **order: Any) -> Future[Any]:
        """Send a line and return its answer to come."""
        number = next(self._numbers)
        answer = self._due[number] = Future()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, **order}) + "\n")
        self._process.stdin.flush()
        return answer

    def client(self, url: str, kind: str = "async", **options: Any) -> OpenEnvClient:
        """Return a new client of OpenEnv: `async`, `sync` or `mcp`."""
        name = f"client {next(self._numbers)}"
        self.order(client=name, make={"kind": kind, "url": url, **options}).result(ANSWER_S)
        return OpenEnvClient(self, name)

    def validate(self, url: str) -> dict[str, Any]:
        """Return the report of `openenv validate`."""
        return self.order(validate=url).result(ANSWER_S)

    def join(self) -> None:
        """Wait for the end of the process's output."""
        self._reader.join(STOP_S)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            answer = self._due.pop(said["id"])
            if "error" in said:
                answer.set_exception(OpenEnvError(*said["error"]))
            else:
                answer.set_result(said["value"])
        for answer in self._due.values():
            answer.set_exception(ConnectionError("OpenEnv's process ended"))


@dataclass(frozen=True)
class OpenEnvClient:
    """One client over there. Every call waits for its answer, but for `begin`."""

    process: OpenEnvProcess
    name: str

    def begin(self, call: str, *args: Any, **kwargs: Any) -> Future[Any]:
        """Begin a call and return its answer to come."""
        return self.process.order(client=self.name, call=call, args=args, kwargs=kwargs)

    def call(self, call: str, *args: Any, **kwargs: Any) -> Any:
        """Return what a call returns.

        Raises:
            OpenEnvError: the client raised.
        """
        return self.begin(call, *args, **kwargs).result(ANSWER_S)

    def reset(self, **kwargs: Any) -> dict[str, Any]:
        """Reset."""
        return self.call("reset", **kwargs)

    def step(self, action: Any) -> dict[str, Any]:
        """Step."""
        return self.call("step", action)

    def state(self) -> dict[str, Any]:
        """Ask for the state."""
        return self.call("state")

    def close(self) -> None:
        """Close."""
        self.call("close")


@contextlib.contextmanager
def running_openenv(python: Path) -> Generator[OpenEnvProcess]:
    """Run OpenEnv's interpreter until the block ends."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    process = subprocess.Popen(
        [python, PUPPET], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    there = OpenEnvProcess(process)
    try:
        yield there
    finally:
        process.stdin.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_S)
        there.join()
        process.stdout.close()

"""The processes of a measurement: servers that print their address, and a client that is told what to do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
import tempfile
import time
import urllib.error
import urllib.request
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import IO, Any

from agentrl import bundle
from agentrl.errors import ConfigError

__all__ = ["OPENENV_PYTHON", "Lines", "openenv_python", "ours", "running", "serving"]

OPENENV_PYTHON = "AGENTRL_OPENENV_PYTHON"
START_S, STOP_S = 90.0, 60.0
MAX_LINE_BYTES = 64 << 20
NOT_FOR_CHILDREN = ("AGENTRL_TOKEN", "PYTHONPATH")


def openenv_python() -> str:
    """Return the interpreter that has OpenEnv, which needs other versions of our dependencies.

    Raises:
        ConfigError: there is none.
    """
    given = os.environ.get(OPENENV_PYTHON)
    path = Path(given) if given else bundle.home() / ".venv" / "openenv" / "bin" / "python"
    if not path.is_file():
        raise ConfigError(
            "bench.no_openenv",
            f"cannot measure beside OpenEnv: there is no {path}; `make bench` makes it, or set "
            f"{OPENENV_PYTHON} to an interpreter with openenv-core 0.3, uvloop and httptools",
        )
    return str(path)


def ours(service: str) -> list[str]:
    """Return the command that serves a service of ours on a free port."""
    return [sys.executable, "-c", "from agentrl.cli import main; main()", "serve", service, "--port", "0"]


class Lines:
    """A process that answers each line with a line."""

    def __init__(self, process: Process, name: str, log: IO[bytes]) -> None:
        self._process = process
        self._name = name
        self._log = log

    async def ask(self, line: str, timeout_s: float) -> Any:
        """Return the answer, which is JSON.

        Raises:
            ConfigError: the process ended, or took too long.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        return json.loads(await self.read(timeout_s))

    async def read(self, timeout_s: float) -> str:
        """Return its next line.

        Raises:
            ConfigError: there is none: the process ended, or took too long.
        """
        assert self._process.stdout is not None
        line = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                line = await self._process.stdout.readline()
        if not line:
            raise self.failed(f"ended, or said nothing in {timeout_s:g} s")
        return line.decode()

    def failed(self, why: str) -> ConfigError:
        """Return the error that says so, with the last that the process logged."""
        self._log.seek(0)
        logged = self._log.read().decode(errors="replace").splitlines()
        last = logged[-1][:500] if logged else "nothing"
        return ConfigError("bench.process", f"{self._name} {why}; the last line of its log: {last}")


@contextlib.asynccontextmanager
async def running(command: list[str], name: str) -> AsyncGenerator[Lines]:
    """Run a process until the block ends."""
    environment = {name: value for name, value in os.environ.items() if name not in NOT_FOR_CHILDREN}
    if command[0] == sys.executable:
        environment["PYTHONPATH"] = str(bundle.home())
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=log, env=environment, limit=MAX_LINE_BYTES
        )
        try:
            yield Lines(process, name, log)
        finally:
            await _end(process)


async def _end(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def serving(command: list[str], name: str) -> AsyncGenerator[str]:
    """Run a server until the block ends; give its address once it answers.

    Raises:
        ConfigError: it does not.
    """
    async with running(command, name) as lines:
        found = re.search(r"http://[^ \n]+", await lines.read(START_S))
        if found is None:
            raise lines.failed("did not print its address")
        until = time.monotonic() + START_S
        while not await asyncio.to_thread(_answers, found[0]):
            if time.monotonic() > until:
                raise lines.failed(f"did not answer at {found[0]} in {START_S:g} s")
            await asyncio.sleep(0.1)
        yield found[0]


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5.0) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False

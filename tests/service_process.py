"""Start a real service in a process of its own, and stop it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "-c", "from agentrl.cli import main; main()"]
START_S = 60.0
STOP_S = 60.0


@dataclass(frozen=True)
class ServiceProcess:
    """A running service."""

    url: str
    process: subprocess.Popen[str]
    log: Path

    def get(self, path: str, *, token: str | None = None) -> tuple[int, Any]:
        """Return status and JSON (or text) of a GET."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return _answer(urllib.request.Request(self.url + path, headers=headers))

    def post(self, path: str, body: Any, *, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """Return status and JSON of a POST."""
        sent = {"Content-Type": "application/json", **(headers or {})}
        return _answer(urllib.request.Request(self.url + path, json.dumps(body).encode(), sent))

    def delete(self, path: str, *, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """Return status and JSON of a DELETE."""
        return self.ask("DELETE", path, headers=headers)[:2]

    def ask(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Return status, JSON (or text) and headers of any request."""
        data = None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **(headers or {})}
        return _asked(urllib.request.Request(self.url + path, data, sent, method=method))

    def metric(self, name: str, *, token: str | None = None) -> float:
        """Return a metric, summed over its labels."""
        _, text = self.get("/metrics", token=token)
        found = [float(line.split()[-1]) for line in text.splitlines() if line.startswith(name + "{")]
        assert found, f"there is no {name} in {text}"
        return sum(found)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of its workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [
            int(pid)
            for pid in children
            if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    def stop(self) -> str:
        """End it with SIGTERM and return its log."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(STOP_S)
        return self.log.read_text()


@contextlib.contextmanager
def running_service(
    *arguments: str, name: str = "alfworld", port: int = 0, environment: Mapping[str, str] | None = None
) -> Generator[ServiceProcess]:
    """Run `agentrl serve NAME ARGUMENTS...` until the block ends; it is ready when the block begins."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        inherited = {key: value for key, value in os.environ.items() if key != "AGENTRL_TOKEN"}
        with log.open("w") as errors:
            process = subprocess.Popen(
                [*COMMAND, "serve", name, *arguments, "--port", str(port)],
                cwd=REPOSITORY,
                env={**inherited, "PYTHONPATH": str(REPOSITORY), **(environment or {})},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://[^ ]+", line)
        if found is None:
            process.kill()
            process.wait(STOP_S)
            raise AssertionError(f"the service did not start: {line}{log.read_text()}")
        service = ServiceProcess(found[0], process, log)
        try:
            _wait_ready(service, (environment or {}).get("AGENTRL_TOKEN"))
            yield service
        finally:
            service.stop()
            process.stdout.close()


def _wait_ready(service: ServiceProcess, tokens: str | None) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            status, _ = service.get("/readyz", token=tokens.split(",")[0] if tokens else None)
            if status == 200:
                return
        assert service.process.poll() is None, service.log.read_text()
        time.sleep(0.1)
    raise AssertionError(f"the service was not ready in {START_S} s: {service.log.read_text()}")


def _answer(request: urllib.request.Request) -> tuple[int, Any]:
    return _asked(request)[:2]


def _asked(request: urllib.request.Request) -> tuple[int, Any, Mapping[str, str]]:
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, _read(answer.read()), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _read(error.read()), error.headers


def _read(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode()

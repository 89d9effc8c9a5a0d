"""Run a service: worker processes that share one port, started again when they die, stopped with patience."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from agentrl import bundle, registry
from agentrl.errors import AgentRLError, ConfigError
from services._base.logs import configure_logs
from services._base.peers import socket_path
from services._base.sending import SocketProtocol
from services._base.sessions import Sessions
from services._base.settings import ServiceSettings

__all__ = ["ServicePlan", "listen", "serve"]

log = logging.getLogger("agentrl.service")

MAX_FRAME_BYTES = 64 << 20
"""Of a WebSocket frame, above which the connection ends; what is smaller and too large is only refused."""
UNREAD_TIMEOUT_MS = 120_000
RESTART_PAUSE_S = 0.5
MAX_RESTART_PAUSE_S = 10.0
SETTLED_S = 30.0
COUNTERS = "PROMETHEUS_MULTIPROC_DIR"
KILL_AFTER_S = 10.0
CLOSE_S = 2.0
MAX_FOLDER = 64
CANNOT_START = 2
"""Exit code of a worker whose service cannot be built: to start it again would not help."""


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """One service to run: what, how set, where, with how many workers."""

    name: str
    settings: ServiceSettings
    host: str
    port: int
    workers: int = 1
    json_logs: bool = True


@dataclass(slots=True)
class _Worker:
    plan: ServicePlan
    number: int
    listening: socket.socket
    folder: Path
    process: BaseProcess | None = None
    started_at: float = 0.0
    failures: int = 0
    start_at: float = field(default_factory=time.monotonic)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        ConfigError: the address cannot be had (in use, or not of this machine).
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # inherited by every connection: who does not read is cut off
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_TIMEOUT_MS)
        listening.bind((host, port))
        listening.listen(4096)
    except OSError as error:
        raise ConfigError(
            "serve.address",
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port",
        ) from error
    listening.set_inheritable(True)
    return listening


def serve(plans: list[ServicePlan], *, ready: Callable[[ServicePlan, int], None]) -> None:
    """Run services until SIGTERM or Ctrl-C, twice to stop at once; a worker that dies is started again.

    Args:
        ready: called with each plan and the port that it listens on.

    Raises:
        ConfigError: an address cannot be had, or a service cannot be built with its settings.
    """
    context = multiprocessing.get_context("spawn")
    # The path of a private socket may have 107 characters, and no more.
    where = "/tmp" if len(tempfile.gettempdir()) > MAX_FOLDER else None
    folder = Path(tempfile.mkdtemp(prefix="agentrl-serve-", dir=where))
    workers: list[_Worker] = []
    stopping: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        stopping.append(number)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for place, plan in enumerate(plans):
            listening = listen(plan.host, plan.port)
            own = folder / str(place)
            (own / "metrics").mkdir(parents=True)
            workers += [_Worker(plan, number, listening, own) for number in range(plan.workers)]
            ready(plan, listening.getsockname()[1])
        while not stopping:
            now = time.monotonic()
            for worker in workers:
                if worker.process is None and now >= worker.start_at:
                    _start(worker, context)
            sentinels = [worker.process.sentinel for worker in workers if worker.process is not None]
            wait(sentinels, timeout=0.2)
            for worker in workers:
                if worker.process is not None and not worker.process.is_alive():
                    _bury(worker)
    finally:
        _stop(workers, stopping)
        for number, handler in previous.items():
            signal.signal(number, handler)
        for worker in workers:
            worker.listening.close()
        shutil.rmtree(folder, ignore_errors=True)


def _start(worker: _Worker, context: Any) -> None:
    process: BaseProcess = context.Process(
        target=_work,
        args=(worker.plan, worker.number, worker.listening, worker.folder, os.getpid()),
        name=f"{worker.plan.name}-{worker.number}",
    )
    if worker.plan.workers > 1:
        # prometheus_client looks for it when it is imported, and that is when a worker reads its arguments.
        os.environ[COUNTERS] = str(worker.folder / "metrics")
    try:
        process.start()
    finally:
        os.environ.pop(COUNTERS, None)
    worker.process, worker.started_at = process, time.monotonic()


def _bury(worker: _Worker) -> None:
    """Note that a worker died, and when to start it again: later each time that it dies young.

    Raises:
        ConfigError: it could not be built, not even the first time.
    """
    assert worker.process is not None
    code, lived_s = worker.process.exitcode, time.monotonic() - worker.started_at
    if code == CANNOT_START and worker.failures == 0 and lived_s < SETTLED_S:
        raise ConfigError("serve.cannot_start", f"{worker.plan.name} cannot start: its log, above, says why")
    worker.failures = 0 if lived_s > SETTLED_S else worker.failures + 1
    pause_s = 0.0 if worker.failures <= 1 else min(RESTART_PAUSE_S * 2**worker.failures, MAX_RESTART_PAUSE_S)
    worker.start_at = time.monotonic() + pause_s
    log.error(
        "worker died and is started again",
        extra={"service": worker.plan.name, "worker": worker.number, "exit_code": code, "pause_s": pause_s},
    )
    for file in (worker.folder / "metrics").glob(f"gauge_live*_{worker.process.pid}.db"):
        file.unlink(missing_ok=True)
    worker.process.close()
    worker.process = None


def _stop(workers: list[_Worker], stopping: list[int]) -> None:
    """Let the workers drain; kill those that take too long, or all of them at the second signal."""
    alive: list[BaseProcess] = [worker.process for worker in workers if worker.process is not None]
    for process in alive:
        process.terminate()
    drain_s = max((worker.plan.settings.drain_s for worker in workers), default=0.0)
    deadline = time.monotonic() + drain_s + KILL_AFTER_S
    while alive and len(stopping) < 2 and time.monotonic() < deadline:
        wait([process.sentinel for process in alive], timeout=0.2)
        alive = [process for process in alive if process.is_alive()]
    for process in alive:
        process.kill()
        process.join(KILL_AFTER_S)


def _work(plan: ServicePlan, number: int, listening: socket.socket, folder: Path, parent: int) -> None:
    """Be one worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the supervisor decides
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each client is an open file
    bundle.activate()
    configure_logs(plan.json_logs, service=plan.name, worker=number)
    try:
        create_app = registry.load("service", plan.name)
        app = create_app(plan.settings, worker=number, workers=plan.workers, peer_folder=folder)
    except AgentRLError as error:
        log.critical("cannot start: %s", error)
        sys.exit(CANNOT_START)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws=SocketProtocol,
        ws_max_size=MAX_FRAME_BYTES,
        ws_ping_interval=plan.settings.ping_s,
        ws_ping_timeout=plan.settings.ping_s,
        ws_per_message_deflate=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=3,
    )
    sockets = [listening]
    if plan.workers > 1:
        path = socket_path(folder, number)
        path.unlink(missing_ok=True)
        private = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        private.bind(str(path))
        sockets.append(private)
    config.load()
    gc.collect()
    gc.freeze()  # what is loaded stays: looking through it again and again took a quarter of a worker's time
    _Server(config, app.state.sessions, parent).run(sockets=sockets)
    if os.getppid() != parent:  # killed: nobody else is left to tidy up
        shutil.rmtree(folder.parent, ignore_errors=True)


class _Server(uvicorn.Server):
    """A uvicorn server that lets live sessions end first, and does not outlive its supervisor."""

    def __init__(self, config: uvicorn.Config, sessions: Sessions, parent: int) -> None:
        super().__init__(config)
        self._sessions = sessions
        self._parent = parent
        self._draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On the first SIGTERM drain, on the second stop. Ctrl-C is the supervisor's."""
        if sig == signal.SIGINT:
            return
        if self._sessions.draining:
            super().handle_exit(sig, frame)
            return
        self._sessions.draining = True
        asyncio.get_running_loop().call_soon_threadsafe(self._begin_drain)

    async def on_tick(self, counter: int) -> bool:
        """Stop when the supervisor is gone."""
        if counter % 10 == 0 and os.getppid() != self._parent:
            self.should_exit = True
        return await super().on_tick(counter)

    def _begin_drain(self) -> None:
        self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self._sessions.drained()
            await self._sessions.close_all("the service was stopped", timeout_s=CLOSE_S)
        self.should_exit = True

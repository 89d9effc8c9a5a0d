"""A TCP proxy between a client and a service, whose line can be cut or go silent."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Generator
from typing import Any

__all__ = ["FaultyProxy", "faulty_proxy"]


class FaultyProxy:
    """Forwards to a port, in a thread of its own, so that tests may block.

    `silent` forwards nothing any more and closes nothing: a host that has vanished. `swallow_answers` lets
    the next request through and cuts the line when its answer comes.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._ready = threading.Event()
        self._stopping: asyncio.Event
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self.silent = False
        self.swallow_answers = False
        self.connections = 0
        self.port = 0

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()
        assert self._ready.wait(20)

    def stop(self) -> None:
        """Close everything."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(20)
        self._loop.close()

    def cut(self) -> None:
        """Break every connection, with a reset."""
        self._loop.call_soon_threadsafe(self._abort_all)

    def _abort_all(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopping.wait()
        self._server.close()
        self._abort_all()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            there = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, there[1]}
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(
                self._forward(reader, there[1], answers=False), self._forward(there[0], writer, answers=True)
            )
        for one in (writer, there[1]):
            one.transport.abort()
            self._writers.discard(one)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        while data := await reader.read(1 << 16):
            if answers and self.swallow_answers:
                self.swallow_answers = False
                raise ConnectionResetError
            if self.silent:
                await asyncio.sleep(3600)
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError  # either side is gone: so is the other


@contextlib.contextmanager
def faulty_proxy(port: int, **options: Any) -> Generator[FaultyProxy]:
    """Run a proxy to a port of this machine."""
    proxy = FaultyProxy(port, **options)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()

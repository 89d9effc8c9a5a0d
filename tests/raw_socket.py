"""WebSocket clients as rude as can be: they say what they want in bytes, and vanish as they like."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import time
from typing import Any

__all__ = ["RawClient"]

TIMEOUT_S = 20.0


class RawClient:
    """A TCP connection to a service that speaks just enough of RFC 6455."""

    def __init__(self, port: int, *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(TIMEOUT_S)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(("127.0.0.1", port))
        self._buffer = b""

    def upgrade(self, path: str = "/ws", headers: str = "") -> bytes:
        """Ask for a WebSocket and return the head of the answer."""
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n".encode()
        )
        while b"\r\n\r\n" not in self._buffer:
            self._buffer += self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head

    def send(self, message: Any) -> None:
        """Send a message."""
        self.socket.sendall(self.frame(json.dumps(message).encode()))

    @staticmethod
    def frame(payload: bytes, opcode: int = 1) -> bytes:
        """Return a client's frame. Its mask is zero, which is allowed, and leaves the bytes as they are."""
        size = len(payload)
        if size < 126:
            head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
        elif size < 1 << 16:
            head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
        return head + bytes(4) + payload

    def receive(self) -> Any:
        """Return the next message; pings on the way to it are answered, and are no answer."""
        until = time.monotonic() + TIMEOUT_S
        while time.monotonic() < until:
            opcode, size = self._need(2)[0] & 15, 0
            size = self._take(2)[1] & 127
            if size > 125:
                wide = 2 if size == 126 else 8
                size = int.from_bytes(self._take(wide), "big")
            payload = self._take(size)
            if opcode in (1, 2):
                return json.loads(payload)
            if opcode == 9:
                self.socket.sendall(self.frame(payload, 10))
            if opcode == 8:
                raise ConnectionError(f"closed by the service: {payload!r}")
        raise TimeoutError("the service sends pings and no answer")

    def reset(self) -> None:
        """Vanish with a TCP reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        """Vanish without a word, but with a FIN."""
        self.socket.close()

    def _need(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._buffer += self._more()
        return self._buffer

    def _take(self, count: int) -> bytes:
        taken = self._need(count)[:count]
        self._buffer = self._buffer[count:]
        return taken

    def _more(self) -> bytes:
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError("the service hung up")
        return data

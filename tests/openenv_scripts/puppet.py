"""Run by OpenEnv's interpreter: holds OpenEnv's own clients, unchanged, and does with them what stdin says.

A line is `{"id", "client", "make": {"kind", "url", ...}}`, `{"id", "client", "call", "args", "kwargs"}` or
`{"id", "validate": url}`; the answers, in any order, `{"id", "value"}` or `{"id", "error": [type, message]}`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import sys
from typing import Any

from openenv.cli._validation import validate_running_environment
from openenv.core.generic_client import GenericEnvClient
from openenv.core.mcp_client import MCPToolClient

CLIENTS: dict[str, Any] = {}


def make(kind: str, url: str, production: bool = False, **options: Any) -> Any:
    """Return a client."""
    if kind == "sync":
        return GenericEnvClient(base_url=url, **options).sync()
    if kind == "async":
        return GenericEnvClient(base_url=url, **options)
    if kind == "mcp":
        client = MCPToolClient(base_url=url, **options)
        client.use_production_mode = production
        return client
    raise ValueError(kind)


async def done(order: dict[str, Any]) -> Any:
    """Do what one line asks for."""
    if "validate" in order:
        return await asyncio.to_thread(validate_running_environment, order["validate"])
    if "make" in order:
        CLIENTS[order["client"]] = make(**order["make"])
        return None
    method = getattr(CLIENTS[order["client"]], order["call"])
    arguments, named = order.get("args", []), order.get("kwargs", {})
    if inspect.iscoroutinefunction(method):
        return await method(*arguments, **named)
    return await asyncio.to_thread(method, *arguments, **named)


def plain(value: Any) -> Any:
    """Return the value as JSON carries it; clients are not carried."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value if isinstance(value, dict | str | int | float | bool | None) else None


async def answer(order: dict[str, Any]) -> None:
    """Answer one line, whatever comes of it."""
    try:
        said = {"id": order["id"], "value": plain(await done(order))}
    except Exception as error:  # the tests are about what the clients raise
        said = {"id": order["id"], "error": [type(error).__name__, str(error)]}
    print(json.dumps(said), flush=True)


async def main() -> None:
    """Answer lines until stdin ends."""
    running = set()
    while line := await asyncio.to_thread(sys.stdin.readline):
        task = asyncio.create_task(answer(json.loads(line)))
        running.add(task)
        task.add_done_callback(running.discard)


asyncio.run(main())

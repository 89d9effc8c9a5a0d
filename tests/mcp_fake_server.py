"""An MCP server that does whatever goes wrong on request: `stdio` by hand, `http` with the official SDK.

python mcp_fake_server.py stdio [silent]      python mcp_fake_server.py http [PORT]
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

COMMAND = (sys.executable, str(Path(__file__).resolve()))
START_S = 60.0

NOTHING: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
NUMBERS: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer", "maximum": 1000}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "add": NUMBERS,
    "long": {"type": "object", "properties": {"chars": {"type": "integer"}}, "required": ["chars"]},
    "refuse": NOTHING,
    "crash": NOTHING,
    "reject": NOTHING,
    "hang": NOTHING,
    "die": NOTHING,
    "pid": NOTHING,
    "environment": NOTHING,
    "picture": NOTHING,
    "refer": {"type": "object", "properties": {"x": {"$ref": "http://127.0.0.1:1/schema.json"}}},
    "nest": {
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/list"}},
        "$defs": {"list": {"type": "array", "items": {"$ref": "#/$defs/list"}}},
    },
    "no schema": NOTHING,
    "badly_described": {"type": "object", "properties": {"x": {"type": "number or so"}}},
}
TOOLS = [
    {"name": name, "description": f"The tool {name}.", "inputSchema": schema}
    for name, schema in SCHEMAS.items()
]


class Fault(Exception):
    """A JSON-RPC error."""


def perform(name: str, given: dict[str, Any]) -> dict[str, Any] | None:
    """Return the result of a call; None means never."""
    if name == "hang":
        return None
    if name == "die":
        os._exit(1)
    if name == "crash":
        raise Fault(-32603, "the disk is full")
    if name == "reject":
        raise Fault(-32602, "this moon does not exist")
    if name == "refuse":
        return {"content": [{"type": "text", "text": "the door is locked"}], "isError": True}
    if name == "picture":
        image = {"type": "image", "data": "aGk=", "mimeType": "image/png"}
        inside = {"type": "resource", "resource": {"uri": "file:///a", "text": "inside"}}
        return {"content": [image, inside, {"type": "resource_link", "name": "b", "uri": "file:///b"}]}
    text = {
        "add": lambda: str(given["a"] + given["b"]),
        "long": lambda: "x" * given["chars"],
        "pid": lambda: str(os.getpid()),
        "environment": lambda: json.dumps(dict(os.environ)),
    }[name]()
    return {"content": [{"type": "text", "text": text}]}


def stdio(silent: bool) -> None:
    """Speak the handshake protocol over standard input and output, one message at a time."""
    for line in sys.stdin:
        asked = json.loads(line)
        if silent or "id" not in asked:
            continue
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": asked["id"]}
        params = asked.get("params", {})
        try:
            if asked["method"] == "initialize":
                answer["result"] = {
                    "protocolVersion": params["protocolVersion"],
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "fake", "version": "1"},
                }
            elif asked["method"] == "tools/list":  # one tool a page
                place = int(params.get("cursor") or 0)
                answer["result"] = {"tools": [TOOLS[place]]}
                if place + 1 < len(TOOLS):
                    answer["result"]["nextCursor"] = str(place + 1)
            elif asked["method"] == "tools/call":
                answer["result"] = perform(params["name"], params.get("arguments") or {})
            else:
                raise Fault(-32601, "method not found")
        except Fault as error:
            code, message = error.args
            answer["error"] = {"code": code, "message": message}
        if answer.get("result", answer) is None:
            time.sleep(3600)
        print(json.dumps(answer), flush=True)


def http(port: int) -> None:
    """Serve streamable HTTP, in every revision that the SDK speaks; print the address."""
    import mcp_types
    import uvicorn
    from mcp.server.lowlevel import Server
    from mcp.shared.exceptions import MCPError

    async def list_tools(_: Any, __: Any) -> Any:
        return mcp_types.ListToolsResult.model_validate({"tools": TOOLS})

    async def call_tool(context: Any, params: Any) -> Any:
        if params.name == "environment":  # what a client can show of itself here
            text = json.dumps(dict(context.request.headers))
            return mcp_types.CallToolResult(content=[mcp_types.TextContent(type="text", text=text)])
        try:
            result = perform(params.name, params.arguments or {})
        except Fault as error:
            raise MCPError(*error.args) from error
        if result is None:
            await asyncio.sleep(3600)
        return mcp_types.CallToolResult.model_validate(result)

    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    listening.listen()
    print(f"http://127.0.0.1:{listening.getsockname()[1]}/mcp", flush=True)
    app = Server("fake", on_list_tools=list_tools, on_call_tool=call_tool).streamable_http_app()
    config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listening])


@contextlib.contextmanager
def running_http(port: int = 0) -> Generator[str]:
    """Run the HTTP server until the block ends; yield its address."""
    process = subprocess.Popen([*COMMAND, "http", str(port)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], START_S)
        assert ready, f"the fake MCP server did not start in {START_S} s"
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait(START_S)
        process.stdout.close()


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        stdio("silent" in sys.argv)
    else:
        http(int(sys.argv[2]) if len(sys.argv) > 2 else 0)

"""Thousands of malformed requests: each is told what was wrong and what to do, and a session lives on.

What is generated is a function of the tests alone, so that a failure comes again.
"""

from __future__ import annotations

import http.client
import itertools
import json
import re
from collections import Counter
from collections.abc import Generator, Mapping
from typing import Any

import orjson
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from raw_socket import RawClient
from schemathesis import GenerationMode
from schemathesis.specs.openapi.schemas import OpenApiSchema
from service_process import ServiceProcess, running_service

from envs.alfworld.settings import Settings as GameSettings
from services.alfworld import Settings, create_app

SCHEMA_REQUESTS = 5000
SCHEMA_EXAMPLES = 250
"""For each operation and each of right and wrong."""
FRAMES = 5000
BODIES = 1500
ALLOWED_5XX = (503, 504)
SERVICES = {"alfworld": ("env.size=small", {"command": "look"})}
"""A service that is added here is fuzzed."""

unhurried = settings(
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)


@pytest.fixture(scope="module", params=SERVICES)
def fuzzed(request: pytest.FixtureRequest) -> Generator[tuple[ServiceProcess, dict[str, Any]]]:
    """A service in a process of its own, and an action that it takes."""
    setting, action = SERVICES[request.param]
    limits = ("max_sessions=4000", "queue_timeout_s=0.1", "drain_s=0")
    with running_service(setting, *limits, name=request.param) as running:
        yield running, action
        assert "Traceback" not in running.log.read_text()


def check_error(error: Any) -> None:
    """See that an error says what it is, what was wrong, and what to do."""
    for key in ("code", "message", "next_step"):
        assert isinstance(error[key], str), error
        assert error[key], error
    assert len(json.dumps(error)) < 20_000, "an error repeats all of what was sent"
    assert "Traceback" not in error["message"]


# --- the OpenAPI schema ------------------------------------------------------------------------------------


def check_answer(status: int, path: str, body: bytes) -> None:
    assert status < 500 or status in ALLOWED_5XX, (status, path, body[:500])
    if status >= 400:
        error = json.loads(body)["error"]
        if isinstance(error["code"], int):  # JSON-RPC has no next step; it stands in the message
            assert (path, bool(error["message"])) == ("/mcp", True)
        else:
            check_error(error)


@pytest.mark.slow
def test_whatever_the_schema_allows_or_forbids_is_answered_and_no_session_dies() -> None:
    app = create_app(Settings(env=GameSettings(size="small"), max_sessions=20_000))
    schema: OpenApiSchema = schemathesis.openapi.from_asgi("/openapi.json", app)
    operations = {
        f"{found.ok().method.upper()} {found.ok().path}": found.ok() for found in schema.get_all_operations()
    }
    counted: Counter[tuple[str, int]] = Counter()

    def call(name: str, **given: Any) -> Any:
        return operations[name].Case(**given).call()

    begun = call("POST /sessions", body={"seed": 1}, media_type="application/json").json()
    live = {
        "path_parameters": {"session_id": begun["session_id"]},
        "headers": {"X-Session-Key": begun["session_key"]},
        "media_type": "application/json",
    }

    def ask(case: schemathesis.Case) -> None:
        answer = case.call()
        counted[f"{case.method.upper()} {case.path}", answer.status_code] += 1
        check_answer(answer.status_code, case.path, answer.content)

    def ask_live(case: schemathesis.Case) -> None:
        """Ask the same of a session that there is, unless that would end it."""
        if "session_id" in case.path and case.method.upper() != "DELETE":
            case.path_parameters = dict(live["path_parameters"])
            case.headers = dict(live["headers"])
            ask(case)

    with_input = [o for o in operations.values() if o.body or o.path_parameters or o.query or o.headers]
    assert len(with_input) > 7
    for operation in with_input:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @settings(unhurried, max_examples=SCHEMA_EXAMPLES)
            @given(case=operation.as_strategy(generation_mode=mode))
            def run(case: schemathesis.Case) -> None:
                ask(case)
                ask_live(case)

            run()
            assert call("POST /sessions/{session_id}/reset", **live, body={}).status_code == 200
            step = call("POST /sessions/{session_id}/step", **live, body={"action": {"command": "look"}})
            assert step.status_code == 200
    for operation in operations.values():
        if operation not in with_input:
            ask(operation.Case())
    assert sum(counted.values()) >= SCHEMA_REQUESTS, counted
    assert {status for _, status in counted} >= {200, 201, 400, 404, 409, 422}


# --- bodies that no schema would think of ------------------------------------------------------------------

NASTY_TEXT = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["\x00", "a\x00b", "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "\u2028", "{}"]
    ),
    st.sampled_from(["../../etc/passwd", "%00", "' OR 1=1 --", "<script>", "\\", '"', "\r\nX-Evil: 1"]),
    st.just("long " * 5000),
)
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.sampled_from([2**63, -(2**63) - 1, 10**30, -1, 0]),
    st.floats(allow_nan=False),
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, NASTY_TEXT)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(NASTY_TEXT, st.just("type")), inner, max_size=4),
    ),
    max_leaves=12,
)
TYPES = st.sampled_from(
    ["reset", "step", "state", "attach", "detach", "mcp", "batch", "trajectory", "left", "sing"]
)
DATA = st.one_of(
    VALUES,
    st.fixed_dictionaries(
        {},
        optional={
            "seed": VALUES,
            "index": VALUES,
            "split": st.one_of(st.sampled_from(["train", "valid_seen"]), VALUES),
            "episode_id": VALUES,
            "task": st.one_of(
                VALUES,
                st.fixed_dictionaries(
                    {"task_id": NASTY_TEXT, "env": NASTY_TEXT}, optional={"seed": VALUES, "data": VALUES}
                ),
            ),
            "reply": st.one_of(VALUES, st.fixed_dictionaries({"role": VALUES, "content": VALUES})),
            "command": VALUES,
            "action": VALUES,
            "type": st.one_of(st.sampled_from(["list_tools", "call_tool"]), VALUES),
            "tool_name": st.one_of(st.sampled_from(["act", "look"]), VALUES),
            "arguments": VALUES,
            "method": st.one_of(
                st.sampled_from(["tools/list", "tools/call", "openenv/session/create"]), VALUES
            ),
            "params": VALUES,
            "id": VALUES,
            "jsonrpc": VALUES,
        },
    ),
)
MESSAGES = st.fixed_dictionaries(
    {"type": st.one_of(TYPES, VALUES)},
    optional={
        "data": DATA,
        "request_id": VALUES,
        "session_id": VALUES,
        "session_key": VALUES,
        "at": VALUES,
        "tag": VALUES,
        "caller": VALUES,
        "items": st.one_of(VALUES, st.lists(VALUES, max_size=3)),
    },
)
BATCHES = st.fixed_dictionaries(
    {"type": st.just("batch"), "items": st.one_of(VALUES, st.lists(st.one_of(MESSAGES, VALUES), max_size=6))}
)
JUNK = st.sampled_from(
    [
        b"",
        b" ",
        b"NaN",
        b"Infinity",
        b"-",
        b"nul",
        b'"\\ud800"',
        b'{"type": "\\ud800"}',
        b'{"type": "step", "data": {"command": "\\udfff"}}',
        b'{"type": "reset", "data": {"seed": ' + b"1" * 5000 + b"}}",
        b'{"type": "reset", "data": {"seed": 1e999}}',
        b'{"type": "reset", "data": {"seed": 1.0}}',
        b'{"type": "reset", "type": "step"}',
        b"[" * 1000 + b"]" * 1000,
        b"[" * 100_000,
        b'{"a":' * 900 + b"1" + b"}" * 900,
        b'{"type": "step", "data": ' + b"[" * 1000 + b"]" * 1000 + b"}",
        b'{"type": ' + b"[" * 1000 + b"]" * 1000 + b"}",
        b'{"type": "batch", "items": ' + b"[" * 1000 + b"]" * 1000 + b"}",
        b'{"type": "batch", "items": [' + b",".join([b"1"] * 5000) + b"]}",
        b'\xef\xbb\xbf{"type": "state"}',
        b"\x00",
        b'{"type": "state"}\x00',
        b"{'type': 'state'}",
        b'{"type": "state",}',
        b'{"type": "reset"} {"type": "reset"}',
    ]
)
RAW = st.one_of(JUNK, st.binary(max_size=60), st.text(max_size=40).map(str.encode))


class Said(bytes):
    """Bytes of which a report shows the beginning."""

    def __repr__(self) -> str:
        return f"{bytes(self[:2000])!r} ({len(self)} bytes)"


def encoded(value: Any) -> Said:
    """Return JSON as Python writes it: with NUL as an escape, and numbers of any length."""
    return Said(json.dumps(value).encode())


PAYLOADS = st.one_of(MESSAGES.map(encoded), BATCHES.map(encoded), VALUES.map(encoded), RAW.map(Said))


# --- the WebSocket -----------------------------------------------------------------------------------------


class Line:
    """A connection with a session that must live through everything said on it."""

    def __init__(self, service: ServiceProcess, action: Mapping[str, Any]) -> None:
        self.client = RawClient(service.port)
        self.client.upgrade()
        self._action = action
        self._requests = itertools.count()
        self.seen: Counter[str] = Counter()
        (begun,) = self.batch({"type": "reset", "data": {"seed": 1}})
        self._named = {key: begun["data"][key] for key in ("session_id", "session_key")}

    def batch(self, *items: Any) -> list[Any]:
        self.client.send({"type": "batch", "items": items})
        return self.answers(len(items))

    def answers(self, count: int) -> list[Any]:
        found: list[Any] = []
        while len(found) < count:
            frame = self.client.receive()
            assert frame["type"] == "batch", frame
            found += frame["items"]
        assert len(found) == count
        return found

    def lives(self) -> None:
        """Take a step in the session, which nothing else names."""
        name = {"request_id": f"mine {next(self._requests)}", **self._named}
        (answer,) = self.batch({"type": "step", "data": self._action, **name})
        if answer["type"] == "error":
            assert answer["data"]["code"] == "EPISODE_DONE", answer
            (answer,) = self.batch({"type": "reset", "data": {"seed": 2}, **self._named})
        assert answer["type"] == "observation", answer

    def send(self, payload: bytes, *, binary: bool) -> None:
        """Send a frame and look at everything that is answered."""
        items = batch_items(payload)
        self.client.socket.sendall(RawClient.frame(payload, 2 if binary else 1))
        for answer in [self.client.receive()] if items is None else self.answers(items):
            self.seen[answer["type"]] += 1
            if answer["type"] == "error":
                data = answer["data"]
                self.seen[data["code"]] += 1
                check_error(data)
                check_error(data["error"])
                assert data["error"]["code"] not in ("env.failed", "env.step", "env.start"), data
            elif answer["type"] == "mcp":
                assert answer["data"]["jsonrpc"] == "2.0"
            else:
                assert answer["type"] in ("observation", "state")
                assert isinstance(answer["data"], dict)


def batch_items(payload: bytes) -> int | None:
    """Return how many answers a batch gets; None for what gets a single one."""
    if len(payload) > Settings().max_body_bytes:
        return None
    try:
        message = orjson.loads(bytes(payload))  # it takes no kind of bytes but these
    except ValueError:
        return None
    if not isinstance(message, dict) or message.get("type") != "batch":
        return None
    items = message.get("items")
    return len(items) if isinstance(items, list) and len(items) <= 4096 else None


@pytest.mark.slow
def test_whatever_is_said_on_a_websocket_is_answered_and_its_session_lives(
    fuzzed: tuple[ServiceProcess, dict[str, Any]],
) -> None:
    line = Line(*fuzzed)
    sent = 0

    @settings(unhurried, max_examples=FRAMES)
    @given(PAYLOADS, st.booleans())
    def run(payload: bytes, binary: bool) -> None:
        nonlocal sent
        line.send(payload, binary=binary or is_broken(payload))
        sent += 1
        if sent % 20 == 0:
            line.lives()

    run()
    while sent < FRAMES:  # where hypothesis thinks that it has seen everything
        line.send(encoded({"type": sent}), binary=False)
        sent += 1
    line.lives()
    assert sent >= FRAMES
    wanted = {
        "INVALID_JSON",
        "UNKNOWN_TYPE",
        "VALIDATION_ERROR",
        "SESSION_ERROR",
        "observation",
        "state",
        "mcp",
    }
    assert wanted <= set(line.seen), line.seen
    line.client.close()


def is_broken(payload: bytes) -> bool:
    """Whether these bytes are no text, which a text frame may not hold (RFC 6455: the connection ends)."""
    try:
        payload.decode()
    except UnicodeDecodeError:
        return True
    return False


def test_what_is_too_long_is_refused_and_the_session_lives(
    fuzzed: tuple[ServiceProcess, dict[str, Any]],
) -> None:
    service, action = fuzzed
    line = Line(service, action)
    for size in ((1 << 20) + 1, 10 << 20):
        for payload in (b"x" * size, b'{"type":"step","data":{"command":"' + b"x" * (size - 37) + b'"}}'):
            line.client.socket.sendall(RawClient.frame(payload))
            answer = line.client.receive()
            assert answer["data"]["error"]["code"] == "wire.too_large"
            check_error(answer["data"])
            line.lives()
    line.client.close()
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    for path in ("/sessions", "/step", "/reset", "/mcp", "/get_observation", "/nowhere"):
        connection.request("POST", path, b"x" * (1 << 20) + b"y", {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 413
        check_error(json.loads(answer.read())["error"])
        connection.close()


def test_steps_before_a_reset_and_after_the_end_are_refused_and_the_next_episode_is_played(
    fuzzed: tuple[ServiceProcess, dict[str, Any]],
) -> None:
    service, action = fuzzed
    client = RawClient(service.port)
    client.upgrade()

    def ask(**message: Any) -> Any:
        client.send(message)
        return client.receive()

    for _ in range(3):
        assert ask(type="step", data=action)["data"]["error"]["code"] == "session.not_reset"
        assert ask(type="state")["data"]["step_count"] == 0
    for bad in ("train\x00", "", 7, None, "no such"):
        answer = ask(type="reset", data={"split": bad, "seed": -1})
        assert answer["data"]["code"] == "VALIDATION_ERROR"
        assert ask(type="step", data=action)["data"]["error"]["code"] == "session.not_reset"
    assert ask(type="reset", data={"seed": 3})["type"] == "observation"
    assert ask(type="step", data=action)["type"] == "observation"
    client.close()


# --- HTTP --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_whatever_is_posted_is_answered_and_a_session_lives(
    fuzzed: tuple[ServiceProcess, dict[str, Any]],
) -> None:
    service, action = fuzzed
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)

    def post(path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        connection.request("POST", path, body, dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read()

    json_type = {"Content-Type": "application/json"}
    _, text = post("/sessions", b'{"seed": 1}', json_type)
    begun = json.loads(text)
    mine = {"X-Session-Key": begun["session_key"]}
    path = f"/sessions/{begun['session_id']}"
    paths = (
        "/reset",
        "/step",
        "/mcp",
        "/sessions",
        "/get_observation",
        path + "/step",
        path + "/reset",
        "/sessions/0-1/step",
    )
    bodies = st.one_of(
        DATA.map(encoded),
        RAW.map(Said),
        st.fixed_dictionaries({"action": VALUES}, optional={"request_id": VALUES, "at": VALUES}).map(encoded),
        st.fixed_dictionaries(
            {"trajectory_ids": st.lists(VALUES, max_size=3), "actions": st.lists(VALUES, max_size=3)},
            optional={"extra_fields": VALUES, "finish": VALUES, "is_last_step": VALUES},
        ).map(encoded),
    )
    types = st.sampled_from(
        [
            "application/json",
            "text/plain",
            "application/x-www-form-urlencoded",
            "x",
            "",
            "multipart/form-data",
        ]
    )
    sent, seen = 0, Counter[int]()

    @settings(unhurried, max_examples=BODIES)
    @given(st.sampled_from(paths), bodies, st.one_of(st.just("application/json"), types), st.booleans())
    def run(where: str, body: bytes, content_type: str, with_key: bool) -> None:
        nonlocal sent
        sent += 1
        status, text = post(where, body, {"Content-Type": content_type, **(mine if with_key else {})})
        seen[status] += 1
        check_answer(status, where, text)
        if sent % 50 == 0:
            status, _ = post(path + "/reset", b"{}", {**json_type, **mine})
            assert status == 200
            status, _ = post(path + "/step", encoded({"action": action}), {**json_type, **mine})
            assert status == 200

    run()
    assert sent >= BODIES
    assert {200, 400, 404, 409, 422} <= set(seen), seen
    connection.close()


def test_what_is_no_http_breaks_nothing(fuzzed: tuple[ServiceProcess, dict[str, Any]]) -> None:
    service, _ = fuzzed
    for said in (
        b"\x00" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /%zz%00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /sessions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /sessions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ?\r\n\r\n",
    ):
        client = RawClient(service.port)
        client.socket.sendall(said)
        client.socket.settimeout(0.2)
        try:
            answer = client.socket.recv(65536)
        except (TimeoutError, ConnectionError):
            answer = b""
        status = re.match(rb"HTTP/1.1 (\d+)", answer)
        assert status is None or int(status[1]) < 500, answer
        client.close()
    assert service.get("/readyz")[0] == 200

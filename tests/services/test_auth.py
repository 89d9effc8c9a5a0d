"""Who may do what: nothing without the token, in another's session, or from another site's page."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Generator, Mapping
from typing import Any

import pytest
from raw_socket import RawClient
from service_process import COMMAND, REPOSITORY, ServiceProcess, running_service
from trouble_service import TROUBLE

ALPHA, BETA = "alpha-jabberwock", "beta-bandersnatch"
GUESSES = ("alpha-jabberwoc", "ALPHA-JABBERWOCK", "alpha-jabberwock,beta-bandersnatch", "", "null", "\u00e9")
METHODS = ("get", "post", "put", "patch", "delete", "options", "head", "trace")
KINDS = ("attach", "state", "step", "reset", "close", "detach", "trajectory", "left")


@pytest.fixture(scope="module")
def service() -> Generator[ServiceProcess]:
    """Two workers, two clients."""
    tokens = {"AGENTRL_TOKEN": f"{ALPHA}, {BETA}"}
    with running_service("--workers", "2", "drain_s=0", name=TROUBLE, environment=tokens) as running:
        yield running


@pytest.fixture(scope="module")
def open_service() -> Generator[ServiceProcess]:
    """One worker that asks for no token."""
    with running_service("drain_s=0", name=TROUBLE) as running:
        yield running


def bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def socket_of(service: ServiceProcess, token: str | None, *more: str, path: str = "/ws") -> RawClient:
    client = RawClient(service.port)
    lines = [f"{name}: {value}\r\n" for name, value in bearer(token).items()]
    head = client.upgrade(path, "".join([*lines, *(f"{line}\r\n" for line in more)]))
    assert b" 101 " in head, head
    return client


def batch(client: RawClient, *items: Mapping[str, Any]) -> list[Any]:
    client.send({"type": "batch", "items": [{"tag": tag, **item} for tag, item in enumerate(items)]})
    answers: list[Any] = []
    while len(answers) < len(items):
        answers += client.receive()["items"]
    return sorted(answers, key=lambda answer: answer["tag"])


def begun_by(service: ServiceProcess, token: str | None, worker: str) -> dict[str, str]:
    """Begin a session on a worker, over HTTP; return its names."""
    while True:
        status, answer, _ = service.ask("POST", "/sessions", {"seed": 1}, headers=bearer(token))
        assert status == 201
        if answer["session_id"].startswith(f"{worker}-"):
            return {key: answer[key] for key in ("session_id", "session_key")}
        key = {"X-Session-Key": answer["session_key"], **bearer(token)}
        service.delete(f"/sessions/{answer['session_id']}", headers=key)


def test_without_the_token_nothing_answers_but_that_the_process_lives(service: ServiceProcess) -> None:
    status, schema, _ = service.ask("GET", "/openapi.json", headers=bearer(ALPHA))
    assert status == 200
    paths = [path.replace("{session_id}", "0-1") for path in schema["paths"]]
    assert len(paths) > 12
    paths += [
        "/docs",
        "/docs/oauth2-redirect",
        "/openapi.json",
        "/ws",
        "/play",
        "/nowhere",
        "/healthz/",
        "//healthz",
    ]
    paths += ["/healthz/../metrics", "/healthz%2f..%2fmetrics", "/healthz;/metrics", "/%68ealthz"]
    shown = []
    for path in paths:
        for method in METHODS:
            for token in (None, *GUESSES):
                if path in ("/healthz", "/%68ealthz"):  # two ways to write one path
                    continue
                if token == "\u00e9":
                    continue
                status, answer, headers = service.ask(method.upper(), path, headers=bearer(token))
                assert status == 401, (method, path, token, status)
                assert "WWW-Authenticate" in headers
                shown.append(answer)
                if method != "head":
                    assert answer["error"]["code"] in ("auth.missing", "auth.wrong")
                    assert answer["error"]["next_step"]
    assert service.ask("GET", "/healthz")[:2] == (200, {"status": "ok"})
    said = json.dumps(shown)
    assert not any(secret in said for secret in (ALPHA, BETA, "jabberwo"))


@pytest.mark.parametrize("path", ["/ws", "/mcp", "/nowhere", "/healthz"])
@pytest.mark.parametrize("token", [None, "guess", ALPHA + BETA])
def test_a_websocket_without_the_token_is_not_opened(
    service: ServiceProcess, path: str, token: str | None
) -> None:
    client = RawClient(service.port)
    head = client.upgrade(path, "".join(f"{name}: {value}\r\n" for name, value in bearer(token).items()))
    refused = b" 403 " if path == "/healthz" else b" 401 "
    assert refused in head.splitlines()[0], head
    if path != "/healthz":
        assert b"www-authenticate" in head.lower()
    client.close()


@pytest.mark.parametrize("token", [ALPHA, BETA])
def test_either_token_opens_as_bearer_or_as_password(service: ServiceProcess, token: str) -> None:
    basic = base64.b64encode(f"anyone:{token}".encode()).decode()
    for value in (f"Bearer {token}", f"bearer   {token} ", f"Basic {basic}"):
        assert service.ask("GET", "/readyz", headers={"Authorization": value})[0] == 200, value
    socket_of(service, token).close()


@pytest.mark.parametrize(
    "value", ["Basic !!!", "Basic", "Bearer", "Basic gICA", "Digest x", "Basic " + "A" * 5000, "\xff\xfe"]
)
def test_what_is_no_token_is_refused_and_breaks_nothing(service: ServiceProcess, value: str) -> None:
    status, answer, _ = service.ask("GET", "/readyz", headers={"Authorization": value})
    assert (status, answer["error"]["code"]) == (401, "auth.missing")


@pytest.mark.parametrize("worker", ["0", "1"])
@pytest.mark.parametrize("stranger", [ALPHA, BETA])
def test_nobody_touches_a_session_without_its_key_nor_another_client_with_it(
    service: ServiceProcess, worker: str, stranger: str
) -> None:
    """Over every wire, by way of either worker; `stranger` has the same token or another."""
    mine = begun_by(service, ALPHA, worker)
    session_id, key = mine["session_id"], mine["session_key"]
    wrong: list[dict[str, str]] = [
        {},
        {"session_key": "guess"},
        {"session_key": key[:-1]},
        {"session_key": key + "A"},
    ]
    if stranger != ALPHA:
        wrong.append({"session_key": key})
    told = []

    for keys in wrong:
        for _ in range(4):  # connections go to workers as they please
            headers = bearer(stranger)
            if keys:
                headers["X-Session-Key"] = keys["session_key"]
            for method, path, body in (
                ("GET", "", None),
                ("POST", "/step", {"action": {"do": "x"}}),
                ("POST", "/reset", {"seed": 2}),
                ("DELETE", "", None),
            ):
                status, answer, _ = service.ask(
                    method, f"/sessions/{session_id}{path}", body, headers=headers
                )
                assert (status, answer["error"]["code"]) == (403, "session.forbidden"), (method, path, keys)
                told.append(answer)

            plain = {"X-Session-Id": session_id, **headers}
            cookie = {
                "Cookie": f"agentrl_session={session_id}.{keys.get('session_key', '')}",
                **bearer(stranger),
            }
            for named in (plain, cookie):
                for method, path, body in (
                    ("POST", "/step", {"action": {"do": "x"}}),
                    ("POST", "/reset", {}),
                    ("GET", "/state", None),
                ):
                    status, answer, _ = service.ask(method, path, body, headers=named)
                    assert (status, answer["error"]["code"]) == (403, "session.forbidden"), (named, path)
                    told.append(answer)

            handle = f"{session_id}.{keys['session_key']}" if keys else session_id
            for request in (
                {
                    "method": "tools/call",
                    "params": {"name": "do", "arguments": {"do": "x"}, "session_id": handle},
                },
                {"method": "openenv/session/close", "params": {"session_id": handle}},
            ):
                message = {"jsonrpc": "2.0", "id": 1, **request}
                _, answer, _ = service.ask("POST", "/mcp", message, headers=bearer(stranger))
                assert "forbidden" in json.dumps(answer) or "session_key" in json.dumps(answer), answer
                assert "result" not in answer or answer["result"].get("isError"), answer
                told.append(answer)

            client = socket_of(service, stranger)
            named = {"session_id": session_id, **keys}
            for answer in batch(client, *({"type": kind, **named, "data": {}} for kind in KINDS)):
                assert answer["type"] == "error", answer
                told.append(answer)
            for kind in KINDS:
                client.send({"type": kind, **named, "data": {"do": "x"}})
                assert client.receive()["type"] == "error"
            client.close()
    assert key not in json.dumps(told)

    owner = {"X-Session-Key": key, **bearer(ALPHA)}
    status, answer, _ = service.ask("GET", f"/sessions/{session_id}", headers=owner)
    assert (status, answer["step_count"], answer["done"]) == (200, 0, False)
    status, answer, _ = service.ask(
        "POST", f"/sessions/{session_id}/step", {"action": {"do": "mine"}}, headers=owner
    )
    assert (status, answer["observation"]["text"]) == (200, "train-1 after 1: mine")
    assert service.delete(f"/sessions/{session_id}", headers=owner)[0] == 200


def test_the_same_trajectory_id_of_two_clients_is_two_trajectories(service: ServiceProcess) -> None:
    def act(token: str, *said: str) -> list[str]:
        body = {
            "trajectory_ids": [f"t{place}" for place in range(len(said))],
            "actions": list(said),
            "extra_fields": [{"seed": 1 if token == ALPHA else 2}] * len(said),
        }
        status, answer, _ = service.ask("POST", "/get_observation", body, headers=bearer(token))
        assert status == 200
        return answer["observations"]

    assert act(ALPHA, "a", "b") == ["train-1 after 1: a", "train-1 after 1: b"]
    assert act(BETA, "c", "d") == ["train-2 after 1: c", "train-2 after 1: d"]
    assert act(ALPHA, "e", "f") == ["train-1 after 2: e", "train-1 after 2: f"]
    body = {"trajectory_ids": ["t0", "t1"], "actions": ["", ""], "finish": [True, True]}
    service.ask("POST", "/get_observation", body, headers=bearer(BETA))
    assert act(ALPHA, "g", "h") == ["train-1 after 3: g", "train-1 after 3: h"]


def test_no_token_and_no_key_is_ever_logged(service: ServiceProcess) -> None:
    mine = begun_by(service, ALPHA, "0")
    headers = {"X-Session-Key": mine["session_key"], **bearer(ALPHA)}
    service.ask("POST", f"/sessions/{mine['session_id']}/step", {"action": {"do": "raise"}}, headers=headers)
    service.ask("GET", f"/metadata?token={BETA[:4]}&split=x", headers=headers)
    client = socket_of(service, BETA)
    client.send({"type": "step", "session_id": mine["session_id"], "session_key": mine["session_key"]})
    client.receive()
    client.close()
    service.delete(f"/sessions/{mine['session_id']}", headers=headers)
    log = service.log.read_text()
    assert "env.step" in log
    assert "jabberwock" not in log
    assert "bandersnatch" not in log
    assert mine["session_key"] not in log


def test_a_log_line_is_one_line_whatever_a_client_says(service: ServiceProcess) -> None:
    forged = '\\n{"level": "info", "message": "all is well"}'
    for path in ("/%0a%0d{forged}", "/sessions/0-%0a%7b%7d", "/x%1b[2J"):
        service.ask("GET", path, headers={"X-Request-Id": "a\tb", **bearer(ALPHA)})
    client = socket_of(service, ALPHA)
    for value in (forged, "a\nb", "\x1b[2J", "\u2028"):
        client.send({"type": value, "request_id": value, "session_id": value})
        client.receive()
    client.close()
    lines = service.log.read_text().splitlines()
    assert all(json.loads(line)["logger"] for line in lines)
    assert not any("\x1b" in line for line in lines)


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("http://evil.example", None, False),
        ("null", None, False),
        ("https://127.0.0.1", None, False),
        ("http://127.0.0.1:1", None, False),
        ("http://[::", None, False),
        ("http://evil.example:{port}", "evil.example:{port}", False),  # a name that was made to lead here
        ("http://127.0.0.1.evil.example", "127.0.0.1.evil.example", False),
        ("http://127.0.0.1:{port}", None, True),
        ("http://localhost:{port}", "localhost:{port}", True),
    ],
)
def test_a_page_of_another_site_may_do_nothing(
    open_service: ServiceProcess, origin: str, host: str | None, allowed: bool
) -> None:
    port = open_service.port
    origin, host = origin.format(port=port), (host or "127.0.0.1:{port}").format(port=port)
    headers = {"Origin": origin, "Host": host}
    for method, path, body in (("POST", "/reset", {}), ("GET", "/readyz", None), ("POST", "/sessions", {})):
        status, answer, _ = open_service.ask(method, path, body, headers=headers)
        if allowed:
            assert status in (200, 201)
        else:
            assert (status, answer["error"]["code"]) == (403, "auth.origin")
    for path in ("/ws", "/mcp"):
        client = RawClient(port)
        key = "dGhlIHNhbXBsZSBub25jZQ=="
        client.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        assert (b" 101 " if allowed else b" 403 ") in client.socket.recv(4096).splitlines()[0]
        client.close()


def test_a_page_with_the_token_may_come_from_the_services_own_name(service: ServiceProcess) -> None:
    headers = {"Origin": "https://games.example", "Host": "games.example", **bearer(ALPHA)}
    assert service.ask("GET", "/readyz", headers=headers)[0] == 200
    headers["Origin"] = "https://evil.example"
    assert service.ask("GET", "/readyz", headers=headers)[0] == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "service.example"])
def test_other_machines_are_not_served_without_a_token(host: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "AGENTRL_TOKEN"}
    for token in ({}, {"AGENTRL_TOKEN": " , "}):
        ended = subprocess.run(
            [*COMMAND, "serve", "alfworld", "--host", host, "--port", "0"],
            cwd=REPOSITORY,
            env={**environment, "PYTHONPATH": str(REPOSITORY), **token},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (ended.returncode, ended.stdout) == (2, "")
        assert "AGENTRL_TOKEN" in ended.stderr
        assert len(ended.stderr.splitlines()) == 1

"""Two workers of one service: a session on one is reached by way of the other, by whoever may reach it."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Generator
from typing import Any

import pytest
from service_process import ServiceProcess, running_service
from trouble_service import TROUBLE
from websockets.asyncio.client import connect

PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def service() -> Generator[ServiceProcess]:
    """Two workers."""
    with running_service("--workers", "2", "resume_s=1", "drain_s=0", name=TROUBLE) as running:
        yield running


async def until_no_session_lives(service: ServiceProcess) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await asyncio.to_thread(service.metric, "agentrl_sessions"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def frames(service: ServiceProcess, worker: str) -> tuple[Any, dict[str, Any]]:
    """Return a connection to a worker, and the session that it began there."""
    while True:
        socket = await connect(service.url.replace("http", "ws") + "/ws", open_timeout=PATIENCE_S)
        await socket.send(json.dumps({"type": "batch", "items": [{"type": "reset", "data": {"seed": 1}}]}))
        data = json.loads(await asyncio.wait_for(socket.recv(), PATIENCE_S))["items"][0]["data"]
        if data["session_id"].startswith(f"{worker}-"):
            return socket, {key: data[key] for key in ("session_id", "session_key")}
        await socket.close()


async def ask(socket: Any, *items: dict[str, Any]) -> list[dict[str, Any]]:
    """Send messages in one frame and return their answers in their order."""
    for tag, item in enumerate(items):
        item.setdefault("tag", tag)
    await socket.send(json.dumps({"type": "batch", "items": items}))
    answers: list[dict[str, Any]] = []
    while len(answers) < len(items):
        answers += json.loads(await asyncio.wait_for(socket.recv(), PATIENCE_S))["items"]
    return sorted(answers, key=lambda answer: answer["tag"])


async def test_a_session_is_attached_stepped_and_closed_by_way_of_the_other_worker(
    service: ServiceProcess,
) -> None:
    one, session = await frames(service, "0")
    two, _ = await frames(service, "1")
    (state,) = await ask(two, {"type": "attach", **session})
    assert state["data"]["task_id"] == "train-1"
    name = {"session_id": session["session_id"]}
    (step,) = await ask(two, {"type": "step", "data": {"do": "a"}, "request_id": "r", **name})
    assert step["data"]["observation"]["text"] == "train-1 after 1: a"
    (taken,) = await ask(one, {"type": "step", "data": {"do": "b"}, **name})
    assert taken["data"]["error"]["code"] == "session.forbidden"  # the other connection has it now
    (again,) = await ask(one, {"type": "step", "data": {"do": "a"}, "request_id": "r", **session})
    assert again["data"] == step["data"]
    (closed,) = await ask(two, {"type": "close", **session})
    assert closed["data"]["closed"] is True
    (gone,) = await ask(one, {"type": "state", **session})
    assert gone["data"]["error"]["code"] == "session.ended"
    await one.close()
    await two.close()


async def test_equal_request_ids_of_two_sessions_elsewhere_do_not_mix(service: ServiceProcess) -> None:
    sockets, sessions = [], []
    for _ in range(4):
        socket, session = await frames(service, "0")
        sockets.append(socket)
        sessions.append(session)
    two, _ = await frames(service, "1")
    for round_ in range(10):
        answers = await ask(
            two,
            *(
                {"type": "step", "data": {"do": f"{round_} {place}"}, "request_id": f"r{round_}", **session}
                for place, session in enumerate(sessions)
            ),
        )
        said = [answer["data"]["observation"]["text"] for answer in answers]
        assert said == [f"train-1 after {round_ + 1}: {round_} {place}" for place in range(4)]
    for socket in (*sockets, two):
        await socket.close()


async def test_a_client_gone_from_one_worker_is_gone_for_the_other(service: ServiceProcess) -> None:
    one, session = await frames(service, "0")
    two, _ = await frames(service, "1")
    await ask(two, {"type": "attach", **session})
    await one.close()
    (state,) = await ask(two, {"type": "state", "session_id": session["session_id"]})
    assert state["type"] == "state"
    two.transport.abort()  # its lease begins
    three, _ = await frames(service, "1")
    (state,) = await ask(three, {"type": "state", **session})
    assert state["type"] == "state"
    await three.close()  # that was on purpose: nothing is kept
    four, _ = await frames(service, "0")
    async with asyncio.timeout(PATIENCE_S):
        while (await ask(four, {"type": "state", **session}))[0]["type"] != "error":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await four.close()
    await until_no_session_lives(service)


async def test_what_another_workers_client_may_not_know_it_is_not_told_by_way_of_it(
    service: ServiceProcess,
) -> None:
    """Both reach the session's worker over one private line, which must not lend one the other's rights."""
    one, session = await frames(service, "0")
    two, _ = await frames(service, "1")
    three, _ = await frames(service, "1")
    await ask(two, {"type": "attach", **session})
    name = {"session_id": session["session_id"]}
    for stranger in (three, one):
        for kind in ("attach", "state", "step", "reset", "close", "detach", "left", "trajectory"):
            forged = {"caller": uuid.uuid4().hex, "data": {"deliberate": True}}
            for extra in ({}, forged, {"session_key": "guess"}, {**forged, "session_key": ""}):
                (answer,) = await ask(stranger, {"type": kind, **name, **extra})
                assert answer["type"] == "error", (kind, extra)
                assert session["session_key"] not in json.dumps(answer)
    (state,) = await ask(two, {"type": "state", **name})
    assert (state["type"], state["data"]["step_count"]) == ("state", 0)
    await asyncio.gather(one.close(), two.close(), three.close())


async def test_what_is_counted_is_counted_over_both_workers(service: ServiceProcess) -> None:
    await until_no_session_lives(service)
    one, _ = await frames(service, "0")
    two, _ = await frames(service, "1")
    for _ in range(6):  # whichever worker is asked
        assert await asyncio.to_thread(service.metric, "agentrl_sessions") == 2
    await one.close()
    await two.close()

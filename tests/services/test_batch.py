"""Many sessions' steps in one frame: each is answered when it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from service_process import ServiceProcess, running_service
from trouble_service import TROUBLE

from agentrl.errors import EnvError
from agentrl.remote.connection import Connection

TIMEOUT_S = 30.0


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceProcess]:
    with running_service("drain_s=0.5", name=TROUBLE) as running:
        yield running


async def begun(connection: Connection, count: int) -> list[dict[str, str]]:
    reset = {"type": "reset", "data": {"index": 0}}
    answers = await asyncio.gather(*(connection.ask(reset, timeout_s=TIMEOUT_S) for _ in range(count)))
    return [{"session_id": answer["session_id"], "session_key": answer["session_key"]} for answer in answers]


def asking(connection: Connection, named: dict[str, str], command: str) -> asyncio.Task[dict[str, object]]:
    step = {"type": "step", "data": {"do": command}, **named}
    return asyncio.create_task(connection.ask(step, timeout_s=TIMEOUT_S))


async def test_a_step_that_waits_holds_back_none_of_those_behind_it(service: ServiceProcess) -> None:
    connection = await Connection.open(service.url)
    sessions = await begun(connection, 6)
    commands = ["hang", "a", "sleep 0.2", "hang", "b", "c"]  # all of one moment: one frame
    asked = [asking(connection, *one) for one in zip(sessions, commands, strict=True)]
    done, waiting = await asyncio.wait([asked[place] for place in (1, 2, 4, 5)], timeout=TIMEOUT_S)
    assert (len(done), len(waiting)) == (4, 0)
    assert [asked[place].done() for place in (0, 3)] == [False, False]
    await connection.close()
    await asyncio.gather(*asked, return_exceptions=True)


async def test_a_step_that_fails_fails_alone(service: ServiceProcess) -> None:
    connection = await Connection.open(service.url)
    sessions = await begun(connection, 4)
    commands = ["a", "raise", "sleep 0.01", "b"]
    asked = [asking(connection, *one) for one in zip(sessions, commands, strict=True)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [isinstance(answer, EnvError) for answer in answers] == [False, True, False, False]
    await connection.close()


async def test_the_steps_of_one_session_are_taken_in_their_order(service: ServiceProcess) -> None:
    connection = await Connection.open(service.url)
    (session,) = await begun(connection, 1)
    commands = ["sleep 0.05", "a", "sleep 0.01", "b"]
    answers = await asyncio.gather(*(asking(connection, session, command) for command in commands))
    for place, (answer, command) in enumerate(zip(answers, commands, strict=True)):
        assert f"after {place + 1}: {command}" in str(answer["observation"])
    await connection.close()

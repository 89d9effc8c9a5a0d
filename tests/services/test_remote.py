"""The client of the services: what it does when the environment, the service or the line fails."""

from __future__ import annotations

import asyncio
import http.server
import socket
import threading
from collections.abc import Generator
from contextlib import suppress
from typing import Any

import pytest
from faulty_proxy import faulty_proxy
from service_process import ServiceProcess, running_service
from trouble_service import PRIVATE, TROUBLE

from agentrl.errors import ConfigError, EnvError, RequestError
from agentrl.remote import RemoteEnv
from agentrl.remote.connection import Connection
from agentrl.types import Message, Task

PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def service() -> Generator[ServiceProcess]:
    """Two workers of a service that does what it is told."""
    with running_service("--workers", "2", "resume_s=1", "max_body_bytes=100000", name=TROUBLE) as running:
        yield running


@pytest.fixture
def env(service: ServiceProcess) -> RemoteEnv:
    """The remote environment."""
    return RemoteEnv(service.url, {})


def say(text: str) -> Message:
    return Message("assistant", text)


def task_of(env: RemoteEnv, split: str = "train", place: int = 0) -> Task:
    return env.tasks(split)[place]


async def live_sessions(service: ServiceProcess) -> float:
    return await asyncio.to_thread(service.metric, "agentrl_sessions")


async def until_no_session_lives(service: ServiceProcess) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await live_sessions(service):  # noqa: ASYNC110 - another process tells nobody
            await asyncio.sleep(0.05)


# --- episodes ----------------------------------------------------------------------------------------------


async def test_episodes_of_one_moment_do_not_mix(service: ServiceProcess, env: RemoteEnv) -> None:
    tasks = env.tasks("train")

    async def play(place: int) -> list[str]:
        session = env.session()
        shown = [(await session.start(tasks[place])).messages[0].content]
        for step in range(5):
            answer = await session.step(say(f"{place} says {step}"))
            assert answer.observation is not None
            shown.append(answer.observation.messages[0].content)
        await session.close()
        return shown

    played = await asyncio.gather(*(play(place) for place in range(100)))
    for place, shown in enumerate(played):
        said = [f"train-{place} after {step + 1}: {place} says {step}" for step in range(5)]
        assert shown == [f"train-{place} after 0: begun", *said]
    await until_no_session_lives(service)


async def test_what_fails_in_the_environment_fails_one_episode_with_a_code(env: RemoteEnv) -> None:
    session = env.session()
    with pytest.raises(EnvError) as caught:
        await session.start(task_of(env, "raise"))
    assert caught.value.code == "env.start"
    await session.start(task_of(env))
    with pytest.raises(EnvError) as caught:
        await session.step(say("raise"))
    assert caught.value.code == "env.step"
    await session.close()


async def test_an_answer_that_cannot_be_sent_costs_only_its_own_episode(env: RemoteEnv) -> None:
    sessions = [env.session() for _ in range(8)]
    await asyncio.gather(*(session.start(task_of(env)) for session in sessions))
    words = ["junk", "half", *["hello"] * 6]
    answers = await asyncio.gather(
        *(session.step(say(word)) for session, word in zip(sessions, words, strict=True)),
        return_exceptions=True,
    )
    assert [getattr(answer, "code", None) for answer in answers[:2]] == ["env.not_json", "env.not_json"]
    for answer in answers[2:]:
        assert not isinstance(answer, BaseException), answer
        assert answer.observation is not None
        assert answer.observation.messages[0].content == "train-0 after 1: hello"
    await asyncio.gather(*(session.close() for session in sessions))


async def test_a_reply_that_cannot_be_sent_costs_only_its_own_episode(env: RemoteEnv) -> None:
    sessions = [env.session() for _ in range(8)]
    await asyncio.gather(*(session.start(task_of(env)) for session in sessions))
    words = ["half a character \ud800", "x" * 200_000, *["hello"] * 6]
    answers = await asyncio.gather(
        *(session.step(say(word)) for session, word in zip(sessions, words, strict=True)),
        return_exceptions=True,
    )
    assert [getattr(answer, "code", None) for answer in answers[:2]] == ["env.not_json", "env.too_large"]
    for answer in answers[2:]:
        assert not isinstance(answer, BaseException), answer
        assert answer.reward == 1.0
    await asyncio.gather(*(session.close() for session in sessions))


async def test_many_long_replies_of_one_moment_arrive_though_together_they_are_too_long(
    env: RemoteEnv,
) -> None:
    sessions = [env.session() for _ in range(60)]
    await asyncio.gather(*(session.start(task_of(env)) for session in sessions))
    answers = await asyncio.gather(*(session.step(say("y" * 30_000)) for session in sessions))
    assert all(answer.observation is not None for answer in answers)
    await asyncio.gather(*(session.close() for session in sessions))


async def test_a_start_that_nobody_waits_for_leaves_no_session(
    service: ServiceProcess, env: RemoteEnv
) -> None:
    tasks = env.tasks("slow")
    starts = [asyncio.create_task(env.session().start(tasks[place])) for place in range(20)]
    await asyncio.sleep(0.1)
    assert await live_sessions(service) > 0
    for start in starts:
        start.cancel()
    await asyncio.wait(starts)
    # Their connection is still open, so that no lease would end them for a long time.
    await until_no_session_lives(service)


async def test_closing_is_harmless_twice_and_before_the_start(env: RemoteEnv) -> None:
    session = env.session()
    await session.close()
    await session.start(task_of(env))
    await session.close()
    await session.close()
    with pytest.raises(EnvError) as caught:
        await session.step(say("hello"))
    assert caught.value.code == "env.no_episode"


# --- the line fails ----------------------------------------------------------------------------------------


async def test_a_step_whose_answer_is_lost_is_taken_once(service: ServiceProcess) -> None:
    with faulty_proxy(service.port) as proxy:
        env = RemoteEnv(proxy.url, {})
        session = env.session()
        await session.start(task_of(env))
        for step in range(1, 6):
            proxy.swallow_answers = True
            answer = await session.step(say("hello"))
            assert not proxy.swallow_answers
            assert answer.observation is not None
            assert answer.observation.messages[0].content == f"train-0 after {step}: hello"
        await session.close()


async def test_a_line_that_is_cut_in_the_middle_of_many_steps_loses_none(service: ServiceProcess) -> None:
    with faulty_proxy(service.port) as proxy:
        env = RemoteEnv(proxy.url, {})
        sessions = [env.session() for _ in range(30)]
        tasks = env.tasks("train")
        await asyncio.gather(*(s.start(tasks[place]) for place, s in enumerate(sessions)))

        async def cut() -> None:
            for _ in range(4):
                await asyncio.sleep(0.1)
                proxy.cut()

        async def play(place: int) -> None:
            for step in range(1, 11):
                answer = await sessions[place].step(say("sleep 0.05"))
                assert answer.observation is not None
                assert answer.observation.messages[0].content == f"train-{place} after {step}: sleep 0.05"

        await asyncio.gather(cut(), *(play(place) for place in range(30)))
        await asyncio.gather(*(session.close() for session in sessions))
        assert proxy.connections > 4


async def test_a_line_that_goes_silent_counts_as_cut_and_the_session_is_found_again(
    service: ServiceProcess,
) -> None:
    with faulty_proxy(service.port) as silent:
        env = RemoteEnv(silent.url, {}, ping_s=0.3)
        session = env.session()
        await session.start(task_of(env))
        silent.silent = True
        asking = asyncio.create_task(session.step(say("hello")))
        await asyncio.sleep(0.1)
        assert not asking.done()
        silent.silent = False  # for connections to come; what was swallowed stays so
        answer = await asyncio.wait_for(asking, PATIENCE_S)
        assert answer.observation is not None
        assert answer.observation.messages[0].content == "train-0 after 1: hello"
        await session.close()


async def test_a_service_that_is_gone_is_an_error_of_the_episode_within_the_deadline() -> None:
    with running_service("drain_s=0", name=TROUBLE) as service:
        env = RemoteEnv(service.url, {}, deadline_s=0.5)
        sessions = [env.session() for _ in range(20)]
        await asyncio.gather(*(session.start(task_of(env)) for session in sessions))
        await asyncio.to_thread(service.stop)
    async with asyncio.timeout(PATIENCE_S):
        answers = await asyncio.gather(
            *(session.step(say("hello")) for session in sessions), return_exceptions=True
        )
        assert {getattr(answer, "code", answer) for answer in answers} == {"env.unreachable"}
        await asyncio.gather(*(session.close() for session in sessions))
        with pytest.raises(EnvError):
            await env.session().start(Task("t", "trouble"))


async def test_what_answers_in_the_place_of_a_service_is_no_reason_to_stop() -> None:
    """A proxy that says 404 while the service is being replaced must not end a run of hours."""
    with running_service("drain_s=0", name=TROUBLE) as service:
        env = RemoteEnv(service.url, {}, deadline_s=0.5)
        session = env.session()
        await session.start(task_of(env))
        port = service.port
        await asyncio.to_thread(service.stop)
    with answering(port):
        with pytest.raises(EnvError) as caught:
            await session.step(say("hello"))
        assert caught.value.code == "env.unreachable"
        await session.close()


# --- who answers there -------------------------------------------------------------------------------------


class Redirects(http.server.BaseHTTPRequestHandler):
    """Sends every client elsewhere, with what it has."""

    elsewhere: str | None = None
    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        type(self).asked.append((self.path, self.headers["Authorization"]))
        self.send_response(404 if self.elsewhere is None else 302)
        if self.elsewhere is not None:
            self.send_header("Location", self.elsewhere)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class answering:
    """A web server that is no service."""

    def __init__(self, port: int = 0, elsewhere: str | None = None) -> None:
        self.handler = type("Handler", (Redirects,), {"asked": [], "elsewhere": elsewhere})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), self.handler)
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self) -> answering:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"


def test_a_redirect_does_not_carry_the_token_to_another_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTRL_TOKEN", "open sesame")
    with answering() as thief, answering(elsewhere=thief.url) as first:
        with pytest.raises(ConfigError) as caught:
            RemoteEnv(first.url, {}, deadline_s=0.1)
        assert caught.value.code == "remote.not_a_service"
        assert first.handler.asked == [("/metadata", "Bearer open sesame")]
        assert thief.handler.asked == []
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://user:drowssap@127.0.0.1:1", "AGENTRL_TOKEN"),
        ("127.0.0.1:8000", "must begin with http"),
        ("ftp://127.0.0.1", "must begin with http"),
        ("", "must begin with http"),
    ],
)
def test_an_address_that_is_none_is_refused_and_a_password_in_it_not_shown(url: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RemoteEnv(url, {})
    assert (caught.value.code, said in caught.value.message) == ("remote.url", True)
    assert "drowssap" not in str(caught.value)


def test_a_service_that_plays_by_other_settings_is_refused(service: ServiceProcess) -> None:
    with pytest.raises(ConfigError) as caught:
        RemoteEnv(service.url, {"size": "small"})
    assert caught.value.code == "remote.settings"


def test_nobody_at_home_is_said_within_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ConfigError) as caught:
        RemoteEnv(f"http://127.0.0.1:{port}", {}, deadline_s=0.2)
    assert caught.value.code == "remote.unreachable"
    assert "agentrl serve" in caught.value.message


def test_a_split_that_does_not_exist_is_the_users_error(env: RemoteEnv) -> None:
    with pytest.raises(ConfigError) as caught:
        env.tasks("no such")
    assert caught.value.code == "env.unknown_split"


# --- the connection itself ---------------------------------------------------------------------------------


async def test_one_connection_serves_many_and_tells_their_answers_apart(service: ServiceProcess) -> None:
    connection = await Connection.open(service.url, max_bytes=100_000)
    begun = await asyncio.gather(
        *(connection.ask({"type": "reset", "data": {"seed": seed}}, timeout_s=30) for seed in range(50))
    )
    named = [{key: data[key] for key in ("session_id", "session_key")} for data in begun]
    steps = [
        {"type": "step", "data": {"do": str(seed)}, "request_id": "same for all", **named[seed]}
        for seed in range(50)
    ]
    answers = await asyncio.gather(*(connection.ask(step, timeout_s=30) for step in steps))
    assert [a["observation"]["text"] for a in answers] == [f"train-{s} after 1: {s}" for s in range(50)]
    twice = await asyncio.gather(*(connection.ask(steps[7], timeout_s=30) for _ in range(3)))
    assert twice == [answers[7]] * 3
    with pytest.raises(RequestError) as caught:
        await connection.ask({"type": "sing"}, timeout_s=30)
    assert caught.value.code == "wire.unknown_type"
    with pytest.raises(TimeoutError):
        await connection.ask({"type": "step", "data": {"do": "sleep 1"}, **named[0]}, timeout_s=0.05)
    await connection.close()
    await connection.close()
    assert connection.lost


async def test_secrets_of_the_environment_reach_no_model(env: RemoteEnv) -> None:
    """What an environment raised is for the operator and the episode's record, never an observation."""
    session = env.session()
    await session.start(task_of(env))
    with suppress(EnvError):
        answer = await session.step(say("raise"))
        assert PRIVATE not in repr(answer)
    await session.close()

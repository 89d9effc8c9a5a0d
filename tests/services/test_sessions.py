"""Sessions, at the desk where every wire's requests arrive: places, leases, repeated requests, closing."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trouble_service import PRIVATE, Trouble, TroubleService
from trouble_service import Settings as TroubleSettings

from agentrl.errors import AgentRLError, EnvError
from services._base.desk import Caller, Desk
from services._base.metrics import Metrics
from services._base.peers import Peers
from services._base.sessions import Sessions

PATIENCE_S = 20.0
NAMES = itertools.count()


class Counter:
    """A desk, its environment, and a reaper at work."""

    def __init__(self, **given: Any) -> None:
        service = TroubleService()
        chosen = TroubleSettings(**given)
        metrics = Metrics(service.name)
        self.env: Trouble = service.env
        self.sessions = Sessions(service, chosen, metrics, 0)
        peers = Peers(None, 0, 1, timeout_s=1.0, max_bytes=1 << 20)
        self.desk = Desk(service, chosen, self.sessions, peers, metrics)

    def client(self, owner: str = "") -> Client:
        return Client(self.desk, Caller(owner, name=f"connection {next(NAMES)}"))


class Client:
    """One connection's view of the desk."""

    def __init__(self, desk: Desk, caller: Caller) -> None:
        self.desk = desk
        self.caller = caller

    async def ask(self, kind: str, data: Any = None, **rest: Any) -> Any:
        return await self.desk.answer(self.caller, {"type": kind, "data": data, **rest})

    async def begin(self, split: str = "train", **rest: Any) -> dict[str, str]:
        answer = await self.ask("reset", {"split": split, "seed": 1, **rest})
        return {"session_id": answer["session_id"], "session_key": answer["session_key"]}

    async def do(self, session: dict[str, str], what: str, **rest: Any) -> str:
        answer = await self.ask("step", {"do": what}, session_id=session["session_id"], **rest)
        return answer["observation"]["text"]


@contextlib.asynccontextmanager
async def counter(**given: Any) -> AsyncGenerator[Counter]:
    made = Counter(**given)
    reaping = asyncio.create_task(made.sessions.reap())
    try:
        yield made
    finally:
        reaping.cancel()
        await made.sessions.close_all("the test is over", timeout_s=PATIENCE_S)
        assert made.env.open == set(), "an episode was never closed in the environment"
        assert made.sessions.capacity["active_sessions"] == 0


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not happened():  # noqa: ASYNC110 - what happens knows of no test
            await asyncio.sleep(0.005)


async def refusal(asking: Awaitable[Any]) -> AgentRLError:
    with pytest.raises(AgentRLError) as caught:
        await asking
    assert PRIVATE not in str(caught.value) or isinstance(caught.value, EnvError)
    return caught.value


async def code_of(asking: Awaitable[Any]) -> str:
    return (await refusal(asking)).code


# --- places ------------------------------------------------------------------------------------------------


async def test_whoever_waits_longest_gets_the_place_that_becomes_free() -> None:
    async with counter(max_sessions=1, queue=3) as here:
        first = here.client()
        session = await first.begin()
        order: list[int] = []

        async def come(number: int) -> None:
            client = here.client()
            mine = await client.begin()
            order.append(number)
            await client.ask("close", session_id=mine["session_id"])

        waiting = [asyncio.create_task(come(number)) for number in range(3)]
        await until(lambda: here.sessions.capacity["waiting"] == 3)
        assert await code_of(here.client().begin()) == "service.full"
        await first.ask("close", session_id=session["session_id"])
        await asyncio.gather(*waiting)
        assert order == [0, 1, 2]


async def test_a_newcomer_gets_no_place_before_the_one_it_would_have_has_closed() -> None:
    async with counter(max_sessions=1, queue=5) as here:
        first = here.client()
        session = await first.begin("slow_close")
        waiter = asyncio.create_task(here.client().begin())
        await until(lambda: here.sessions.capacity["waiting"] == 1)
        closing = asyncio.create_task(first.ask("close", session_id=session["session_id"]))
        await asyncio.sleep(0.01)
        newcomer = asyncio.create_task(here.client().begin())
        await closing
        await waiter
        assert len(here.env.open) == len(here.sessions) == 1
        assert not newcomer.done()
        newcomer.cancel()


async def test_a_place_that_was_handed_on_is_not_free_for_others_too() -> None:
    async with counter(max_sessions=2, queue=1, queue_timeout_s=0.05) as here:
        first, second, third = here.client(), here.client(), here.client()
        session = await first.begin()
        await second.begin()
        waiting = asyncio.create_task(third.begin())
        await until(lambda: here.sessions.capacity["waiting"] == 1)
        await first.ask("close", session_id=session["session_id"])
        await waiting
        assert await code_of(here.client().begin()) == "service.full"
        assert len(here.sessions) == len(here.env.open) == 2


async def test_waiting_for_a_place_ends_when_the_time_is_up_and_says_when_to_ask_again() -> None:
    async with counter(max_sessions=1, queue=2, queue_timeout_s=0.05) as here:
        await here.client().begin()
        error = await refusal(here.client().begin())
        assert (error.code, error.detail["retry_after_s"]) == ("service.full", 1)
        assert here.sessions.capacity["waiting"] == 0


async def test_a_connection_that_breaks_while_it_waits_takes_no_place() -> None:
    async with counter(max_sessions=1, queue=2) as here:
        first, second = here.client(), here.client()
        session = await first.begin()
        waiting = asyncio.create_task(second.begin())
        await until(lambda: here.sessions.capacity["waiting"] == 1)
        await here.desk.release(second.caller, deliberate=False)
        await asyncio.wait([waiting], timeout=PATIENCE_S)
        assert waiting.cancelled()
        await first.ask("close", session_id=session["session_id"])
        await here.client().begin()
        assert here.sessions.capacity == {"active_sessions": 1, "max_sessions": 1, "waiting": 0, "queue": 2}


async def test_an_abandoned_session_makes_room_and_a_held_one_does_not() -> None:
    async with counter(max_sessions=2, queue=0) as here:
        gone, present = here.client(), here.client()
        left, kept = await gone.begin(), await present.begin()
        await here.desk.release(gone.caller, deliberate=False)
        newcomer = here.client()
        await newcomer.begin()
        assert await code_of(here.client().begin()) == "service.full"
        assert await code_of(here.client().ask("attach", **left)) == "session.ended"
        assert await present.do(kept, "hello") == "train-1 after 1: hello"


async def test_draining_refuses_the_new_and_those_who_wait_and_lets_the_living_finish() -> None:
    async with counter(max_sessions=1, queue=2, drain_s=PATIENCE_S) as here:
        client = here.client()
        session = await client.begin()
        waiting = asyncio.create_task(here.client().begin())
        await until(lambda: here.sessions.capacity["waiting"] == 1)
        draining = asyncio.create_task(here.sessions.drained())
        assert await code_of(waiting) == "service.draining"
        error = await refusal(here.client().begin())
        assert (error.code, error.detail["retry_after_s"]) == ("service.draining", PATIENCE_S)
        assert await client.do(session, "hello") == "train-1 after 1: hello"
        assert not draining.done()
        await client.ask("close", session_id=session["session_id"])
        await asyncio.wait_for(draining, PATIENCE_S)


@given(
    st.lists(
        st.tuples(st.sampled_from(["come", "go", "break", "lose", "wait"]), st.integers(0, 5)),
        min_size=8,
        max_size=30,
    )
)
@settings(max_examples=40, deadline=None)
def test_whatever_clients_do_places_are_neither_lost_nor_given_twice(moves: list[tuple[str, int]]) -> None:
    async def play() -> None:
        async with counter(max_sessions=2, queue=2, queue_timeout_s=0.02, resume_s=0.05) as here:
            clients = [here.client() for _ in range(6)]
            coming: list[asyncio.Task[Any]] = []
            for move, number in moves:
                client = clients[number]
                if move == "come":
                    splits = ["train", "slow_close", "raise", "slow"]
                    coming.append(asyncio.create_task(client.begin(splits[number % 4])))
                elif move == "go":
                    for session in list(client.caller.held.values()):
                        await client.ask("close", session_id=session.session_id)
                elif move == "wait":
                    await asyncio.sleep(0.03)
                else:
                    await here.desk.release(client.caller, deliberate=move == "break")
                    clients[number] = here.client()
                await asyncio.sleep(0)
                assert len(here.sessions) <= 2
                assert len(here.env.open) <= 2
            await asyncio.gather(*coming, return_exceptions=True)
            for client in clients:
                await here.desk.release(client.caller, deliberate=True)
            await until(lambda: len(here.sessions) == 0 and here.env.open == set())
            for _ in range(2):  # both places are there again
                await here.client().begin()

    asyncio.run(play())


# --- leases ------------------------------------------------------------------------------------------------


async def test_a_session_whose_connection_broke_ends_after_the_time_to_come_back() -> None:
    async with counter(resume_s=0.1) as here:
        client = here.client()
        session = await client.begin()
        await here.desk.release(client.caller, deliberate=False)
        assert len(here.sessions) == 1
        await until(lambda: len(here.sessions) == 0)
        assert await code_of(here.client().ask("state", **session)) == "session.ended"


async def test_who_comes_back_in_time_goes_on_where_it_was() -> None:
    async with counter(resume_s=0.2) as here:
        client = here.client()
        session = await client.begin()
        await client.do(session, "one")
        await here.desk.release(client.caller, deliberate=False)
        again = here.client()
        state = await again.ask("attach", **session)
        assert (state["step_count"], state["task_id"]) == (1, "train-1")
        await asyncio.sleep(0.5)
        assert await again.do(session, "two") == "train-1 after 2: two"


async def test_what_a_connection_asked_for_just_before_it_broke_has_a_lease() -> None:
    async with counter(resume_s=0.1) as here:
        client = here.client()
        late = asyncio.create_task(client.begin())
        await here.desk.release(client.caller, deliberate=False)
        await late
        assert client.caller.held == {}
        await until(lambda: len(here.sessions) == 0)


async def test_the_old_connection_that_breaks_late_takes_nothing_from_the_new_one() -> None:
    async with counter(resume_s=0.05) as here:
        old, new = here.client(), here.client()
        session = await old.begin()
        await new.ask("attach", **session)
        await here.desk.release(old.caller, deliberate=True)
        await asyncio.sleep(0.3)
        assert await new.do(session, "hello") == "train-1 after 1: hello"
        assert await code_of(old.do(session, "hello")) == "session.forbidden"


async def test_a_session_that_is_not_used_ends_and_one_that_is_working_does_not() -> None:
    async with counter(idle_timeout_s=0.15) as here:
        client = here.client()
        busy, idle = await client.begin(), await client.begin()
        assert await client.do(busy, "sleep 0.6") == "train-1 after 1: sleep 0.6"
        error = await refusal(client.ask("state", **idle))
        assert (error.code, "idle for more than 0.15 seconds" in error.message) == ("session.ended", True)


async def test_sessions_that_hang_when_they_close_do_not_keep_others_from_ending() -> None:
    async with counter(resume_s=0.05) as here:
        client = here.client()
        for _ in range(20):
            await client.begin("slow_close")
        await here.desk.release(client.caller, deliberate=False)
        began = asyncio.get_running_loop().time()
        await until(lambda: here.env.open == set())
        # One after the other they would take 6 s; this is no measurement, but far from it.
        assert asyncio.get_running_loop().time() - began < 5.0


async def test_what_a_connection_holds_is_what_lives() -> None:
    async with counter(resume_s=0.05) as here:
        client, other = here.client(), here.client()
        sessions = [await client.begin() for _ in range(4)]
        await other.ask("attach", **sessions[0])
        await other.ask("close", **sessions[1])
        await client.ask("detach", **sessions[2])
        assert list(client.caller.held) == [sessions[3]["session_id"]]
        assert list(other.caller.held) == [sessions[0]["session_id"]]


# --- requests that are repeated, reordered, or cut off -----------------------------------------------------


async def test_a_repeated_request_gets_its_first_answer_and_takes_one_step() -> None:
    async with counter() as here:
        client = here.client()
        session = await client.begin()
        first, again = await asyncio.gather(
            client.do(session, "sleep 0.05", request_id="a"), client.do(session, "sleep 0.05", request_id="a")
        )
        later = await client.do(session, "sleep 0.05", request_id="a")
        assert first == again == later == "train-1 after 1: sleep 0.05"
        assert (await client.ask("state", **session))["step_count"] == 1


async def test_the_same_request_id_in_another_session_is_another_request() -> None:
    async with counter() as here:
        client = here.client()
        one, two = await client.begin(), await client.begin(seed=2)
        assert await client.do(one, "x", request_id="1") == "train-1 after 1: x"
        assert await client.do(two, "x", request_id="1") == "train-2 after 1: x"


async def test_a_failed_step_fails_the_same_way_when_it_is_repeated() -> None:
    async with counter() as here:
        client = here.client()
        session = await client.begin()
        errors = [await refusal(client.do(session, "raise", request_id="a")) for _ in range(2)]
        assert [error.code for error in errors] == ["env.step", "env.step"]
        assert await code_of(client.do(session, "raise", request_id="b")) == "session.episode_done"


async def test_a_refused_request_may_be_right_another_time() -> None:
    async with counter() as here:
        client = here.client()
        session = await client.begin()
        assert await code_of(client.do(session, "two", request_id="b", at=1)) == "session.out_of_order"
        assert await client.do(session, "one", request_id="a", at=0) == "train-1 after 1: one"
        assert await client.do(session, "two", request_id="b", at=1) == "train-1 after 2: two"


async def test_a_request_whose_answer_is_no_longer_kept_is_refused_and_not_done_again() -> None:
    async with counter(remembered_requests=2) as here:
        client = here.client()
        session = await client.begin()
        for name in "abcd":
            await client.do(session, name, request_id=name)
        assert await client.do(session, "d", request_id="d") == "train-1 after 4: d"
        assert await code_of(client.do(session, "a", request_id="a")) == "session.answer_forgotten"
        assert (await client.ask("state", **session))["step_count"] == 4


async def test_an_answer_that_is_being_worked_out_is_not_forgotten() -> None:
    async with counter(remembered_requests=1) as here:
        client = here.client()
        session = await client.begin()
        slow = asyncio.create_task(client.do(session, "sleep 0.1", request_id="slow"))
        await asyncio.sleep(0.01)
        others = [asyncio.create_task(client.do(session, name, request_id=name)) for name in "abc"]
        await asyncio.sleep(0)
        assert await client.do(session, "sleep 0.1", request_id="slow") == await slow
        await asyncio.gather(*others)
        assert (await client.ask("state", **session))["step_count"] == 4


async def test_a_step_that_was_begun_is_finished_though_its_connection_breaks() -> None:
    async with counter(resume_s=PATIENCE_S) as here:
        client, again = here.client(), here.client()
        session = await client.begin()
        step = asyncio.create_task(client.do(session, "sleep 0.1", request_id="a"))
        await asyncio.sleep(0.01)
        await here.desk.release(client.caller, deliberate=False)
        repeated = await again.do(session, "sleep 0.1", request_id="a", session_key=session["session_key"])
        assert repeated == await step == "train-1 after 1: sleep 0.1"


async def test_a_request_that_is_cancelled_leaves_no_one_waiting_for_ever() -> None:
    async with counter() as here:
        client = here.client()
        session = await client.begin()
        step = asyncio.create_task(client.do(session, "hang", request_id="a"))
        await asyncio.sleep(0.01)
        repeated = asyncio.create_task(client.do(session, "hang", request_id="a"))
        await asyncio.sleep(0.01)
        step.cancel()
        assert await code_of(repeated) == "env.lost"
        assert await code_of(client.do(session, "hello")) == "session.episode_done"


# --- environments that fail --------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "code"), [("raise", "env.start"), ("hang", "env.start_timeout")])
async def test_an_episode_that_cannot_start_takes_no_place(split: str, code: str) -> None:
    async with counter(max_sessions=1, queue=0, step_timeout_s=0.1) as here:
        client = here.client()
        assert await code_of(client.begin(split)) == code
        assert (len(here.sessions), here.env.open) == (0, set())
        await client.begin()


@pytest.mark.parametrize(("word", "code"), [("raise", "env.step"), ("hang", "env.step_timeout")])
async def test_a_step_that_fails_ends_the_episode_and_not_the_session(word: str, code: str) -> None:
    async with counter(step_timeout_s=0.1) as here:
        client = here.client()
        session = await client.begin()
        assert await code_of(client.do(session, word)) == code
        assert await code_of(client.do(session, "hello")) == "session.episode_done"
        await client.ask("reset", {"seed": 2}, **session)
        assert await client.do(session, "hello") == "train-2 after 1: hello"


async def test_a_reset_that_fails_leaves_a_session_that_plays_nothing() -> None:
    async with counter() as here:
        client = here.client()
        session = await client.begin()
        assert await code_of(client.ask("reset", {"split": "raise"}, **session)) == "env.start"
        state = await client.ask("state", **session)
        assert (state["episode_id"], state["step_count"], state["done"]) == (None, 0, False)
        assert await code_of(client.do(session, "hello")) == "session.not_reset"
        await client.ask("reset", {"seed": 3}, **session)
        assert await client.do(session, "hello") == "train-3 after 1: hello"


async def test_a_reset_that_is_refused_leaves_the_episode_as_it_was() -> None:
    async with counter() as here:
        client = here.client()
        session = await client.begin()
        await client.do(session, "one")
        assert await code_of(client.ask("reset", {"split": "no such"}, **session)) == "env.unknown_split"
        assert await code_of(client.ask("reset", {"seed": -1}, **session)) == "wire.invalid"
        assert await client.do(session, "two") == "train-1 after 2: two"


async def test_an_environment_that_does_not_close_costs_no_place() -> None:
    async with counter(max_sessions=1, queue=0) as here:
        client = here.client()
        session = await client.begin("bad_close")
        await client.ask("close", **session)
        again = await client.begin("bad_close")
        await client.ask("reset", {"seed": 5}, **again)
        assert await client.do(again, "hello") == "train-5 after 1: hello"


@pytest.mark.parametrize("word", ["hang", "sleep 3600"])
async def test_closing_a_session_ends_at_once_what_it_is_doing(word: str) -> None:
    async with counter(step_timeout_s=3600) as here:
        client, other = here.client(), here.client()
        session = await client.begin()
        step = asyncio.create_task(client.do(session, word, request_id="a"))
        await asyncio.sleep(0.02)
        queued = asyncio.create_task(client.do(session, "hello"))
        async with asyncio.timeout(PATIENCE_S):
            await other.ask("close", **session)
            assert await code_of(step) == "session.ended"
            assert await code_of(queued) == "session.ended"
        assert here.env.open == set()


async def test_closing_a_session_that_is_starting_leaves_nothing_open_in_the_environment() -> None:
    async with counter(step_timeout_s=3600, max_sessions=1, queue=0) as here:
        client = here.client()
        starting = asyncio.create_task(client.begin("hang"))
        await until(lambda: len(here.env.open) == 1)
        await here.sessions.close_all("a test", timeout_s=PATIENCE_S)
        assert await code_of(starting) == "session.ended"
        assert here.env.open == set()
        await client.begin()


@pytest.mark.slow
async def test_a_step_that_cannot_be_stopped_does_not_keep_its_place() -> None:
    async with counter(step_timeout_s=0.05, max_sessions=1, queue=1) as here:
        client = here.client()
        session = await client.begin()
        step = asyncio.create_task(client.do(session, "stubborn 6"))
        await asyncio.sleep(0.02)
        await here.client().ask("close", **session)
        assert not step.done()
        await here.client().begin()
        assert await code_of(step) == "session.ended"

"""Waiting that costs nothing where there is nothing to wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from services._base.deadline import telling, within

LONG_S = 30.0


async def at_once(value: int) -> int:
    return value


async def soon(value: int) -> int:
    for _ in range(3):
        await asyncio.sleep(0)
    return value


async def failing(*, late: bool) -> None:
    if late:
        await asyncio.sleep(0)
    raise ValueError("no")


@pytest.mark.parametrize("work", [at_once, soon])
async def test_the_work_s_result_is_returned(work: Any) -> None:
    assert await within(LONG_S, work(7)) == 7
    assert await telling(work(7), lambda: None) == 7


@pytest.mark.parametrize("late", [False, True])
async def test_the_work_s_error_is_raised(late: bool) -> None:
    with pytest.raises(ValueError, match="no"):
        await within(LONG_S, failing(late=late))
    with pytest.raises(ValueError, match="no"):
        await telling(failing(late=late), lambda: None)


async def test_a_clock_is_started_only_where_the_work_waits() -> None:
    clocks: list[asyncio.Timeout] = []
    await within(LONG_S, at_once(1), clocks.append)
    assert clocks == []
    await within(LONG_S, soon(1), clocks.append)
    assert len(clocks) == 1


async def test_work_that_takes_too_long_is_cancelled_and_hears_of_it() -> None:
    heard: list[type] = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            heard.append(type(error))
            raise

    with pytest.raises(TimeoutError):
        await within(0.01, endless())
    assert heard == [asyncio.CancelledError]


async def test_a_cancellation_reaches_the_work_and_leaves_as_one() -> None:
    tidied = asyncio.Event()

    async def tidy() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # it has to wait once more
            tidied.set()

    task = asyncio.create_task(within(LONG_S, tidy()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert tidied.is_set()


async def test_work_may_survive_a_cancellation_as_in_any_task() -> None:
    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "done"

    async def alone(work: Coroutine[Any, Any, str]) -> str:
        return await telling(work, lambda: None)

    task = asyncio.create_task(alone(stubborn()))
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "done"


async def test_the_work_s_own_time_limits_hold() -> None:
    async def limited() -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return "gave up"
        return "came"

    assert await within(LONG_S, limited()) == "gave up"
    assert await telling(limited(), lambda: None) == "gave up"


async def test_who_waits_says_so_once_and_before() -> None:
    said: list[str] = []

    async def work() -> None:
        said.append("begins")
        await asyncio.sleep(0)
        said.append("goes on")
        await asyncio.sleep(0)
        said.append("ends")

    await telling(work(), lambda: said.append("waits"))
    assert said == ["begins", "waits", "goes on", "ends"]
    said.clear()
    await telling(at_once(1), lambda: said.append("waits"))
    assert said == []


async def test_work_and_its_waiting_are_of_one_task() -> None:
    seen: set[asyncio.Task[Any] | None] = set()

    async def work() -> None:
        seen.add(asyncio.current_task())
        await asyncio.sleep(0)
        seen.add(asyncio.current_task())

    await within(LONG_S, work())
    assert seen == {asyncio.current_task()}

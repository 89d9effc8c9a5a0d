"""Waiting that costs nothing where there is nothing to wait for: most steps end without a pause."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any, TypeVar

__all__ = ["telling", "within"]

T = TypeVar("T")


async def within(
    seconds: float, work: Coroutine[Any, Any, T], on_limit: Callable[[asyncio.Timeout], None] | None = None
) -> T:
    """Return the work's result; the clock starts when it first waits for something.

    Args:
        on_limit: is given that clock, if it is started.

    Raises:
        TimeoutError: it took longer, and was cancelled.
    """
    try:
        waits_for = work.send(None)
    except StopIteration as done:
        return done.value
    async with asyncio.timeout(seconds) as limit:
        if on_limit is not None:
            on_limit(limit)
        return await _rest(work, waits_for)


async def telling(work: Coroutine[Any, Any, T], waits: Callable[[], None]) -> T:
    """Return the work's result; if it has to wait for something, `waits` is called before it first does."""
    try:
        waits_for = work.send(None)
    except StopIteration as done:
        return done.value
    waits()
    return await _rest(work, waits_for)


@coroutine
def _rest(work: Coroutine[Any, Any, T], waits_for: Any) -> Generator[Any, Any, T]:
    """Go on with a coroutine that has been started, and waits."""
    while True:
        try:
            yield waits_for
        except BaseException as error:  # a cancellation is the work's to hear, and it may have to wait again
            try:
                waits_for = work.throw(error)
            except StopIteration as done:
                return done.value
        else:
            return (yield from work.__await__())

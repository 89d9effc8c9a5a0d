"""One tree, stable codes, and one way to classify what escapes foreign code."""

from __future__ import annotations

import asyncio
import inspect
import json
import pickle
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl import errors
from agentrl.errors import (
    AgentRLError,
    ConfigError,
    EnvError,
    RequestError,
    RolloutError,
    StoreError,
    ToolError,
    boundary,
)

TREE = [
    thing for thing in vars(errors).values() if inspect.isclass(thing) and issubclass(thing, AgentRLError)
]
RECORDED = {"PolicyError", "SandboxError", "EnvError", "ToolsetError", "LimitExceeded"}
REFUSING = {"RequestError"}
STOPPING = {"ConfigError", "UnknownPlugin", "StoreError", "CheckpointError", "AlignmentError"}


def test_the_tree_is_the_one_in_the_docstring() -> None:
    recorded = {kind.__name__ for kind in TREE if issubclass(kind, RolloutError)} - {"RolloutError"}
    assert recorded == RECORDED
    assert {kind.__name__ for kind in TREE} - recorded - {
        "RolloutError",
        "AgentRLError",
    } == STOPPING | REFUSING
    assert all(name in (errors.__doc__ or "") for name in RECORDED | STOPPING | REFUSING)
    assert not issubclass(ToolError, AgentRLError)


def test_a_refusal_says_what_to_do_instead() -> None:
    refusal = RequestError("wire.invalid", "no number", "send a number", {"field": "seed"})
    again = pickle.loads(pickle.dumps(refusal))
    assert again.to_json() == refusal.to_json()
    assert again.to_json()["next_step"] == "send a number"
    assert str(again) == "no number [wire.invalid]"


@pytest.mark.parametrize(
    "kind", [kind for kind in TREE if kind is not RequestError], ids=lambda kind: kind.__name__
)
def test_every_error_survives_a_process_boundary(kind: type[AgentRLError]) -> None:
    error = kind("some.code", "what happened", {"id": 7, "path": ["a"]})
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.code, again.message, again.detail) == (error.code, error.message, error.detail)
    assert str(again) == "what happened [some.code]"


@given(
    st.text(),
    st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.booleans())),
)
def test_the_json_form_is_json(message: str, detail: dict[str, object]) -> None:
    error = AgentRLError("a.b", message, detail)
    assert json.loads(json.dumps(error.to_json())) == {"code": "a.b", "message": message, "detail": detail}


def test_detail_is_a_copy() -> None:
    given_detail = {"a": 1}
    error = ConfigError("c", "m", given_detail)
    given_detail["a"] = 2
    assert error.detail == {"a": 1}
    assert ConfigError("c", "m").detail == {}


def test_a_foreign_error_is_classified_and_chained() -> None:
    cause = ValueError("bad seed")
    with pytest.raises(EnvError) as caught, boundary(EnvError, "env.start", "starting t1", task_id="t1"):
        raise cause
    assert caught.value.code == "env.start"
    assert caught.value.message == "starting t1 failed: ValueError: bad seed"
    assert caught.value.detail == {"task_id": "t1", "cause": "ValueError: bad seed"}
    assert caught.value.__cause__ is cause
    assert "bad seed" in "".join(traceback.format_exception(caught.value))


def test_an_error_without_a_message_is_still_named() -> None:
    with pytest.raises(EnvError, match=r"x failed: AssertionError \[e\]"), boundary(EnvError, "e", "x"):
        raise AssertionError


@pytest.mark.parametrize("kind", [TimeoutError, asyncio.TimeoutError])
def test_a_time_out_has_its_own_code(kind: type[Exception]) -> None:
    with pytest.raises(EnvError) as caught, boundary(EnvError, "env.step", "stepping", task_id="t"):
        raise kind
    assert (caught.value.code, caught.value.message) == ("env.step_timeout", "stepping timed out")
    assert caught.value.detail == {"task_id": "t"}


@pytest.mark.parametrize(
    "passing",
    [
        StoreError("store.full", "full"),
        EnvError("env.other", "other"),
        ToolError("two arguments, please"),
        asyncio.CancelledError(),
        KeyboardInterrupt(),
        SystemExit(3),
    ],
    ids=lambda error: type(error).__name__,
)
def test_our_errors_tool_errors_and_cancellation_pass_unchanged(passing: BaseException) -> None:
    with pytest.raises(type(passing)) as caught, boundary(EnvError, "env.step", "stepping"):
        raise passing
    assert caught.value is passing
    assert caught.value.__cause__ is None


async def test_a_real_time_out_and_a_real_cancellation_are_told_apart() -> None:
    with pytest.raises(EnvError, match="timed out"), boundary(EnvError, "env.step", "stepping"):
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)

    async def wait() -> None:
        with boundary(EnvError, "env.step", "stepping"):
            await asyncio.sleep(60)

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_nothing_happens_when_nothing_happens() -> None:
    with boundary(EnvError, "env.step", "stepping"):
        done = True
    assert done

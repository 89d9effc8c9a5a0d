"""The frames between a service and its clients, as plain JSON, and how our nouns travel in them.

OpenEnv's messages are `{"type": "reset|step|state|close|mcp", "data": {...}}`, one session for a socket. Ours
are a superset: `{"type": "batch", "items": [...]}` carries many messages, each naming its session, answered
in any order. An answer has the `request_id` and the `tag` of its message: the first names the request, which
is done once however often it is sent, the second only tells the sender which answer is whose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import orjson

from agentrl.errors import EnvError
from agentrl.types import Message, Observation, Role, Step, Task, ToolCall

__all__ = [
    "MAX_BATCH",
    "MAX_BODY_BYTES",
    "as_list",
    "as_object",
    "decode",
    "encode",
    "message_from_json",
    "message_to_json",
    "observation_from_json",
    "observation_to_json",
    "step_from_json",
    "step_to_json",
    "task_from_json",
    "task_to_json",
]


MAX_BATCH = 4096
"""How many messages a batch may hold."""
MAX_BODY_BYTES = 1 << 20
"""How long a frame may be, where the service says nothing else."""


def encode(frame: Mapping[str, Any]) -> bytes:
    """Return the frame as JSON.

    Raises:
        EnvError: it holds something that JSON cannot carry (the environment's fault).
    """
    try:
        return orjson.dumps(frame, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:
        raise EnvError("env.not_json", f"cannot send what the environment showed: {error}") from error


def decode(raw: str | bytes) -> Any:
    """Return the JSON value.

    Raises:
        ValueError: it is not JSON; half characters, NaN and nesting beyond 1,024 levels are not.
    """
    return orjson.loads(raw)


def as_object(value: Any) -> Mapping[str, Any] | None:
    """Return the value where it is a JSON object, None where it is anything else."""
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else None


def as_list(value: Any) -> list[Any] | None:
    """Return the value where it is a JSON array, None where it is anything else."""
    return cast("list[Any]", value) if isinstance(value, list) else None


def task_to_json(task: Task) -> dict[str, Any]:
    """Return a task as a service lists it."""
    return {
        "task_id": task.task_id,
        "env": task.env,
        "kind": task.kind,
        "split": task.split,
        "seed": task.seed,
        "data": dict(task.data),
    }


def task_from_json(value: Mapping[str, Any]) -> Task:
    """Return the task.

    Raises:
        KeyError, TypeError: it is not one.
    """
    return Task(
        task_id=_text(value["task_id"]),
        env=_text(value["env"]),
        kind=_text(value.get("kind", "")),
        split=_text(value.get("split", "train")),
        seed=_whole(value.get("seed", 0)),
        data=dict(value.get("data") or {}),
    )


def message_to_json(message: Message) -> dict[str, Any]:
    """Return a message; what is absent is left out."""
    out: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        out["tool_calls"] = [
            {"call_id": c.call_id, "name": c.name, "arguments": c.arguments, "error": c.error}
            for c in message.tool_calls
        ]
    if message.tool_call_id is not None:
        out["tool_call_id"] = message.tool_call_id
    return out


def message_from_json(value: Mapping[str, Any]) -> Message:
    """Return the message.

    Raises:
        KeyError, TypeError: it is not one.
    """
    role: Role = value["role"]
    if role not in ("system", "user", "assistant", "tool"):
        raise TypeError(f"role must be system, user, assistant or tool, got {role!r}")
    calls = tuple(
        ToolCall(
            call_id=_text(call["call_id"]),
            name=_text(call["name"]),
            arguments=None if call.get("arguments") is None else dict(call["arguments"]),
            error=None if call.get("error") is None else _text(call["error"]),
        )
        for call in value.get("tool_calls", ())
    )
    answered = value.get("tool_call_id")
    return Message(role, _text(value["content"]), calls, None if answered is None else _text(answered))


def observation_to_json(shown: Observation) -> dict[str, Any]:
    """Return an observation with everything that credit and logs need of it."""
    out: dict[str, Any] = {
        "messages": [message_to_json(message) for message in shown.messages],
        "state_key": shown.state_key,
    }
    if shown.fresh_context:
        out["fresh_context"] = True
    if shown.info:
        out["info"] = dict(shown.info)
    return out


def observation_from_json(value: Mapping[str, Any]) -> Observation:
    """Return the observation.

    Raises:
        KeyError, TypeError: it is not one.
    """
    messages: Sequence[Mapping[str, Any]] = value["messages"]
    return Observation(
        tuple(message_from_json(message) for message in messages),
        value.get("state_key"),
        fresh_context=bool(value.get("fresh_context", False)),
        info=dict(value.get("info") or {}),
    )


def step_to_json(step: Step) -> dict[str, Any]:
    """Return what a reply caused."""
    return {
        "observation": None if step.observation is None else observation_to_json(step.observation),
        "reward": step.reward,
        "terminated": step.terminated,
        "action_valid": step.action_valid,
        "tool_calls": step.tool_calls,
        "correct": step.correct,
        "format_ok": step.format_ok,
        "info": dict(step.info),
    }


def step_from_json(value: Mapping[str, Any]) -> Step:
    """Return the step.

    Raises:
        KeyError, TypeError: it is not one.
    """
    shown = value["observation"]
    return Step(
        observation=None if shown is None else observation_from_json(shown),
        reward=float(value["reward"]),
        terminated=bool(value["terminated"]),
        action_valid=bool(value["action_valid"]),
        tool_calls=int(value["tool_calls"]),
        correct=value["correct"],
        format_ok=value["format_ok"],
        info=dict(value["info"]),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {type(value).__name__}")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"expected a whole number, got {type(value).__name__}")
    return value

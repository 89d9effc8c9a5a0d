"""One episode as one JSON object: the record that files, exports and foreign tools share.

    {"episode_id", "group_id", ..., "return", "truncated", "turns": [{"index", "reward", ...}, ...]}

Only `episode_id`, `group_id` and `turns` are required, so that data from elsewhere loads; null means
absent; keys that we do not know are kept in `extra` and written back where they stood. Two keys follow
from others and are always written: `return` (kept apart from the rewards only where it differs from
their sum) and `truncated` (a limit's `stop_reason`). A record holds no tokens where none were kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from agentrl.errors import AlignmentError, ConfigError
from agentrl.store.files import replacing
from agentrl.types import Episode, StopReason, Turn

__all__ = ["episode_from_record", "episode_to_record", "read_jsonl", "record_line", "write_jsonl"]

TURN_KEYS = (
    "index",
    "state_key",
    "reward",
    "action_valid",
    "tool_calls",
    "tool_call_at",
    "num_tokens",
    "gold_logprob",
    "policy_version",
    "observation",
    "reply",
    "fresh_context",
)
TOKEN_KEYS = ("prompt_ids", "token_ids", "sampled", "logprobs", "entropies")
EPISODE_KEYS = (
    "episode_id",
    "group_id",
    "task_id",
    "env",
    "env_version",
    "seed",
    "batch",
    "config_hash",
    "correct",
    "format_ok",
    "error",
    "parent_episode_id",
    "branch_turn",
)


def episode_from_record(record: Mapping[str, Any]) -> Episode:
    """Return the episode that a record describes.

    `stop_reason` may be missing: it is then "error" where `error` is set, "max_turns" where `truncated`
    is true, else "terminated". A missing `task_id` is the group's id, a missing turn `index` its place.

    Raises:
        ConfigError: a key is missing, of the wrong type, or contradicts another (the file's author).
    """
    try:
        parsed = _EpisodeRecord.model_validate(record)
    except ValidationError as error:
        raise ConfigError(
            "record.invalid",
            f"episode record {_name(record)}: {_first_problem(error)}",
            {"keys": sorted(record)},
        ) from None
    turns = tuple(_turn(position, turn) for position, turn in enumerate(parsed.turns))
    indices = [turn.index for turn in turns]
    if any(later <= earlier for earlier, later in pairwise(indices)):
        raise _invalid(record, f"turns: 'index' must increase from turn to turn, got {indices}")
    stop_reason = _stop_reason(parsed)
    if parsed.truncated is not None and parsed.truncated != stop_reason.truncated:
        raise _invalid(
            record,
            f"'truncated' is {parsed.truncated} but 'stop_reason' is {stop_reason.value!r}; "
            "leave one of them out",
        )
    episode_return = parsed.episode_return
    if episode_return is not None and episode_return == sum(turn.reward for turn in turns):
        episode_return = None
    return Episode(
        episode_id=parsed.episode_id,
        group_id=parsed.group_id,
        task_id=parsed.group_id if parsed.task_id is None else parsed.task_id,
        env=parsed.env,
        seed=parsed.seed,
        turns=turns,
        stop_reason=stop_reason,
        batch=parsed.batch,
        env_version=parsed.env_version,
        config_hash=parsed.config_hash,
        correct=parsed.correct,
        format_ok=parsed.format_ok,
        error=parsed.error,
        episode_return=episode_return,
        parent_episode_id=parsed.parent_episode_id,
        branch_turn=parsed.branch_turn,
        metadata=parsed.metadata,
        extra=parsed.model_extra or {},
    )


def episode_to_record(episode: Episode) -> dict[str, Any]:
    """Return the record of an episode: plain JSON types, keys in a fixed order.

    Raises:
        AlignmentError: an `extra` key would overwrite one of ours (our bug).
    """
    record: dict[str, Any] = {key: getattr(episode, key) for key in EPISODE_KEYS}
    record["return"] = episode.ret
    record["stop_reason"] = episode.stop_reason.value
    record["truncated"] = episode.truncated
    record["metadata"] = episode.metadata
    record["turns"] = [_turn_record(episode, turn) for turn in episode.turns]
    return _with_extra(record, episode.extra, episode.episode_id)


def record_line(episode: Episode) -> bytes:
    """Return the record of an episode as one line of UTF-8 JSON, line feed included.

    Raises:
        AlignmentError: the episode holds something that JSON has no word for (NaN, bytes ...).
    """
    record = episode_to_record(episode)
    try:
        return f"{json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(',', ':'))}\n".encode()
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8, yet JSON can escape it
        return f"{json.dumps(record, allow_nan=False, separators=(',', ':'))}\n".encode()
    except (TypeError, ValueError) as error:
        raise AlignmentError(
            "record.not_json",
            f"episode {episode.episode_id!r} cannot be written as JSON: {error}",
            {"episode_id": episode.episode_id},
        ) from error


def read_jsonl(path: str | Path) -> Iterator[Episode]:
    """Yield the episodes of a file, one JSON object a line, without ever holding the file in memory.

    Raises:
        ConfigError: no such file, or a line is not an episode record; names file and line.
    """
    path = Path(path)
    try:
        lines = path.open("rb")
    except OSError as error:
        raise ConfigError(
            "record.file", f"cannot read episodes from {path}: {error.strerror}", {"path": str(path)}
        ) from error
    with lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield episode_from_record(_parse(line))
            except ConfigError as error:
                where = {"path": str(path), "line": number}
                raise ConfigError(
                    error.code, f"{path}:{number}: {error.message}", {**error.detail, **where}
                ) from error


def write_jsonl(path: str | Path, episodes: Iterable[Episode]) -> int:
    """Write one record a line, the whole file or nothing, and return how many were written.

    Raises:
        StoreError: the file cannot be written (the operator's); AlignmentError: as `record_line`.
    """
    count = 0
    with replacing(Path(path)) as draft, draft.open("wb") as out:
        for episode in episodes:
            out.write(record_line(episode))
            count += 1
    return count


def _error_mapping(value: Any) -> Any:
    """Accept the bare message that foreign records have where ours have code, message and detail."""
    if isinstance(value, str):
        return {"code": "unknown", "message": value, "detail": {}} if value else None
    return value


class _Record(BaseModel):
    """What both levels share: unknown keys kept, null is absent, ids may be numbers, NaN is refused."""

    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        given = cast("Mapping[str, Any]", data)
        known = cls.model_fields.keys() | {"return"}
        return {key: value for key, value in given.items() if value is not None or key not in known}


class _TurnRecord(_Record):
    index: int | None = None
    state_key: Any = None
    reward: float = 0.0
    action_valid: bool = True
    tool_calls: Annotated[int, Field(ge=0)] = 0
    tool_call_at: Annotated[int, Field(ge=0)] | None = None
    num_tokens: Annotated[int, Field(ge=0)] | None = None
    gold_logprob: float | None = None
    policy_version: int | None = None
    observation: str | None = None
    reply: str | None = None
    fresh_context: bool = False
    prompt_ids: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    sampled: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    entropies: tuple[float, ...] | None = None


class _EpisodeRecord(_Record):
    episode_id: str
    group_id: str
    turns: list[_TurnRecord]
    task_id: str | None = None
    env: str = ""
    env_version: str = ""
    seed: int = 0
    batch: int = 0
    config_hash: str = ""
    episode_return: Annotated[
        float | None, Field(validation_alias=AliasChoices("return", "episode_return"))
    ] = None
    correct: bool | None = None
    format_ok: bool | None = None
    truncated: bool | None = None
    stop_reason: StopReason | None = None
    error: Annotated[dict[str, Any] | None, BeforeValidator(_error_mapping)] = None
    parent_episode_id: str | None = None
    branch_turn: int | None = None
    metadata: Annotated[dict[str, Any], Field(default_factory=dict)]


def _turn(position: int, parsed: _TurnRecord) -> Turn:
    known: dict[str, Any] = {key: getattr(parsed, key) for key in (*TURN_KEYS, *TOKEN_KEYS)}
    if parsed.index is None:
        known["index"] = position
    return Turn(**known, extra=parsed.model_extra or {})


def _turn_record(episode: Episode, turn: Turn) -> dict[str, Any]:
    record: dict[str, Any] = {key: getattr(turn, key) for key in TURN_KEYS}
    for key in TOKEN_KEYS:
        tokens = getattr(turn, key)
        if tokens is not None:
            record[key] = list(tokens)
    return _with_extra(record, turn.extra, f"{episode.episode_id} turn {turn.index}")


def _with_extra(record: dict[str, Any], extra: Mapping[str, Any], where: str) -> dict[str, Any]:
    clash = sorted(record.keys() & extra.keys())
    if clash:
        raise AlignmentError(
            "record.extra_key",
            f"{where}: extra {clash} has the name of a key of the record; put it under another name",
            {"keys": clash},
        )
    return record | dict(extra)


def _stop_reason(parsed: _EpisodeRecord) -> StopReason:
    if parsed.stop_reason is not None:
        return parsed.stop_reason
    if parsed.error is not None:
        return StopReason.ERROR
    return StopReason.MAX_TURNS if parsed.truncated else StopReason.TERMINATED


def _parse(line: bytes) -> Mapping[str, Any]:
    try:
        parsed: Any = json.loads(line.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ConfigError("record.json", f"expected one JSON object (an episode record): {error}") from None
    if not isinstance(parsed, dict):
        raise ConfigError(
            "record.json", f"expected a JSON object (an episode record), got {type(parsed).__name__}"
        )
    return cast("Mapping[str, Any]", parsed)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON; leave the key out or write null")


def _first_problem(error: ValidationError) -> str:
    problems = error.errors(include_url=False)
    first = problems[0]
    place = ".".join(str(part) for part in first["loc"]) or "the record"
    got = "" if first["type"] == "missing" else f" (got {str(first['input'])[:80]!r})"
    more = f"; {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"{place}: {first['msg']}{got}{more}"


def _name(record: Mapping[str, Any]) -> str:
    return repr(record.get("episode_id", "without an id"))


def _invalid(record: Mapping[str, Any], problem: str) -> ConfigError:
    return ConfigError(
        "record.invalid", f"episode record {_name(record)}: {problem}", {"keys": sorted(record)}
    )

"""The nouns: what a task, an episode and a turn are, in the order in which data flows.

    Task -> Episode -> Turn* -> token spans

Frozen data with no behaviour beyond what follows from the fields. Everything that crosses a file,
a socket or a table is converted at that edge; these classes know nothing of it. `None` always means
absent: an episode whose correctness nobody judged has `correct=None`, not `False`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

__all__ = [
    "JSON",
    "Episode",
    "Message",
    "Observation",
    "Step",
    "StopReason",
    "Task",
    "ToolCall",
    "Turn",
]

Role = Literal["system", "user", "assistant", "tool"]
JSON = None | bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"]


def _no_data() -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class Task:
    """One problem that an environment can pose, the same for every episode that tries it.

    `kind` is the label that reports break success down by (a task type, a data source). `data` is plain
    JSON and belongs to the environment: the policy never sees it.
    """

    task_id: str
    env: str
    kind: str = ""
    split: str = "train"
    seed: int = 0
    data: Mapping[str, Any] = field(default_factory=_no_data)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model wrote. `arguments` is None when its JSON could not be parsed."""

    call_id: str
    name: str
    arguments: Mapping[str, Any] | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message, in OpenAI's terms."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """What the environment shows before a turn.

    `messages` are appended to the context; when `fresh_context` is set they replace it (rounds of a
    Markov workspace). `state_key` says which state this is, as any JSON: turns of one group with equal
    keys are compared with each other by step-level credit. `info` is for logs and never shown.
    """

    messages: tuple[Message, ...]
    state_key: JSON = None
    fresh_context: bool = False
    info: Mapping[str, Any] = field(default_factory=_no_data)


@dataclass(frozen=True, slots=True)
class Step:
    """What one reply caused.

    `terminated` means that the environment reached an end of its own; running out of turns, tokens or
    time is the rollout's business and shows in `Episode.stop_reason`. `observation` is None at the end.
    """

    observation: Observation | None
    reward: float = 0.0
    terminated: bool = False
    action_valid: bool = True
    tool_calls: int = 0
    correct: bool | None = None
    format_ok: bool | None = None
    info: Mapping[str, Any] = field(default_factory=_no_data)


class StopReason(StrEnum):
    """Why an episode ended."""

    TERMINATED = "terminated"  # the environment ended it (won, lost, answered)
    MAX_TURNS = "max_turns"
    MAX_TOKENS = "max_tokens"  # the context is full
    TIMEOUT = "timeout"  # the episode's seconds are used up
    ERROR = "error"  # `Episode.error` says which

    @property
    def truncated(self) -> bool:
        """Whether the episode was cut off rather than ended."""
        return self in (StopReason.MAX_TURNS, StopReason.MAX_TOKENS, StopReason.TIMEOUT)


@dataclass(frozen=True, slots=True)
class Turn:
    """One policy call and what it caused.

    Token spans: `prompt_ids` are the tokens that were added to the context before this reply (the whole
    context when `fresh_context`), `token_ids` the reply. Concatenating `prompt_ids + token_ids` over the
    turns of one context gives exactly what the model saw. `sampled[j]` is 1 where the policy itself
    chose `token_ids[j]`, 0 where it was forced; `logprobs` and `entropies` (nats) hold one value for
    each sampled token, in order. Token fields are None when an episode was stored without them.
    """

    index: int
    reward: float = 0.0
    state_key: JSON = None
    action_valid: bool = True
    tool_calls: int = 0
    tool_call_at: int | None = None
    num_tokens: int | None = None
    policy_version: int | None = None
    gold_logprob: float | None = None
    observation: str | None = None
    reply: str | None = None
    fresh_context: bool = False
    prompt_ids: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    sampled: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    entropies: tuple[float, ...] | None = None
    extra: Mapping[str, Any] = field(default_factory=_no_data)

    @property
    def trainable_tokens(self) -> int:
        """Number of sampled tokens (falls back to `num_tokens`, then to 1, for token-less records)."""
        if self.sampled is not None:
            return sum(self.sampled)
        return 1 if self.num_tokens is None else self.num_tokens


@dataclass(frozen=True, slots=True)
class Episode:
    """One attempt at one task, complete or failed.

    Episodes with the same `group_id` tried the same task under the same policy and are compared with
    each other. `error` is `{"code", "message", "detail"}`; such an episode is stored, counted and left
    out of its group's credit. `episode_return` overrides the sum of turn rewards where a record has one.
    """

    episode_id: str
    group_id: str
    task_id: str
    env: str
    seed: int
    turns: tuple[Turn, ...]
    stop_reason: StopReason
    batch: int = 0
    env_version: str = ""
    config_hash: str = ""
    correct: bool | None = None
    format_ok: bool | None = None
    error: Mapping[str, Any] | None = None
    episode_return: float | None = None
    parent_episode_id: str | None = None
    branch_turn: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=_no_data)
    extra: Mapping[str, Any] = field(default_factory=_no_data)

    @property
    def ret(self) -> float:
        """The return R = sum_t r_t, or the recorded one."""
        if self.episode_return is not None:
            return self.episode_return
        return sum(turn.reward for turn in self.turns)

    @property
    def truncated(self) -> bool:
        """Whether a limit of the rollout cut the episode off."""
        return self.stop_reason.truncated

    @property
    def policy_versions(self) -> tuple[int, ...]:
        """The distinct policy versions that played, ascending."""
        return tuple(sorted({t.policy_version for t in self.turns if t.policy_version is not None}))

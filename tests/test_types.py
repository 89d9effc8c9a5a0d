"""The nouns: what follows from their fields, and that their fields stay."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, is_dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl import types
from agentrl.types import Episode, Message, Observation, Step, StopReason, Task, ToolCall, Turn

FIELDS = {
    Task: "task_id env kind split seed data",
    ToolCall: "call_id name arguments error",
    Message: "role content tool_calls tool_call_id",
    Observation: "messages state_key fresh_context info",
    Step: "observation reward terminated action_valid tool_calls correct format_ok info",
    Turn: "index reward state_key action_valid tool_calls tool_call_at num_tokens policy_version "
    "gold_logprob observation reply fresh_context prompt_ids token_ids sampled logprobs entropies extra",
    Episode: "episode_id group_id task_id env seed turns stop_reason batch env_version config_hash correct "
    "format_ok error episode_return parent_episode_id branch_turn metadata extra",
}


def episode(*turns: Turn, stop_reason: StopReason = StopReason.TERMINATED, **rest: object) -> Episode:
    return Episode("e", "g", "t", "env", 0, turns, stop_reason, **rest)  # type: ignore[arg-type]


@pytest.mark.parametrize("noun", FIELDS, ids=lambda noun: noun.__name__)
def test_the_fields_stay_as_they_are(noun: type) -> None:
    """Stores, clients and stored files know these names: adding is fine here, renaming never."""
    assert is_dataclass(noun)
    assert " ".join(field.name for field in fields(noun)) == FIELDS[noun]


def test_the_public_names_stay_as_they_are() -> None:
    assert set(types.__all__) == {*(noun.__name__ for noun in FIELDS), "JSON", "StopReason"}
    assert [str(reason) for reason in StopReason] == [
        "terminated", "max_turns", "max_tokens", "timeout", "error"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "value",
    [Task("t", "e"), Message("user", "x"), Turn(0), episode()],
    ids=lambda value: type(value).__name__,
)
def test_the_nouns_are_frozen_and_hold_no_other_attributes(value: object) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(value, fields(value)[0].name, "other")  # type: ignore[arg-type]
    assert not hasattr(value, "__dict__")


def test_defaults_are_not_shared() -> None:
    assert Task("a", "e").data is not Task("b", "e").data


def test_cut_off_is_not_ended() -> None:
    truncated = {reason for reason in StopReason if episode(stop_reason=reason).truncated}
    assert truncated == {StopReason.MAX_TURNS, StopReason.MAX_TOKENS, StopReason.TIMEOUT}


@given(st.lists(st.floats(-10, 10), max_size=8))
def test_the_return_is_the_sum_of_rewards(rewards: list[float]) -> None:
    played = episode(*(Turn(i, reward=r) for i, r in enumerate(rewards)))
    assert played.ret == sum(rewards)


def test_a_recorded_return_wins_even_when_it_is_zero() -> None:
    assert episode(Turn(0, reward=1.0), episode_return=0.0).ret == 0.0


def test_policy_versions_are_distinct_and_ascending() -> None:
    turns = [Turn(0, policy_version=5), Turn(1), Turn(2, policy_version=3), Turn(3, policy_version=5)]
    assert episode(*turns).policy_versions == (3, 5)


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        (Turn(0, sampled=(1, 0, 1), num_tokens=9), 2),
        (Turn(0, sampled=(), num_tokens=9), 0),
        (Turn(0, num_tokens=9), 9),
        (Turn(0, num_tokens=0), 0),
        (Turn(0), 1),
    ],
)
def test_trainable_tokens_fall_back_for_records_without_tokens(turn: Turn, expected: int) -> None:
    assert turn.trainable_tokens == expected


def test_absent_is_not_false() -> None:
    assert episode().correct is None
    assert Turn(0).gold_logprob is None
    assert Turn(0).prompt_ids is None

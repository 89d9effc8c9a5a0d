"""What an episode must satisfy before it is stored: the invariants that a row can break.

Spans, masks and log-probs that disagree are our bug and stop the program here, where the episode and the
turn can still be named; later they would be a wrong gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from agentrl.errors import AlignmentError, StoreError
from agentrl.types import Episode, Turn

__all__ = ["check_episode", "check_provenance"]

_INT64 = 2**63


def check_episode(episode: Episode) -> None:
    """Refuse an episode whose turns cannot be trained on as recorded.

    Raises:
        AlignmentError: a mask does not fit its tokens, there is not one log-prob and entropy for each
            sampled token, turn indices do not increase, or a number is not finite.
        StoreError: an id is empty or holds NUL, which PostgreSQL cannot store.
    """
    for name in ("episode_id", "group_id", "task_id", "env", "env_version", "config_hash"):
        value = getattr(episode, name)
        if "\0" in value or (not value and name in ("episode_id", "group_id")):
            raise StoreError(
                "store.id",
                f"cannot store episode {episode.episode_id!r}: {name} is {value!r}; "
                "an id is a text that is not empty and holds no NUL",
                {"episode_id": episode.episode_id, "field": name},
            )
    previous = -1
    for turn in episode.turns:
        if not previous < turn.index < 2**31:
            raise _misaligned(
                episode, turn, f"index must increase from turn to turn, the last was {previous}"
            )
        previous = turn.index
        _check_turn(episode, turn)
    _require_finite(episode, None, "the return", [episode.ret])


def check_provenance(episode: Episode) -> None:
    """Refuse an episode of a configured run that does not say where it came from.

    A failed episode may lack what its failure kept from being known.

    Raises:
        StoreError: no task, environment, version or configuration hash, or a turn without policy version.
    """
    missing = [
        name for name in ("task_id", "env", "env_version", "config_hash") if not getattr(episode, name)
    ]
    if episode.error is not None:
        missing = [name for name in missing if name != "env_version"]
    missing += [
        f"turns[{turn.index}].policy_version" for turn in episode.turns if turn.policy_version is None
    ]
    if missing:
        raise StoreError(
            "store.provenance",
            f"cannot store episode {episode.episode_id!r}: {', '.join(missing[:4])} not set; "
            "an episode of a run that has a configuration must say what made it",
            {"episode_id": episode.episode_id, "missing": missing},
        )


def _check_turn(episode: Episode, turn: Turn) -> None:
    _require_finite(episode, turn, "reward", [turn.reward])
    if turn.gold_logprob is not None:
        _require_finite(episode, turn, "gold_logprob", [turn.gold_logprob])
    if turn.policy_version is not None and abs(turn.policy_version) >= _INT64:
        raise _misaligned(episode, turn, f"policy_version {turn.policy_version} does not fit 64 bits")
    if turn.sampled is not None:
        length = None if turn.token_ids is None else len(turn.token_ids)
        if length != len(turn.sampled):
            raise _misaligned(episode, turn, f"{len(turn.sampled)} sampled marks for {length} tokens")
        if not set(turn.sampled) <= {0, 1}:
            raise _misaligned(episode, turn, "sampled holds something other than 0 and 1")
    for name, values in (("logprobs", turn.logprobs), ("entropies", turn.entropies)):
        if values is None:
            continue
        count = None if turn.sampled is None else sum(turn.sampled)
        if count != len(values):
            raise _misaligned(episode, turn, f"{len(values)} {name} for {count} sampled tokens")
        _require_finite(episode, turn, name, values)


def _require_finite(episode: Episode, turn: Turn | None, name: str, values: Sequence[float]) -> None:
    if not all(map(math.isfinite, values)):
        bad = next(value for value in values if not math.isfinite(value))
        raise _misaligned(episode, turn, f"{name} holds {bad}, which is not a finite number")


def _misaligned(episode: Episode, turn: Turn | None, problem: str) -> AlignmentError:
    place = "" if turn is None else f" turn {turn.index}"
    return AlignmentError(
        "store.misaligned",
        f"episode {episode.episode_id!r}{place}: {problem}; it was not stored",
        {"episode_id": episode.episode_id, "turn": None if turn is None else turn.index},
    )

"""Build episodes for the credit tests."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentrl.types import Episode, StopReason, Turn

GOLDEN = Path(__file__).parents[1] / "golden" / "credit"


def turn(index: int, reward: float = 0.0, state: Any = "s", valid: bool = True, tokens: int = 1) -> Turn:
    return Turn(index, reward=reward, state_key=state, action_valid=valid, num_tokens=tokens)


def episode(
    name: str,
    group: str,
    turns: Sequence[Turn],
    *,
    ret: float | None = None,
    failed: bool = False,
    **rest: Any,
) -> Episode:
    return Episode(
        episode_id=name,
        group_id=group,
        task_id=group,
        env="test",
        seed=0,
        turns=tuple(turns),
        stop_reason=StopReason.ERROR if failed else StopReason.TERMINATED,
        episode_return=ret,
        error={"code": "env.broken", "message": "broken", "detail": {}} if failed else None,
        **rest,
    )


def simple(rewards: Mapping[str, Sequence[Sequence[float]]], states: str = "unique") -> list[Episode]:
    """One episode per reward list, {group: [[r, r, ...], ...]}; states differ unless `states` is "same"."""
    made: list[Episode] = []
    for group, episodes in rewards.items():
        for i, paid in enumerate(episodes):
            made.append(
                episode(
                    f"{group}-{i}",
                    group,
                    [turn(k, r, f"{i}/{k}" if states == "unique" else "here") for k, r in enumerate(paid)],
                )
            )
    return made


def complete(episodes: Sequence[Episode]) -> list[Episode]:
    """Add, as a function of what an episode is, everything that any method may need of it."""
    return [_completed(episode) for episode in episodes]


def _completed(given: Episode) -> Episode:
    turns: list[Turn] = []
    for place, each in enumerate(given.turns):
        wave = [math.sin(13 * place + 7 * j + len(given.turns)) for j in range(each.trainable_tokens)]
        surprises = tuple(-0.1 - abs(x) for x in wave)
        extra = {"values": [x / 3 for x in wave], "value": 0.1 * place, "sum_pi_squared": [0.5 for _ in wave]}
        turns.append(
            replace(
                each,
                gold_logprob=-2.0 + 0.3 * place * given.ret,
                tool_calls=place % 2,
                logprobs=surprises,
                entropies=tuple(-x for x in surprises),
                extra=extra,
            )
        )
    facts = {
        "matched_entities": len(turns),
        "total_entities": 5,
        "mode": "instant" if len(turns) < 2 else "agentic",
        "forced": len(turns) < 3,
        "budget": 2 if len(turns) < 3 else 4,
        "first_error_index": -1 if len(turns) < 3 else 1,
    }
    return replace(given, turns=tuple(turns), correct=given.ret > 0.4, format_ok=True, metadata=facts)


def golden_cases(pattern: str) -> Iterator[dict[str, Any]]:
    for path in sorted(GOLDEN.glob(pattern)):
        yield json.loads(path.read_text())


def golden_episodes(case: Mapping[str, Any]) -> list[Episode]:
    return [
        episode(
            str(e["episode_id"]),
            e["group_id"],
            [
                turn(k, t["reward"], t["state_key"], t["action_valid"], t["num_tokens"])
                for k, t in enumerate(e["turns"])
            ],
            ret=e["episode_return"],
        )
        for e in case["inputs"]["episodes"]
    ]

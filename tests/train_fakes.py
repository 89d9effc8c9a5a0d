"""Episodes made of random tokens, for the training tests."""

from __future__ import annotations

import random

from agentrl.types import Episode, StopReason, Turn

__all__ = ["VOCAB", "episode"]

VOCAB = 100


def episode(seed: int, turns: int = 3, fresh: tuple[int, ...] = ()) -> Episode:
    """An episode of random tokens, some of them forced, with made-up log-probs."""
    rng = random.Random(seed)
    played: list[Turn] = []
    for index in range(turns):
        reply = tuple(rng.randrange(VOCAB) for _ in range(rng.randint(2, 6)))
        sampled = tuple(int(rng.random() < 0.8) for _ in reply)
        played.append(
            Turn(
                index=index,
                fresh_context=index in fresh,
                prompt_ids=tuple(rng.randrange(VOCAB) for _ in range(rng.randint(1, 8))),
                token_ids=reply,
                sampled=sampled,
                logprobs=tuple(-rng.random() * 5 for _ in range(sum(sampled))),
            )
        )
    return Episode(f"e{seed}", "g", "t", "env", seed, tuple(played), StopReason.TERMINATED)

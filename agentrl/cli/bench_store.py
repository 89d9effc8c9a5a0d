"""Measure the trajectory store against JSONL files of the same episodes, side by side in one process.

The episodes are made up, to the shape of household games played by a chat model: groups of eight, fifteen
turns, a long first prompt that a group shares, observations that recur, replies of some eighty tokens
from a vocabulary of 151,000 with float32 log-probs and entropies. Sizes are what lies on the disk once
the store is closed, its indexes included.
"""

from __future__ import annotations

import gzip
import random
import shutil
import struct
import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar

from agentrl.store.db import Store
from agentrl.store.record import read_jsonl, write_jsonl
from agentrl.types import Episode, StopReason, Turn

__all__ = ["rows"]

_T = TypeVar("_T")

GROUPS: Final = 16
GROUP_SIZE: Final = 8
TURNS: Final = 15
REPLY_TOKENS: Final = 80
WORDS: Final = 3000


def rows(groups: int = GROUPS) -> list[dict[str, Any]]:
    """Return the measurements: one transaction per group, as training writes them."""
    episodes = made_up_episodes(groups)
    turns = sum(len(episode.turns) for episode in episodes)
    with TemporaryDirectory() as folder:
        plain, packed = Path(folder, "episodes.jsonl"), Path(folder, "episodes.jsonl.gz")
        database = Path(folder, "store.db")
        _, jsonl_write_s = _timed(lambda: write_jsonl(plain, episodes))
        back, jsonl_read_s = _timed(lambda: list(read_jsonl(plain)))
        _check(back, episodes)
        with plain.open("rb") as source, gzip.open(packed, "wb", compresslevel=6) as target:
            shutil.copyfileobj(source, target)
        with Store.open(f"sqlite:///{database}") as store:
            run_id = store.add_run(name="bench", env="made-up", config={})
            _, store_write_s = _timed(lambda: _add_by_group(store, run_id, episodes))
        with Store.open(f"sqlite:///{database}") as store:
            back, store_read_s = _timed(lambda: list(store.episodes(run_id)))
            _check(back, episodes)
            _, summaries_s = _timed(lambda: list(store.summaries(run_id)))
        stored, plain_size, packed_size = (path.stat().st_size for path in (database, plain, packed))
    count = len(episodes)
    return [
        _rate("episodes written", count, store_write_s, "JSONL, no fsync per group", jsonl_write_s),
        _rate("turns written", turns, store_write_s, "JSONL, no fsync per group", jsonl_write_s),
        _rate("episodes read", count, store_read_s, "JSONL", jsonl_read_s),
        _rate("turns read", turns, store_read_s, "JSONL", jsonl_read_s),
        _rate("episode summaries read", count, summaries_s, "JSONL", jsonl_read_s),
        _row("size of a turn", stored / turns, "byte", "JSONL", plain_size / turns),
        _row("size of a turn", stored / turns, "byte", "JSONL, gzip -6", packed_size / turns),
    ]


def made_up_episodes(groups: int) -> list[Episode]:
    """Return groups of episodes, the same at every call."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnoprstuvw", k=rng.randint(2, 9))) for _ in range(WORDS)]
    ids = {word: rng.randrange(151_000) for word in words}
    frequency = list(accumulate(1 / rank for rank in range(1, WORDS + 1)))

    def say(length: int) -> list[str]:
        return rng.choices(words, cum_weights=frequency, k=length)

    system = say(400)
    episodes: list[Episode] = []
    for group in range(groups):
        task, observations = say(40), [say(25) for _ in range(30)]
        for member in range(GROUP_SIZE):
            turns: list[Turn] = []
            for index in range(TURNS):
                seen = rng.choice(observations) if index else task
                turns.append(_turn(rng, index, seen, say(REPLY_TOKENS), system, ids))
            episodes.append(
                Episode(
                    episode_id=f"bench-{group:04}-{member}",
                    group_id=f"bench-{group:04}",
                    task_id=f"game-{group}",
                    env="made-up",
                    seed=rng.getrandbits(63),
                    turns=tuple(turns),
                    stop_reason=StopReason.TERMINATED,
                    batch=group // 16,
                    correct=rng.random() < 0.5,
                )
            )
    return episodes


def _turn(
    rng: random.Random, index: int, seen: list[str], said: list[str], system: list[str], ids: dict[str, int]
) -> Turn:
    text = " ".join(seen)
    return Turn(
        index=index,
        reward=float(index == TURNS - 1),
        state_key=text,
        num_tokens=len(said),
        policy_version=7,
        observation=text,
        reply=" ".join(said),
        prompt_ids=tuple(ids[word] for word in (seen if index else system + seen)),
        token_ids=tuple(ids[word] for word in said),
        sampled=(1,) * len(said),
        logprobs=tuple(_float32(-rng.expovariate(3.0)) for _ in said),
        entropies=tuple(_float32(rng.expovariate(2.0)) for _ in said),
    )


def _float32(value: float) -> float:
    return struct.unpack("f", struct.pack("f", value))[0]


def _add_by_group(store: Store, run_id: str, episodes: Sequence[Episode]) -> None:
    for start in range(0, len(episodes), GROUP_SIZE):
        store.add_episodes(run_id, episodes[start : start + GROUP_SIZE], position=start)


def _timed(work: Callable[[], _T]) -> tuple[_T, float]:
    begun = time.perf_counter()
    result = work()
    return result, time.perf_counter() - begun


def _check(back: Sequence[Episode], episodes: Sequence[Episode]) -> None:
    if back != episodes:
        raise AssertionError("what was read is not what was written")


def _rate(what: str, count: int, seconds: float, baseline: str, baseline_s: float) -> dict[str, Any]:
    return _row(what, count / seconds, "1/s", baseline, count / baseline_s)


def _row(what: str, value: float, unit: str, baseline: str, baseline_value: float) -> dict[str, Any]:
    return {
        "what": what,
        "value": round(value, 1),
        "unit": unit,
        "baseline": baseline,
        "baseline_value": round(baseline_value, 1),
        "ratio": round(value / baseline_value, 3),
    }

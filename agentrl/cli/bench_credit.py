"""Speed of credit assignment, beside plain loops in the same run and the recorded official figures.

Seconds are processor time (one core): what else the machine is doing does not count.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from difflib import SequenceMatcher
from statistics import fmean, stdev
from time import process_time
from typing import Any

from agentrl.credit import Batch, build
from agentrl.credit.states import state_labels
from agentrl.types import Episode, StopReason, Turn

__all__ = ["rows"]

EPISODES_PER_TASK, STATES_PER_TASK, STATE_CHARACTERS = 8, 60, 600
GAMMA, EPSILON, THRESHOLD = 0.95, 1e-6, 0.9

OFFICIAL_S = {6_400: 1.96, 51_200: 104.1}
"""verl-agent on these shapes, one core: discounted returns + exact grouping + step and episode norms."""
OFFICIAL_SIMILARITY_S = 3.60
"""verl-agent, similarity grouping of 400 turns of one task into 39 clusters, one core."""


def rows() -> list[dict[str, Any]]:
    """Measure the default GiGPO and its similarity grouping; a ratio is baseline / ours."""
    return [*_same_run(), *_recorded(), *_similarity()]


def _same_run() -> list[dict[str, Any]]:
    gigpo = build({"preset": "gigpo"})
    episodes = make_episodes(tasks=4, turns=20)
    ours = _seconds(lambda: gigpo.run(episodes), repeats=5)
    loops = _seconds(lambda: plain_gigpo(episodes))
    return [_row("gigpo, 640 turns, from episodes", ours, "plain quadratic loops, same run", loops)]


def _recorded() -> list[dict[str, Any]]:
    gigpo = build({"preset": "gigpo"})
    measured: list[dict[str, Any]] = []
    per_turn_s = 0.0
    for tasks in (16, 128, 2_000):
        # New episodes for every repetition: Python keeps the hash of a text that it has hashed once.
        cold = min(_run_cold(tasks) for _ in range(3 if tasks <= 128 else 1))
        turns = tasks * EPISODES_PER_TASK * 50
        what = f"gigpo, {turns:,} turns, from episodes"
        if turns in OFFICIAL_S:
            measured.append(_row(what, cold, "verl-agent, recorded", OFFICIAL_S[turns]))
            per_turn_s = cold / turns
        else:
            measured.append(_row(what, cold, "51,200 turns, scaled linearly", per_turn_s * turns))
    batch = Batch(tuple(make_episodes(tasks=128, turns=50)))
    gigpo.run_batch(batch)
    warm = _seconds(lambda: gigpo.run_batch(batch), repeats=5)
    measured.append(
        _row("gigpo, 51,200 turns, columns ready", warm, "verl-agent, recorded", OFFICIAL_S[51_200])
    )
    return measured


def _similarity() -> list[dict[str, Any]]:
    batch = Batch(tuple(make_similar_episodes()))
    ours = _seconds(lambda: state_labels(batch, THRESHOLD))
    plain = _seconds(lambda: plain_clusters(batch))
    what = f"similarity grouping, one task, {batch.size_N} turns"
    return [
        _row(what, ours, "each text with each cluster, same run", plain),
        _row(what, ours, "verl-agent, recorded (other texts)", OFFICIAL_SIMILARITY_S),
    ]


def _run_cold(tasks: int) -> float:
    gigpo = build({"preset": "gigpo"})
    episodes = make_episodes(tasks=tasks, turns=50)
    return _seconds(lambda: gigpo.run(episodes))


def _seconds(work: Callable[[], Any], repeats: int = 1) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = process_time()
        work()
        best = min(best, process_time() - start)
    return best


def _row(what: str, value: float, baseline: str, baseline_value: float) -> dict[str, Any]:
    return {
        "what": what,
        "value": value,
        "unit": "s",
        "baseline": baseline,
        "baseline_value": baseline_value,
        "ratio": baseline_value / value,
    }


def make_episodes(tasks: int, turns: int, seed: int = 0) -> list[Episode]:
    """Play random walks over each task's states; every turn holds its own copy of the text."""
    rng = random.Random(seed)
    episodes: list[Episode] = []
    for task in range(tasks):
        states = [_text(rng, STATE_CHARACTERS) for _ in range(STATES_PER_TASK)]
        walks = [[rng.choice(states) for _ in range(turns)] for _ in range(EPISODES_PER_TASK)]
        episodes += [_episode(f"{task}-{i}", f"task-{task}", walk, rng) for i, walk in enumerate(walks)]
    return episodes


def make_similar_episodes(seed: int = 0) -> list[Episode]:
    """Return one task of 400 turns, half of the texts a state of 40, half one with a word changed."""
    rng = random.Random(seed)
    vocabulary = [_text(rng, rng.randint(3, 9)) for _ in range(300)]
    states = [rng.choices(vocabulary, k=60) for _ in range(40)]

    def look() -> str:
        words = list(rng.choice(states))
        if rng.random() < 0.5:
            words[rng.randrange(len(words))] = rng.choice(vocabulary)
        return " ".join(words)

    return [_episode(str(i), "task", [look() for _ in range(50)], rng) for i in range(EPISODES_PER_TASK)]


def _text(rng: random.Random, length: int) -> str:
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=length))


def _episode(name: str, group: str, states: list[str], rng: random.Random) -> Episode:
    won = rng.random() < 0.5
    turns = tuple(
        Turn(
            k,
            reward=10.0 if won and k == len(states) - 1 else 0.0,
            state_key=f"{state}.",
            action_valid=rng.random() > 0.05,
            num_tokens=20,
        )
        for k, state in enumerate(states)
    )
    return Episode(name, group, group, "bench", 0, turns, StopReason.TERMINATED)


def plain_gigpo(episodes: list[Episode]) -> list[float]:
    """GiGPO as one writes it first: scan all rows for each row's episode, group and state."""
    table = [(e.episode_id, e.group_id, e.ret, turn) for e in episodes for turn in e.turns]
    penalty = [0.0 if turn.action_valid else 0.1 for *_, turn in table]
    step = [
        sum(
            GAMMA ** (u.index - turn.index) * u.reward
            for i, *_, u in table
            if i == name and u.index >= turn.index
        )
        - penalty[row]
        for row, (name, _, _, turn) in enumerate(table)
    ]
    credit: list[float] = []
    for row, (_, group, ret, turn) in enumerate(table):
        heads = [r - penalty[i] for i, (_, g, r, u) in enumerate(table) if g == group and u.index == 0]
        peers = [
            step[i] for i, (_, g, _, u) in enumerate(table) if g == group and u.state_key == turn.state_key
        ]
        credit.append(_z(ret - penalty[row], heads) + _z(step[row], peers))
    return credit


def plain_clusters(batch: Batch) -> list[int]:
    """Compare every text with the first text of every cluster of its task until one is similar."""
    clusters: defaultdict[str, list[str]] = defaultdict(list)
    labels: list[int] = []
    for episode in batch.episodes:
        heads = clusters[episode.group_id]
        for turn in episode.turns:
            text = str(turn.state_key)
            found = (
                i for i, head in enumerate(heads) if SequenceMatcher(None, text, head).ratio() >= THRESHOLD
            )
            label = next(found, len(heads))
            if label == len(heads):
                heads.append(text)
            labels.append(label)
    return labels


def _z(value: float, others: list[float]) -> float:
    if max(others) == min(others):
        return 0.0
    return (value - fmean(others)) / (stdev(others) + EPSILON)

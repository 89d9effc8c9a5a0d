"""From a config to figures: setup, held-out play, and the arithmetic of reports."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from fakes import byte_renderer
from guess import GuessEnv, HashPolicy
from hypothesis import given
from hypothesis import strategies as st

from agentrl.config import Config, parse_settings
from agentrl.errors import ConfigError
from agentrl.rollout.evaluate import evaluate
from agentrl.rollout.metrics import episode_metrics
from agentrl.rollout.report import pass_at_k, report, wilson_interval
from agentrl.rollout.setup import batch_tasks, build_env, build_player
from agentrl.types import Episode, StopReason, Task, Turn


def config(**sections: Any) -> Config:
    data = {"env": {"id": "guess:GuessEnv", "top": 7}, "eval": {"tasks": 6, "samples": 4}, **sections}
    return parse_settings(Config, data, where="test")


def episode(group: str, *, correct: bool | None, kind: str = "k", **fields: Any) -> Episode:
    turns = (Turn(0, reward=1.0, num_tokens=3, tool_calls=2, prompt_ids=(1, 2)), Turn(1, action_valid=False))
    plain = Episode(f"{group}-x", group, "t", "guess", 0, turns, StopReason.TERMINATED, correct=correct)
    return replace(plain, metadata={"task_kind": kind}, **fields)


def test_an_environment_is_built_from_its_table() -> None:
    env = build_env(config())
    assert isinstance(env, GuessEnv)
    assert env.settings.top == 7


def test_a_wrong_setting_of_the_environment_is_the_users() -> None:
    with pytest.raises(ConfigError, match=r"\[env\]: unknown key tip; known: fresh_every, top"):
        build_env(config(env={"id": "guess:GuessEnv", "tip": 7}))


@pytest.mark.parametrize(("of_config", "of_policy", "expected"), [(500, 900, 500), (900, 500, 500)])
def test_the_smaller_context_bounds_the_player(of_config: int, of_policy: int, expected: int) -> None:
    asked = config(policy={"max_context_tokens": of_config}, rollout={"max_turns": 5, "temperature": 0.5})
    player = build_player(asked, build_env(asked), HashPolicy(max_context_tokens=of_policy), byte_renderer())
    assert (player.limits.context_tokens, player.limits.turns, player.temperature) == (expected, 5, 0.5)


async def test_evaluation_plays_the_same_for_every_label_and_concurrency() -> None:
    reports = []
    for concurrency, label in ((1, "before"), (64, "after")):
        asked = config(rollout={"concurrency": concurrency, "max_turns": 6})
        player = build_player(asked, build_env(asked), HashPolicy(), byte_renderer())
        seen: list[Sequence[Episode]] = []
        reports.append(await evaluate(asked, player, label=label, on_group=seen.append))
        episodes = [episode for group in seen for episode in group]
        assert len(episodes) == 24
        assert {e.config_hash for e in episodes} == {asked.hash}
        assert {e.task_id for e in episodes} == {f"valid_unseen-{i}" for i in range(6)}
        assert all(e.episode_id.startswith(f"{asked.hash[:8]}-{label}-") for e in episodes)
    assert reports[0] == reports[1]
    assert set(reports[0].pass_at) == {1, 2, 4}
    assert [kind.kind for kind in reports[0].kinds] == ["high", "low"]


async def test_a_failing_watcher_leaves_no_session_open() -> None:
    def full(group: Sequence[Episode]) -> None:
        raise OSError("disk full")

    asked = config()
    env = build_env(asked)
    assert isinstance(env, GuessEnv)
    env.faults.close_takes_s = lambda place: 0.01 * (place % 3)
    player = build_player(asked, env, HashPolicy(), byte_renderer())
    with pytest.raises(OSError, match="disk full"):
        await evaluate(asked, player, label="x", on_group=full)
    assert {session.closed for session in env.sessions} == {1}


@given(st.integers(1, 70), st.integers(1, 9), st.integers(0, 5), st.integers(0, 2**40))
def test_batches_walk_through_permutations(size: int, count: int, batch: int, seed: int) -> None:
    tasks = [Task(str(i), "e") for i in range(size)]
    epochs = -(-(batch + 1) * count // size)
    batches = -(-epochs * size // count)
    walked = [t.task_id for b in range(batches) for t in batch_tasks(tasks, count=count, batch=b, seed=seed)]
    for epoch in range(epochs):
        assert len(set(walked[epoch * size : (epoch + 1) * size])) == size
    here = [t.task_id for t in batch_tasks(tasks, count=count, batch=batch, seed=seed)]
    assert here == walked[batch * count : (batch + 1) * count]


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    tasks = [Task(str(i), "e") for i in range(50)]
    orders = {
        tuple(t.task_id for t in batch_tasks(tasks, count=50, batch=batch, seed=seed))
        for batch, seed in itertools.product(range(4), range(4))
    }
    assert len(orders) == 16


def test_a_split_of_millions_costs_nothing() -> None:
    class Many(Sequence[Task]):
        def __len__(self) -> int:
            return 10**12

        def __getitem__(self, index: Any) -> Any:
            return Task(str(index), "e")

    assert len({t.task_id for t in batch_tasks(Many(), count=100, batch=10**6, seed=3)}) == 100


def test_a_split_without_tasks_is_the_users() -> None:
    with pytest.raises(ConfigError, match="no tasks"):
        batch_tasks([], count=1, batch=0, seed=0)


@given(st.integers(1, 9), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_success(samples: int, data: st.DataObject) -> None:
    successes, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    draws = list(itertools.combinations([1] * successes + [0] * (samples - successes), k))
    assert pass_at_k(samples, successes, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_wilson_intervals_are_those_of_the_tables() -> None:
    """Newcombe (1998), Statistics in Medicine 17, table I, method 3."""
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@given(st.integers(1, 10_000), st.data())
def test_wilson_intervals_hold_the_rate(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials + 1e-12
    assert successes / trials - 1e-12 <= high <= 1
    mirrored = wilson_interval(trials - successes, trials)
    assert math.isclose(low, 1 - mirrored[1], abs_tol=1e-12)


def test_a_report_counts_failed_episodes_as_episodes_and_not_as_successes() -> None:
    failed = {"code": "env.step", "message": "", "detail": {}}
    played = [
        episode("a", correct=True),
        episode("a", correct=False),
        episode("b", correct=True, kind="other"),
        episode("b", correct=True, kind="other", error=failed, stop_reason=StopReason.ERROR),
    ]
    made = report(played)
    assert (made.overall.episodes, made.overall.successes, made.overall.rate) == (4, 2, 0.5)
    assert [(k.kind, k.successes) for k in made.kinds] == [("k", 1), ("other", 1)]
    assert made.errors == {"env.step": 1}
    assert made.stop_reasons == Counter(terminated=3, error=1)
    assert made.pass_at == {1: 0.5, 2: 1.0}
    assert (made.mean_return, made.valid_action_share, made.overall.mean_turns) == (1.0, 0.5, 2.0)


def test_a_report_of_nothing() -> None:
    made = report([])
    assert (made.overall.episodes, made.overall.rate, made.pass_at, made.kinds) == (0, 0.0, {}, ())


def test_metrics_have_the_names_that_users_know() -> None:
    figures = episode_metrics([episode("a", correct=True), episode("a", correct=None)])
    assert figures == {
        "episode/success_rate": 0.5,
        "episode/error_rate": 0.0,
        "episode/reward/mean": 1.0,
        "episode/reward/max": 1.0,
        "episode/reward/min": 1.0,
        "episode/length/mean": 2.0,
        "episode/length/max": 2,
        "episode/length/min": 2,
        "episode/tool_call_count/mean": 2.0,
        "episode/valid_action_ratio": 0.5,
        "episode/truncated_rate": 0.0,
        "prompt_length/mean": 2.0,
        "response_length/mean": 3.0,
    }


def test_metrics_of_failures_alone() -> None:
    figures = episode_metrics([episode("a", correct=True, error={"code": "x"})])
    assert figures == {"episode/success_rate": 0.0, "episode/error_rate": 1.0}
    assert episode_metrics([]) == {"episode/success_rate": 0.0, "episode/error_rate": 0.0}

"""Many episodes at once: the same ones in any order, failures that stay alone, nothing left behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import asdict, replace

import pytest
from guess import GuessEnv, HashPolicy, Settings, guess_player

from agentrl.errors import PolicyError, StoreError
from agentrl.rollout.episode import Player, play
from agentrl.rollout.group import GroupSpec, group_specs, play_groups
from agentrl.rollout.metrics import episode_metrics
from agentrl.rollout.seeds import derive_seed
from agentrl.types import Episode, StopReason, Task


def groups(count: int = 6, size: int = 4, seed: int = 1) -> list[GroupSpec]:
    tasks = GuessEnv(Settings()).tasks("train")[:count]
    return group_specs(tasks, size=size, seed=seed, batch=0, prefix="p", config_hash="h")


async def play_all(player: Player, specs: Sequence[GroupSpec], concurrency: int = 64) -> list[Episode]:
    done = {group[0].group_id: group async for group in play_groups(player, specs, concurrency=concurrency)}
    return [episode for spec in specs for episode in done[spec.group_id]]


def as_bytes(episodes: Sequence[Episode]) -> bytes:
    return json.dumps([asdict(episode) for episode in episodes], sort_keys=True).encode()


@pytest.mark.parametrize("fresh_every", [0, 2])
async def test_invariant_9_same_seed_same_episodes_for_any_concurrency(fresh_every: int) -> None:
    settings = Settings(fresh_every=fresh_every)
    records = {
        concurrency: as_bytes(await play_all(guess_player(GuessEnv(settings)), groups(), concurrency))
        for concurrency in (1, 5, 64)
    }
    assert records[1] == records[5] == records[64]


async def test_another_seed_gives_other_episodes() -> None:
    first = await play_all(guess_player(), groups(seed=1))
    second = await play_all(guess_player(), groups(seed=2))
    assert [e.turns for e in first] != [e.turns for e in second]


async def test_episodes_of_a_group_differ_and_do_not_depend_on_their_neighbours() -> None:
    alone = await play(guess_player(), groups()[2].episodes()[3])
    together = await play_all(guess_player(), groups())
    assert together[2 * 4 + 3] == alone
    assert len({e.seed for e in together}) == len(together)
    assert len({json.dumps([t.reply for t in e.turns]) for e in together[:4]}) > 1


async def test_concurrency_is_a_bound() -> None:
    policy = HashPolicy()
    await play_all(guess_player(policy=policy), groups(), concurrency=3)
    assert policy.most_playing == 3


async def test_invariant_6_failures_are_recorded_and_the_siblings_are_untouched() -> None:
    clean = await play_all(guess_player(), groups())
    env, policy = GuessEnv(Settings()), HashPolicy()
    env.faults.hang_in_step = lambda place: place == 5
    env.faults.start = lambda place: OSError("no game") if place == 9 else None
    policy.fault = lambda r: PolicyError("policy.oom", "full") if r.session == "p-00000-003-1" else None
    # One at a time, so that the n-th session is the n-th episode.
    faulty = await play_all(guess_player(env, policy, step_timeout_s=0.05), groups(), concurrency=1)

    failed = {i: e.error["code"] for i, e in enumerate(faulty) if e.error is not None}
    assert failed == {5: "env.step_timeout", 9: "env.start", 13: "policy.oom"}
    assert [e for i, e in enumerate(faulty) if i not in failed] == [
        e for i, e in enumerate(clean) if i not in failed
    ]
    assert all(session.closed == 1 for session in env.sessions)
    figures = episode_metrics(faulty)
    assert figures["episode/error_rate"] == 3 / 24
    assert figures["episode/success_rate"] == sum(bool(e.correct) for e in faulty if not e.error) / 24


async def test_what_concerns_every_episode_stops_the_batch_and_leaves_nothing_behind() -> None:
    env, policy = GuessEnv(Settings()), HashPolicy()
    env.faults.close_takes_s = lambda place: 0.01 * (place % 5)
    policy.fault = lambda r: StoreError("store.full", "full") if r.session == "p-00000-002-2" else None
    with pytest.raises(StoreError):
        await play_all(guess_player(env, policy), groups())
    assert_nothing_left(env, policy)


async def test_closing_the_iterator_early_cleans_every_session_up() -> None:
    env, policy = GuessEnv(Settings()), HashPolicy()
    policy.hang = lambda request: not request.session.startswith("p-00000-000-")
    env.faults.close_takes_s = lambda place: 0.01 * (place % 7)  # so that siblings do not finish together
    async with aclosing(play_groups(guess_player(env, policy), groups(), concurrency=64)) as finished:
        first = await anext(finished)
    assert first[0].group_id == "p-00000-000"
    assert len(env.sessions) == 24
    assert_nothing_left(env, policy)


async def test_cancelling_the_consumer_cleans_every_session_up() -> None:
    env, policy = GuessEnv(Settings()), HashPolicy(hang=lambda request: True)
    env.faults.close_takes_s = lambda place: 0.01 * (place % 7)
    consumer = asyncio.create_task(play_all(guess_player(env, policy), groups(), concurrency=7))
    await policy.until_playing(7)
    consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer
    assert len(env.sessions) == 7  # those that had not begun never do
    assert_nothing_left(env, policy)


def assert_nothing_left(env: GuessEnv, policy: HashPolicy) -> None:
    assert [(s.closed, s.interrupted) for s in env.sessions] == [(1, False)] * len(env.sessions)
    assert len(policy.ended) == len(env.sessions)
    assert policy.playing == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_group_and_episode_names_are_unique_and_say_where_they_belong() -> None:
    task = Task("t", "guess")
    specs = group_specs([task, task], size=3, seed=0, batch=7, prefix="x", config_hash="h")
    assert [s.group_id for s in specs] == ["x-00007-000", "x-00007-001"]
    episodes = [episode for spec in specs for episode in spec.episodes()]
    assert [e.episode_id for e in episodes[:3]] == ["x-00007-000-0", "x-00007-000-1", "x-00007-000-2"]
    assert len({e.seed for e in episodes}) == 6  # the same task twice in a batch is two different groups
    assert {(e.batch, e.config_hash) for e in episodes} == {(7, "h")}


def test_seeds_are_the_same_on_every_machine() -> None:
    assert derive_seed(1, "episode", 0) == derive_seed(1, "episode", 0)
    assert derive_seed("1") != derive_seed(1)
    assert derive_seed("ab", "c") != derive_seed("a", "bc")
    assert derive_seed(0) == 6711488920161924273


async def test_greedy_and_sampled_episodes_share_their_seeds() -> None:
    cold = await play_all(replace(guess_player(), temperature=0.0), groups(count=1))
    warm = await play_all(guess_player(), groups(count=1))
    assert [e.seed for e in cold] == [e.seed for e in warm]
    assert all(e.stop_reason in (StopReason.TERMINATED, StopReason.MAX_TURNS) for e in warm)

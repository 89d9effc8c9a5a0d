"""Play batches of training tasks into the store, without updating the policy."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

from agentrl.config import Config
from agentrl.rollout.episode import Player
from agentrl.rollout.evaluate import GroupWatcher, recorded_status
from agentrl.rollout.group import group_specs, play_groups
from agentrl.rollout.setup import batch_tasks
from agentrl.store.db import Store
from agentrl.types import Episode

__all__ = ["Collected", "collect"]

Collected = tuple[str, list[Episode]]
"""The run's id and its episodes, in the order of tasks."""


async def collect(
    config: Config, player: Player, store: Store, batches: int, on_group: GroupWatcher
) -> Collected:
    """Play `batches` batches as a run of their own; every group is on disk when `on_group` sees it.

    Raises:
        StoreError: an episode cannot be stored; those before it are.
    """
    rollout = config.rollout
    tasks = player.env.tasks("train")
    run_id = store.add_run(
        name=config.run.name, env=config.env.id, config=config.to_json(), config_hash=config.hash
    )
    groups = [
        group
        for batch in range(batches)
        for group in group_specs(
            batch_tasks(tasks, count=rollout.tasks_per_batch, batch=batch, seed=config.run.seed),
            size=rollout.group_size,
            seed=config.run.seed,
            batch=batch,
            prefix=f"{config.hash[:8]}-rollout",
            config_hash=config.hash,
        )
    ]
    played: dict[str, Sequence[Episode]] = {}
    with recorded_status(store, run_id):
        playing = play_groups(player, groups, concurrency=rollout.concurrency)
        async with aclosing(playing) as finished:
            async for group in finished:
                position = int(group[0].group_id.rpartition("-")[2]) * rollout.group_size
                await asyncio.to_thread(store.add_episodes, run_id, group, position=position)
                played[group[0].group_id] = group
                on_group(group)
    return run_id, [episode for group in groups for episode in played[group.group_id]]

"""Play groups of episodes at once: the same tasks, ids and seeds give the same episodes in any order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentrl.rollout.episode import EpisodeSpec, Player, play
from agentrl.rollout.seeds import derive_seed
from agentrl.types import Episode, Task

__all__ = ["GroupSpec", "group_specs", "play_groups"]


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """`size` episodes of one task under one policy, to be compared with each other."""

    group_id: str
    task: Task
    size: int
    seed: int
    batch: int = 0
    config_hash: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def episodes(self) -> list[EpisodeSpec]:
        """Return the group's episodes; each has its own seed, a function of the group's and its place."""
        return [
            EpisodeSpec(
                episode_id=f"{self.group_id}-{place}",
                group_id=self.group_id,
                task=self.task,
                seed=derive_seed(self.seed, "episode", place),
                batch=self.batch,
                config_hash=self.config_hash,
                metadata=self.metadata,
            )
            for place in range(self.size)
        ]


def group_specs(
    tasks: Sequence[Task], *, size: int, seed: int, batch: int, prefix: str, config_hash: str = ""
) -> list[GroupSpec]:
    """Return one group per task, with ids `<prefix>-<batch>-<place>` and seeds derived from `seed`."""
    return [
        GroupSpec(
            group_id=f"{prefix}-{batch:05d}-{place:03d}",
            task=task,
            size=size,
            seed=derive_seed(seed, batch, place, task.task_id),
            batch=batch,
            config_hash=config_hash,
        )
        for place, task in enumerate(tasks)
    ]


async def play_groups(
    player: Player, groups: Sequence[GroupSpec], *, concurrency: int
) -> AsyncGenerator[tuple[Episode, ...], None]:
    """Yield each group when its last episode is done, at most `concurrency` episodes at a time.

    Closing the iterator early cancels what is still playing and waits until it has cleaned up.
    """
    free = asyncio.Semaphore(concurrency)

    async def play_group(group: GroupSpec) -> tuple[Episode, ...]:
        playing = [asyncio.create_task(play_one(spec)) for spec in group.episodes()]
        try:
            return tuple(await asyncio.gather(*playing))
        finally:
            # gather returns at the first failure or cancellation; the others still have to clean up,
            # and a second cancellation would interrupt them there.
            for episode in playing:
                if not episode.cancelling():
                    episode.cancel()
            await asyncio.wait(playing)

    async def play_one(spec: EpisodeSpec) -> Episode:
        async with free:
            return await play(player, spec)

    running = [asyncio.create_task(play_group(group), name=group.group_id) for group in groups]
    try:
        for done in asyncio.as_completed(running):
            yield await done
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

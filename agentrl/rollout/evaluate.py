"""Play held-out tasks with fixed seeds, so that two policies meet the same tasks and the same luck."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace

from agentrl.config import Config
from agentrl.errors import StoreError
from agentrl.rollout.episode import Player
from agentrl.rollout.group import group_specs, play_groups
from agentrl.rollout.report import Report, report
from agentrl.store.db import Store
from agentrl.store.entries import RunStatus
from agentrl.types import Episode

__all__ = ["GroupWatcher", "evaluate", "evaluate_into_store", "recorded_status"]

GroupWatcher = Callable[[Sequence[Episode]], None]


async def evaluate(config: Config, player: Player, *, label: str, on_group: GroupWatcher) -> Report:
    """Play the first `eval.tasks` tasks of `eval.split`, `eval.samples` times each, and summarise.

    `label` goes into the episodes' ids; `on_group` sees every group when it is done (progress, store).

    Raises:
        ConfigError: the split does not exist.
    """
    settings = config.eval
    tasks = player.env.tasks(settings.split)
    player = replace(player, temperature=settings.temperature, top_p=settings.top_p)
    groups = group_specs(
        [tasks[i] for i in range(min(settings.tasks, len(tasks)))],
        size=settings.samples,
        seed=settings.seed,
        batch=0,
        prefix=f"{config.hash[:8]}-{label}",
        config_hash=config.hash,
    )
    played: dict[str, Sequence[Episode]] = {}
    async with aclosing(play_groups(player, groups, concurrency=config.rollout.concurrency)) as finished:
        async for group in finished:
            played[group[0].group_id] = group
            on_group(group)
    return report(episode for spec in groups for episode in played[spec.group_id])


async def evaluate_into_store(
    config: Config,
    player: Player,
    store: Store,
    *,
    name: str,
    label: str,
    parent: str | None,
    on_group: GroupWatcher,
) -> Report:
    """Play held-out tasks as a run of their own in the store (`<name>.<label>`)."""
    run_id = store.add_run(
        name=f"{name}.{label}",
        env=config.env.id,
        config=config.to_json(),
        config_hash=config.hash,
        parent_run_id=parent,
    )

    def keep(group: Sequence[Episode]) -> None:
        place = int(group[0].group_id.rpartition("-")[2])
        store.add_episodes(run_id, group, position=place * config.eval.samples)
        on_group(group)

    with recorded_status(store, run_id):
        return await evaluate(config, player, label=label, on_group=keep)


@contextmanager
def recorded_status(store: Store, run_id: str) -> Generator[None]:
    """Note in the store how the block ended a run: finished, failed, or interrupted (Ctrl-C)."""
    status = RunStatus.INTERRUPTED
    try:
        yield
        status = RunStatus.FINISHED
    except Exception:
        status = RunStatus.FAILED
        raise
    finally:
        try:
            store.set_status(run_id, status)
        except StoreError:
            # On a full disk this fails too; what ended the run is the better news.
            if status is RunStatus.FINISHED:
                raise

"""Reinforcement learning, the whole of it.

    tasks -> episodes -> store -> credit -> batch -> loss -> weights -> policy (version + 1)

The loop knows no method by name: credit arrives as advantages per turn, the loss as a function.
"""

from __future__ import annotations

from contextlib import aclosing

from agentrl.rollout.group import group_specs, play_groups
from agentrl.rollout.setup import batch_tasks
from agentrl.train.run import Run, Watcher
from agentrl.train.update import update
from agentrl.types import Episode

__all__ = ["train"]


async def train(run: Run, watch: Watcher) -> None:
    """Train from the run's next step to its last; every step is stored, logged and (some) checkpointed.

    Step k plays batch k under policy version k. What is played depends on the config, the seed and the
    weights alone, so a run that was killed and resumed plays the same episodes and ends with the same
    weights as one that was not.
    """
    config = run.config
    for step in range(run.next_step, config.train.steps):
        with run.timed("gen"):
            tasks = batch_tasks(
                run.tasks, count=config.rollout.tasks_per_batch, batch=step, seed=config.run.seed
            )
            groups = group_specs(
                tasks,
                size=config.rollout.group_size,
                seed=config.run.seed,
                batch=step,
                prefix=f"{config.hash[:8]}-train",
                config_hash=config.hash,
            )
            played: dict[str, tuple[Episode, ...]] = {}
            playing = play_groups(run.player, groups, concurrency=config.rollout.concurrency)
            async with aclosing(playing) as finished:
                async for group in finished:
                    await run.store_episodes(group)
                    played[group[0].group_id] = group
                    watch.group_done(group)
        episodes = [episode for group in groups for episode in played[group.group_id]]

        with run.timed("adv"):
            credit = run.pipeline.run(episodes, run.memory)
            run.store_credit(credit)

        with run.timed("update_actor"):
            learned = update(
                run.model,
                run.optimizer,
                run.rows(credit),
                run.update_settings,
                ref_model=run.ref_model,
                step=step,
            )

        with run.timed("update_weights"):
            run.memory = credit.memory
            run.policy.refresh(step + 1)

        watch.step_done(step, run.finish_step(step, episodes, credit, learned))

"""From a config to what plays: environment, tasks, player."""

from __future__ import annotations

import random
from collections.abc import Sequence

from agentrl import registry
from agentrl.config import Config, parse_settings
from agentrl.env import Env, EnvPlugin
from agentrl.errors import ConfigError
from agentrl.policy.base import Policy
from agentrl.policy.render import Renderer
from agentrl.rollout.episode import Player
from agentrl.rollout.limits import Limits
from agentrl.rollout.seeds import derive_seed
from agentrl.types import Task

__all__ = ["batch_tasks", "build_env", "build_player"]


def build_env(config: Config) -> Env:
    """Return the environment that a config names, with its settings validated; with `env.url`, a remote one.

    Raises:
        UnknownPlugin: no such environment. ConfigError: a setting is wrong, or nothing answers at the URL.
            All are the user's.
    """
    if config.env.url is not None:
        from agentrl.remote import RemoteEnv

        return RemoteEnv(config.env.url, config.env.settings)
    plugin: EnvPlugin = registry.load("env", config.env.id)
    return plugin(parse_settings(plugin.Settings, config.env.settings, where="[env]"))


def build_player(config: Config, env: Env, policy: Policy, renderer: Renderer) -> Player:
    """Return what plays training episodes."""
    context_tokens = min(config.policy.max_context_tokens, policy.max_context_tokens)
    limits = Limits.from_config(config.rollout, context_tokens)
    return Player(env, policy, renderer, limits, config.rollout.temperature, config.rollout.top_p)


def batch_tasks(tasks: Sequence[Task], *, count: int, batch: int, seed: int) -> list[Task]:
    """Return the tasks of one batch: every epoch is a fresh permutation, a function of seed and epoch.

    Raises:
        ConfigError: there are no tasks (the settings or the data leave the split empty).
    """
    if not tasks:
        raise ConfigError("rollout.no_tasks", "the split has no tasks: check the settings in [env]")
    return [tasks[_permuted(len(tasks), place, seed)] for place in range(batch * count, (batch + 1) * count)]


def _permuted(size: int, place: int, seed: int) -> int:
    """Return place `place % size` of the permutation of epoch `place // size`.

    A Feistel walk rather than a shuffled list: nothing grows with the number of tasks, so a split may
    hold millions, and any batch can be asked for first.
    """
    epoch, index = divmod(place, size)
    half_bits = ((size - 1).bit_length() + 1) // 2
    mask = (1 << half_bits) - 1
    keys = [random.Random(derive_seed(seed, "epoch", epoch, turn)).getrandbits(64) for turn in range(4)]
    while True:
        left, right = index >> half_bits, index & mask
        for key in keys:
            left, right = right, left ^ (derive_seed(key, right) & mask)
        index = (left << half_bits) | right
        if index < size:
            return index

"""What plays for the commands that do not train: the embedded engine on a checkpoint."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from agentrl import bundle
from agentrl.config import Config
from agentrl.errors import ConfigError
from agentrl.policy.render import Renderer
from agentrl.rollout.episode import Player
from agentrl.rollout.setup import build_env, build_player

__all__ = ["local_player"]


@asynccontextmanager
async def local_player(config: Config) -> AsyncGenerator[Player]:
    """Load the config's checkpoint into the embedded engine; close it at the end.

    Raises:
        ConfigError: torch is not installed, or a setting is wrong. CheckpointError: no usable model.
    """
    try:
        import torch

        from agentrl.policy.local import LocalPolicy
    except ModuleNotFoundError as error:
        raise ConfigError(
            "policy.no_torch", f"the embedded engine needs {error.name}: pip install 'agentrl[train]'"
        ) from error
    if config.policy.threads is not None:
        torch.set_num_threads(config.policy.threads)
    env = build_env(config)
    checkpoint = bundle.find(config.policy.checkpoint)
    renderer = Renderer.load(checkpoint)
    policy = LocalPolicy(
        checkpoint,
        device=config.policy.device,
        dtype=config.policy.dtype,
        slots=config.policy.slots,
        max_context_tokens=config.policy.max_context_tokens,
    )
    try:
        yield build_player(config, env, policy, renderer)
    finally:
        await policy.close()

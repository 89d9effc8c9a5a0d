"""The client side of the environment services: an `Env` that plays over the network."""

from agentrl.remote.env import RemoteEnv

__all__ = ["RemoteEnv"]

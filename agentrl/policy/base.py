"""The policy protocol: exact token ids in, sampled ids with log-probs, entropies and version out.

A request always carries the whole context. An engine with a cache keyed by `session` must check that
what it holds is a prefix of `context_ids` and compute the rest; it may never assume it. Sampling is a
function of (weights, context, seed, params) alone, so the same request gives the same tokens whatever
else the engine is doing at the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Completion", "Policy", "SampleRequest", "SamplingParams"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample one reply. `temperature` 0 is greedy; `top_p` 1 keeps the whole distribution."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One reply to be sampled. `session` names the episode; `seed` fixes every random choice."""

    session: str
    context_ids: Sequence[int]
    seed: int
    params: SamplingParams


@dataclass(frozen=True, slots=True)
class Completion:
    """What the policy sampled.

    `token_ids` includes the stop token when one was sampled. `logprobs` are natural logs under the
    distribution that was sampled from *before* temperature and top-p; `entropies` in nats likewise.
    `finish` is "stop" or "length".
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    entropies: tuple[float, ...]
    policy_version: int
    finish: str


class Policy(Protocol):
    """Anything that can play: the embedded engine, a vLLM server, a script."""

    @property
    def version(self) -> int:
        """Version of the weights that the next request will meet; stamped on every turn."""
        ...

    @property
    def max_context_tokens(self) -> int:
        """Largest prompt plus reply that fits, in tokens."""
        ...

    async def sample(self, request: SampleRequest) -> Completion:
        """Sample one reply.

        Raises:
            PolicyError: the engine failed or the context does not fit (recorded on the episode).
        """
        ...

    async def score(self, context_ids: Sequence[int], target_ids: Sequence[int]) -> tuple[float, ...]:
        """Return log p(target_j | context, target_<j), natural logs, one per target token."""
        ...

    async def end_session(self, session: str) -> None:
        """Free what is cached for a session; idempotent, unknown sessions are ignored."""
        ...

    async def close(self) -> None:
        """Stop the engine; idempotent."""
        ...

"""What bounds an episode: turns, context tokens, seconds."""

from __future__ import annotations

from dataclasses import dataclass

from agentrl.config import RolloutSection

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one episode. Passing one ends the episode with a stop reason; it is not an error.

    `context_tokens` counts the prompt and the reply; a turn is started only if `reply_tokens` still fit.
    `step_timeout_s` bounds each call of the environment: passing it *is* an error (`env.step_timeout`).
    """

    turns: int
    reply_tokens: int
    context_tokens: int
    episode_timeout_s: float
    step_timeout_s: float

    @classmethod
    def from_config(cls, section: RolloutSection, context_tokens: int) -> Limits:
        """Return the limits that a config asks for."""
        return cls(
            turns=section.max_turns,
            reply_tokens=section.max_reply_tokens,
            context_tokens=context_tokens,
            episode_timeout_s=section.episode_timeout_s,
            step_timeout_s=section.step_timeout_s,
        )

"""What a method declares beside its formula, so that misuse is caught before anything is computed.

    @traits(needs=("correct",))
    def otc(batch, ...): ...

`needs` names what every episode must carry: a key of the record (`correct`, `format_ok`, `gold_logprob`,
`state_key`, `logprobs`, `entropies`), `metadata.<key>` (looked up in the metadata, then at the top level)
or `turn.<key>` (an extra key of every turn). A reward that `pays_discounted` has its discount inside; an
estimator that `discounts` applies its option `gamma`: together they would discount twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeVar

from agentrl.errors import ConfigError
from agentrl.types import Episode

__all__ = ["Traits", "check_needs", "traits", "traits_of"]

Method = TypeVar("Method", bound=Callable[..., Any])

ATTRIBUTE = "credit_traits"
HINTS = {
    "correct": "let the environment or a judge say whether each episode is correct",
    "format_ok": "let the environment say whether each episode kept to the format",
    "gold_logprob": "it is the mean log-prob of the gold answer before every turn: play an environment with "
    "gold answers, or use an episode-level method such as grpo",
    "state_key": "let the environment give one, or use an episode-level method such as grpo",
    "logprobs": "store the episodes with their tokens",
    "entropies": "store the episodes with their tokens",
}
EPISODE = -1
"""Stands for the episode where the index of a turn is expected."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What a method needs from every episode, and whether it has to do with a discount."""

    needs: tuple[str, ...] = ()
    pays_discounted: bool = False
    discounts: bool = False


def traits(
    *, needs: Sequence[str] = (), pays_discounted: bool = False, discounts: bool = False
) -> Callable[[Method], Method]:
    """Declare the traits of the method below."""
    declared = Traits(tuple(needs), pays_discounted, discounts)

    def mark(method: Method) -> Method:
        setattr(method, ATTRIBUTE, declared)
        return method

    return mark


def traits_of(method: Callable[..., Any]) -> Traits:
    """Return what a method declared; nothing where it declared nothing."""
    return getattr(method, ATTRIBUTE, Traits())


def check_needs(method: str, needs: Sequence[str], episodes: Sequence[Episode]) -> None:
    """Look whether the episodes carry what a method needs.

    Raises:
        ConfigError: an episode lacks it (the config's: this method does not fit these episodes).
    """
    for need in needs:
        hint = HINTS.get(need, "add it to the record, or use another method")
        for episode in episodes:
            lacking = _lacking(episode, need)
            if lacking is not None:
                where = f"episode {episode.episode_id!r}"
                raise ConfigError(
                    f"credit.{need}_missing",
                    f"{f'turn {lacking} of {where}' if lacking >= 0 else where} has no {need}, "
                    f"and {method} needs it; {hint}",
                    {"episode_id": episode.episode_id, "needs": need},
                )


def _lacking(episode: Episode, need: str) -> int | None:
    """Return the index of the turn that lacks a need, EPISODE if the episode does, None if nothing does."""
    where, _, key = need.rpartition(".")
    if where == "metadata":
        return EPISODE if episode.metadata.get(key, episode.extra.get(key)) is None else None
    if where == "turn":
        return next((turn.index for turn in episode.turns if turn.extra.get(key) is None), None)
    if need in ("correct", "format_ok"):
        return EPISODE if getattr(episode, need) is None else None
    if need == "gold_logprob" and episode.truncated:
        return None  # a limit may cut an episode before its last turn was scored
    read = attrgetter(need)
    return next((turn.index for turn in episode.turns if read(turn) is None), None)

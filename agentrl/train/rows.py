"""Episodes -> training rows: one row for each context, holding exactly the tokens the model saw.

A row never splits prompt from completion. Position t of every tensor speaks of token t; what the policy
did not sample is marked in `sampled_T` and never trained on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agentrl.errors import AlignmentError
from agentrl.types import Episode, Turn

__all__ = ["Channel", "Row", "sequence_rows"]


@dataclass(frozen=True, slots=True, eq=False)
class Channel:
    """One channel's advantages on one row; `credited_T` is False where there is none (not a zero one)."""

    advantages_T: Tensor
    credited_T: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One context of one episode.

    Attributes:
        ids_T: int64 token ids, all turns of the context end to end.
        sampled_T: bool, True where the policy chose the token.
        logprobs_T: float32, the sampler's log-prob where sampled, else 0.
        turns_T: int64, index of the turn that the token belongs to.
        channels: advantages by channel name.
        group_id: of the episode; rows of one task share it.
    """

    episode_id: str
    ids_T: Tensor
    sampled_T: Tensor
    logprobs_T: Tensor
    turns_T: Tensor
    channels: Mapping[str, Channel]
    group_id: str = ""

    @property
    def trainable_T(self) -> Tensor:
        """Sampled tokens that at least one channel credits; everything that is averaged, is over these."""
        credited_T = torch.zeros_like(self.sampled_T)
        for channel in self.channels.values():
            credited_T = credited_T | channel.credited_T
        return credited_T & self.sampled_T


def sequence_rows(
    episode: Episode,
    advantages: Mapping[str, Sequence[float | None]],
    *,
    token_offsets: Mapping[str, Sequence[Sequence[float]]] | None = None,
    vocab_size: int | None = None,
) -> list[Row]:
    """Lay an episode out as rows, each turn's advantage on every token that was sampled in it.

    Args:
        advantages: channel name -> one advantage per turn; None leaves that turn out of the channel.
        token_offsets: channel name -> for each turn what is added to the advantage of each sampled token,
            for the channels whose methods tell tokens apart.
        vocab_size: when given, ids must lie below it.

    Raises:
        AlignmentError: tokens, masks, log-probs or advantages disagree (a bug of ours or of an engine).
    """
    for name, values in advantages.items():
        if len(values) != len(episode.turns):
            raise _misaligned(
                episode, f"channel {name!r} has {len(values)} advantages for {len(episode.turns)} turns"
            )
    offsets = token_offsets or {}
    return [_row(episode, context, advantages, offsets, vocab_size) for context in _contexts(episode)]


def _contexts(episode: Episode) -> Iterator[list[tuple[int, Turn]]]:
    context: list[tuple[int, Turn]] = []
    for index, turn in enumerate(episode.turns):
        if turn.fresh_context and context:
            yield context
            context = []
        context.append((index, turn))
    if context:
        yield context


def _row(
    episode: Episode,
    context: Sequence[tuple[int, Turn]],
    advantages: Mapping[str, Sequence[float | None]],
    offsets: Mapping[str, Sequence[Sequence[float]]],
    vocab_size: int | None,
) -> Row:
    ids: list[int] = []
    sampled: list[bool] = []
    logprobs: list[float] = []
    turns: list[int] = []
    values: dict[str, list[float]] = {name: [] for name in advantages}
    credited: dict[str, list[bool]] = {name: [] for name in advantages}
    for index, turn in context:
        prompt, reply, chosen, turn_logprobs = _checked(episode, turn, first=not ids)
        ids += [*prompt, *reply]
        chosen_T = [False] * len(prompt) + chosen
        sampled += chosen_T
        given = iter(turn_logprobs)
        logprobs += [next(given) if flag else 0.0 for flag in chosen_T]
        turns += [turn.index] * len(chosen_T)
        for name, per_turn in advantages.items():
            advantage = per_turn[index]
            if advantage is not None and not math.isfinite(advantage):
                raise _misaligned(
                    episode, f"channel {name!r} gives turn {turn.index} the advantage {advantage}"
                )
            added = offsets[name][index] if name in offsets else [0.0] * len(turn_logprobs)
            if len(added) != len(turn_logprobs) or not all(map(math.isfinite, added)):
                raise _misaligned(
                    episode,
                    f"channel {name!r} adds {len(added)} values, or one that is not finite, to the "
                    f"{len(turn_logprobs)} sampled tokens of turn {turn.index}",
                )
            each = iter(added)
            values[name] += [(advantage or 0.0) + next(each) if flag else 0.0 for flag in chosen_T]
            credited[name] += [advantage is not None and flag for flag in chosen_T]
    if min(ids) < 0 or (vocab_size is not None and max(ids) >= vocab_size):
        raise _misaligned(
            episode, f"token ids span [{min(ids)}, {max(ids)}], the vocabulary has {vocab_size}"
        )
    return Row(
        episode.episode_id,
        torch.tensor(ids),
        torch.tensor(sampled),
        torch.tensor(logprobs, dtype=torch.float32),
        torch.tensor(turns),
        {name: Channel(torch.tensor(values[name]), torch.tensor(credited[name])) for name in advantages},
        episode.group_id,
    )


def _checked(
    episode: Episode, turn: Turn, *, first: bool
) -> tuple[Sequence[int], Sequence[int], list[bool], Sequence[float]]:
    prompt, reply, sampled, logprobs = turn.prompt_ids, turn.token_ids, turn.sampled, turn.logprobs
    if prompt is None or reply is None or sampled is None or logprobs is None:
        raise _misaligned(episode, f"turn {turn.index} was stored without tokens")
    if len(sampled) != len(reply):
        raise _misaligned(
            episode, f"turn {turn.index} has {len(reply)} tokens and {len(sampled)} sampled flags"
        )
    if len(logprobs) != sum(sampled):
        raise _misaligned(
            episode, f"turn {turn.index} sampled {sum(sampled)} tokens and has {len(logprobs)} log-probs"
        )
    if not all(math.isfinite(value) and value <= 1e-3 for value in logprobs):
        raise _misaligned(episode, f"turn {turn.index} has a log-prob that is no log of a probability")
    if first and not prompt:
        raise _misaligned(episode, f"turn {turn.index} opens a context with no prompt to predict from")
    return prompt, reply, [bool(flag) for flag in sampled], logprobs


def _misaligned(episode: Episode, problem: str) -> AlignmentError:
    return AlignmentError(
        "train.misaligned",
        f"episode {episode.episode_id} cannot become a training row: {problem}",
        {"episode_id": episode.episode_id},
    )

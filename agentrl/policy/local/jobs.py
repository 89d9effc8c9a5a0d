"""Requests in flight: what tokens they still need computed, and what they make of the logits."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentrl.errors import PolicyError
from agentrl.policy.base import Completion, SampleRequest
from agentrl.policy.local.sampling import Draw, Drawn, uniform

if TYPE_CHECKING:
    from agentrl.policy.local.slots import Slot

__all__ = ["Job", "SampleJob", "ScoreJob"]


class Job(ABC):
    """One request. `ids` are the tokens whose keys and values it needs; `slot` is set while it runs."""

    def __init__(self, session: str | None, ids: Sequence[int]) -> None:
        """Start with the tokens that are known so far."""
        self.session = session
        self.ids = list(ids)
        self.slot: Slot | None = None
        self.version: int | None = None
        self.error: PolicyError | None = None
        self.cancelled = False

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether everything that was asked for is there (or failed)."""

    @property
    @abstractmethod
    def reusable(self) -> int:
        """How many leading tokens may come from a cache instead of being computed."""

    @abstractmethod
    def start(self, version: int) -> None:
        """Begin, or begin again because the weights changed: a reply comes from one version."""

    @abstractmethod
    def wanted(self, start: int, stop: int) -> Sequence[int]:
        """Return the positions in `[start, stop)` whose logits are needed."""


class SampleJob(Job):
    """A reply being sampled."""

    def __init__(self, request: SampleRequest) -> None:
        """Take the request; its context is copied."""
        super().__init__(request.session, request.context_ids)
        self._request = request
        self._context_tokens = len(self.ids)
        self._logprobs: list[float] = []
        self._entropies: list[float] = []
        self._finish: str | None = None

    @property
    def done(self) -> bool:
        """Whether the reply ended, by a stop token or at its limit."""
        return self._finish is not None or self.error is not None

    @property
    def reusable(self) -> int:
        """All but the last token, from whose state the reply goes on."""
        return len(self.ids) - 1

    @property
    def completion(self) -> Completion:
        """The finished reply."""
        assert self._finish is not None
        assert self.version is not None
        return Completion(
            tuple(self.ids[self._context_tokens :]),
            tuple(self._logprobs),
            tuple(self._entropies),
            self.version,
            self._finish,
        )

    def start(self, version: int) -> None:
        """Drop what an older version sampled."""
        del self.ids[self._context_tokens :], self._logprobs[:], self._entropies[:]
        self.version = version

    def wanted(self, start: int, stop: int) -> Sequence[int]:
        """Ask for the last position only, once it is reached."""
        return range(stop - 1, stop) if stop == len(self.ids) else ()

    def next_draw(self) -> Draw:
        """Say how the token after `ids` is to be chosen: a function of the request and its position."""
        params = self._request.params
        return Draw(params.temperature, params.top_p, uniform(self._request.seed, len(self.ids)))

    def accept(self, drawn: Drawn, row: int) -> None:
        """Append the token of one row; a log-prob that is no number fails the request."""
        token_id, logprob, entropy = drawn.token_ids[row], drawn.logprobs[row], drawn.entropies[row]
        if not (math.isfinite(logprob) and math.isfinite(entropy)):
            self.error = not_finite(self.session, len(self.ids))
            return
        self.ids.append(token_id)
        self._logprobs.append(logprob)
        self._entropies.append(entropy)
        params = self._request.params
        if token_id in params.stop_ids:
            self._finish = "stop"
        elif len(self._logprobs) == params.max_tokens:
            self._finish = "length"


class ScoreJob(Job):
    """Log-probs of given tokens being computed; its slot is forgotten afterwards."""

    def __init__(self, context_ids: Sequence[int], target_ids: Sequence[int]) -> None:
        """Need everything but the last target's own state."""
        super().__init__(None, [*context_ids, *target_ids[:-1]])
        self._target_ids = tuple(target_ids)
        self._first = len(context_ids) - 1
        self._logprobs: list[float] = []

    @property
    def done(self) -> bool:
        """Whether every target has its log-prob."""
        return len(self._logprobs) == len(self._target_ids) or self.error is not None

    @property
    def logprobs(self) -> tuple[float, ...]:
        """The finished log-probs."""
        return tuple(self._logprobs)

    @property
    def reusable(self) -> int:
        """Everything before the position that predicts the first target."""
        return self._first

    def start(self, version: int) -> None:
        """Drop what an older version computed."""
        self._logprobs.clear()
        self.version = version

    def wanted(self, start: int, stop: int) -> Sequence[int]:
        """Ask for every position that predicts a target."""
        return range(max(start, self._first), stop)

    def target_at(self, position: int) -> int:
        """Return the target that the logits of a position predict."""
        return self._target_ids[position - self._first]

    def accept(self, logprob: float) -> None:
        """Append the next target's log-prob."""
        if math.isfinite(logprob):
            self._logprobs.append(logprob)
        else:
            self.error = not_finite(self.session, self._first + len(self._logprobs) + 1)


def not_finite(session: str | None, position: int) -> PolicyError:
    """Return the error for logits that are no numbers."""
    return PolicyError(
        "policy.not_finite",
        f"the model gave logits that are not finite at token {position} of session {session}: "
        "its weights have diverged; resume from an earlier checkpoint",
        {"session": session, "position": position},
    )

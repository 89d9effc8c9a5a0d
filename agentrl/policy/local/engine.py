"""One step at a time: every request in flight adds the tokens it still lacks and draws the next.

A step mixes prefill and decoding, so requests join and leave between any two steps. Everything here runs
in one thread; a lock keeps new weights out of a running step.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from agentrl.policy.local.jobs import Job, SampleJob, ScoreJob
from agentrl.policy.local.network import Network, Piece
from agentrl.policy.local.sampling import as_list, draw
from agentrl.policy.local.slots import Slots, common_prefix
from agentrl.policy.local.weights import Weights

__all__ = ["Engine"]

PREFILL_TOKENS = 512
"""Most tokens of longer pieces in one step: bounds memory, and how long decoding waits for a prompt."""

SHARED_TOKENS = 32
"""Shortest common prefix that is worth copying from another session."""

SCORED_ROWS = 256

log = logging.getLogger(__name__)


class Engine:
    """The network, its slots and the version of its weights."""

    def __init__(self, weights: Weights, *, slots: int, max_tokens: int, version: int) -> None:
        """Allocate the cache and check that results will not depend on the batch."""
        self.slots = Slots(slots)
        self.version = version
        self._weights = weights
        self._network = Network(weights, slots=slots, max_tokens=max_tokens)
        self._lock = threading.Lock()
        self.batch_invariant = self._network.self_check()
        if not self.batch_invariant:
            log.warning(
                "attention here rounds differently for prompts and for single tokens: a session that was "
                "evicted and computed again may differ in its last bits"
            )

    def run(self, jobs: Sequence[Job], interrupted: threading.Event) -> None:
        """Step until a job is done or somebody interrupts."""
        while True:
            self.step(jobs)
            if interrupted.is_set() or any(job.done for job in jobs):
                return

    def step(self, jobs: Sequence[Job]) -> None:
        """Advance every job, each of which holds a slot."""
        with self._lock:
            fed = self._plan(jobs)
            hidden_PH, first_rows = self._network.forward([piece for _, piece in fed])
            drawing: list[tuple[SampleJob, int]] = []
            scoring: list[tuple[ScoreJob, int, int]] = []
            for (job, piece), first_row in zip(fed, first_rows, strict=True):
                assert job.slot is not None
                job.slot.ids += piece.tokens
                for position in job.wanted(piece.start, piece.start + len(piece.tokens)):
                    row = first_row + position - piece.start
                    if isinstance(job, ScoreJob):
                        scoring.append((job, row, job.target_at(position)))
                    elif isinstance(job, SampleJob):
                        drawing.append((job, row))
            self._draw(hidden_PH, drawing)
            self._score(hidden_PH, scoring)
            for job in jobs:
                if job.error is not None and job.slot is not None:
                    self._network.wipe(job.slot.index)

    def refresh(self, source: Mapping[str, Tensor], *, version: int, where: str) -> None:
        """Take new weights between two steps; what was cached or half sampled under the old ones is dropped.

        Raises:
            CheckpointError: the weights do not fit; the old ones stay.
        """
        with self._lock:
            self._weights.fill(source, where=where)
            self.slots.clear()
            self.version = version

    def _plan(self, jobs: Sequence[Job]) -> list[tuple[Job, Piece]]:
        fed: list[tuple[Job, Piece]] = []
        starting: list[Job] = []
        budget = PREFILL_TOKENS
        for job in jobs:
            slot = job.slot
            assert slot is not None
            if job.version != self.version:
                job.start(self.version)
            if not slot.ids and job.reusable >= SHARED_TOKENS:
                self._borrow(job)
                if any(self._worth_waiting(job, other) for other in starting):
                    continue
                starting.append(job)
            start = len(slot.ids)
            tokens = job.ids[start:]
            if len(tokens) > 1:
                tokens = tokens[:budget]
                budget -= len(tokens)
            if tokens:
                fed.append((job, Piece(slot.index, start, tokens)))
        return fed

    def _borrow(self, job: Job) -> None:
        slot = job.slot
        assert slot is not None
        donor, shared = self.slots.donor(job.ids)
        shared = min(shared, job.reusable)
        if donor is not None and shared >= SHARED_TOKENS:
            self._network.copy(donor.index, slot.index, shared)
            slot.ids = job.ids[:shared]

    def _worth_waiting(self, job: Job, other: Job) -> bool:
        # A group's episodes start alike: compute their prompt once, the others copy it a step later.
        assert job.slot is not None
        shared = min(common_prefix(job.ids, other.ids), job.reusable)
        return shared - len(job.slot.ids) >= SHARED_TOKENS

    def _draw(self, hidden_PH: Tensor, drawing: Sequence[tuple[SampleJob, int]]) -> None:
        if not drawing:
            return
        logits_RV = self._network.logits(hidden_PH, [row for _, row in drawing])
        drawn = draw(logits_RV, [job.next_draw() for job, _ in drawing])
        for index, (job, _) in enumerate(drawing):
            job.accept(drawn, index)

    def _score(self, hidden_PH: Tensor, scoring: Sequence[tuple[ScoreJob, int, int]]) -> None:
        for first in range(0, len(scoring), SCORED_ROWS):
            part = scoring[first : first + SCORED_ROWS]
            logits_RV = self._network.logits(hidden_PH, [row for _, row, _ in part])
            logprobs_RV = torch.log_softmax(logits_RV, dim=-1)[: len(part)]
            targets_R = torch.tensor([target for _, _, target in part], device=logprobs_RV.device)
            chosen = as_list(logprobs_RV.gather(1, targets_R[:, None])[:, 0])
            for (job, _, _), logprob in zip(part, chosen, strict=True):
                job.accept(logprob)

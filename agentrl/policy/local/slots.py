"""Which session's tokens each cache slot holds, and who gets the next one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

__all__ = ["Slot", "Slots", "common_prefix"]


@dataclass(slots=True, eq=False)
class Slot:
    """One place in the cache: `ids` are the tokens whose keys and values it holds."""

    index: int
    ids: list[int] = field(default_factory=list[int])
    session: str | None = None
    busy: bool = False
    last_used: int = 0


class Slots:
    """Give each live session a slot: its own, else a free one, else that of whoever has idled longest."""

    def __init__(self, size: int) -> None:
        """Start with `size` free slots."""
        self._slots = [Slot(index) for index in range(size)]
        self._by_session: dict[str, Slot] = {}
        self._clock = count(1)

    def acquire(self, session: str | None, context_ids: Sequence[int]) -> Slot | None:
        """Return a slot that holds a proper prefix of the context (perhaps nothing), None if all are busy.

        A session of None, or one whose own slot is busy, gets a slot that is forgotten on release.
        """
        own = self._by_session.get(session) if session is not None else None
        if own is not None and not own.busy:
            slot = own
        else:
            slot = min((s for s in self._slots if not s.busy), key=_eviction_order, default=None)
            if slot is None:
                return None
            self._forget(slot)
            if session is not None and own is None:
                slot.session = session
                self._by_session[session] = slot
        # The last token is always computed: its hidden state is where the reply starts.
        slot.ids = slot.ids[: min(common_prefix(slot.ids, context_ids), len(context_ids) - 1)]
        slot.busy = True
        return slot

    def release(self, slot: Slot) -> None:
        """Let a slot idle; what it holds stays for its session."""
        slot.busy = False
        slot.last_used = next(self._clock)
        if slot.session is None:
            slot.ids = []

    def end(self, session: str) -> None:
        """Forget a session; a busy slot is emptied when it is released."""
        slot = self._by_session.get(session)
        if slot is None:
            return
        if slot.busy:
            del self._by_session[session]
            slot.session = None
        else:
            self._forget(slot)

    def clear(self) -> None:
        """Forget what every slot holds, because the weights changed; sessions keep their slots."""
        for slot in self._slots:
            slot.ids = []

    def donor(self, context_ids: Sequence[int]) -> tuple[Slot | None, int]:
        """Return the slot that shares most tokens with a context, and how many."""
        best, shared = None, 0
        for slot in self._slots:
            if len(slot.ids) > shared:
                tokens = common_prefix(slot.ids, context_ids)
                if tokens > shared:
                    best, shared = slot, tokens
        return best, shared

    def _forget(self, slot: Slot) -> None:
        if slot.session is not None:
            del self._by_session[slot.session]
        slot.session, slot.ids, slot.last_used = None, [], 0


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many leading tokens two sequences share."""
    low, high = 0, min(len(first), len(second))
    if list(first[:high]) == list(second[:high]):
        return high
    while low < high - 1:
        middle = (low + high) // 2
        if list(first[low:middle]) == list(second[low:middle]):
            low = middle
        else:
            high = middle
    return low


def _eviction_order(slot: Slot) -> tuple[bool, int, int]:
    # Low indices first: neighbours decode together without copying.
    return (slot.session is not None, slot.last_used if slot.session is not None else 0, slot.index)

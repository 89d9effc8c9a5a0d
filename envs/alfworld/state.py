"""The state of one episode: a few small immutable values, so states can be kept, compared and shared.

Objects, receptacles and locations are numbers into the tables of a `Game`, in the order of their ids.
Sets of objects or receptacles are integers with bit i set for number i.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

__all__ = ["NOTHING", "State", "has"]

NOTHING = -1  # the hand is empty


def has(bits: int, index: int) -> bool:
    """Return whether the set `bits` holds `index`."""
    return bool(bits >> index & 1)


class State(NamedTuple):  # and not a dataclass, of which a changed copy takes four times as long
    """Everything that play can change.

    `contents[r]` lists the objects in receptacle r, ascending. `laid` holds (object, location) for each
    object laid down at a location (PDDL objectAtLocation), `taken` holds (object, receptacle) for each
    object taken out of a receptacle and not put back into that one: `look` speaks of both.
    """

    location: int
    held: int
    contents: tuple[tuple[int, ...], ...]
    laid: frozenset[tuple[int, int]]
    taken: frozenset[tuple[int, int]]
    opened: int
    clean: int
    hot: int
    cool: int
    sliced: int
    toggled: int

    def but(self, **changes: Any) -> State:
        """Return the state with other values in some fields."""
        return self._replace(**changes)

    def digest(self) -> str:
        """Return 16 hex digits, equal on every machine for states of one game that play alike.

        `taken` is left out: it only changes what `look` says, and depends on the way that led here.
        """
        known = (
            self.location,
            self.held,
            self.contents,
            sorted(self.laid),
            (self.opened, self.clean, self.hot, self.cool, self.sliced, self.toggled),
        )
        return hashlib.blake2b(repr(known).encode(), digest_size=8).hexdigest()

"""Numbered scenes: the receptacles of a room, their ids, names and places, the same for every game there."""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from envs.alfworld.rooms import BASIN_PREFIX, OPENABLE, ROOMS, RoomKind, Size

START: Final = "loc_bar_0_bar_0_bar_0_bar_0"

_SHARED_PLACE: Final = 0.12
_HIGHEST_COORDINATE: Final = 399
_ROTATIONS: Final = (0, 1, 2, 3)
_HORIZONS: Final = (-30, 0, 30, 45, 60)


@dataclass(frozen=True, slots=True)
class Thing:
    """A receptacle or an object: its id in the PDDL problem, its type, and the name that a player reads."""

    id: str
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Receptacle:
    """A receptacle of a scene; `place` is the location to stand at to use it."""

    thing: Thing
    place: str

    @property
    def openable(self) -> bool:
        """Whether it starts closed and has to be opened."""
        return self.thing.kind in OPENABLE


@dataclass(frozen=True, slots=True)
class Scene:
    """A furnished room without objects; `receptacles` are in the order in which the game lists them."""

    room: RoomKind
    number: int
    receptacles: tuple[Receptacle, ...]


def things(kinds: Iterable[str], rng: random.Random) -> list[Thing]:
    """Return one new thing per kind, named as the real package names them and sorted by id, ignoring case.

    The player's number counts down while the ids go up: of three mugs the first by id is `mug 3`.
    """
    ids: dict[str, str] = {}
    for kind in kinds:
        fresh = _id(kind, rng)
        while fresh in ids:
            fresh = _id(kind, rng)
        ids[fresh] = kind
    left = Counter(ids.values())
    named: list[Thing] = []
    for identifier in sorted(ids, key=str.lower):
        kind = ids[identifier]
        named.append(Thing(identifier, kind, f"{kind.lower()} {left[kind]}"))
        left[kind] -= 1
    return named


@lru_cache(maxsize=512)
def build_scene(room: RoomKind, number: int, size: Size) -> Scene:
    """Return the scene with this number; the same arguments always give the same scene."""
    rng = random.Random(f"scene|{room}|{number}|{size}")
    kinds = [
        kind
        for kind, (fewest, most) in sorted(ROOMS[room].furniture[size].items())
        for _ in range(rng.randint(fewest, most))
    ]
    furniture = things(kinds, rng)
    return Scene(room, number, tuple(map(Receptacle, furniture, _places(len(furniture), rng))))


def _places(count: int, rng: random.Random) -> list[str]:
    """Return a location for each of `count` receptacles; neighbours sometimes share one, as in real rooms."""
    places: list[str] = []
    taken = {START}
    for _ in range(count):
        if places and rng.random() < _SHARED_PLACE:
            places.append(places[-1])
            continue
        place = _place(rng)
        while place in taken:
            place = _place(rng)
        taken.add(place)
        places.append(place)
    return places


def _place(rng: random.Random) -> str:
    numbers = (rng.randint(-12, 12), rng.randint(-12, 12), rng.choice(_ROTATIONS), rng.choice(_HORIZONS))
    return "_bar_".join(["loc", *(str(number).replace("-", "_minus_") for number in numbers)])


def _id(kind: str, rng: random.Random) -> str:
    parts = [BASIN_PREFIX.get(kind, kind), _coordinate(rng), _coordinate(rng), _coordinate(rng)]
    return "_bar_".join([*parts, kind] if kind in BASIN_PREFIX else parts)


def _coordinate(rng: random.Random) -> str:
    hundredths = rng.randint(-_HIGHEST_COORDINATE, _HIGHEST_COORDINATE)
    whole, part = divmod(abs(hundredths), 100)
    return f"_{'minus' if hundredths < 0 else 'plus'}_{whole:02d}_dot_{part:02d}"

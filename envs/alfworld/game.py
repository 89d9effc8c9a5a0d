"""A game: the tables that all its episodes share, built from a game file that is only ever data.

Names follow the reference: an id `Fridge_bar__minus_00_...` becomes `fridge 1`; ids are sorted and the
first of a name takes the highest number. Objects, receptacles and locations are numbered in that same
order, so ascending numbers are the order of every list in the text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from agentrl.errors import EnvError
from envs.alfworld.goal import Goal, compile_goal
from envs.alfworld.grammar import NEW, OLD, Dialect, read_rules
from envs.alfworld.pddl import Problem, parse_problem, unreadable
from envs.alfworld.state import NOTHING, State

__all__ = ["Action", "Game", "Receptacle", "Thing", "build_game", "load_game", "parse_game"]

MAX_FILE_BYTES = 8_000_000
MAX_ENTITIES = 2_000

_PLACES: dict[str, str] = {"sinkbasintype": "clean", "microwavetype": "heat", "fridgetype": "cool"}
_KNIVES = frozenset({"knifetype", "butterknifetype"})


class Action(NamedTuple):
    """A verb, with the numbers of the object and of the receptacle (or knife) that it is about."""

    verb: str
    thing: int = NOTHING
    where: int = NOTHING


@dataclass(frozen=True, slots=True)
class Receptacle:
    """A place that holds objects. `fits` are the objects that may be put there, `changes` what it does."""

    name: str
    location: int
    openable: bool
    fits: frozenset[int]
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Thing:
    """An object: what can be done with it, and for a movable receptacle what lies in it for good."""

    name: str
    pickupable: bool
    toggleable: bool
    sliceable: bool
    changeable: frozenset[str]
    is_knife: bool
    holds: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Game:
    """One game, immutable and shared by every thread and episode that plays it.

    `here` lists the receptacles at each location; `anywhere` holds the commands that do not depend on what
    lies around: going to any receptacle, looking, taking stock and help.
    """

    name: str
    task: str
    dialect: Dialect
    receptacles: tuple[Receptacle, ...]
    things: tuple[Thing, ...]
    locations: tuple[str, ...]
    here: tuple[tuple[int, ...], ...]
    anywhere: Mapping[str, Action]
    goal: Goal
    start: State


def load_game(path: Path) -> Game:
    """Return the game in a `game.tw-pddl` file.

    Raises:
        EnvError: the file cannot be read, or is not a game of a released ALFWorld.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise unreadable(str(path), "a readable file", f"{type(error).__name__}: {error.strerror}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise unreadable(str(path), f"a file of at most {MAX_FILE_BYTES} bytes", "a longer one")
    try:
        data: Any = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise unreadable(str(path), "JSON", f"{type(error).__name__}: {error}") from error
    if not isinstance(data, dict):
        raise unreadable(str(path), "a JSON object", type(data).__name__)
    return parse_game(cast("dict[str, Any]", data), str(path))


def parse_game(data: Mapping[str, Any], name: str) -> Game:
    """Return the game that the fields of a `game.tw-pddl` file describe; `name` is used in errors.

    Raises:
        EnvError: not a game of a released ALFWorld.
    """
    texts: list[str] = []
    for field in ("pddl_problem", "grammar", "pddl_domain"):
        text = data.get(field)
        if not isinstance(text, str):
            raise unreadable(name, f"the text {field!r}", type(text).__name__)
        texts.append(text)
    problem, grammar, domain = texts
    dialect, task = read_rules(grammar, domain, name)
    return build_game(problem, task, dialect, name)


def build_game(problem: str, task: str, dialect: Dialect | Literal["old", "new"], name: str) -> Game:
    """Return the game of a PDDL problem, a task sentence and a dialect.

    Raises:
        EnvError: not a well-formed problem of the domain `alfred`.
    """
    if isinstance(dialect, str):
        dialect = {"old": OLD, "new": NEW}[dialect]
    parsed = parse_problem(problem, name)
    try:
        return _Builder(parsed, name).build(task, dialect)
    except EnvError:
        raise
    except (LookupError, ValueError) as error:
        # A fact with too few or unknown names.
        raise unreadable(name, "facts about declared names", f"{type(error).__name__}: {error}") from error


class _Builder:
    """Turns ids into numbers, one table after another."""

    def __init__(self, problem: Problem, game: str) -> None:
        self.problem = problem
        self.game = game
        used = problem.ids_in_facts()
        if len(used) > MAX_ENTITIES:
            raise unreadable(game, f"at most {MAX_ENTITIES} things", str(len(used)))
        self.names = _display_names(used)
        self.ids: dict[str, list[str]] = {}
        self.numbers: dict[str, dict[str, int]] = {}
        # Ids in no fact have no name and no place, but a goal may quantify over them: they come last.
        for name in sorted(problem.types, key=lambda n: (n not in used, n)):
            numbers = self.numbers.setdefault(problem.types[name], {})
            numbers[name] = len(numbers)
            if name in used:
                self.ids.setdefault(problem.types[name], []).append(name)

    def build(self, task: str, dialect: Dialect) -> Game:
        where = self.locations()
        receptacles = self.receptacles(where)
        here: list[list[int]] = [[] for _ in self.numbers.get("location", ())]
        for number, location in enumerate(where):
            if location >= 0:
                here[location].append(number)
        return Game(
            name=self.game,
            task=task,
            dialect=dialect,
            receptacles=receptacles,
            things=self.things(),
            locations=tuple(self.names[name] for name in self.ids.get("location", ())),
            here=tuple(map(tuple, here)),
            anywhere=_commands_anywhere(receptacles, dialect),
            goal=compile_goal(self.problem, self.numbers, self.game),
            start=self.start(),
        )

    def pairs(self, predicate: str, first: str, second: str) -> set[tuple[int, int]]:
        one, two = self.numbers[first], self.numbers[second]
        return {(one[a], two[b]) for a, b in self.problem.facts.get(predicate, ())}

    def members(self, predicate: str, kind: str) -> set[int]:
        numbers = self.numbers[kind]
        return {numbers[name] for (name,) in self.problem.facts.get(predicate, ())}

    def bits(self, predicate: str, kind: str) -> int:
        return sum(1 << number for number in self.members(predicate, kind))

    def of_type(self, predicate: str, kind: str) -> dict[int, set[str]]:
        """Return the types that `receptacletype` or `objecttype` give to each number."""
        numbers = self.numbers[kind]
        types: dict[int, set[str]] = {number: set() for number in numbers.values()}
        for name, type_name in self.problem.facts.get(predicate, ()):
            types[numbers[name]].add(type_name)
        return types

    def locations(self) -> list[int]:
        """Return the location of each receptacle, -1 for one that has none."""
        where = [NOTHING] * len(self.ids.get("receptacle", ()))
        for receptacle, location in self.pairs("receptacleatlocation", "receptacle", "location"):
            if where[receptacle] != NOTHING:
                name = self.ids["receptacle"][receptacle]
                raise unreadable(self.game, "one location for each receptacle", f"two for {name}")
            where[receptacle] = location
        return where

    def receptacles(self, where: list[int]) -> tuple[Receptacle, ...]:
        openable = self.members("openable", "receptacle")
        kinds = self.of_type("receptacletype", "receptacle")
        by_kind: dict[str, set[int]] = {}
        for thing, thing_kinds in self.of_type("objecttype", "object").items():
            for kind in thing_kinds:
                by_kind.setdefault(kind, set()).add(thing)
        fits: dict[str, set[int]] = {}
        for kind, thing_kind in self.problem.facts.get("cancontain", ()):
            fits.setdefault(kind, set()).update(by_kind.get(thing_kind, ()))
        return tuple(
            Receptacle(
                name=self.names[name],
                location=where[number],
                openable=number in openable,
                fits=frozenset(thing for kind in kinds[number] for thing in fits.get(kind, ())),
                changes=tuple(_PLACES[kind] for kind in sorted(kinds[number]) if kind in _PLACES),
            )
            for number, name in enumerate(self.ids.get("receptacle", ()))
        )

    def things(self) -> tuple[Thing, ...]:
        able = {
            predicate: self.members(predicate, "object")
            for predicate in ("pickupable", "toggleable", "sliceable", "isreceptacleobject")
        }
        changeable = {verb: self.members(f"{verb}able", "object") for verb in _PLACES.values()}
        inside: dict[int, list[int]] = {number: [] for number in able["isreceptacleobject"]}
        for inner, outer in sorted(self.pairs("inreceptacleobject", "object", "object")):
            inside.setdefault(outer, []).append(inner)
        kinds = self.of_type("objecttype", "object")
        return tuple(
            Thing(
                name=self.names[name],
                pickupable=number in able["pickupable"],
                toggleable=number in able["toggleable"],
                sliceable=number in able["sliceable"],
                changeable=frozenset(verb for verb, numbers in changeable.items() if number in numbers),
                is_knife=not _KNIVES.isdisjoint(kinds[number]),
                holds=tuple(inside[number]) if number in able["isreceptacleobject"] else None,
            )
            for number, name in enumerate(self.ids.get("object", ()))
        )

    def start(self) -> State:
        at = self.pairs("atlocation", "agent", "location")
        if len(at) != 1 or len(self.numbers["agent"]) != 1:
            raise unreadable(self.game, "one agent at one location", f"{len(at)} places")
        if self.problem.facts.get("holds") or self.problem.facts.get("holdsany"):
            raise unreadable(self.game, "an agent that starts with an empty hand", "a held object")
        contents: list[list[int]] = [[] for _ in self.ids.get("receptacle", ())]
        for thing, receptacle in sorted(self.pairs("inreceptacle", "object", "receptacle")):
            contents[receptacle].append(thing)
        ((_, location),) = at
        return State(
            location=location,
            held=NOTHING,
            contents=tuple(map(tuple, contents)),
            laid=frozenset(self.pairs("objectatlocation", "object", "location")),
            taken=frozenset(),
            opened=self.bits("opened", "receptacle"),
            clean=self.bits("isclean", "object"),
            hot=self.bits("ishot", "object"),
            cool=self.bits("iscool", "object"),
            sliced=self.bits("issliced", "object"),
            toggled=self.bits("istoggled", "object"),
        )


def _commands_anywhere(receptacles: Iterable[Receptacle], dialect: Dialect) -> dict[str, Action]:
    found = {
        f"go to {receptacle.name}": Action("go", where=number)
        for number, receptacle in enumerate(receptacles)
        if receptacle.location != NOTHING
    }
    plain = ("look", "inventory", "help") if dialect.help else ("look", "inventory")
    return found | {verb: Action(verb) for verb in plain}


def _display_names(ids: Iterable[str]) -> dict[str, str]:
    """Return what the text calls each id, as the reference's demangler does."""
    ordered = sorted(ids)
    bases: dict[str, str] = {}
    for name in ordered:
        base, bar, _ = name.partition("_bar_")
        if bar:
            bases[name] = _demangled(base) + ("basin" if "basin" in name else "")
    left = Counter(bases.values())
    names: dict[str, str] = {}
    for name in ordered:
        base = bases.get(name)
        if base is None:
            names[name] = f"{_demangled(name)} "
        else:
            names[name] = f"{base} {left[base]}"
            left[base] -= 1
    return names


def _demangled(text: str) -> str:
    for mangled, plain in (("_minus_", "-"), ("_plus_", "+"), ("_dot_", "."), ("_comma_", ",")):
        text = text.replace(mangled, plain)
    return text

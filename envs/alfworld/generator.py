"""Generate ALFWorld games from a seed: a furnished room, a task that can be done in it, and one way to do it.

The way (the walkthrough) is built with the game, so no planner ever runs. The text of the game is what the
real package writes, and loads there as well.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypedDict

from envs.alfworld import rooms
from envs.alfworld.engine import Play
from envs.alfworld.game import parse_game
from envs.alfworld.problem import (
    Goal,
    Grammar,
    domain_text,
    grammar_text,
    problem_text,
    put_command,
    task_sentences,
)
from envs.alfworld.rooms import (
    CAN_CONTAIN,
    CLEANABLE,
    COOLABLE,
    CROWDED,
    HEATABLE,
    LAMP_STANDS,
    ROOMS,
    SIZES,
    SPLITS,
    TASK_ROOMS,
    TASK_TYPES,
    RoomKind,
    Size,
    Split,
    TaskType,
)
from envs.alfworld.scenes import Receptacle, Scene, Thing, build_scene, things

_STRAY_LAMP: Final = 0.6
_INSTANCES: Final = (1, 1, 2, 3)
_INSTANCES_OF_TWO: Final = (2, 2, 3)

# Where an object is treated, the command that does it, and what can be treated so.
_TREATMENTS: Final[dict[TaskType, tuple[str, str, frozenset[str]]]] = {
    "pick_clean_then_place_in_recep": ("SinkBasin", "clean", CLEANABLE),
    "pick_heat_then_place_in_recep": ("Microwave", "heat", HEATABLE),
    "pick_cool_then_place_in_recep": ("Fridge", "cool", COOLABLE),
}


class GameJson(TypedDict):
    """The content of a `game.tw-pddl` file."""

    pddl_domain: str
    grammar: str
    pddl_problem: str
    solvable: bool
    walkthrough: list[str]


class PddlParams(TypedDict):
    """The goal's parameters in `traj_data.json`; an empty string stands for a parameter without a value."""

    object_target: str
    parent_target: str
    mrecep_target: str
    toggle_target: str
    object_sliced: bool


class SceneData(TypedDict):
    """The scene in `traj_data.json`."""

    floor_plan: str
    scene_num: int


class TrajData(TypedDict):
    """The content of a `traj_data.json` file, as far as text games need it."""

    task_id: str
    task_type: str
    pddl_params: PddlParams
    scene: SceneData
    turk_annotations: dict[str, list[dict[str, str]]]


@dataclass(frozen=True, slots=True)
class GeneratedGame:
    """A game ready to be played or exported."""

    game_json: GameJson
    traj_data: TrajData
    task_type: TaskType
    room: RoomKind
    scene_num: int


@dataclass(frozen=True, slots=True)
class _Draft:
    scene: Scene
    goal: Goal
    placed: dict[Thing, Receptacle]

    def bucket(self) -> int:
        """Return which split may hold this game, judged by what a player sees (not ids or wording)."""
        seen = [str(self.goal), *(receptacle.thing.name for receptacle in self.scene.receptacles)]
        seen += sorted(f"{thing.name}@{receptacle.thing.name}" for thing, receptacle in self.placed.items())
        return hashlib.sha256("|".join(seen).encode()).digest()[0] % len(SPLITS)


def generate(
    seed: int,
    *,
    split: Split = "train",
    size: Size = "full",
    task_type: TaskType | None = None,
    grammar: Grammar = "new",
) -> GeneratedGame:
    """Return the game of these arguments, on every machine and in every process the same one.

    `size` sets the number of receptacles and objects: small 6-9 and 8-14, medium 12-18 and 16-24, full up to
    42 and 50. `task_type` None draws one of the six. "valid_unseen" plays in scenes that no other split uses,
    and no game is in two splits, whatever the seeds. `grammar` changes the wording only, not the game.

    Raises:
        ValueError: an argument names no split, size, task type or grammar.
    """
    _check("split", split, SPLITS)
    _check("size", size, SIZES)
    _check("task_type", task_type, (None, *TASK_TYPES))
    _check("grammar", grammar, ("new", "old"))
    key = f"game|{split}|{size}|{task_type}|{seed}"
    rng = random.Random(key)
    kind = task_type or rng.choice(TASK_TYPES)
    draft = next(draft for draft in _drafts(kind, split, size, rng) if draft.bucket() == SPLITS.index(split))
    # The name tells the grammars apart, so that both wordings of a game can lie in one folder.
    digest = hashlib.sha256(f"{key}|{grammar}".encode()).digest()
    digits = f"{int.from_bytes(digest) % 10**20:020d}"
    return _finish(draft, f"trial_T{digits[:8]}_{digits[8:14]}_{digits[14:]}", grammar, rng)


def wins(game: GeneratedGame) -> bool:
    """Return whether the game's walkthrough, played in our engine, wins with its last command and not before.

    Raises:
        EnvError: the engine cannot read the game.
    """
    play = Play(parse_game(game.game_json, game.traj_data["task_id"]))
    won = [play.won, *(play.step(command).won for command in game.game_json["walkthrough"])]
    return won[-1] and not any(won[:-1])


def _check(what: str, value: str | None, known: Sequence[str | None]) -> None:
    if value not in known:
        raise ValueError(
            f"cannot generate a game with {what} {value!r}: known are {', '.join(map(str, known))}"
        )


def _drafts(task_type: TaskType, split: Split, size: Size, rng: random.Random) -> Iterator[_Draft]:
    """Yield new drafts without end; the caller takes the first that belongs to its split."""
    while True:
        room = rng.choice(TASK_ROOMS[task_type])
        scene = build_scene(room, rng.choice(rooms.scene_numbers(room, split)), size)
        object_type, targets = rng.choice(_choices(scene, task_type))
        goal = Goal(task_type, object_type, rng.choice(targets))
        wanted = list(_objects(scene, goal, size, rng))
        placed = {thing: _place(thing.kind, scene, goal, rng) for thing in things(wanted, rng)}
        yield _Draft(scene, goal, placed)


@lru_cache(maxsize=4096)
def _choices(scene: Scene, task_type: TaskType) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return every (object type, target types) that makes sense in the scene for the task."""
    room = ROOMS[scene.room]
    here = tuple(dict.fromkeys(receptacle.thing.kind for receptacle in scene.receptacles))
    if task_type == "look_at_obj_in_light":
        return tuple((kind, room.lamps) for kind in room.objects)
    tool, _, treatable = _TREATMENTS.get(task_type, ("", "", frozenset(room.objects)))
    found: list[tuple[str, tuple[str, ...]]] = []
    for kind in room.objects:
        spots = [spot for spot in here if kind in CAN_CONTAIN.get(spot, ())]
        # One more spot than the target, so that the object can start somewhere else.
        targets = tuple(spot for spot in spots if spot != tool and len(spots) > 1)
        if kind in treatable and targets:
            found.append((kind, targets))
    return tuple(found)


def _objects(scene: Scene, goal: Goal, size: Size, rng: random.Random) -> Iterator[str]:
    """Yield the object types of a game: those that the goal needs, then others up to the room's number."""
    room = ROOMS[scene.room]
    fewest, most = rooms.OBJECT_COUNTS[size]
    if size == "full" and scene.room == "kitchen":
        fewest, most = rooms.FULL_KITCHEN_OBJECTS
    left = rng.randint(fewest, most)
    needed = [goal.object_type] * rng.choice(
        _INSTANCES_OF_TWO if goal.task_type == "pick_two_obj_and_place" else _INSTANCES
    )
    if goal.task_type == "look_at_obj_in_light":
        needed.append(goal.target)
    elif room.lamps and rng.random() < _STRAY_LAMP:
        needed.append(rng.choice(room.lamps))
    yield from needed
    others = [kind for kind in room.objects if kind != goal.object_type and _spots(scene, kind)]
    pool = others * rooms.MOST_OF_A_KIND
    yield from rng.sample(pool, min(left - len(needed), len(pool)))


@lru_cache(maxsize=16384)
def _spots(scene: Scene, kind: str) -> tuple[Receptacle, ...]:
    """Return the receptacles where an object of this type may lie, crowded ones several times."""
    return tuple(
        receptacle
        for receptacle in scene.receptacles
        if kind in CAN_CONTAIN.get(receptacle.thing.kind, ())
        or (kind in rooms.FIXED and receptacle.thing.kind in LAMP_STANDS)
        for _ in range(CROWDED.get(receptacle.thing.kind, 1))
    )


def _place(kind: str, scene: Scene, goal: Goal, rng: random.Random) -> Receptacle:
    spots = _spots(scene, kind)
    if kind == goal.object_type and goal.task_type in ("pick_and_place_simple", "pick_two_obj_and_place"):
        # What already lies where it should end up would make the game too easy, or won from the start.
        spots = tuple(spot for spot in spots if spot.thing.kind != goal.target)
    return rng.choice(spots)


def _finish(draft: _Draft, name: str, grammar: Grammar, rng: random.Random) -> GeneratedGame:
    goal, scene = draft.goal, draft.scene
    sentences = task_sentences(goal)
    sentence = rng.choice(sentences)
    lit = goal.task_type == "look_at_obj_in_light"
    return GeneratedGame(
        game_json={
            "pddl_domain": domain_text(),
            "grammar": grammar_text(grammar, sentence),
            "pddl_problem": problem_text(name, scene, draft.placed, goal),
            "solvable": True,
            "walkthrough": _walkthrough(draft, grammar),
        },
        traj_data={
            "task_id": name,
            "task_type": goal.task_type,
            "pddl_params": {
                "object_target": goal.object_type,
                "parent_target": "" if lit else goal.target,
                "mrecep_target": "",
                "toggle_target": goal.target if lit else "",
                "object_sliced": False,
            },
            "scene": {"floor_plan": f"FloorPlan{scene.number}", "scene_num": scene.number},
            "turk_annotations": {"anns": [{"task_desc": text} for text in sentences]},
        },
        task_type=goal.task_type,
        room=scene.room,
        scene_num=scene.number,
    )


class _Walk:
    """Write commands for someone who knows where everything is, keeping track of where they stand."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self._place = ""
        self._opened: set[str] = set()

    def reach(self, receptacle: Receptacle, *, opened: bool) -> None:
        """Go to the receptacle, and open it where that is asked for and needed."""
        name = receptacle.thing.name
        if self._place != receptacle.place:
            self.commands.append(f"go to {name}")
            self._place = receptacle.place
        if opened and receptacle.openable and name not in self._opened:
            self.commands.append(f"open {name}")
            self._opened.add(name)


def _walkthrough(draft: _Draft, grammar: Grammar) -> list[str]:
    """Return commands that win the game, told by someone who knows where everything is."""
    goal, walk = draft.goal, _Walk()
    items = [thing for thing in draft.placed if thing.kind == goal.object_type]
    for item in items[: 2 if goal.task_type == "pick_two_obj_and_place" else 1]:
        origin = draft.placed[item]
        walk.reach(origin, opened=True)
        walk.commands.append(f"take {item.name} from {origin.thing.name}")
        if goal.task_type == "look_at_obj_in_light":
            lamp, stand = next((it, where) for it, where in draft.placed.items() if it.kind == goal.target)
            walk.reach(stand, opened=False)
            walk.commands.append(f"use {lamp.name}")
            continue
        if goal.task_type in _TREATMENTS:
            kind, verb, _ = _TREATMENTS[goal.task_type]
            tool = _first(draft.scene, kind)
            walk.reach(tool, opened=False)
            walk.commands.append(f"{verb} {item.name} with {tool.thing.name}")
        target = _first(draft.scene, goal.target)
        walk.reach(target, opened=True)
        walk.commands.append(put_command(grammar, item.name, target.thing.name))
    return walk.commands


def _first(scene: Scene, kind: str) -> Receptacle:
    return next(receptacle for receptacle in scene.receptacles if receptacle.thing.kind == kind)

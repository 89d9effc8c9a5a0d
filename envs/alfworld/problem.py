"""The PDDL problem and the action grammar of a generated game, written as the real data set writes them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from envs.alfworld.rooms import (
    CAN_CONTAIN,
    CLEANABLE,
    CONTAINERS,
    COOLABLE,
    FIXED,
    HEATABLE,
    OBJECT_TYPES,
    RECEPTACLE_TYPES,
    SLICEABLE,
    TOGGLEABLE,
    TaskType,
)
from envs.alfworld.scenes import START, Receptacle, Scene, Thing

Grammar = Literal["new", "old"]

DATA: Final = Path(__file__).with_name("data")
_UNKNOWN_TASK: Final = "UNKNOWN GOAL"


@dataclass(frozen=True, slots=True)
class Goal:
    """What a game asks for; `target` is a receptacle type, or a lamp type where the task is to look."""

    task_type: TaskType
    object_type: str
    target: str


_PHRASES: Final[Mapping[TaskType, tuple[str, ...]]] = MappingProxyType(
    {
        "pick_and_place_simple": ("put a {o} in {r}.", "put some {o} on {r}."),
        "look_at_obj_in_light": ("look at {o} under the {r}.", "examine the {o} with the {r}."),
        "pick_clean_then_place_in_recep": ("put a clean {o} in {r}.", "clean some {o} and put it in {r}."),
        "pick_heat_then_place_in_recep": ("put a hot {o} in {r}.", "heat some {o} and put it in {r}."),
        "pick_cool_then_place_in_recep": ("put a cool {o} in {r}.", "cool some {o} and put it in {r}."),
        "pick_two_obj_and_place": ("put two {o} in {r}.", "find two {o} and put them in {r}."),
    }
)

_LIGHT_GOAL: Final = """\
(:goal
 (and
  (exists (?ot - object ?r - receptacle ?a - agent ?l - location)
   (and
    (objectType ?ot {r}Type)
    (toggleable ?ot)
    (isToggled ?ot)
    (receptacleAtLocation ?r ?l)
    (atLocation ?a ?l)
    (inReceptacle ?ot ?r)))
  (exists (?o - object ?a - agent)
   (and
    (objectType ?o {o}Type)
    (holds ?a ?o)))))
"""

_TWO_GOAL: Final = """\
(:goal
 (and
  (exists (?r - receptacle)
   (exists (?o1 - object)
    (and
     (objectType ?o1 {o}Type)
     (receptacleType ?r {r}Type)
     (inReceptacle ?o1 ?r)
     (exists (?o2 - object)
      (and
       (not (= ?o1 ?o2))
       (objectType ?o2 {o}Type)
       (receptacleType ?r {r}Type)
       (inReceptacle ?o2 ?r))))))))
"""

_PLACE_GOAL: Final = """\
(:goal
 (and
  (exists (?r - receptacle)
   (exists (?o - object)
    (and
     {able}(objectType ?o {o}Type)
     (receptacleType ?r {r}Type)
     {state}(inReceptacle ?o ?r))))))
"""

# What the treated object must be capable of, and the state that it must be in.
_TREATED: Final[Mapping[TaskType, tuple[str, str]]] = MappingProxyType(
    {
        "pick_clean_then_place_in_recep": ("cleanable", "isClean"),
        "pick_heat_then_place_in_recep": ("heatable", "isHot"),
        "pick_cool_then_place_in_recep": ("coolable", "isCool"),
    }
)

# Only the wording of putting something down differs between the two released grammars.
_OLD_WORDING: Final = (
    (
        '"You move the {o.name} to the {r.name}."',
        '"You put the {o.name} in/on the {r.name}."',
    ),
    ('template :: "move {o} to {r}";', 'template :: "put {o} in/on {r}";'),
)

_ABILITIES: Final = (
    ("isReceptacleObject", CONTAINERS),
    ("cleanable", CLEANABLE),
    ("heatable", HEATABLE),
    ("coolable", COOLABLE),
    ("toggleable", TOGGLEABLE),
    ("sliceable", SLICEABLE),
)


def task_sentences(goal: Goal) -> tuple[str, ...]:
    """Return every wording of the goal that a player may read, without `Your task is to: `."""
    return tuple(
        phrase.format(o=goal.object_type.lower(), r=goal.target.lower())
        for phrase in _PHRASES[goal.task_type]
    )


@cache
def domain_text() -> str:
    """Return the PDDL domain that all games share."""
    return (DATA / "alfred.pddl").read_text(encoding="utf-8")


@cache
def grammar_template(grammar: Grammar) -> str:
    """Return the action grammar, its task left open: "new" says `move X to Y`, "old" `put X in/on Y`."""
    text = (DATA / "alfred.twl2").read_text(encoding="utf-8")
    for new, old in _OLD_WORDING if grammar == "old" else ():
        text = text.replace(new, old)
    return text


def grammar_text(grammar: Grammar, sentence: str) -> str:
    """Return the action grammar of a game whose task reads `sentence`."""
    return grammar_template(grammar).replace(_UNKNOWN_TASK + ".", sentence)


def put_command(grammar: Grammar, item: str, receptacle: str) -> str:
    """Return the command that puts the held `item` down."""
    return f"move {item} to {receptacle}" if grammar == "new" else f"put {item} in/on {receptacle}"


def problem_text(name: str, scene: Scene, placed: Mapping[Thing, Receptacle], goal: Goal) -> str:
    """Return the PDDL problem: everything that exists, where it is at the start, and the goal."""
    receptacles = scene.receptacles
    places = dict.fromkeys([receptacle.place for receptacle in receptacles] + [START])
    return "\n".join(
        [
            f"(define (problem plan_{name})\n(:domain alfred)\n(:objects\n{_constants()}",
            *(f"{thing.id} - object" for thing in placed),
            *(f"{receptacle.thing.id} - receptacle" for receptacle in receptacles),
            *(f"{place} - location" for place in places),
            ")\n(:init",
            *(f"(receptacleType {it.thing.id} {it.thing.kind}Type)" for it in receptacles),
            *(f"(objectType {thing.id} {thing.kind}Type)" for thing in placed),
            *_fits(receptacles, placed),
            *(f"(pickupable {thing.id})" for thing in placed if thing.kind not in FIXED),
            *(
                f"({ability} {thing.id})"
                for ability, kinds in _ABILITIES
                for thing in placed
                if thing.kind in kinds
            ),
            *(f"(openable {it.thing.id})" for it in receptacles if it.openable),
            f"(atLocation agent1 {START})",
            *(f"(objectAtLocation {thing.id} {it.place})" for thing, it in placed.items()),
            *(f"(inReceptacle {thing.id} {it.thing.id})" for thing, it in placed.items()),
            *(f"(receptacleAtLocation {it.thing.id} {it.place})" for it in receptacles),
            ")",
            _goal_text(goal) + ")\n",
        ]
    )


def _fits(receptacles: Iterable[Receptacle], objects: Iterable[Thing]) -> list[str]:
    """Return which type of receptacle can contain which type of object, for the types in this game."""
    kinds = dict.fromkeys(receptacle.thing.kind for receptacle in receptacles)
    contents = dict.fromkeys(thing.kind for thing in objects)
    return [
        f"(canContain {kind}Type {content}Type)"
        for kind in kinds
        for content in contents
        if content in CAN_CONTAIN.get(kind, ())
    ]


def _goal_text(goal: Goal) -> str:
    if goal.task_type == "look_at_obj_in_light":
        return _LIGHT_GOAL.format(o=goal.object_type, r=goal.target)
    if goal.task_type == "pick_two_obj_and_place":
        return _TWO_GOAL.format(o=goal.object_type, r=goal.target)
    able, state = (f"({word} ?o)\n     " if word else "" for word in _TREATED.get(goal.task_type, ("", "")))
    return _PLACE_GOAL.format(o=goal.object_type, r=goal.target, able=able, state=state)


@cache
def _constants() -> str:
    """Return the declarations that every problem of the data set carries, whatever is in the room."""
    return "\n".join(
        [
            "agent1 - agent",
            *(f"{kind} - object" for kind in OBJECT_TYPES),
            *(f"{kind}Type - otype" for kind in OBJECT_TYPES),
            *(f"{kind}Type - rtype" for kind in RECEPTACLE_TYPES),
        ]
    )

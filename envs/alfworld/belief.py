"""What a player of a text game can know from the text alone: the task, and what has been seen so far."""

import re
from dataclasses import dataclass, field
from typing import Final, Literal

Action = Literal["place", "place two", "look", "clean", "heat", "cool"]

_LISTED: Final = re.compile(r"\ban? ([a-z]+ \d+)")
_TASK: Final = re.compile(r"Your task is to: (.*)")

_THING: Final = r"([a-z]+ \d+)"

# The state that each treatment leaves behind, and the one that it undoes.
_EFFECT: Final = {"clean": ("clean", ""), "heat": ("hot", "cool"), "cool": ("cool", "hot")}
_TREATMENT: Final[dict[str, Action]] = {"clean": "clean", "hot": "heat", "cool": "cool", "heat": "heat"}

_GOALS: Final[tuple[tuple[re.Pattern[str], Action | None], ...]] = (
    (re.compile(r"look at (?P<item>\w+) under the (?P<target>\w+)"), "look"),
    (re.compile(r"examine the (?P<item>\w+) with the (?P<target>\w+)"), "look"),
    (re.compile(r"put two (?P<item>\w+) in (?P<target>\w+)"), "place two"),
    (re.compile(r"find two (?P<item>\w+) and put them in (?P<target>\w+)"), "place two"),
    (re.compile(r"put a (?P<how>clean|hot|cool) (?P<item>\w+) in (?P<target>\w+)"), None),
    (re.compile(r"(?P<how>clean|heat|cool) some (?P<item>\w+) and put it in (?P<target>\w+)"), None),
    (re.compile(r"put (?:a|some) (?P<item>\w+) (?:in|on) (?P<target>\w+)"), "place"),
)


@dataclass(frozen=True, slots=True)
class Task:
    """A task as its sentence tells it; `item` and `target` are types in the lower case of the game's text."""

    action: Action
    item: str
    target: str

    @property
    def state(self) -> str:
        """The state that the item must be in ("clean", "hot" or "cool"), empty where any will do."""
        return _EFFECT[self.action][0] if self.action in _EFFECT else ""


def parse_task(text: str) -> Task:
    """Return the task that the game's introduction states.

    Raises:
        ValueError: the text states no task, or one in none of the known wordings.
    """
    found = _TASK.search(text)
    sentence = found[1].strip() if found else ""
    for pattern, action in _GOALS:
        if match := pattern.match(sentence):
            words = match.groupdict()
            return Task(action or _TREATMENT[words["how"]], words["item"], words["target"])
    raise ValueError(f"cannot read a task from {sentence or text!r}: it is in none of the known wordings")


def kind_of(name: str) -> str:
    """Return the type in a name: `mug` for `mug 2`."""
    return name.partition(" ")[0]


@dataclass(slots=True)
class Belief:
    """What the observations have told so far; nothing in it was guessed.

    `receptacles` keeps the introduction's order. `where` maps each object seen to its receptacle, in the
    order seen; `viewed` are the receptacles whose contents have been seen, `closed` those last seen closed.
    `here` are the receptacles known to be within reach, `beside` those known to share a place with another.
    `states` holds what treatments have done to each object.
    """

    receptacles: list[str]
    where: dict[str, str] = field(default_factory=dict[str, str])
    viewed: set[str] = field(default_factory=set[str])
    closed: set[str] = field(default_factory=set[str])
    here: set[str] = field(default_factory=set[str])
    holding: str | None = None
    origin: str | None = None
    states: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    beside: dict[str, set[str]] = field(default_factory=dict[str, set[str]])

    @classmethod
    def from_intro(cls, text: str) -> "Belief":
        """Return the belief after the introduction, which lists the receptacles and nothing else."""
        return cls(receptacles=_LISTED.findall(text.partition("Your task is to:")[0]))

    def inside(self, receptacle: str) -> list[str]:
        """Return the objects seen there, in the order seen."""
        return [item for item, spot in self.where.items() if spot == receptacle]

    def learn(self, command: str, observation: str) -> None:
        """Take in what the game answered to `command`."""
        if observation.startswith("Nothing happens"):
            self._learn_failure(command)
        for pattern, take_in in _READERS:
            if match := pattern.search(observation):
                take_in(self, match)

    def forget_contents(self) -> None:
        """Drop what was seen in the receptacles, to look at all of them again."""
        self.where.clear()
        self.viewed.clear()

    def _learn_failure(self, command: str) -> None:
        verb, _, rest = command.partition(" ")
        if verb == "go" and (receptacle := rest.removeprefix("to ")) in self.receptacles:
            # The game refuses to go only to where one already is.
            for near in self.here:
                self.beside.setdefault(near, {near}).add(receptacle)
                self.beside.setdefault(receptacle, {receptacle}).add(near)
            self.here.add(receptacle)
        elif verb == "examine" and rest in self.here:
            self.here.discard(rest)
        elif verb == "take" and (spot := rest.partition(" from ")[2]) in self.viewed:
            self.where = {item: place for item, place in self.where.items() if place != spot}
            self.viewed.discard(spot)


def _arrive(belief: Belief, match: re.Match[str]) -> None:
    belief.here = set(belief.beside.get(match[1], {match[1]}))


def _view(belief: Belief, match: re.Match[str]) -> None:
    receptacle, listed = match[1], match[2]
    belief.closed.discard(receptacle)
    belief.viewed.add(receptacle)
    for item in belief.inside(receptacle):
        del belief.where[item]
    belief.where.update(dict.fromkeys(_LISTED.findall(listed), receptacle))


def _close(belief: Belief, match: re.Match[str]) -> None:
    belief.closed.add(match[1])


def _take(belief: Belief, match: re.Match[str]) -> None:
    belief.holding, belief.origin = match[1], match[2]
    belief.where.pop(match[1], None)


def _put(belief: Belief, match: re.Match[str]) -> None:
    belief.holding = None
    belief.where[match[1]] = match[2]


def _treat(belief: Belief, match: re.Match[str]) -> None:
    gained, lost = _EFFECT[match[1]]
    belief.states[match[2]] = belief.states.get(match[2], set()) - {lost} | {gained}


def _face(belief: Belief, match: re.Match[str]) -> None:
    belief.here = set(re.findall(_THING, match[1]))


_READERS: Final = (
    (re.compile(rf"You arrive at {_THING}\."), _arrive),
    (re.compile(rf"[Oo]n the {_THING}, you see (.*)\."), _view),
    (re.compile(rf"The {_THING} is open\. In it, you see (.*)\."), _view),
    (re.compile(rf"The {_THING} is closed\."), _close),
    (re.compile(rf"You close the {_THING}\."), _close),
    (re.compile(rf"You pick up the {_THING} from the {_THING}\."), _take),
    (re.compile(rf"You move the {_THING} to the {_THING}\."), _put),
    (re.compile(rf"You put the {_THING} in/on the {_THING}\."), _put),
    (re.compile(rf"You (heat|cool|clean) the {_THING} using the {_THING}\."), _treat),
    (re.compile(r"You are facing the (.*?)\. Next to it"), _face),
)

"""A scripted player that wins from the text alone, in a way that is simple enough to be imitated.

It walks through the receptacles in the order of the introduction, takes what it needs as soon as it sees it,
and goes straight to where the object must be treated and put. It knows only what the game has answered.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from envs.alfworld.belief import Belief, Task, kind_of, parse_task
from envs.alfworld.problem import Grammar, put_command

_TOOLS: Final = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}


class Expert:
    """Play one game; make a new one for each episode.

    `grammar` says how this game words putting something down.
    """

    def __init__(self, grammar: Grammar = "new") -> None:
        self.belief = Belief([])
        self._grammar: Grammar = grammar
        self._task: Task | None = None
        self._command = ""

    def act(self, observation: str) -> str:
        """Return the next command; the first observation is the introduction with the task.

        Raises:
            ValueError: the introduction states no task in a known wording.
        """
        if self._task is None:
            self._task = parse_task(observation)
            self.belief = Belief.from_intro(observation)
        else:
            self.belief.learn(self._command, observation)
        self._command = self._choose(self._task)
        return self._command

    @property
    def wanted(self) -> str:
        """The kind of object that the task is about."""
        return "" if self._task is None else self._task.item

    def replace_last(self, command: str) -> None:
        """Say that `command` was sent to the game in place of the one that `act` returned."""
        self._command = command

    def _choose(self, task: Task) -> str:
        held = self.belief.holding
        if held and kind_of(held) != task.item:
            return self._put(held, self.belief.origin or self.belief.receptacles[0])
        if held:
            return self._deliver(held, task)
        if found := self._find(task):
            return self._reach(self.belief.where[found]) or f"take {found} from {self.belief.where[found]}"
        return self._explore()

    def _find(self, task: Task) -> str | None:
        """Return the object to fetch: one treated already, or else the first in the introduction's order."""
        done = "" if task.state or task.action == "look" else self._destination(task)
        states = self.belief.states
        left = [item for item in self._seen(task.item) if self.belief.where[item] != done]
        return min(left, key=lambda item: task.state not in states.get(item, set()), default=None)

    def _seen(self, kind: str) -> list[str]:
        """Return the objects of this type that have been seen, in the introduction's order of receptacles."""
        belief = self.belief
        return [it for spot in belief.receptacles for it in belief.inside(spot) if kind_of(it) == kind]

    def _deliver(self, held: str, task: Task) -> str:
        belief = self.belief
        if task.action == "look":
            lamps = self._seen(task.target)
            if not lamps:
                return self._explore()
            return self._reach(belief.where[lamps[0]], opened=False) or f"use {lamps[0]}"
        if task.state and task.state not in belief.states.get(held, set()):
            tool = self._first(_TOOLS[task.action])
            return self._reach(tool, opened=False) or f"{task.action} {held} with {tool}"
        return self._put(held, self._destination(task))

    def _destination(self, task: Task) -> str:
        """Return the target that holds most of the items already, which is the first one while none does."""
        targets = [it for it in self.belief.receptacles if kind_of(it) == task.target]
        return max(
            targets or self.belief.receptacles,
            key=lambda target: sum(kind_of(item) == task.item for item in self.belief.inside(target)),
        )

    def _first(self, kind: str) -> str:
        receptacles = self.belief.receptacles
        return next((receptacle for receptacle in receptacles if kind_of(receptacle) == kind), receptacles[0])

    def _put(self, held: str, receptacle: str) -> str:
        return self._reach(receptacle) or put_command(self._grammar, held, receptacle)

    def _reach(self, receptacle: str, *, opened: bool = True) -> str | None:
        """Return the next command on the way to the receptacle, None when it is within reach (and open)."""
        belief = self.belief
        if receptacle not in belief.here:
            return f"go to {receptacle}"
        if opened and receptacle in belief.closed:
            return f"open {receptacle}"
        if opened and receptacle not in belief.viewed:
            return f"examine {receptacle}"
        return None

    def _explore(self) -> str:
        belief = self.belief
        unseen = next((it for it in belief.receptacles if it not in belief.viewed), None)
        if unseen is None:
            belief.forget_contents()
            unseen = belief.receptacles[0]
        return self._reach(unseen) or "look"


@dataclass(frozen=True, slots=True)
class Move:
    """A command to send, and the one the expert meant; they differ where the move is a slip."""

    command: str
    meant: str

    @property
    def slipped(self) -> bool:
        """Whether the command is not the expert's own, and so nothing to learn from."""
        return self.command != self.meant


def noisy(expert: Expert, rng: random.Random, slip_rate: float) -> Callable[[str], Move]:
    """Return a player that sends a wrong command instead of the expert's with probability `slip_rate`.

    The expert is told what was sent, so that its later commands show how to recover.

    Raises:
        ValueError: `slip_rate` is not between 0 and 1.
    """
    if not 0 <= slip_rate <= 1:
        raise ValueError(f"cannot slip with rate {slip_rate}: it must be between 0 and 1")

    def act(observation: str) -> Move:
        meant = expert.act(observation)
        if rng.random() >= slip_rate:
            return Move(meant, meant)
        command = _slip(expert, meant, rng)
        expert.replace_last(command)
        return Move(command, meant)

    return act


def _slip(expert: Expert, meant: str, rng: random.Random) -> str:
    """Return a command that is not `meant`: a mistake of one of the kinds that a learner makes.

    None of them is `meant` with a word missing or too many: after those the next command would be nearly
    the last one again, and what is learned from that is to repeat whatever has just failed.
    """
    belief = expert.belief
    here = sorted(belief.here)
    kinds = [[f"go to {receptacle}" for receptacle in belief.receptacles], ["look", "inventory"]]
    if here:
        spot = rng.choice(here)
        kinds.append([f"open {spot}", f"close {spot}", f"examine {spot}", f"go to {spot}"])
        if belief.holding:
            kinds.append([f"move {belief.holding} to {spot}", f"put {belief.holding} in/on {spot}"])
        else:
            seen = belief.inside(spot)
            kinds.append([f"take {item} from {spot}" for item in seen])
            wanted = f"{expert.wanted} {rng.randint(1, 3)}"
            kinds.append([] if wanted in seen else [f"take {wanted} from {spot}"] * 2)
    wrong = [[command for command in kind if command != meant] for kind in kinds]
    return rng.choice(rng.choice([kind for kind in wrong if kind]))

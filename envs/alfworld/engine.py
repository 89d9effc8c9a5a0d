"""Play a game: pure functions from a game and a state to commands and the next state.

Equal, letter for letter, to ALFWorld's TextWorld engine, including what may look like mistakes (see
`wording.py` for those in texts):

- an object can be examined only while it is held;
- `go to` never offers a receptacle at the agent's own location;
- `use` turns things on and never off, also inside a closed drawer;
- heating, cooling and cleaning need only the right receptacle here, open or not;
- play may go on after the goal is met.

Games and states are immutable, so any number of threads may play the same game.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from envs.alfworld.game import Action, Game
from envs.alfworld.state import NOTHING, State, has
from envs.alfworld.wording import intro, wording

__all__ = ["NOTHING_HAPPENS", "Outcome", "Play", "commands"]

NOTHING_HAPPENS = "Nothing happens."


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command caused. `valid` is false when it was none of the admissible ones."""

    observation: str
    reward: float
    won: bool
    valid: bool


class Play:
    """One episode: the only mutable object here, owned by whoever plays it."""

    __slots__ = ("_commands", "game", "state", "won")

    def __init__(self, game: Game) -> None:
        self.game = game
        self.reset()

    def reset(self) -> str:
        """Return to the start and return the text that poses the task."""
        self._move_to(self.game.start)
        return intro(self.game)

    def step(self, command: str) -> Outcome:
        """Apply a command, which must be exactly one of the admissible ones to do anything."""
        action = self._commands.get(command.strip())
        if action is None:
            return Outcome(NOTHING_HAPPENS, float(self.won), self.won, valid=False)
        state = _EFFECTS[action.verb](self.game, self.state, action)
        text = wording(self.game, state, action)
        if state is not self.state:
            self._move_to(state)
        return Outcome(text, float(self.won), self.won, valid=True)

    def admissible(self) -> list[str]:
        """Return the commands that do something now, in alphabetical order."""
        return sorted(self._commands)

    def _move_to(self, state: State) -> None:
        self.state = state
        self.won = self.game.goal.met(state)
        self._commands = commands(self.game, state)


def commands(game: Game, state: State) -> dict[str, Action]:
    """Return the action behind each admissible command."""
    found = dict(game.anywhere)
    here = game.here[state.location]
    for where in here:
        found.pop(f"go to {game.receptacles[where].name}")
        _commands_at(game, state, where, found)
    if state.held == NOTHING:
        return found
    held = game.things[state.held]
    found[f"examine {held.name}"] = Action("examine thing", state.held)
    for where in here:
        receptacle = game.receptacles[where]
        if state.held in receptacle.fits and _is_accessible(game, state, where):
            command = game.dialect.place.format(o=held.name, r=receptacle.name)
            found[command] = Action("place", state.held, where)
        for verb in receptacle.changes:
            if verb in held.changeable:
                found[f"{verb} {held.name} with {receptacle.name}"] = Action(verb, state.held, where)
    if held.is_knife:
        for thing, location in state.laid:
            if location == state.location and game.things[thing].sliceable:
                name = game.things[thing].name
                found[f"slice {name} with {held.name}"] = Action("slice", thing, state.held)
    return found


def _commands_at(game: Game, state: State, where: int, found: dict[str, Action]) -> None:
    """Add the commands about a receptacle that is here and about what it holds."""
    receptacle = game.receptacles[where]
    found[f"examine {receptacle.name}"] = Action("examine", where=where)
    if receptacle.openable:
        verb = "close" if has(state.opened, where) else "open"
        found[f"{verb} {receptacle.name}"] = Action(verb, where=where)
    can_take = state.held == NOTHING and _is_accessible(game, state, where)
    for number in state.contents[where]:
        thing = game.things[number]
        if can_take and thing.pickupable:
            found[f"take {thing.name} from {receptacle.name}"] = Action("take", number, where)
        if thing.toggleable:
            found[f"use {thing.name}"] = Action("use", number, where)


def _is_accessible(game: Game, state: State, where: int) -> bool:
    return not game.receptacles[where].openable or has(state.opened, where)


# --- effects: game, state, action -> the next state (the same object when nothing changed) ---


def _unchanged(_game: Game, state: State, _action: Action) -> State:
    return state


def _go(game: Game, state: State, action: Action) -> State:
    return state.but(location=game.receptacles[action.where].location)


def _open(_game: Game, state: State, action: Action) -> State:
    return state.but(opened=state.opened | 1 << action.where)


def _close(_game: Game, state: State, action: Action) -> State:
    return state.but(opened=state.opened & ~(1 << action.where))


def _take(_game: Game, state: State, action: Action) -> State:
    thing, where = action.thing, action.where
    left = tuple(number for number in state.contents[where] if number != thing)
    return state.but(
        held=thing,
        contents=(*state.contents[:where], left, *state.contents[where + 1 :]),
        laid=state.laid - {(thing, state.location)},
        taken=state.taken | {(thing, where)},
    )


def _place(_game: Game, state: State, action: Action) -> State:
    thing, where = action.thing, action.where
    now = tuple(sorted({*state.contents[where], thing}))
    return state.but(
        held=NOTHING,
        contents=(*state.contents[:where], now, *state.contents[where + 1 :]),
        laid=state.laid | {(thing, state.location)},
        taken=state.taken - {(thing, where)},
    )


def _use(_game: Game, state: State, action: Action) -> State:
    return state.but(toggled=state.toggled | 1 << action.thing)


def _heat(_game: Game, state: State, action: Action) -> State:
    bit = 1 << action.thing
    return state.but(hot=state.hot | bit, cool=state.cool & ~bit)


def _cool(_game: Game, state: State, action: Action) -> State:
    bit = 1 << action.thing
    return state.but(cool=state.cool | bit, hot=state.hot & ~bit)


def _clean(_game: Game, state: State, action: Action) -> State:
    return state.but(clean=state.clean | 1 << action.thing)


def _slice(_game: Game, state: State, action: Action) -> State:
    return state.but(sliced=state.sliced | 1 << action.thing)


_EFFECTS: dict[str, Callable[[Game, State, Action], State]] = {
    "look": _unchanged,
    "inventory": _unchanged,
    "help": _unchanged,
    "examine": _unchanged,
    "examine thing": _unchanged,
    "go": _go,
    "open": _open,
    "close": _close,
    "take": _take,
    "place": _place,
    "use": _use,
    "heat": _heat,
    "cool": _cool,
    "clean": _clean,
    "slice": _slice,
}

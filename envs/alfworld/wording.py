"""Word what happens, letter for letter as ALFWorld's TextWorld engine does.

What may look like mistakes is the reference's:

- `look` before the first move sees nothing (the intro has listed the room);
- an object taken from a receptacle and put elsewhere at the same location is also seen on the floor;
- every noun takes `a`; a list of two reads `a x, and a y`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from envs.alfworld.game import Action, Game
from envs.alfworld.state import NOTHING, State, has

__all__ = ["intro", "wording"]


def intro(game: Game) -> str:
    """Return the first observation of a game."""
    return f"-= Welcome to TextWorld, ALFRED! =-\n\n{_first_look(game)}\n\n{game.task}"


def wording(game: Game, state: State, action: Action) -> str:
    """Return the observation that answers an action; `state` is the one after it."""
    return _TEXTS[action.verb](game, state, action)


def _listing(names: Iterable[str]) -> str:
    """Return `nothing`, `a x`, `a x, and a y`, ..."""
    items = [f"a {name}" for name in names]
    if len(items) < 2:
        return items[0] if items else "nothing"
    return f"{', '.join(items[:-1])}, and {items[-1]}"


def _contents(game: Game, state: State, where: int) -> str:
    receptacle = game.receptacles[where]
    seen = _listing(game.things[number].name for number in state.contents[where])
    if not receptacle.openable:
        return f"On the {receptacle.name}, you see {seen}."
    if has(state.opened, where):
        return f"The {receptacle.name} is open. In it, you see {seen}."
    return f"The {receptacle.name} is closed."


def _first_look(game: Game) -> str:
    if game.here[game.start.location]:
        return _look(game, game.start, Action("look"))
    seen = _listing(r.name for r in game.receptacles if r.location != NOTHING)
    return f"You are in the middle of a room. Looking quickly around you, you see {seen}."


def _look(game: Game, state: State, _action: Action) -> str:
    here = game.here[state.location]
    if not here:
        return "You are in the middle of a room. Looking quickly around you, you see nothing."
    facing = [game.receptacles[where].name for where in here]
    listed = facing[0] if len(facing) == 1 else f"{', '.join(facing[:-1])}, and {facing[-1]}"
    on_floor = sorted(
        (thing, where)
        for thing, where in state.taken
        if where in here and (thing, state.location) in state.laid
    )
    floor = _listing(game.things[thing].name for thing, _ in on_floor)
    return f"You are facing the {listed}. Next to it, you see {floor}."


def _inventory(game: Game, state: State, _action: Action) -> str:
    if state.held == NOTHING:
        return "You are not carrying anything."
    return f"You are carrying: a {game.things[state.held].name}."


def _examine_thing(game: Game, state: State, action: Action) -> str:
    thing = game.things[action.thing]
    if thing.holds is not None:
        seen = _listing(game.things[number].name for number in thing.holds)
        return f"This is a normal {thing.name}. In it, you see {seen}."
    clean, sliced = has(state.clean, action.thing), has(state.sliced, action.thing)
    hot, cool = has(state.hot, action.thing), has(state.cool, action.thing)
    if cool and not (hot or clean or sliced):
        return f"This is a cold {thing.name}."
    words = [word for word, true in (("hot", hot), ("cool", cool and not hot), ("clean", clean)) if true]
    if words:
        return f"This is a {' and '.join(words)} {'sliced ' if sliced else ''}{thing.name}."
    if thing.toggleable and has(state.toggled, action.thing):
        return f"This {thing.name} is on."
    if thing.sliceable and sliced:
        return f"This is a sliced {thing.name}."
    return f"There's nothing special about {thing.name}."


def _arrive(game: Game, state: State, action: Action) -> str:
    receptacle = game.receptacles[action.where]
    at_receptacle = game.dialect.arrive == "receptacle"
    place = receptacle.name if at_receptacle else game.locations[state.location]
    return f"You arrive at {place}. {_contents(game, state, action.where)}"


def _changed(game: Game, _state: State, action: Action) -> str:
    return f"You {action.verb} the {_thing(game, action)} using the {_where(game, action)}."


def _placed(game: Game, _state: State, action: Action) -> str:
    command = game.dialect.place.format(o=f"the {_thing(game, action)}", r=f"the {_where(game, action)}")
    return f"You {command}."


def _thing(game: Game, action: Action) -> str:
    return game.things[action.thing].name


def _where(game: Game, action: Action) -> str:
    return game.receptacles[action.where].name


_TEXTS: dict[str, Callable[[Game, State, Action], str]] = {
    "look": _look,
    "inventory": _inventory,
    "help": lambda game, _state, _action: game.dialect.help or "",
    "examine": lambda game, state, action: _contents(game, state, action.where),
    "examine thing": _examine_thing,
    "go": _arrive,
    "open": lambda game, state, action: (
        f"You open the {_where(game, action)}. {_contents(game, state, action.where)}"
    ),
    "close": lambda game, _state, action: f"You close the {_where(game, action)}.",
    "take": lambda game, _state, action: (
        f"You pick up the {_thing(game, action)} from the {_where(game, action)}."
    ),
    "place": _placed,
    "use": lambda game, _state, action: f"You turn on the {_thing(game, action)}.",
    "heat": _changed,
    "cool": _changed,
    "clean": _changed,
    "slice": lambda game, _state, action: (
        f"You sliced the {_thing(game, action)} with the {game.things[action.where].name}."
    ),
}

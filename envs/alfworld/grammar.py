"""Recognise the released rules of ALFWorld; nothing in a game file is ever evaluated.

A game file carries its own text grammar and PDDL domain, and the reference engine evaluates Python
expressions found in that grammar. Ours only compares: apart from the few rules in which releases differ,
which select a `Dialect`, grammar and domain must be those of a release, or the game is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from envs.alfworld.pddl import unreadable

Place = Literal["move {o} to {r}", "put {o} in/on {r}"]

__all__ = ["NEW", "OLD", "Dialect", "read_rules"]

MAX_CHARS = 200_000

# Digests of the parts that all releases share; see `_digest` for what is hashed.
_GRAMMAR = "84367ab131546a8c757c208e69fe511a"
_DOMAINS = {
    "3264b5435d95fa2cb3a0ba5b74f44240": True,
    "0453020df80bd0dcef329acb16094062": False,
}  # -> whether it has a help action

_TASK = re.compile(r'("task"\s*:\s*\[\s*\{\s*"rhs"\s*:\s*)("(?:[^"\\]|\\.)*")')
_TASK_START = "Your task is to: "
_MARKUP = frozenset(';|"<>[]#{}')
_SHARED_BLOCK = re.compile(r'\s*grammar\s*::\s*"""(.*?)""";', re.DOTALL)
_ACTION = re.compile(
    r"\s*action\s+(\w+)\s*\{(?:\s*#[^\n]*\n)?"
    r'\s*template\s*::\s*"([^"]*)";\s*feedback\s*::\s*"([^"]*)";'
    r'\s*(?:grammar\s*::\s*"""(.*?)""";)?\s*\}',
    re.DOTALL,
)
_COMMENT = re.compile(r";[^\n]*")
_GO = ("go to {r}", "go to [{r.name | receptacleatlocation(r:receptacle, lend:location)}]")
_PLACE: dict[tuple[str, str], Place] = {
    ("move {o} to {r}", "You move the {o.name} to the {r.name}."): "move {o} to {r}",
    ("put {o} in/on {r}", "You put the {o.name} in/on the {r.name}."): "put {o} in/on {r}",
}
_ARRIVE: dict[str, Literal["receptacle", "location"]] = {
    "You arrive at {r.name}. #examineReceptacle.feedback#": "receptacle",
    "You arrive at {lend.name}. #examineReceptacle.feedback#": "location",
}


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a release words what differs: putting down, arriving (at `fridge 1` or `loc 7`), help."""

    place: Place
    arrive: Literal["receptacle", "location"]
    help: str | None

    @property
    def grammar(self) -> Literal["new", "old"]:
        """Which of the two released wordings of putting down this is."""
        return "new" if self.place.startswith("move") else "old"


_HELP = """Available commands:
  look:                             look around your current location
  inventory:                        check your current inventory
  go to (receptacle):               move to a receptacle
  open (receptacle):                open a receptacle
  close (receptacle):               close a receptacle
  take (object) from (receptacle):  take an object from a receptacle
  move (object) to (receptacle):  place an object in or on a receptacle
  examine (something):              examine a receptacle or an object
  use (object):                     use an object
  heat (object) with (receptacle):  heat an object using a receptacle
  clean (object) with (receptacle): clean an object using a receptacle
  cool (object) with (receptacle):  cool an object using a receptacle
  slice (object) with (object):     slice an object using a sharp object
"""
NEW = Dialect("move {o} to {r}", "receptacle", _HELP)
OLD = Dialect("put {o} in/on {r}", "receptacle", _HELP)


def read_rules(grammar: str, domain: str, game: str) -> tuple[Dialect, str]:
    """Return the dialect and the task sentence of a game's `grammar` and `pddl_domain`.

    Raises:
        EnvError: a grammar or a domain that no release of ALFWorld has.
    """
    if max(len(grammar), len(domain)) > MAX_CHARS:
        raise unreadable(game, f"rules of at most {MAX_CHARS} characters", "longer ones")
    found = _TASK.search(grammar)
    if found is None:
        raise unreadable(game, "a grammar with one task sentence", "none")
    try:
        task: Any = json.loads(found[2])
    except ValueError:
        raise unreadable(game, "a task sentence in JSON quotes", found[2]) from None
    if not task.startswith(_TASK_START) or not _MARKUP.isdisjoint(task):
        raise unreadable(game, f"a plain sentence '{_TASK_START}...'", repr(task))
    # All games of a release share the rest, so it is compared once, not once per game.
    dialect = _dialect(_TASK.sub(r'\1""', grammar, count=1))
    if isinstance(dialect, str):
        raise unreadable(game, "a grammar of an ALFWorld release (put .. in/on .. or move .. to ..)", dialect)
    has_help = _domain_has_help(domain)
    if has_help is None:
        raise unreadable(game, "the alfred domain of an ALFWorld release", "another PDDL domain")
    return (dialect if has_help else Dialect(dialect.place, dialect.arrive, None)), task


@lru_cache(maxsize=16)
def _dialect(grammar: str) -> Dialect | str:
    """Return the dialect, or what is wrong."""
    try:
        rules, templates = _split(grammar)
        put = templates.pop("PutObject")
        go = templates.pop("GotoLocation")
        arrive = rules.pop("GotoLocation.feedback")[0]["rhs"]
        placed = rules.pop("PutObject.feedback")[0]["rhs"]
        help_text = rules.pop("help.feedback", [{"rhs": None}])[0]["rhs"]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return f"text that is not such a grammar ({type(error).__name__}: {error})"
    templates.pop("help", None)
    templates.pop("PutEmptyReceptacleObjectinReceptacle", None)
    place = _PLACE.get((put, placed))
    if place is None or arrive not in _ARRIVE or go not in _GO:
        return f"templates {put!r} -> {placed!r}, {go!r} -> {arrive!r}"
    if help_text is not None and (not isinstance(help_text, str) or not _MARKUP.isdisjoint(help_text)):
        return "a help text with markup"
    if _digest(json.dumps([rules, templates], sort_keys=True)) != _GRAMMAR:
        return "other rules or templates"
    # The reference drops white space in front of a text.
    return Dialect(place, _ARRIVE[arrive], help_text and help_text.lstrip())


def _split(grammar: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the text rules by name and the command template (plus feedback rule) of each action."""
    shared = _SHARED_BLOCK.match(grammar)
    if shared is None:
        raise ValueError("no shared grammar block")
    rules: dict[str, Any] = json.loads(shared[1])
    templates: dict[str, str] = {}
    end = shared.end()
    while action := _ACTION.match(grammar, end):
        name, template, feedback, own_rules = action.groups()
        if feedback.casefold() != f"#{name}.feedback#".casefold():
            raise ValueError(f"action {name} answers with {feedback}")
        templates[name] = template
        rules.update(json.loads(own_rules) if own_rules else {})
        end = action.end()
    if grammar[end:].strip():
        raise ValueError(f"unexpected text {grammar[end : end + 40]!r}")
    return rules, templates


@lru_cache(maxsize=16)
def _domain_has_help(domain: str) -> bool | None:
    """Return whether the domain has the help action; None for a domain of no release."""
    return _DOMAINS.get(_digest(" ".join(_COMMENT.sub("", domain).lower().split())))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

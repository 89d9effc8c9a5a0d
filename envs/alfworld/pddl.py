"""Read a PDDL problem into facts, without evaluating or trusting anything in it.

Only what a problem of the alfred domain contains is understood: typed objects, an initial state of flat
facts (numeric assignments such as distances are dropped: no text and no rule depends on them) and a goal,
which stays an expression for `goal.py`. PDDL is case-insensitive; everything here is lower case.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import cast

from agentrl.errors import EnvError

__all__ = ["Expression", "Problem", "parse_expression", "parse_problem", "unreadable"]

# Real problems hold 20-200 kB; the caps only stop hostile input from costing much.
MAX_CHARS = 4_000_000
MAX_DEPTH = 64

Expression = list["str | Expression"]

_TOKEN = re.compile(r"[()]|[^\s()]+")
_COMMENT = re.compile(r";[^\n]*")
_IGNORED_SECTIONS = frozenset({":requirements", ":metric"})


def unreadable(game: str, expected: str, got: str) -> EnvError:
    """Return the one error for a game that cannot be read, with the next step."""
    return EnvError(
        "env.game_unreadable",
        f"cannot read ALFWorld game {game}: expected {expected}, got {got[:200]}; "
        "leave this file out, or write it again with alfworld-generate or the built-in generator",
        {"game": game, "expected": expected, "got": got[:200]},
    )


@dataclass(frozen=True, slots=True)
class Problem:
    """A parsed problem: the type of each declared id, facts by predicate, the goal as an expression."""

    types: dict[str, str]
    facts: dict[str, list[tuple[str, ...]]]
    goal: Expression

    def ids_in_facts(self) -> set[str]:
        """Return every id that occurs in some fact of the initial state."""
        return {name for rows in self.facts.values() for row in rows for name in row}


def parse_expression(text: str, game: str) -> Expression:
    """Return the one parenthesised expression in `text` as nested lists of lower-case words.

    Raises:
        EnvError: too long, too deep, or not exactly one balanced expression.
    """
    if len(text) > MAX_CHARS:
        raise unreadable(game, f"PDDL of at most {MAX_CHARS} characters", f"{len(text)} characters")
    root: Expression = []
    open_lists = [root]
    top = root
    for token in _TOKEN.findall(_COMMENT.sub("", text).lower()):
        if token == "(":
            child: Expression = []
            top.append(child)
            open_lists.append(child)
            top = child
            if len(open_lists) > MAX_DEPTH:
                raise unreadable(game, f"PDDL nested at most {MAX_DEPTH} deep", "deeper nesting")
        elif token == ")":
            open_lists.pop()
            if not open_lists:
                raise unreadable(game, "balanced parentheses", "a closing one too many")
            top = open_lists[-1]
        else:
            top.append(token)
    if len(open_lists) != 1:
        raise unreadable(game, "balanced parentheses", f"{len(open_lists) - 1} left open")
    if len(root) != 1 or isinstance(root[0], str):
        raise unreadable(game, "one parenthesised PDDL expression", f"{len(root)} items at the top")
    return root[0]


def parse_problem(text: str, game: str) -> Problem:
    """Return the problem in `text`; `game` names it in errors.

    Raises:
        EnvError: not a well-formed problem of the domain `alfred`.
    """
    head, *rest = parse_expression(text, game) or [""]
    sections: dict[str, Expression] = {}
    for part in rest:
        if isinstance(part, str) or not part or not isinstance(part[0], str):
            raise unreadable(game, "sections such as (:init ...)", repr(part))
        if part[0] in sections:
            raise unreadable(game, "each section once", f"two of {part[0]}")
        sections[part[0]] = part[1:]
    unknown = sections.keys() - {"problem", ":domain", ":objects", ":init", ":goal"} - _IGNORED_SECTIONS
    if head != "define" or "problem" not in sections or unknown:
        got = f"section {min(unknown)}" if unknown else repr(head)
        raise unreadable(game, "(define (problem ...) ...) with objects, init and goal", got)
    if sections.get(":domain") != ["alfred"]:
        raise unreadable(game, "(:domain alfred)", repr(sections.get(":domain")))
    for name in (":objects", ":init", ":goal"):
        if name not in sections:
            raise unreadable(game, f"a section {name}", "none")
    goal = sections[":goal"]
    if len(goal) != 1 or isinstance(goal[0], str):
        raise unreadable(game, "one goal expression", repr(goal))
    return Problem(
        types=typed_list(sections[":objects"], game),
        facts=_facts(sections[":init"], game),
        goal=goal[0],
    )


def typed_list(words: Expression, game: str) -> dict[str, str]:
    """Return name -> type of `a b - object c - location`.

    Raises:
        EnvError: a name without a type, a repeated name, or a nested type.
    """
    types: dict[str, str] = {}
    waiting: list[str] = []
    remaining = iter(words)
    for word in remaining:
        if not isinstance(word, str):
            raise unreadable(game, "a flat typed list", repr(word))
        if word != "-":
            waiting.append(word)
            continue
        kind = next(remaining, None)
        if not isinstance(kind, str) or not waiting:
            raise unreadable(game, "`name - type` in a typed list", repr(kind))
        for name in waiting:
            if types.setdefault(name, kind) != kind:
                raise unreadable(game, f"one type for {name}", f"{types[name]} and {kind}")
        waiting = []
    if waiting:
        raise unreadable(game, "a type for every name", f"none for {waiting[0]}")
    return types


def _facts(rows: Expression, game: str) -> dict[str, list[tuple[str, ...]]]:
    facts: dict[str, list[tuple[str, ...]]] = {}
    for row in rows:
        if row[:1] == ["="]:
            continue
        # One pass in C over each of hundreds of rows: this is the hot loop of reading a game.
        if isinstance(row, str) or set(map(type, row)) != {str}:
            raise unreadable(game, "flat facts such as (openable fridge_1)", repr(row))
        predicate, *names = cast("list[str]", row)
        facts.setdefault(predicate, []).append(tuple(names))
    return facts

"""Compile a goal of the alfred domain into a check that takes microseconds.

The goals of every ALFWorld task type, sliced ones included, are conjunctions of literals under `exists`.
Each quantified group becomes a depth-first search over its variables: literals that play cannot change
(types, heatable, ...) are decided here, once, and shrink the candidates; the others are looked up in the
state as soon as their variables are bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from itertools import islice
from math import prod

from envs.alfworld.pddl import Expression, Problem, typed_list, unreadable
from envs.alfworld.state import State, has

__all__ = ["Goal", "compile_goal"]

MAX_VARIABLES = 8
# Goals of the real data stay below 20,000; what a hostile one may cost per step is bounded by this.
MAX_COMBINATIONS = 250_000

Check = Callable[[State, int, int], bool]

# What play can change: the types of a literal's arguments, and how to look it up in a state.
_CHANGING: dict[str, tuple[tuple[str, ...], Check]] = {
    "atlocation": (("agent", "location"), lambda s, _, place: s.location == place),
    "holds": (("agent", "object"), lambda s, _, thing: s.held == thing),
    "holdsany": (("agent",), lambda s, _, __: s.held >= 0),
    "inreceptacle": (("object", "receptacle"), lambda s, thing, where: thing in s.contents[where]),
    "objectatlocation": (("object", "location"), lambda s, thing, place: (thing, place) in s.laid),
    "opened": (("receptacle",), lambda s, where, _: has(s.opened, where)),
    "isclean": (("object",), lambda s, thing, _: has(s.clean, thing)),
    "ishot": (("object",), lambda s, thing, _: has(s.hot, thing)),
    "iscool": (("object",), lambda s, thing, _: has(s.cool, thing)),
    "issliced": (("object",), lambda s, thing, _: has(s.sliced, thing)),
    "istoggled": (("object",), lambda s, thing, _: has(s.toggled, thing)),
}
# The engine does not follow these two, since no released goal and no text mentions them.
_NOT_FOLLOWED = frozenset({"checked", "ison"})


@dataclass(frozen=True, slots=True)
class _Literal:
    predicate: str
    terms: tuple[str, ...]
    positive: bool

    @property
    def variables(self) -> set[str]:
        return {term for term in self.terms if term.startswith("?")}


@dataclass(frozen=True, slots=True)
class _Test:
    """A literal, and the slots of its first and last term (the same slot when it has one)."""

    check: Check
    first: int
    last: int
    positive: bool


@dataclass(frozen=True, slots=True)
class _Group:
    """One quantified group: the candidates of each slot, and the tests to run when it is bound."""

    candidates: tuple[tuple[int, ...], ...]
    tests: tuple[tuple[_Test, ...], ...]

    def holds(self, state: State, bound: tuple[int, ...] = ()) -> bool:
        slot = len(bound)
        if slot == len(self.candidates):
            return True
        tests = self.tests[slot]
        for candidate in self.candidates[slot]:
            trial = (*bound, candidate)
            for test in tests:
                if test.check(state, trial[test.first], trial[test.last]) != test.positive:
                    break
            else:
                if self.holds(state, trial):
                    return True
        return False


@dataclass(frozen=True, slots=True)
class Goal:
    """A compiled goal."""

    groups: tuple[_Group, ...]

    def met(self, state: State) -> bool:
        """Return whether the goal holds in `state`."""
        return all(group.holds(state) for group in self.groups)


def compile_goal(problem: Problem, numbers: Mapping[str, Mapping[str, int]], game: str) -> Goal:
    """Return the compiled goal; `numbers[type][id]` are the numbers that a `State` uses.

    Raises:
        EnvError: the goal holds something else than `and`, `exists`, `not` and literals.
    """
    conjuncts = problem.goal[1:] if problem.goal[:1] == ["and"] else [problem.goal]
    types: dict[str, str] = {}
    parts: list[tuple[dict[str, str], list[_Literal]]] = []
    for conjunct in conjuncts:
        count = len(types)
        literals = _flatten(conjunct, {}, types, game)
        parts.append((dict(islice(types.items(), count, None)), literals))
    if len(types) > MAX_VARIABLES:
        raise unreadable(game, f"at most {MAX_VARIABLES} variables in a goal", str(len(types)))
    if any(literal.variables - own.keys() for own, literals in parts for literal in literals):
        # As in the reference, a variable that is not bound in its part is the one of that name elsewhere:
        # the library's look_at_obj_in_light_slice says in its first part what the second one's object is.
        parts = [(types, [literal for _, literals in parts for literal in literals])]
    return Goal(tuple(_compile_group(own, literals, problem, numbers, game) for own, literals in parts))


def _compile_group(
    types: dict[str, str],
    literals: list[_Literal],
    problem: Problem,
    numbers: Mapping[str, Mapping[str, int]],
    game: str,
) -> _Group:
    types = dict(types)
    candidates = {v: [n for n, t in problem.types.items() if t == kind] for v, kind in types.items()}
    for name in (term for literal in literals for term in literal.terms):
        if name not in candidates:  # a constant: a slot with one candidate
            if name not in problem.types:
                raise unreadable(game, "declared names and bound variables in the goal", name)
            types[name] = problem.types[name]
            candidates[name] = [name]
    slots = {name: slot for slot, name in enumerate(candidates)}
    tests: list[list[_Test]] = [[] for _ in slots]
    for literal in literals:
        slot_pair = slots[literal.terms[0]], slots[literal.terms[-1]]
        if literal.predicate in _CHANGING:
            expected, check = _CHANGING[literal.predicate]
            got = tuple(types[term] for term in literal.terms)
            if got != expected:
                raise unreadable(game, f"({literal.predicate} {' '.join(expected)})", " ".join(got))
        elif len(literal.variables) < 2:
            pivot = min(literal.variables, default=literal.terms[0])
            rows = set(problem.facts.get(literal.predicate, ()))
            candidates[pivot] = [n for n in candidates[pivot] if _static(literal, {pivot: n}, rows)]
            continue
        else:
            check = _static_check(literal, types, numbers, problem)
        tests[max(slot_pair)].append(_Test(check, *slot_pair, literal.positive))
    if prod(map(len, candidates.values())) > MAX_COMBINATIONS:
        raise unreadable(game, f"a goal of at most {MAX_COMBINATIONS} combinations", "more")
    return _Group(
        tuple(tuple(numbers.get(types[v], {}).get(n, 0) for n in c) for v, c in candidates.items()),
        tuple(map(tuple, tests)),
    )


def _flatten(
    part: str | Expression, renamed: Mapping[str, str], types: dict[str, str], game: str
) -> list[_Literal]:
    """Return the literals of nested `and` and `exists`, adding the variables to `types`.

    A variable whose name was used before gets a new one, so that no two share a name.
    """
    if isinstance(part, str) or not part or not isinstance(part[0], str):
        raise unreadable(game, "a goal of and, exists, not and facts", repr(part))
    head, *rest = part
    if head == "and":
        return [literal for inner in rest for literal in _flatten(inner, renamed, types, game)]
    if head == "exists" and len(rest) == 2 and isinstance(rest[0], list):
        inside = dict(renamed)
        for name, kind in typed_list(rest[0], game).items():
            if not name.startswith("?"):
                raise unreadable(game, "variables such as ?o after exists", name)
            inside[name] = name
            while inside[name] in types:
                inside[name] += "'"
            types[inside[name]] = kind
        return _flatten(rest[1], inside, types, game)
    positive = head != "not"
    if not positive:
        if len(rest) != 1 or isinstance(rest[0], str) or not rest[0]:
            raise unreadable(game, "(not (fact ...))", repr(part))
        head, *rest = rest[0]
    terms = tuple(renamed.get(term, term) for term in rest if isinstance(term, str))
    if not isinstance(head, str) or len(terms) != len(rest) or len(terms) not in (1, 2):
        raise unreadable(game, "a goal of and, exists, not and facts", repr(part))
    if head in _NOT_FOLLOWED:
        raise unreadable(game, "a goal about places and properties", head)
    return [_Literal(head, terms, positive)]


def _static(literal: _Literal, binding: Mapping[str, str], rows: Set[tuple[str, ...]]) -> bool:
    row = tuple(binding.get(term, term) for term in literal.terms)
    true = row[0] == row[-1] if literal.predicate == "=" else row in rows
    return true == literal.positive


def _static_check(
    literal: _Literal,
    types: Mapping[str, str],
    numbers: Mapping[str, Mapping[str, int]],
    problem: Problem,
) -> Check:
    if literal.predicate == "=":
        return lambda _state, first, second: first == second
    one, two = (numbers.get(types[term], {}) for term in literal.terms)
    rows = problem.facts.get(literal.predicate, ())
    pairs = {(one[a], two[b]) for a, b in rows if a in one and b in two}
    return lambda _state, first, second: (first, second) in pairs

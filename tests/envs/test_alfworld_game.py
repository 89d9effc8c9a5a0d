"""Game files are data from elsewhere: read exactly, or refused with a clear error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from alfworld_cases import NEVER, SMALL_ROOM, generated_game
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.errors import EnvError
from envs.alfworld.engine import Play
from envs.alfworld.game import build_game, load_game, parse_game
from envs.alfworld.generator import generate


def game_json(**changes: Any) -> dict[str, Any]:
    return {**generate(1, size="small").game_json, **changes}


def refusal(data: Any) -> str:
    with pytest.raises(EnvError) as caught:
        parse_game(data, "bad.tw-pddl")
    assert caught.value.code == "env.game_unreadable"
    assert "bad.tw-pddl" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("grammar", ["new", "old"])
@pytest.mark.parametrize("seed", range(12))
def test_generated_games_are_won_by_their_walkthrough(seed: int, grammar: Any) -> None:
    made = generate(seed, grammar=grammar)
    play = Play(parse_game(made.game_json, "made"))
    won = [play.step(command).won for command in made.game_json["walkthrough"]]
    assert won == [False] * (len(won) - 1) + [True]


def test_a_file_is_the_same_game_as_its_content(tmp_path: Path) -> None:
    file = tmp_path / "game.tw-pddl"
    file.write_text(json.dumps(game_json()))
    assert load_game(file).start == generated_game(1, size="small").start


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "JSON"),
        (b"\xff\xfe\x00", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b"[]", "JSON object"),
        (b'{"pddl_problem": 3}', "pddl_problem"),
        (b"[" + b"1," * 5_000_000 + b"1]", "at most"),
    ],
)
def test_an_unreadable_file_says_what_was_expected(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "game.tw-pddl"
    file.write_bytes(content)
    with pytest.raises(EnvError, match=said) as caught:
        load_game(file)
    assert caught.value.detail["game"] == str(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvError, match="FileNotFoundError"):
        load_game(tmp_path / "none.tw-pddl")


def test_a_grammar_of_no_release_is_refused_and_never_evaluated() -> None:
    grammar: str = game_json()["grammar"]
    assert "templates" in refusal(game_json(grammar=grammar.replace("move {o} to {r}", "put {o} into {r}")))
    attack = grammar.replace("{o.indefinite + ' ' + o.name", "{__import__('os').abort()")
    assert attack != grammar
    assert "other rules" in refusal(game_json(grammar=attack))
    assert "task sentence" in refusal(game_json(grammar="action look { }"))
    hidden = grammar.replace("Your task is to: ", "Your task is to: {open('/etc/passwd').read()} ")
    assert "plain sentence" in refusal(game_json(grammar=hidden))
    assert "unexpected text" in refusal(game_json(grammar=grammar + "\naction x {"))


def test_another_domain_is_refused() -> None:
    domain: str = game_json()["pddl_domain"]
    assert "alfred domain" in refusal(game_json(pddl_domain=domain.replace("(holdsAny ?a)", "()", 1)))
    commented = domain.replace("(define", "; a comment\n(define")
    assert parse_game(game_json(pddl_domain=commented), "commented")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("(:domain alfred)", "(:domain put_task)", "alfred"),
        ("(:goal", "(:gaol", ":gaol"),
        ("(:goal", "(:init (x))(:goal", "two of :init"),
        ("(atLocation agent1 loc_bar_9)", "", "one agent"),
        (
            "(atLocation agent1 loc_bar_9)",
            "(atLocation agent1 loc_bar_9) (holds agent1 Egg_bar_1)",
            "empty hand",
        ),
        ("(openable Fridge_bar_1)", "(openable Fridge_bar_7)", "declared"),
        ("(openable Fridge_bar_1)", "(openable Fridge_bar_1 Table_bar_1)", "declared"),
        ("(openable Fridge_bar_1)", "(openable (Fridge_bar_1))", "flat facts"),
        ("(openable Fridge_bar_1)", "(receptacleAtLocation Fridge_bar_1 loc_bar_3)", "one location"),
        ("agent1 - agent", "agent1 - agent agent2 - (either a b)", "typed list"),
        ("Egg - object", "Egg - object Egg - location", "one type"),
        ("BowlType - otype)", "BowlType)", "a type for every name"),
        ("(:init", "(" * 100 + "(:init", "nested"),
        ("(:init", ")))(:init", "balanced|at the top"),
    ],
)
def test_a_malformed_problem_is_refused(old: str, new: str, said: str) -> None:
    text = SMALL_ROOM.format(goal=NEVER, extra="")
    assert old in text
    with pytest.raises(EnvError, match=said):
        build_game(text.replace(old, new, 1), "Your task is to: x.", "new", "malformed")


@pytest.mark.parametrize(
    "goal",
    [
        "x",
        "()",
        "(or (opened Fridge_bar_1) (opened Drawer_bar_1))",
        "(forall (?o - object) (holds agent1 ?o))",
        "(not (and (opened Fridge_bar_1)))",
        "(holds agent1 Fridge_bar_1)",
        "(isOn Lamp_bar_1)",
        "(opened Cellar_bar_1)",
        "(isHot ?o)",
        "(exists (o - object) (isHot o))",
        "(exists (?a ?b ?c ?d ?e ?f ?g ?h ?i - object) (isHot ?a))",
        "(exists ?o (isHot ?o))",
        "(exists (?a ?b ?c ?d ?e ?f ?g ?h - object) (isHot ?h))",
    ],
)
def test_a_goal_of_another_form_is_refused(goal: str) -> None:
    with pytest.raises(EnvError):
        build_game(SMALL_ROOM.format(goal=goal, extra=""), "Your task is to: x.", "new", "goal")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_problems_are_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    text = SMALL_ROOM.format(goal=NEVER, extra="")
    start = data.draw(st.integers(0, len(text)))
    length = data.draw(st.integers(0, 40))
    damage = data.draw(st.text(alphabet="()-?; =abr_1\n", max_size=10))
    try:
        play = Play(build_game(text[:start] + damage + text[start + length :], "t", "new", "damaged"))
    except EnvError:
        return
    assert play.admissible()


@given(
    st.dictionaries(st.sampled_from(["pddl_problem", "grammar", "pddl_domain"]), st.text() | st.integers())
)
def test_any_json_is_read_or_refused(changes: dict[str, Any]) -> None:
    try:
        parse_game(game_json(**changes), "any")
    except EnvError:
        return
    assert not changes

"""The engine against what the reference engine was recorded to do, and its own promises."""

from __future__ import annotations

import dataclasses
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
from alfworld_cases import (
    NEVER,
    SMALL_ROOM,
    generated_game,
    random_transcript,
    recorded_game,
    recorded_games,
    small_game,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.alfworld.engine import Play
from envs.alfworld.game import build_game
from envs.alfworld.grammar import NEW


@pytest.mark.parametrize("index", range(len(recorded_games())))
def test_every_recorded_state_is_equal(index: int) -> None:
    steps = recorded_games()[index]["steps"]
    play = Play(recorded_game(index))
    for step in steps:
        if step["command"] is None:
            observation, won = play.reset(), play.won
        else:
            outcome = play.step(step["command"])
            observation, won = outcome.observation, outcome.won
        assert (observation, play.admissible(), won) == (step["observation"], step["admissible"], step["won"])


def test_threads_and_one_thread_play_the_same_games() -> None:
    jobs = [(number % 40, number) for number in range(1_000)]

    def play(job: tuple[int, int]) -> object:
        game, seed = job
        return random_transcript(generated_game(game, size="small"), seed, steps=20)

    alone = [play(job) for job in jobs]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(play, jobs)) == alone


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(), st.from_regex(r"(go to|take|move|put|open|use) .{0,20}")))
def test_junk_changes_nothing(command: str) -> None:
    play = Play(small_game())
    play.step("go to table 1")
    if command.strip() in play.admissible():
        return
    before = play.state, play.admissible()
    outcome = play.step(command)
    assert (outcome.observation, outcome.valid, outcome.reward) == ("Nothing happens.", False, 0.0)
    assert (play.state, play.admissible()) == before


def test_a_live_episode_is_small() -> None:
    game = generated_game(3, task_type="pick_heat_then_place_in_recep")
    random_transcript(game, 0, steps=50)
    tracemalloc.start()
    live = [Play(game) for _ in range(50)]
    for play in live:
        for command in play.admissible()[:30]:
            play.step(command)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used / len(live) <= 16_384


def playing(*commands: str, goal: str = "", extra: str = "", grammar: object = "new") -> Play:
    play = Play(small_game(extra=extra, grammar=grammar, **({"goal": goal} if goal else {})))
    for command in commands:
        assert play.step(command).valid, f"{command!r} is none of {play.admissible()}"
    return play


class TestQuirks:
    def test_the_intro_lists_the_room_and_look_does_not(self) -> None:
        play = playing()
        listed = "a drawer 1, a fridge 1, a microwave 1, a sinkbasin 1, and a table 1"
        middle = "You are in the middle of a room. Looking quickly around you, you see"
        task = "Your task is to: x."
        assert play.reset() == f"-= Welcome to TextWorld, ALFRED! =-\n\n{middle} {listed}.\n\n{task}"
        assert play.step("look").observation == f"{middle} nothing."

    def test_an_agent_that_starts_at_a_receptacle_faces_it(self) -> None:
        text = SMALL_ROOM.replace("agent1 loc_bar_9", "agent1 loc_bar_2").format(goal=NEVER, extra="")
        play = Play(build_game(text, "Your task is to: x.", "new", "facing"))
        assert "You are facing the microwave 1, and sinkbasin 1. Next to it, you see nothing." in play.reset()

    def test_the_first_of_a_name_has_the_highest_number(self) -> None:
        assert playing("go to table 1").step("examine table 1").observation == (
            "On the table 1, you see a bowl 1, a egg 2, a egg 1, and a knife 1."
        )

    def test_go_never_offers_what_is_here(self) -> None:
        admissible = playing("go to microwave 1").admissible()
        assert "go to sinkbasin 1" not in admissible
        assert "go to table 1" in admissible

    def test_objects_are_examined_only_in_the_hand(self) -> None:
        play = playing("go to table 1")
        assert not play.step("examine egg 1").valid
        play.step("take egg 1 from table 1")
        assert play.step("examine egg 1").observation == "There's nothing special about egg 1."

    def test_a_lamp_in_a_closed_drawer_turns_on_and_never_off(self) -> None:
        play = playing("go to drawer 1", "use lamp 1")
        assert play.step("use lamp 1").observation == "You turn on the lamp 1."

    def test_a_closed_fridge_cools(self) -> None:
        play = playing("go to table 1", "take egg 1 from table 1", "go to fridge 1")
        assert play.step("cool egg 1 with fridge 1").observation == "You cool the egg 1 using the fridge 1."
        assert play.step("examine egg 1").observation == "This is a cold egg 1."

    def test_an_object_put_elsewhere_here_is_also_seen_on_the_floor(self) -> None:
        play = playing("go to table 1", "take egg 1 from table 1", "open drawer 1", "move egg 1 to drawer 1")
        facing = "You are facing the drawer 1, and table 1. Next to it, you see"
        assert play.step("look").observation == f"{facing} a egg 1."
        play.step("take egg 1 from drawer 1")
        play.step("move egg 1 to table 1")
        assert play.step("look").observation == f"{facing} a egg 1."

    def test_what_was_done_to_an_object_is_told_together(self) -> None:
        play = playing("go to table 1", "take knife 1 from table 1", "slice egg 1 with knife 1")
        for command in ("move knife 1 to table 1", "take egg 1 from table 1"):
            play.step(command)
        told = [play.step("examine egg 1").observation]
        play.step("go to microwave 1")
        for command in ("heat egg 1 with microwave 1", "clean egg 1 with sinkbasin 1"):
            play.step(command)
            told.append(play.step("examine egg 1").observation)
        play.step("go to fridge 1")
        play.step("cool egg 1 with fridge 1")
        told.append(play.step("examine egg 1").observation)
        assert told == [
            "This is a sliced egg 1.",
            "This is a hot sliced egg 1.",
            "This is a hot and clean sliced egg 1.",
            "This is a cool and clean sliced egg 1.",
        ]

    def test_a_movable_receptacle_tells_what_is_in_it(self) -> None:
        play = playing("go to table 1", "take bowl 1 from table 1")
        assert play.step("examine bowl 1").observation == "This is a normal bowl 1. In it, you see a apple 1."

    def test_the_old_grammar_puts_and_the_first_release_arrives_at_a_location(self) -> None:
        first_release = dataclasses.replace(NEW, place="put {o} in/on {r}", arrive="location", help=None)
        play = playing("go to table 1", "take egg 1 from table 1", grammar=first_release)
        assert play.step("go to fridge 1").observation == "You arrive at loc 4. The fridge 1 is closed."
        play.step("open fridge 1")
        assert not play.step("move egg 1 to fridge 1").valid
        assert play.step("put egg 1 in/on fridge 1").observation == "You put the egg 1 in/on the fridge 1."
        assert not play.step("help").valid

    def test_play_may_go_on_after_the_goal_and_the_reward_stays(self) -> None:
        play = playing("go to table 1", goal="(exists (?a - agent) (atLocation ?a loc_bar_3))")
        assert play.won
        assert play.step("nonsense").reward == 1.0
        assert play.step("go to fridge 1").reward == 0.0


def put_goal(*conditions: str) -> str:
    facts = "(objectType ?o EggType) (receptacleType ?r FridgeType) (inReceptacle ?o ?r)"
    return f"(and (exists (?r - receptacle) (exists (?o - object) (and {facts} {' '.join(conditions)}))))"


PUT = ("go to fridge 1", "open fridge 1", "move egg 1 to fridge 1")
TAKE = ("go to table 1", "take egg 1 from table 1")
SLICE = ("go to table 1", "take knife 1 from table 1", "slice egg 1 with knife 1", "move knife 1 to table 1")
HEAT = ("go to microwave 1", "heat egg 1 with microwave 1")
CLEAN = ("go to sinkbasin 1", "clean egg 1 with sinkbasin 1")
TWO = """(and (exists (?r - receptacle) (exists (?o1 - object) (and (objectType ?o1 EggType)
  (receptacleType ?r FridgeType) (inReceptacle ?o1 ?r) {sliced1} (exists (?o2 - object) (and (not (= ?o1 ?o2))
  (objectType ?o2 EggType) (receptacleType ?r FridgeType) (inReceptacle ?o2 ?r) {sliced2}))))))"""
LOOK = """(and (exists (?ot - object ?r - receptacle ?a - agent ?l - location) (and (objectType ?ot LampType)
  (toggleable ?ot) (isToggled ?ot) (receptacleAtLocation ?r ?l) (atLocation ?a ?l) (inReceptacle ?ot ?r)))
  (exists (?o - object ?a - agent) (and (objectType ?o EggType) (holds ?a ?o))))"""
LOOK_SLICED = """(and (exists (?ot - object ?a - agent ?l - location) (and (sliceable ?o) (isSliced ?o)
  (objectType ?ot LampType) (toggleable ?ot) (isToggled ?ot) (objectAtLocation ?ot ?l) (atLocation ?a ?l)))
  (exists (?o - object ?a - agent) (and (objectType ?o EggType) (holds ?a ?o))))"""
MOVABLE = """(and (exists (?r - receptacle) (and (receptacleType ?r TableType) (exists (?o - object)
  (and (objectType ?o AppleType) (exists (?mo - object) (and (objectType ?mo BowlType)
  (isReceptacleObject ?mo) (inReceptacleObject ?o ?mo) (inReceptacle ?mo ?r))))))))"""
SECOND_EGG = ("go to table 1", "take egg 2 from table 1", "go to fridge 1", "move egg 2 to fridge 1")
SLICE_BOTH = (*SLICE[:3], "slice egg 2 with knife 1", "move knife 1 to table 1")


@pytest.mark.parametrize(
    ("goal", "commands"),
    [
        (put_goal(), (*TAKE, *PUT)),
        (put_goal("(heatable ?o)", "(isHot ?o)"), (*TAKE, *HEAT, *PUT)),
        (put_goal("(cleanable ?o)", "(isClean ?o)"), (*TAKE, *CLEAN, *PUT)),
        (put_goal("(coolable ?o)", "(isCool ?o)"), (*TAKE, PUT[0], "cool egg 1 with fridge 1", *PUT[1:])),
        (put_goal("(sliceable ?o)", "(isSliced ?o)"), (*SLICE, *TAKE[1:], *PUT)),
        (
            put_goal("(sliceable ?o)", "(isSliced ?o)", "(heatable ?o)", "(isHot ?o)"),
            (*SLICE, *TAKE[1:], *HEAT, *PUT),
        ),
        (TWO.format(sliced1="", sliced2=""), (*TAKE, *PUT, *SECOND_EGG)),
        (
            TWO.format(sliced1="(isSliced ?o1)", sliced2="(sliceable ?o2) (isSliced ?o2)"),
            (*SLICE_BOTH, *TAKE[1:], *PUT, *SECOND_EGG),
        ),
        (LOOK, ("go to drawer 1", "use lamp 1", "take egg 1 from table 1")),
        (put_goal("(not (isHot ?o))"), (*TAKE, *PUT)),
    ],
)
def test_each_goal_is_met_by_the_last_command_and_not_before(goal: str, commands: tuple[str, ...]) -> None:
    play = playing(goal=goal)
    met = [play.won]
    for command in commands:
        outcome = play.step(command)
        assert outcome.valid, f"{command!r} is none of {play.admissible()}"
        met.append(outcome.won)
    assert met == [False] * len(commands) + [True]


def test_the_goal_of_a_movable_receptacle_speaks_of_what_lies_in_it() -> None:
    assert playing(goal=MOVABLE).won
    assert not playing("go to table 1", "take bowl 1 from table 1", goal=MOVABLE).won


def test_an_unbound_variable_means_the_one_of_that_name_elsewhere_as_in_the_reference() -> None:
    extra = "(objectAtLocation Lamp_bar_1 loc_bar_3)"
    whole = playing("go to table 1", "take egg 1 from table 1", "use lamp 1", goal=LOOK_SLICED, extra=extra)
    assert not whole.won
    sliced = playing(*SLICE, "take egg 1 from table 1", goal=LOOK_SLICED, extra=extra)
    assert not sliced.won
    assert sliced.step("use lamp 1").won
    other = playing(*SLICE, "take egg 2 from table 1", "use lamp 1", goal=LOOK_SLICED, extra=extra)
    assert not other.won

"""The scripted expert reads every task, wins from the text alone, and recovers from slips."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.alfworld.belief import Belief, Task, parse_task
from envs.alfworld.engine import Play
from envs.alfworld.expert import Expert, Move, noisy
from envs.alfworld.game import parse_game
from envs.alfworld.generator import generate
from envs.alfworld.problem import Goal, Grammar, task_sentences
from envs.alfworld.rooms import SIZES, SPLITS, TASK_TYPES, Size, Split, TaskType

_PATIENCE = 200


def _play(
    seed: int, size: Size, task_type: TaskType, split: Split = "train", slip_rate: float = 0.0
) -> list[Move]:
    """Return the moves that won the game, or the first ones of a lost game."""
    grammar: Grammar = "old" if seed % 2 else "new"
    game = generate(seed, split=split, size=size, task_type=task_type, grammar=grammar)
    play = Play(parse_game(game.game_json, "game"))
    act = noisy(Expert(grammar), random.Random(seed), slip_rate)
    observation = play.reset()
    moves: list[Move] = []
    while not play.won and len(moves) < _PATIENCE:
        moves.append(act(observation))
        observation = play.step(moves[-1].command).observation
    return moves


@pytest.mark.parametrize(("size", "task_type"), list(itertools.product(("small", "medium"), TASK_TYPES)))
def test_the_expert_wins_small_and_medium_games_within_50_steps(size: Size, task_type: TaskType) -> None:
    for seed in range(15):
        assert len(_play(seed, size, task_type, SPLITS[seed % 3])) <= 50


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_the_expert_wins_every_full_game_and_most_within_50_steps(task_type: TaskType) -> None:
    lengths = [len(_play(seed, "full", task_type)) for seed in range(12)]
    assert max(lengths) < _PATIENCE
    assert sum(length <= 50 for length in lengths) >= 9


@pytest.mark.parametrize(("size", "task_type"), list(itertools.product(SIZES, TASK_TYPES)))
def test_the_expert_recovers_from_slips(size: Size, task_type: TaskType) -> None:
    slips = 0
    for seed in range(6):
        moves = _play(seed, size, task_type, slip_rate=0.3)
        assert len(moves) < _PATIENCE
        slips += sum(move.slipped for move in moves)
    assert slips > 6


def test_no_slip_is_nearly_the_command_that_was_meant() -> None:
    """After one that is, the next command would be nearly the last: what is learned is to repeat oneself."""
    slips = [
        move
        for seed in range(12)
        for move in _play(seed, "small", TASK_TYPES[seed % 6], slip_rate=0.5)
        if move.slipped
    ]
    assert len(slips) > 50
    for move in slips:
        said, meant = move.command.split(), move.meant.split()
        assert said != meant[: len(said)]
        assert said[: len(meant)] != meant
        assert said != meant[1:]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**9), task_type=st.sampled_from(TASK_TYPES), slip_rate=st.floats(0, 0.6))
def test_the_expert_wins_from_wherever_slips_have_led(
    seed: int, task_type: TaskType, slip_rate: float
) -> None:
    assert len(_play(seed, "small", task_type, slip_rate=slip_rate)) < _PATIENCE


def test_the_expert_wins_after_any_wandering() -> None:
    for seed in range(24):
        game = generate(seed, size="small", task_type=TASK_TYPES[seed % 6])
        play, expert, rng = Play(parse_game(game.game_json, "game")), Expert(), random.Random(seed)
        observation = play.reset()
        for step in range(_PATIENCE):
            command = expert.act(observation)
            if step < 30:
                command = rng.choice(play.admissible())
                expert.replace_last(command)
            observation = play.step(command).observation
            if play.won:
                break
        assert play.won, (seed, game.game_json["walkthrough"])


def test_receptacles_are_explored_in_the_order_of_the_introduction() -> None:
    for seed in range(12):
        moves = _play(seed, "medium", "pick_and_place_simple")
        game = generate(
            seed, size="medium", task_type="pick_and_place_simple", grammar="old" if seed % 2 else "new"
        )
        listed = Belief.from_intro(Play(parse_game(game.game_json, "game")).reset()).receptacles
        until_found = itertools.takewhile(lambda move: not move.command.startswith("take "), moves)
        visited = [it.command.removeprefix("go to ") for it in until_found if it.command.startswith("go to ")]
        assert visited == listed[: len(visited)]


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_every_wording_of_every_task_is_read(task_type: TaskType) -> None:
    expected = {
        "pick_and_place_simple": "place",
        "look_at_obj_in_light": "look",
        "pick_clean_then_place_in_recep": "clean",
        "pick_heat_then_place_in_recep": "heat",
        "pick_cool_then_place_in_recep": "cool",
        "pick_two_obj_and_place": "place two",
    }
    for sentence in task_sentences(Goal(task_type, "CreditCard", "SideTable")):
        task = parse_task(f"You see a safe 1.\n\nYour task is to: {sentence}")
        assert task == Task(expected[task_type], "creditcard", "sidetable")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "text", ["", "Your task is to: ", "Your task is to: take a nap.", "put a mug in safe."]
)
def test_a_task_in_no_known_wording_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="wordings"):
        Expert().act(text)


@pytest.mark.parametrize(
    ("command", "observation", "here"),
    [
        ("go to desk 1", "You arrive at desk 1. On the desk 1, you see nothing.", {"desk 1"}),
        ("go to safe 1", "Nothing happens.", {"desk 1", "safe 1"}),
        (
            "look",
            "You are facing the bed 1, and the safe 1. Next to it, you see nothing.",
            {"bed 1", "safe 1"},
        ),
    ],
)
def test_a_belief_follows_where_the_player_stands(command: str, observation: str, here: set[str]) -> None:
    belief = Belief(["bed 1", "desk 1", "safe 1"])
    belief.learn("go to desk 1", "You arrive at desk 1. On the desk 1, you see a pen 1, and a egg 2.")
    belief.learn(command, observation)
    assert belief.here == here


def test_a_belief_holds_only_what_was_shown() -> None:
    belief = Belief.from_intro("You see a desk 1, and a drawer 1.\n\nYour task is to: put a pen in drawer.")
    assert (belief.receptacles, belief.where) == (["desk 1", "drawer 1"], {})
    belief.learn("go to desk 1", "You arrive at desk 1. On the desk 1, you see a pen 1, and a egg 2.")
    assert belief.where == {"pen 1": "desk 1", "egg 2": "desk 1"}
    belief.learn("take egg 2 from desk 1", "You pick up the egg 2 from the desk 1.")
    assert (belief.holding, belief.origin, belief.where) == ("egg 2", "desk 1", {"pen 1": "desk 1"})
    belief.learn("go to drawer 1", "You arrive at drawer 1. The drawer 1 is closed.")
    assert belief.closed == {"drawer 1"}
    belief.learn("open drawer 1", "You open the drawer 1. The drawer 1 is open. In it, you see nothing.")
    belief.learn("put egg 2 in/on drawer 1", "You put the egg 2 in/on the drawer 1.")
    assert (belief.holding, belief.closed, belief.inside("drawer 1")) == (None, set(), ["egg 2"])


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_a_slip_rate_must_be_a_probability(rate: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        noisy(Expert(), random.Random(0), rate)


def test_without_slips_every_move_is_the_experts() -> None:
    assert not any(move.slipped for move in _play(1, "small", "pick_two_obj_and_place"))
    assert all(move.slipped for move in _play(1, "small", "pick_two_obj_and_place", slip_rate=1.0))

"""Recorded and generated ALFWorld games for tests."""

from __future__ import annotations

import gzip
import json
import random
from functools import cache
from pathlib import Path
from typing import Any

from envs.alfworld.engine import Play
from envs.alfworld.game import Game, build_game, parse_game
from envs.alfworld.generator import generate

GOLDEN = Path(__file__).parent / "golden" / "alfworld_engine_traces.json.gz"


@cache
def recorded_games() -> list[dict[str, Any]]:
    """Return the games that the reference engine played: problem, task, grammar, steps."""
    return json.loads(gzip.decompress(GOLDEN.read_bytes()))["games"]


def recorded_game(index: int) -> Game:
    """Return one recorded game, parsed."""
    game = recorded_games()[index]
    return build_game(game["pddl_problem"], game["task"], game["grammar"], f"recorded {index}")


@cache
def generated_game(seed: int, **options: Any) -> Game:
    """Return a generated game, parsed."""
    return parse_game(generate(seed, **options).game_json, f"generated {seed}")


def random_transcript(game: Game, seed: int, steps: int) -> list[tuple[str, str, tuple[str, ...], bool]]:
    """Return command, observation, admissible commands and won of a random walk."""
    rng = random.Random(seed)
    play = Play(game)
    seen: list[tuple[str, str, tuple[str, ...], bool]] = []
    for _ in range(steps):
        command = rng.choice(play.admissible())
        outcome = play.step(command)
        seen.append((command, outcome.observation, tuple(play.admissible()), outcome.won))
    return seen


# A room in which every rule of the engine has something to act on. `goal` and `extra` facts are put in.
SMALL_ROOM = """
(define (problem small) (:domain alfred)
 (:objects agent1 - agent
  Egg - object
  Egg_bar_1 - object Egg_bar_2 - object Apple_bar_1 - object Knife_bar_1 - object Lamp_bar_1 - object
  Bowl_bar_1 - object
  Fridge_bar_1 - receptacle Microwave_bar_1 - receptacle Sink_bar_1_bar_SinkBasin - receptacle
  Table_bar_1 - receptacle Drawer_bar_1 - receptacle
  loc_bar_1 - location loc_bar_2 - location loc_bar_3 - location loc_bar_9 - location
  FridgeType - rtype MicrowaveType - rtype SinkBasinType - rtype TableType - rtype DrawerType - rtype
  EggType - otype AppleType - otype KnifeType - otype LampType - otype BowlType - otype)
 (:init (= (total-cost) 0) (= (distance loc_bar_1 loc_bar_2) 5)
  (atLocation agent1 loc_bar_9)
  (receptacleType Fridge_bar_1 FridgeType) (receptacleType Microwave_bar_1 MicrowaveType)
  (receptacleType Sink_bar_1_bar_SinkBasin SinkBasinType) (receptacleType Table_bar_1 TableType)
  (receptacleType Drawer_bar_1 DrawerType)
  (receptacleAtLocation Fridge_bar_1 loc_bar_1) (receptacleAtLocation Microwave_bar_1 loc_bar_2)
  (receptacleAtLocation Sink_bar_1_bar_SinkBasin loc_bar_2) (receptacleAtLocation Table_bar_1 loc_bar_3)
  (receptacleAtLocation Drawer_bar_1 loc_bar_3)
  (openable Fridge_bar_1) (openable Microwave_bar_1) (openable Drawer_bar_1)
  (objectType Egg_bar_1 EggType) (objectType Egg_bar_2 EggType) (objectType Apple_bar_1 AppleType)
  (objectType Knife_bar_1 KnifeType) (objectType Lamp_bar_1 LampType) (objectType Bowl_bar_1 BowlType)
  (canContain FridgeType EggType) (canContain FridgeType AppleType) (canContain TableType EggType)
  (canContain TableType AppleType) (canContain TableType KnifeType) (canContain SinkBasinType EggType)
  (canContain DrawerType EggType)
  (pickupable Egg_bar_1) (pickupable Egg_bar_2) (pickupable Apple_bar_1) (pickupable Knife_bar_1)
  (pickupable Bowl_bar_1)
  (heatable Egg_bar_1) (coolable Egg_bar_1) (cleanable Egg_bar_1) (sliceable Egg_bar_1)
  (heatable Egg_bar_2) (coolable Egg_bar_2) (cleanable Egg_bar_2) (sliceable Egg_bar_2)
  (toggleable Lamp_bar_1) (isReceptacleObject Bowl_bar_1) (inReceptacleObject Apple_bar_1 Bowl_bar_1)
  (inReceptacle Egg_bar_1 Table_bar_1) (inReceptacle Egg_bar_2 Table_bar_1)
  (inReceptacle Bowl_bar_1 Table_bar_1) (inReceptacle Knife_bar_1 Table_bar_1)
  (inReceptacle Lamp_bar_1 Drawer_bar_1)
  (objectAtLocation Egg_bar_1 loc_bar_3) (objectAtLocation Egg_bar_2 loc_bar_3) {extra})
 (:goal {goal}))
"""
NEVER = "(exists (?o - object) (and (objectType ?o BowlType) (isHot ?o)))"


def small_game(goal: str = NEVER, extra: str = "", grammar: Any = "new") -> Game:
    """Return the small room with a goal and further facts."""
    return build_game(SMALL_ROOM.format(goal=goal, extra=extra), "Your task is to: x.", grammar, "small")

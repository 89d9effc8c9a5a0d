"""The engine beside the original, where that is installed (`pip install agentrl[alfworld-reference]`)."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from envs.alfworld.engine import Play
from envs.alfworld.game import parse_game
from envs.alfworld.generator import generate

textworld = pytest.importorskip("textworld", reason="the original engine (alfworld==0.4.2) is not installed")
misc = pytest.importorskip("alfworld.agents.utils.misc", reason="alfworld==0.4.2 is not installed")

STEPS = 40


def reference(file: Path) -> Any:
    from textworld.envs.pddl import PddlEnv

    class Named(textworld.core.Wrapper):
        def load(self, *args: Any, **options: Any) -> None:
            super().load(*args, **options)
            names = misc.Demangler(game_infos=self._entity_infos)
            for info in self._entity_infos.values():
                info.name = names.demangle_alfred_name(info.id)

    env = Named(PddlEnv(textworld.EnvInfos(won=True, admissible_commands=True, feedback=True)))
    env.load(str(file))
    return env


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("grammar", ["new", "old"])
@pytest.mark.parametrize("seed", range(6))
def test_both_engines_say_the_same(seed: int, grammar: Any, tmp_path: Path) -> None:
    made = generate(seed, size="medium", grammar=grammar)
    file = tmp_path / "game.tw-pddl"
    file.write_text(json.dumps(made.game_json))
    theirs, ours = reference(file), Play(parse_game(made.game_json, "made"))
    state, text = theirs.reset(), ours.reset()
    rng = random.Random(seed)
    walk = list(made.game_json["walkthrough"])
    for _ in range(STEPS):
        assert (text, ours.admissible(), ours.won) == (state.feedback, state.admissible_commands, state.won)
        detour = rng.random() < 0.5 or not walk
        command = rng.choice(ours.admissible()) if detour else walk.pop(0)
        state, _, _ = theirs.step(command)
        text = ours.step(command).observation

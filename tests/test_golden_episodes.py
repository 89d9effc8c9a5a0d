"""Whole episodes, token for token, as they were first recorded.

A difference means that what a model sees, what is stored or what a game does has changed. That may be wanted:
then `make golden` records the episodes anew, and the commit says why.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import byte_renderer

from agentrl import registry
from agentrl.env import Expert
from agentrl.policy.scripted import ScriptedPolicy
from agentrl.rollout.episode import EpisodeSpec, Player, play
from agentrl.rollout.limits import Limits
from agentrl.store.record import episode_to_record
from agentrl.types import Observation

GOLDEN = Path(__file__).parent / "golden" / "episodes"
LIMITS = Limits(
    turns=30, reply_tokens=200, context_tokens=100_000, episode_timeout_s=60.0, step_timeout_s=60.0
)
STYLES: dict[str, dict[str, Any]] = {
    "action": {},
    "tool_call": {"style": "tool_call", "grammar": "old"},
    "listed": {"style": "plain", "list_admissible": True, "anchor": "observation"},
}


def expert_replies(expert: Expert, grammar: str) -> Callable[[str], str]:
    """Feed an expert from the rendered context: it reads the last message, as the model does."""

    def reply(context: str) -> str:
        last = context.rsplit("<|im_end|>", 1)[0].rsplit("<|im_start|>", 1)[1].partition("\n")[2]
        text = last.replace("<tool_response>\n", "").replace("\n</tool_response>", "")
        info = {"text": text.partition("\nAdmissible commands")[0], "grammar": grammar}
        return expert.act(Observation((), info=info)).text

    return reply


@pytest.mark.parametrize("style", STYLES)
def test_an_expert_episode_is_what_it_was(style: str) -> None:
    plugin = registry.load("env", "alfworld")
    env = plugin(plugin.Settings(size="small", **STYLES[style]))
    renderer = byte_renderer()
    replies = expert_replies(env.expert(seed=0), STYLES[style].get("grammar", "new"))
    policy = ScriptedPolicy(renderer, replies, max_context_tokens=LIMITS.context_tokens)
    player = Player(env, policy, renderer, LIMITS, temperature=1.0)
    spec = EpisodeSpec("golden-0", "golden", env.tasks("valid_unseen")[2], seed=7, config_hash="golden")
    record = episode_to_record(asyncio.run(play(player, spec)))
    assert record["error"] is None
    assert record["correct"] is True
    file = GOLDEN / f"alfworld_{style}.json"
    if os.environ.get("AGENTRL_WRITE_GOLDEN"):
        file.write_text(json.dumps(record, sort_keys=True, separators=(",", ":")) + "\n", encoding="utf-8")
    assert record == json.loads(file.read_text(encoding="utf-8"))

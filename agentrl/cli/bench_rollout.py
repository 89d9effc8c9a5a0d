"""Sampling speed of the embedded engine, beside transformers' `generate` on the same load.

The load is what agents do: many sessions, each a prompt, then turns of a short reply and a longer
observation. The engine keeps every session's keys and values; `generate` is given the whole context again
each turn, as a loop around it would.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["rows"]

SESSIONS = (16, 32, 64)
VOCAB = 1024


@dataclass(frozen=True, slots=True)
class Load:
    """A multi-turn load; sizes in tokens."""

    sessions: int
    turns: int = 4
    prompt: int = 200
    reply: int = 30
    shortest_observation: int = 100
    longest_observation: int = 200

    @property
    def sampled_tokens(self) -> int:
        """Tokens that the policy samples in all."""
        return self.sessions * self.turns * self.reply

    def observation(self, session: int, turn: int) -> list[int]:
        """Return what a session is shown before a turn (the prompt before the first)."""
        source = random.Random(session * 1000 + turn)
        length = source.randint(self.shortest_observation, self.longest_observation) if turn else self.prompt
        return [source.randrange(VOCAB) for _ in range(length)]


def rows() -> list[dict[str, Any]]:
    """Measure sampled tokens per second at 16, 32 and 64 sessions with a random 0.86 M model."""
    model = _random_model()
    measured: list[dict[str, Any]] = []
    _timed(lambda: _play_with_generate(model, Load(2, turns=1)))
    for sessions in SESSIONS:
        load = Load(sessions)
        ours = load.sampled_tokens / _timed(lambda load=load: asyncio.run(_play_with_engine(model, load)))
        theirs = load.sampled_tokens / _timed(lambda load=load: _play_with_generate(model, load))
        measured.append(
            {
                "what": f"sampling, {sessions} sessions, {load.turns} turns",
                "value": ours,
                "unit": "sampled tok/s",
                "baseline": "transformers generate, whole context each turn",
                "baseline_value": theirs,
                "ratio": ours / theirs,
            }
        )
    return measured


def _timed(play: Callable[[], None]) -> float:
    start_s = time.perf_counter()
    play()
    return time.perf_counter() - start_s


def _random_model() -> Any:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    untyped: Any = torch
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=384,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
        pad_token_id=0,
    )
    with untyped.random.fork_rng(devices=[]):
        untyped.manual_seed(0)
        return Qwen3ForCausalLM(config).eval()


async def _play_with_engine(model: Any, load: Load) -> None:
    from agentrl.policy.base import SampleRequest, SamplingParams
    from agentrl.policy.local import LocalPolicy

    policy = LocalPolicy(model, device="cpu", slots=load.sessions, max_context_tokens=2048)

    async def play(session: int) -> None:
        context: list[int] = []
        for turn in range(load.turns):
            context += load.observation(session, turn)
            request = SampleRequest(str(session), context, session, SamplingParams(load.reply))
            context += (await policy.sample(request)).token_ids
        await policy.end_session(str(session))

    await asyncio.gather(*(play(session) for session in range(load.sessions)))
    await policy.close()


def _play_with_generate(model: Any, load: Load) -> None:
    import torch

    contexts: list[list[int]] = [[] for _ in range(load.sessions)]
    for turn in range(load.turns):
        for session, context in enumerate(contexts):
            context += load.observation(session, turn)
        longest = max(map(len, contexts))
        ids = torch.tensor([[0] * (longest - len(context)) + context for context in contexts])
        mask = torch.tensor([[0] * (longest - len(context)) + [1] * len(context) for context in contexts])
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=load.reply)
        for context, row in zip(contexts, out[:, longest:].tolist(), strict=True):
            context += row

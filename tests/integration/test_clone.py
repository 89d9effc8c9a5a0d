"""`agentrl train` with a [clone] table: from nothing to a model that every loader takes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from integration.command import agentrl, toml
from integration.conftest import BASE, InProcess
from safetensors.torch import load_file

from agentrl.config import Config, parse_settings
from agentrl.policy.base import SampleRequest, SamplingParams
from agentrl.policy.local import LocalPolicy
from agentrl.policy.render import Renderer
from agentrl.rollout.setup import build_env
from agentrl.train import demonstrations
from agentrl.train.base import build_base
from agentrl.train.cloning import Demonstration
from agentrl.train.demonstrations import Transcript, render, transcripts
from agentrl.types import Message


def recipe(**changes: dict[str, Any]) -> dict[str, Any]:
    tables = copy.deepcopy(BASE)
    for name, table in changes.items():
        tables[name] = tables.get(name, {}) | table
    return tables


def config(**changes: dict[str, Any]) -> Config:
    return parse_settings(Config, recipe(**changes), where="BASE")


@pytest.mark.slow
def test_the_command_builds_a_model_that_loads_everywhere(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    small = {
        "episodes": 4,
        "tokenizer_episodes": 4,
        "token_budget": 1500,
        "copy_warmup_steps": 2,
        "out": "made",
    }
    (tmp_path / "base.toml").write_text(toml(recipe(clone=small)))
    said = agentrl(tmp_path, "train", "base.toml")
    assert "base model in made" in said
    made = tmp_path / "made"
    tokenizer: Any = AutoTokenizer.from_pretrained(made, local_files_only=True)
    model: Any = AutoModelForCausalLM.from_pretrained(made, local_files_only=True)
    assert model.dtype is torch.bfloat16
    renderer = Renderer.load(made)
    messages = [
        Message("user", "You are in a room."),
        Message("assistant", "look"),
        Message("user", "A mug."),
    ]
    rendered = tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in messages], add_generation_prompt=True, tokenize=False
    )
    assert renderer.decode(renderer.open_ids(messages)) == rendered
    assert len(tokenizer) == renderer.vocab_size <= model.config.vocab_size
    stages = [json.loads(line)["stage"] for line in (made / "training.jsonl").read_text().splitlines()]
    assert stages == ["copy", "clone"]
    written = json.loads((made / "recipe.json").read_text())
    assert written["clone"]["episodes"] == 4
    assert "dir" not in written["run"]
    assert not (tmp_path / "runs").exists()


def test_cloning_goes_on_from_a_checkpoint(tiny_base: Path, tmp_path: Path) -> None:
    """`clone.start` keeps the tokenizer and the weights it starts from, and writes somewhere else."""
    more = {"start": str(tiny_base), "episodes": 2, "token_budget": 300, "out": str(tmp_path / "more")}
    made = build_base(config(clone=more), device="cpu", watch=lambda *_: None)
    assert (made / "tokenizer.json").read_bytes() == (tiny_base / "tokenizer.json").read_bytes()
    stages = [json.loads(line)["stage"] for line in (made / "training.jsonl").read_text().splitlines()]
    assert stages == ["clone"]
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_base, made))
    assert before.keys() == after.keys()
    largest = max(float((before[name] - after[name]).abs().max()) for name in before)
    assert 0 < largest < 0.1


async def test_the_model_plays(tiny_base: Path) -> None:
    """The embedded engine gives the log-probs that transformers gives for the same weights."""
    from transformers import AutoModelForCausalLM

    renderer, policy = Renderer.load(tiny_base), LocalPolicy(tiny_base, device="cpu")
    context = renderer.open_ids([Message("user", "You are in a room.")])
    params = SamplingParams(max_tokens=6, temperature=1.0, top_p=1.0, stop_ids=renderer.stop_ids)
    try:
        reply = await policy.sample(SampleRequest("s", context, seed=1, params=params))
    finally:
        await policy.close()
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_base, local_files_only=True, dtype=torch.float32)
    ids = torch.tensor([[*context, *reply.token_ids]])
    with torch.no_grad():
        logprobs = model(ids).logits[0, len(context) - 1 : -1].float().log_softmax(-1)
    expected = logprobs.gather(-1, torch.tensor(reply.token_ids)[:, None])[:, 0]
    assert reply.logprobs == pytest.approx(expected.tolist(), abs=2e-4)


@pytest.mark.slow
def test_demonstrations_do_not_depend_on_the_number_of_workers(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demonstrations, "CHUNK", 5)

    def made(workers: int) -> list[tuple[list[int], list[float]]]:
        played = demonstrations.demonstrations(config(), tiny_base, 12, workers=workers)
        return [(list(d.ids), list(d.weights)) for d in played]

    assert made(1) == made(2)


def test_the_same_recipe_gives_the_same_transcripts() -> None:
    first, again = (list(transcripts(config(), 3, workers=1)) for _ in range(2))
    assert first == again
    other = list(transcripts(config(run={"seed": 4}, clone={"slip_rate": 0.5}), 3, workers=1))
    assert [t.replies for t in other] != [t.replies for t in first]


def slips_in(transcript: Transcript) -> int:
    return sum(reply.slip for reply in transcript.replies)


@pytest.mark.parametrize("slip_weight", [0.0, 0.5])
def test_slips_are_shown_and_imitated_as_much_as_is_asked(tiny_base: Path, slip_weight: float) -> None:
    renderer = Renderer.load(tiny_base)
    played = list(transcripts(config(clone={"slip_rate": 0.4}), 6, workers=1))
    assert sum(map(slips_in, played)) > 5
    assert any(transcript.solved for transcript in played)
    for transcript in played:
        made = render(renderer, transcript, observation_weight=0.25, slip_weight=slip_weight)
        assert list(made.ids) == rendered_at_once(renderer, transcript)
        for reply, weights in zip(
            transcript.replies, weights_of_replies(renderer, transcript, made), strict=True
        ):
            assert weights == {slip_weight if reply.slip else 1.0}


def rendered_at_once(renderer: Renderer, transcript: Transcript) -> list[int]:
    """Return what a policy that said the same would have seen and said, turn by turn."""
    ids: list[int] = []
    for index, (shown, reply) in enumerate(zip(transcript.observations, transcript.replies, strict=True)):
        ids += renderer.open_ids(shown) if index == 0 else renderer.append_ids(shown, closed=True)
        ids += renderer.reply_ids(reply.text)
    return ids


def weights_of_replies(renderer: Renderer, transcript: Transcript, made: Demonstration) -> list[set[float]]:
    """Return the weights of each reply's tokens; every other token must have the observations' 0.25."""
    found: list[set[float]] = []
    at = 0
    ids, weights = list(made.ids), list(made.weights)
    for reply in transcript.replies:
        said = list(renderer.reply_ids(reply.text))
        start = next(i for i in range(at, len(ids)) if ids[i : i + len(said)] == said and weights[i] != 0.25)
        assert set(weights[at:start]) == {0.25}
        at = start + len(said)
        found.append(set(weights[start:at]))
    assert at == len(ids)
    return found


def test_there_must_be_an_expert_and_it_must_succeed(here: InProcess, tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(toml(recipe(rollout={"max_turns": 1}, clone={"episodes": 2})))
    said = here.refused_after_output(tmp_path, "train", "base.toml")
    assert "the expert solved none of 2 episodes in 1 turns" in said
    tables = recipe()
    tables["env"]["id"] = "integration.flaky:MuteAlfWorld"
    (tmp_path / "mute.toml").write_text(toml(tables))
    assert "MuteAlfWorld' has no scripted expert" in here.refused_after_output(tmp_path, "train", "mute.toml")


def test_the_folder_must_be_writable(here: InProcess, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "base.toml").write_text(toml(recipe(clone={"out": "file"})))
    assert "making the folder file failed" in here.refused_after_output(tmp_path, "train", "base.toml")


def test_the_expert_plays_the_training_split() -> None:
    env = build_env(config())
    tasks = env.tasks("train")
    shown = [t.observations[0][-1].content for t in transcripts(config(), 2, workers=1)]
    assert len(tasks) > 1000
    assert len(set(shown)) == 2

"""Cloning learns a copying task, weighs tokens as told, and resumes where it stopped."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Iterator

import pytest
import torch
from train_fakes import VOCAB
from transformers import Qwen3ForCausalLM

from agentrl.errors import AlignmentError
from agentrl.train import cloning
from agentrl.train.cloning import (
    CloneSettings,
    CopySettings,
    Demonstration,
    Progress,
    clone,
    clone_optimizer,
    copy_warmup,
)
from agentrl.train.model import ModelShape, new_model
from agentrl.train.packing import collate, logprobs


def echoes(seed: int) -> Iterator[Demonstration]:
    """Endless rows `a b c ? x a b c`: repeat what was shown, after a slip x of weight 0."""
    rng = random.Random(seed)
    while True:
        shown = [rng.randrange(16) for _ in range(3)]
        yield Demonstration([*shown, 20, rng.randrange(16), *shown], [0.3] * 4 + [0.0] + [1.0] * 3)


@pytest.fixture
def small() -> Qwen3ForCausalLM:
    shape = ModelShape(hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16, ffn=128, max_position=64)
    return new_model(shape, 64)


def test_copying_is_learned_in_seconds(small: Qwen3ForCausalLM) -> None:
    seen: list[Progress] = []
    settings = CloneSettings(token_budget=80_000, batch_tokens=800, autocast=False)
    final = clone(small, echoes(0), settings, progress=seen.append)
    assert [progress.steps for progress in seen] == list(range(1, final.steps + 1))
    assert 80_000 <= final.tokens < 80_800
    assert final.metrics["clone/action_nll"] < 0.5 < seen[0].metrics["clone/action_nll"]
    assert final.metrics["actor/lr"] < 0.07 * settings.lr
    assert final.metrics["perf/tokens_per_s"] > 0


def test_tokens_of_weight_zero_are_never_imitated(small: Qwen3ForCausalLM) -> None:
    examples = [Demonstration([1, 2, 3, 4], [0.3, 0.0, 1.0, 0.3])]
    batch = collate(
        [torch.tensor([1, 2, 3, 4])], [torch.tensor([False, False, True, True])], torch.device("cpu")
    )
    nll_N = -logprobs(small, batch).logprobs_N
    expected = torch.autograd.grad((1.0 * nll_N[0] + 0.3 * nll_N[1]) / 1.3, small.model.norm.weight)[0]
    gradients: list[torch.Tensor] = []
    small.model.norm.weight.register_hook(lambda gradient: gradients.append(gradient.clone()))
    progress = clone(small, examples, CloneSettings(autocast=False))
    torch.testing.assert_close(gradients[0], expected)
    assert progress.metrics["clone/action_nll"] == pytest.approx(float(nll_N[0].detach()), rel=1e-5)
    assert progress.metrics["clone/observation_nll"] == pytest.approx(float(nll_N[1].detach()), rel=1e-5)


def test_the_cut_into_micro_batches_changes_nothing(small: Qwen3ForCausalLM) -> None:
    results: list[Progress] = []
    for tokens in (25, 10_000):
        settings = CloneSettings(token_budget=900, batch_tokens=300, microbatch_tokens=tokens, autocast=False)
        results.append(clone(copy.deepcopy(small), echoes(0), settings))
    cut, whole = (result.metrics["clone/action_nll"] for result in results)
    assert cut == pytest.approx(whole, rel=1e-3)


def test_a_resumed_run_ends_bitwise_the_same(small: Qwen3ForCausalLM) -> None:
    settings = CloneSettings(token_budget=3000, batch_tokens=304)
    whole, part = copy.deepcopy(small), copy.deepcopy(small)
    clone(whole, echoes(0), settings)

    optimizer = clone_optimizer(part, settings)
    first_half = itertools.islice(echoes(0), 190)
    stopped = clone(part, first_half, settings, optimizer=optimizer)
    assert stopped.tokens == 1520
    resumed_optimizer = clone_optimizer(part, settings)
    resumed_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    final = clone(part, echoes(0), settings, optimizer=resumed_optimizer, resume=stopped)
    assert final.tokens == 3040
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), part.parameters(), strict=True))


def test_a_time_budget_ends_it(small: Qwen3ForCausalLM) -> None:
    final = clone(small, echoes(0), CloneSettings(time_budget_s=0.5, batch_tokens=200))
    assert 0 < final.seconds < 5


def test_weights_must_fit_tokens(small: Qwen3ForCausalLM) -> None:
    with pytest.raises(AlignmentError, match="2 tokens and 1 weights"):
        clone(small, [Demonstration([1, 2], [1.0])], CloneSettings())


def test_the_warm_up_trains_on_repeated_bigrams_only() -> None:
    repeats = cloning._repeats(torch.tensor([1, 2, 3, 1, 2, 3, 3]))  # pyright: ignore[reportPrivateUsage]
    assert repeats.tolist() == [False, False, False, False, True, True, False]


def test_the_warm_up_stops_at_its_limit_and_repeats(tiny: Qwen3ForCausalLM) -> None:
    settings = CopySettings(max_steps=3, batch_tokens=256)
    models = [copy.deepcopy(tiny) for _ in range(2)]
    ends = [copy_warmup(model, settings, seed=1) for model in models]
    assert ends[0].steps == 3
    assert ends[0].metrics["copy/nll"] == ends[1].metrics["copy/nll"]
    assert tiny.config.vocab_size >= VOCAB
    easy = CopySettings(max_steps=50, target_nll=100.0, batch_tokens=256)
    assert copy_warmup(tiny, easy).steps == 1

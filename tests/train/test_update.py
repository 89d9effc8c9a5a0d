"""A policy update: independent of how it is cut, indifferent to masked tokens, and it learns."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from train_fakes import VOCAB, episode
from transformers import Qwen3ForCausalLM

from agentrl.errors import ConfigError
from agentrl.loss import AGGREGATIONS
from agentrl.train.optimizer import build_optimizer
from agentrl.train.packing import collate, logprobs
from agentrl.train.rows import Channel, Row, sequence_rows
from agentrl.train.update import UpdateSettings, update

CPU = torch.device("cpu")


def rows_of(count: int = 6) -> list[Row]:
    rows: list[Row] = []
    for seed in range(count):
        turns = 1 + seed % 3
        outcome = [1.0 - seed / 3] * turns
        tools = [None if seed % 2 else 0.7 * turn for turn in range(turns)]
        rows += sequence_rows(episode(seed, turns), {"outcome": outcome, "tools": tools}, vocab_size=VOCAB)
    return rows


def weights_after(
    model: Qwen3ForCausalLM, rows: list[Row], settings: UpdateSettings
) -> dict[str, torch.Tensor]:
    trained = copy.deepcopy(model)
    # Plain SGD: Adam's division would turn rounding into whole steps.
    optimizer = build_optimizer(trained, "adamw", 1e-3)
    optimizer._parts = [torch.optim.SGD(trained.parameters(), lr=1.0)]  # pyright: ignore[reportPrivateUsage]
    optimizer._peaks = [[1.0]]  # pyright: ignore[reportPrivateUsage]
    optimizer._grad_clip = math.inf  # pyright: ignore[reportPrivateUsage]
    update(trained, optimizer, rows, settings, ref_model=model, step=3)
    return dict(trained.named_parameters())


EXACT = UpdateSettings(autocast=False, kl_coef=0.1, entropy_coef=0.01, channel_weights={"tools": 0.15})


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_the_cut_into_micro_batches_changes_nothing(tiny: Qwen3ForCausalLM, how: str) -> None:
    whole = weights_after(tiny, rows_of(), replace(EXACT, aggregation=how, microbatch_tokens=10_000))
    for tokens in (1, 40):
        cut = weights_after(tiny, rows_of(), replace(EXACT, aggregation=how, microbatch_tokens=tokens))
        for name, parameter in whole.items():
            torch.testing.assert_close(cut[name], parameter, rtol=1e-4, atol=1e-5)


def test_what_is_masked_cannot_matter(tiny: Qwen3ForCausalLM) -> None:
    rows = rows_of()
    noisy: list[Row] = []
    for row in rows:
        forced_T = ~row.trainable_T
        channels = {
            name: Channel(
                torch.where(channel.credited_T, channel.advantages_T, torch.tensor(1e6)), channel.credited_T
            )
            for name, channel in row.channels.items()
        }
        logprobs_T = torch.where(forced_T, torch.tensor(math.nan), row.logprobs_T)
        noisy.append(replace(row, logprobs_T=logprobs_T, channels=channels))
    blank = [
        replace(
            row, channels={k: Channel(c.advantages_T, c.credited_T & False) for k, c in row.channels.items()}
        )
        for row in rows_of(2)
    ]
    settings = replace(EXACT, aggregation="seq-mean-token-mean")
    clean = weights_after(tiny, rows, settings)
    for name, parameter in weights_after(tiny, noisy + blank, settings).items():
        torch.testing.assert_close(parameter, clean[name], rtol=1e-4, atol=1e-5)


def test_a_channel_is_averaged_over_its_own_turns(tiny: Qwen3ForCausalLM) -> None:
    """Rows that a channel does not speak of must not shrink its loss."""
    rows = sequence_rows(episode(0), {"tools": [1.0, 1.0, 1.0]})
    alone = weights_after(tiny, rows, UpdateSettings(autocast=False))
    silent = sequence_rows(episode(1), {"tools": [None] * 3, "outcome": [0.0] * 3})
    beside = weights_after(tiny, rows + silent, UpdateSettings(autocast=False))
    for name, parameter in alone.items():
        torch.testing.assert_close(beside[name], parameter, rtol=1e-4, atol=1e-5)


def test_nothing_trainable_steps_nothing(tiny: Qwen3ForCausalLM) -> None:
    before = copy.deepcopy(tiny.state_dict())
    rows = sequence_rows(episode(0), {"credit": [None] * 3})
    optimizer = build_optimizer(tiny, "adamw", 1e-3)
    metrics = update(tiny, optimizer, rows, UpdateSettings())
    assert optimizer.steps == 0
    assert metrics["update/rows"] == 0
    assert all(math.isfinite(value) for value in metrics.values())
    assert all(torch.equal(before[name], value) for name, value in tiny.state_dict().items())


@pytest.mark.parametrize("old", ["sampler", "recompute"])
def test_an_update_makes_good_tokens_likelier_and_bad_ones_rarer(tiny: Qwen3ForCausalLM, old: str) -> None:
    rows = [row for seed in (0, 1) for row in sequence_rows(episode(seed), {"a": [1.0 - 2 * seed] * 3})]
    batch = collate([row.ids_T for row in rows], [row.sampled_T for row in rows], CPU)

    def mean_logprobs() -> list[float]:
        with torch.no_grad():
            values_BL = batch.by_sequence(logprobs(tiny, batch).logprobs_N)
        return [
            float(values.sum() / row.sampled_T.sum()) for values, row in zip(values_BL, rows, strict=True)
        ]

    with torch.no_grad():
        values_BL = batch.by_sequence(logprobs(tiny, batch).logprobs_N)
    rows = [
        replace(row, logprobs_T=row.logprobs_T.masked_scatter(row.sampled_T, values))
        for row, values in zip(rows, values_BL, strict=True)
    ]
    good, bad = mean_logprobs()
    settings = UpdateSettings(epochs=2, minibatches=2, autocast=False, old_logprobs=old)  # type: ignore[arg-type]
    metrics = update(tiny, build_optimizer(tiny, "adamw", 1e-3), rows, settings)
    better, worse = mean_logprobs()
    assert better > good
    assert worse < bad
    assert metrics["training/rollout_probs_diff_max"] < 1e-5
    assert {"actor/pg_loss", "actor/pg_clipfrac", "actor/ppo_kl", "actor/entropy", "actor/grad_norm"} <= set(
        metrics
    )


def test_updates_repeat_bitwise(tiny: Qwen3ForCausalLM) -> None:
    settings = UpdateSettings(epochs=2, minibatches=3, microbatch_tokens=30)
    results: list[dict[str, torch.Tensor]] = []
    for _ in range(2):
        trained = copy.deepcopy(tiny)
        update(trained, build_optimizer(trained, "muon", 1e-2), rows_of(), settings, step=5)
        results.append(trained.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_a_kl_weight_needs_a_reference(tiny: Qwen3ForCausalLM) -> None:
    with pytest.raises(ConfigError, match="no reference model"):
        update(tiny, build_optimizer(tiny), rows_of(), UpdateSettings(kl_coef=0.1))


def test_a_gradient_that_is_not_finite_is_skipped_and_counted(tiny: Qwen3ForCausalLM) -> None:
    before = copy.deepcopy(tiny.state_dict())
    with torch.no_grad():
        tiny.model.norm.weight[0] = math.inf
    metrics = update(tiny, build_optimizer(tiny, "adamw", 1e-3), rows_of(), UpdateSettings(autocast=False))
    assert metrics["actor/skipped_steps"] == 1
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(before[name], tiny.state_dict()[name])

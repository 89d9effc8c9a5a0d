"""The loss library against recorded outputs of verl's own code, and its masking invariants."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agentrl.errors import ConfigError, UnknownPlugin
from agentrl.loss import AGGREGATIONS, KL_KINDS, aggregate, denominator, kl_penalty, masked_total, policy_loss

GOLDEN = Path(__file__).parents[1] / "golden" / "loss"
OPTIONS = {
    "ppo_clip_0.2_0.2_dual3": ("ppo", {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": 3.0}),
    "dapo_clip_0.2_0.28_dual10": ("ppo", {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": 10.0}),
}


def golden(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / name).read_text())


def padded(rows: list[list[float]]) -> tuple[Tensor, Tensor]:
    """Rows of different lengths -> `[rows, tokens]` filled with NaN, and the mask."""
    width = max(len(row) for row in rows)
    values = torch.tensor([row + [math.nan] * (width - len(row)) for row in rows], dtype=torch.float32)
    return values, (~values.isnan()).float()


CASES = sorted(path.name for path in GOLDEN.glob("policyloss_*.json"))


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_match_the_recorded_ones(name: str) -> None:
    case = golden(name)
    inputs = case["inputs"]
    old, mask = padded(inputs["old_log_prob"])
    advantages, _ = padded(inputs["advantage"])
    weights = None if inputs["rollout_is_weight"] is None else padded(inputs["rollout_is_weight"])[0]
    checked = 0
    for recorded in case["outputs"]["losses"]:
        if recorded["loss_name"] not in OPTIONS:
            continue
        loss_name, options = OPTIONS[recorded["loss_name"]]
        log_prob = padded(inputs["log_prob"])[0].requires_grad_()
        result = policy_loss(
            loss_name,
            log_prob=log_prob,
            old_log_prob=old,
            advantages=advantages,
            mask=mask,
            aggregation=recorded["aggregation"],
            padded_length=inputs["padded_length"],
            rollout_weights=weights,
            **options,
        )
        result.loss.backward()
        assert log_prob.grad is not None
        expected = padded(recorded["grad_log_prob"])[0].nan_to_num(0.0)
        assert result.loss.item() == pytest.approx(recorded["loss"], rel=1e-4, abs=1e-7)
        torch.testing.assert_close(log_prob.grad, expected, rtol=1e-4, atol=1e-8)
        metrics = result.metrics
        assert metrics["actor/pg_clipfrac"] == pytest.approx(recorded["clip_fraction"], abs=1e-6)
        assert metrics["actor/pg_clipfrac_lower"] == pytest.approx(recorded["dual_clip_fraction"], abs=1e-6)
        assert metrics["actor/ppo_kl"] == pytest.approx(recorded["approx_kl"], rel=1e-4, abs=1e-6)
        checked += 1
    assert checked == 2 * len(AGGREGATIONS)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", KL_KINDS)
def test_kl_estimators_match_the_recorded_ones(name: str, kind: str) -> None:
    case = golden(name)
    log_prob, mask = padded(case["inputs"]["log_prob"])
    reference, _ = padded(case["inputs"]["reference_log_prob_for_kl"])
    expected, _ = padded(case["outputs"]["kl_estimators"][kind])
    valid = mask > 0
    torch.testing.assert_close(
        kl_penalty(kind, log_prob, reference)[valid], expected[valid], rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_nothing_trainable_gives_zero_loss_and_zero_gradient(how: str) -> None:
    log_prob = torch.full((2, 3), math.nan, requires_grad=True)
    nan = torch.full((2, 3), math.nan)
    result = policy_loss(
        "ppo", log_prob=log_prob, old_log_prob=nan, advantages=nan, mask=torch.zeros(2, 3), aggregation=how
    )
    result.loss.backward()
    assert result.loss.item() == 0.0
    assert log_prob.grad is not None
    assert log_prob.grad.tolist() == [[0.0] * 3] * 2
    assert set(result.metrics.values()) == {0.0}


ROWS = st.lists(
    st.lists(st.tuples(st.floats(-3, 0), st.floats(-3, 0), st.floats(-2, 2)), min_size=1, max_size=5),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=60)
@given(rows=ROWS, how=st.sampled_from(AGGREGATIONS), extra=st.integers(0, 3), empty_rows=st.integers(0, 2))
def test_padding_changes_neither_loss_nor_gradient(rows: Any, how: str, extra: int, empty_rows: int) -> None:
    columns = [[[token[k] for token in row] for row in rows] for k in range(3)]
    (new, mask), (old, _), (advantages, _) = (padded(column) for column in columns)

    def evaluate(pad: int, filler: float, blank_rows: int) -> tuple[float, Tensor]:
        def grow(values: Tensor, fill: float) -> Tensor:
            wide = torch.nn.functional.pad(values.nan_to_num(fill), (0, pad), value=fill)
            return torch.cat([wide, torch.full((blank_rows, wide.shape[1]), fill)])

        log_prob = grow(new, filler).requires_grad_()
        grown_mask = torch.cat(
            [torch.nn.functional.pad(mask, (0, pad)), torch.zeros(blank_rows, mask.shape[1] + pad)]
        )
        result = policy_loss(
            "ppo",
            log_prob=log_prob,
            old_log_prob=grow(old, filler),
            advantages=grow(advantages, filler),
            mask=grown_mask,
            aggregation=how,
            padded_length=7,
        )
        result.loss.backward()
        assert log_prob.grad is not None
        return result.loss.item(), log_prob.grad

    plain, gradient = evaluate(0, 0.0, 0)
    other, other_gradient = evaluate(extra, 1e30, empty_rows)
    assert other == pytest.approx(plain, rel=1e-5, abs=1e-7)
    torch.testing.assert_close(other_gradient[: len(rows), : gradient.shape[1]], gradient)
    assert other_gradient[len(rows) :].abs().sum() == 0
    assert other_gradient[:, gradient.shape[1] :].abs().sum() == 0


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_totals_and_denominators_of_parts_give_the_whole(how: str) -> None:
    torch.manual_seed(0)
    values, mask = torch.randn(6, 5), (torch.rand(6, 5) < 0.6).float()
    mask[2] = 0
    parts = [(values[i : i + 2], mask[i : i + 2]) for i in (0, 2, 4)]
    total = sum(float(masked_total(v, m, how)) for v, m in parts)
    assert total / denominator(mask, how, 9) == pytest.approx(
        float(aggregate(values, mask, how, 9)), rel=1e-5
    )


def test_aggregations_by_hand() -> None:
    values, mask = torch.tensor([[1.0, 2.0, 9.0], [4.0, 9.0, 9.0]]), torch.tensor([[1.0, 1, 0], [1, 0, 0]])
    assert float(aggregate(values, mask, "token-mean")) == pytest.approx(7 / 3)
    assert float(aggregate(values, mask, "seq-mean-token-mean")) == pytest.approx((1.5 + 4) / 2)
    assert float(aggregate(values, mask, "seq-mean-token-sum")) == pytest.approx((3 + 4) / 2)
    assert float(aggregate(values, mask, "seq-mean-token-sum-norm", 10)) == pytest.approx(7 / 10)


def test_mistakes_in_a_config_are_named() -> None:
    zeros = torch.zeros(1, 2)
    tensors = {"log_prob": zeros, "old_log_prob": zeros, "advantages": zeros, "mask": zeros}
    with pytest.raises(UnknownPlugin, match="ppo"):
        policy_loss("pppo", **tensors, aggregation="token-mean")
    with pytest.raises(ConfigError, match="no option clip_hi; its options: clip_low, clip_high, dual_clip"):
        policy_loss("ppo", **tensors, aggregation="token-mean", clip_hi=0.3)
    with pytest.raises(ConfigError, match="dual_clip must exceed 1"):
        policy_loss("ppo", **tensors, aggregation="token-mean", dual_clip=0.5)
    with pytest.raises(ConfigError, match="no aggregation 'mean'"):
        policy_loss("ppo", **tensors, aggregation="mean")
    with pytest.raises(ConfigError, match="no KL estimator"):
        kl_penalty("k4", zeros, zeros)
    with pytest.raises(ConfigError, match="equal"):
        policy_loss("ppo", **{**tensors, "mask": torch.zeros(1, 3)}, aggregation="token-mean")

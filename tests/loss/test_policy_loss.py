"""What every policy loss owes: masked tokens never matter, rows have no order, mistakes are named."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import padded
from torch import Tensor

from agentrl import registry
from agentrl.errors import ConfigError, UnknownPlugin
from agentrl.loss import AGGREGATIONS, aggregate, build, denominator, kl_penalty, masked_total, policy_loss

# Options with which a handful of tokens is enough to make the covariance losses choose.
OPTIONS: dict[str, dict[str, Any]] = {
    "clip_cov": {"ratio": 1.0, "lb": 0.01},
    "kl_cov": {"ratio": 0.3},
    "drpo": {"max_length": 4},
}
LOSSES = registry.names("loss")
# At ρ = 1 the gradient of a token's loss with respect to its log-prob, as a multiple of −A.
SLOPE_AT_ONE = {"mhpo": math.exp(-(math.log(2) ** 1.5) - (math.log(2) / 0.8) ** 2.0)}


def evaluate(
    name: str,
    log_prob: Tensor,
    old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    how: str = "token-mean",
    groups: Tensor | None = None,
    **more: Any,
) -> tuple[float, Tensor, dict[str, float]]:
    log_prob = log_prob.detach().clone().requires_grad_()
    result = policy_loss(
        name,
        log_prob=log_prob,
        old_log_prob=old,
        advantages=advantages,
        mask=mask,
        aggregation=how,
        turns=torch.arange(mask.shape[1]).div(2, rounding_mode="floor").expand_as(mask),
        groups=torch.arange(len(mask)) % 2 if groups is None else groups,
        **{**OPTIONS.get(name, {}), **more},
    )
    result.loss.backward()
    assert log_prob.grad is not None
    return result.loss.item(), log_prob.grad, dict(result.metrics)


@pytest.mark.parametrize("how", AGGREGATIONS)
@pytest.mark.parametrize("name", LOSSES)
def test_nothing_trainable_gives_zero_loss_and_zero_gradient(name: str, how: str) -> None:
    nan = torch.full((2, 3), math.nan)
    loss, gradient, metrics = evaluate(name, nan, nan, nan, torch.zeros(2, 3), how)
    assert loss == 0.0
    assert gradient.tolist() == [[0.0] * 3] * 2
    assert all(value == 0.0 for value in metrics.values())


TOKEN = st.tuples(st.floats(-4, -0.01), st.floats(-4, -0.01), st.floats(-2, 2))
ROWS = st.lists(st.lists(TOKEN, min_size=1, max_size=5), min_size=1, max_size=4)


def tensors(rows: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    columns = [[[token[k] for token in row] for row in rows] for k in range(3)]
    (new, mask), (old, _), (advantages, _) = (padded(column, torch.float64) for column in columns)
    return new, old, advantages, mask


@pytest.mark.parametrize("name", LOSSES)
@settings(deadline=None, max_examples=25)
@given(
    rows=ROWS,
    how=st.sampled_from(AGGREGATIONS),
    filler=st.sampled_from([math.nan, math.inf, -math.inf, 1e30]),
    extra=st.integers(0, 3),
    blank_rows=st.integers(0, 2),
)
def test_masked_tokens_never_matter(
    name: str, rows: Any, how: str, filler: float, extra: int, blank_rows: int
) -> None:
    new, old, advantages, mask = tensors(rows)

    def grow(values: Tensor, fill: float) -> Tensor:
        wide = torch.nn.functional.pad(values.nan_to_num(fill), (0, extra, 0, blank_rows), value=fill)
        return torch.where(torch.nn.functional.pad(mask, (0, extra, 0, blank_rows)) > 0, wide, fill)

    more = {"padded_length": 7}
    plain, gradient, metrics = evaluate(
        name, *(values.nan_to_num(0.0) for values in (new, old, advantages)), mask, how, **more
    )
    grown_mask = torch.nn.functional.pad(mask, (0, extra, 0, blank_rows))
    weights = torch.where(grown_mask > 0, 1.0, filler)
    other, other_gradient, other_metrics = evaluate(
        name,
        *(grow(values, filler) for values in (new, old, advantages)),
        grown_mask,
        how,
        rollout_weights=weights,
        **more,
    )
    assert other == pytest.approx(plain, rel=1e-9, abs=1e-9)
    torch.testing.assert_close(other_gradient[grown_mask > 0], gradient[mask > 0], rtol=1e-9, atol=1e-9)
    assert other_gradient[grown_mask == 0].abs().sum() == 0
    assert other_metrics == pytest.approx(metrics, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "clip_cov"])
@settings(deadline=None, max_examples=15)
@given(rows=ROWS, how=st.sampled_from(AGGREGATIONS), seed=st.integers(0, 99))
def test_rows_have_no_order(name: str, rows: Any, how: str, seed: int) -> None:
    new, old, advantages, mask = tensors(rows)
    if name == "kl_cov":
        # Equal covariances are told apart by position, so distinct ones are needed.
        noise = torch.rand(new.shape, generator=torch.Generator().manual_seed(seed), dtype=new.dtype)
        new, advantages = new - 0.1 * noise, advantages + noise.flip(-1)
        more: dict[str, Any] = {"ratio": 1.0}
    else:
        more = {}
    order = torch.randperm(len(mask), generator=torch.Generator().manual_seed(seed))
    plain, gradient, _ = evaluate(name, new, old, advantages, mask, how, **more)
    other, other_gradient, _ = evaluate(
        name, *(values[order] for values in (new, old, advantages, mask)), how, order % 2, **more
    )
    assert other == pytest.approx(plain, rel=1e-9, abs=1e-9)
    torch.testing.assert_close(other_gradient, gradient[order], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "drpo"])
def test_on_policy_the_gradient_is_minus_the_advantage(name: str) -> None:
    advantages = torch.tensor([[1.0, 1.0, 1.0], [-2.0, -2.0, -2.0]], dtype=torch.float64)
    log_prob = torch.tensor([[-1.0, -0.5, -2.0], [-0.3, -1.7, -0.9]], dtype=torch.float64)
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
    more = {"lb": 1e6, "ub": 1e7} if name == "clip_cov" else {}
    _, gradient, _ = evaluate(name, log_prob, log_prob, advantages, mask, "seq-mean-token-mean", **more)
    share = mask / mask.sum(-1, keepdim=True) / 2
    torch.testing.assert_close(gradient, -SLOPE_AT_ONE.get(name, 1.0) * advantages * share)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_stay_finite_far_off_policy(name: str) -> None:
    log_prob = torch.tensor([[-1e-4, -60.0], [-1e-4, -60.0]])
    old = torch.tensor([[-60.0, -1e-4], [-60.0, -1e-4]])
    advantages = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    loss, gradient, metrics = evaluate(name, log_prob, old, advantages, torch.ones(2, 2))
    assert math.isfinite(loss)
    assert gradient.isfinite().all()
    assert all(math.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_totals_and_denominators_of_parts_give_the_whole(how: str) -> None:
    torch.manual_seed(0)
    values, mask = torch.randn(6, 5), (torch.rand(6, 5) < 0.6).float()
    turns = torch.randint(0, 3, (6, 5))
    mask[2] = 0
    parts = [(values[i : i + 2], mask[i : i + 2], turns[i : i + 2]) for i in (0, 2, 4)]
    total = sum(float(masked_total(v, m, how, t)) for v, m, t in parts)
    assert total / denominator(mask, how, 9) == pytest.approx(
        float(aggregate(values, mask, how, 9, turns)), rel=1e-5
    )


def test_aggregations_by_hand() -> None:
    values, mask = torch.tensor([[1.0, 2.0, 9.0], [4.0, 9.0, 9.0]]), torch.tensor([[1.0, 1, 0], [1, 0, 0]])
    assert float(aggregate(values, mask, "token-mean")) == pytest.approx(7 / 3)
    assert float(aggregate(values, mask, "seq-mean-token-mean")) == pytest.approx((1.5 + 4) / 2)
    assert float(aggregate(values, mask, "seq-mean-token-sum")) == pytest.approx((3 + 4) / 2)
    assert float(aggregate(values, mask, "seq-mean-token-sum-norm", 10)) == pytest.approx(7 / 10)


def test_turn_mean_gives_every_turn_of_a_row_the_same_say() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0, 10.0], [4.0, 9.0, 6.0, 9.0]])
    mask = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 1.0, 0.0]])
    turns = torch.tensor([[0, 0, 0, 7], [3, 3, 3, 5]])
    assert float(aggregate(values, mask, "turn-mean", turns_BT=turns)) == pytest.approx((6 + 5) / 2)
    with pytest.raises(ConfigError, match="turn-mean needs `turns`"):
        aggregate(values, mask, "turn-mean")


def test_a_row_loss_takes_the_geometric_mean_of_its_importance_weights() -> None:
    log_prob = torch.tensor([[-1.0, -2.0]])
    weights = torch.tensor([[0.5, 8.0]])
    plain, _, _ = evaluate("gmpo", log_prob, log_prob, torch.ones(1, 2), torch.ones(1, 2))
    weighted, _, _ = evaluate(
        "gmpo", log_prob, log_prob, torch.ones(1, 2), torch.ones(1, 2), rollout_weights=weights
    )
    assert weighted == pytest.approx(2.0 * plain)


def test_drpo_never_pushes_a_good_row_down_and_leaves_decided_tasks_alone() -> None:
    log_prob = torch.tensor([[-1.0, -2.0], [-1.0, -9.0], [-0.5, -1.0], [-2.0, -2.0], [-1.0, -1.0]])
    mask = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    advantages = torch.tensor([[1.0], [1.0], [-1.0], [1.0], [-1.0]]).expand_as(mask)
    _, gradient, _ = evaluate(
        "drpo", log_prob, log_prob, advantages, mask, "seq-mean-token-mean", torch.tensor([4, 4, 4, 7, 9])
    )
    assert (gradient[:2][mask[:2] > 0] < 0).all()
    assert gradient[1, 0] < gradient[0, 0] * 2, "the shorter of two good rows weighs more"
    assert (gradient[2] > 0).all()
    assert gradient[3:].abs().sum() == 0


def test_clip_cov_drops_no_more_than_its_share_and_repeats_itself() -> None:
    generator = torch.Generator().manual_seed(1)
    log_prob = -torch.rand(8, 10, generator=generator) * 3
    advantages = torch.randn(8, 10, generator=generator)
    mask = torch.ones(8, 10)

    def dropped(seed: int) -> Tensor:
        _, gradient, metrics = evaluate(
            "clip_cov", log_prob, log_prob, advantages, mask, ratio=0.1, lb=0.0, ub=9.0, seed=seed
        )
        assert metrics["actor/pg_clipfrac"] == pytest.approx(0.1)
        return gradient == 0

    assert dropped(0).sum() == 8
    assert torch.equal(dropped(0), dropped(0))
    assert not torch.equal(dropped(0), dropped(1))


def test_the_papers_bapo_raises_the_upper_bound_first() -> None:
    old = torch.full((1, 4), -2.0)
    log_prob = old + torch.tensor([[1.0, 0.0, -1.0, -1.0]])
    advantages = torch.tensor([[1.0, -1.0, -1.0, -1.0]])
    bounds = {
        variant: evaluate(
            "bapo", log_prob, old, advantages, torch.ones(1, 4), variant=variant, target=target
        )[2]
        for variant, target in (("released", 0.6), ("paper", 0.36))
    }
    # P = min(ρ, high), N = 1 + 2·max(e^−1, low): released stops at P/N = 0.6, the paper at P/(P+N) = 0.36.
    assert bounds["released"]["actor/bapo_low"] == pytest.approx(0.8)
    assert bounds["released"]["actor/bapo_high"] == pytest.approx(1.6)
    assert bounds["paper"]["actor/bapo_low"] == pytest.approx(0.6)
    assert bounds["paper"]["actor/bapo_high"] == pytest.approx(1.25)


MISTAKES = [
    ("ppo", {"dual_clip": 0.5}, "ppo: dual_clip must exceed 1, got 0.5"),
    ("dapo", {"clip_low": 1.5}, "dapo: clip_low must lie in"),
    ("gspo", {"clip_high": -1.0}, "gspo: clip_high must not be negative"),
    ("gmpo", {"clip_low": -0.1}, "gmpo: clip_low must not be negative"),
    ("cispo", {"clip_high": math.nan}, "cispo: clip_high must not be negative, got nan"),
    ("gppo", {"beta1": -1.0}, "gppo: beta1 must not be negative"),
    ("dcpo", {"cap_high": 0.5}, "dcpo: cap_high must be at least 1"),
    ("bapo", {"low_start": 0.9}, "bapo: need 0 <= low_start <= low_max <= 1"),
    ("bapo", {"high_step": 0.0}, "bapo: high_step must be at least"),
    ("bapo", {"variant": "release"}, "bapo: variant is one of released, paper"),
    ("mhpo", {"c": 0.0}, "mhpo: c must be positive"),
    ("sapo", {"tau_neg": 0.0}, "sapo: tau_neg must be positive"),
    ("dppo_tv", {"ratio_cap": 0.5}, "dppo_tv: ratio_cap must be at least 1"),
    ("dppo_kl", {"kl_threshold_low": -1.0}, "dppo_kl: kl_threshold_low must not be negative"),
    ("dro", {"beta": 0.0}, "dro: beta must be positive"),
    ("kl_cov", {"ratio": 0.0}, "kl_cov: ratio must lie in"),
    ("clip_cov", {"lb": 6.0}, "clip_cov: lb must lie below ub"),
    ("gpg", {"clip_low": 0.1}, "loss 'gpg' has no option clip_low; its options: none"),
    ("drpo", {}, "drpo: set max_length, the longest reply"),
    ("drpo", {"max_length": 9, "tau": 0.0}, "drpo: tau must be positive"),
    ("ppo", {"clip_low": "wide"}, "loss 'ppo' cannot take the options"),
]


@pytest.mark.parametrize(("name", "options", "message"), MISTAKES)
def test_a_wrong_option_is_named_in_one_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(name, options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", LOSSES)
def test_an_unknown_option_lists_those_that_exist(name: str) -> None:
    with pytest.raises(ConfigError, match=f"loss '{name}' has no option clip_hi; its options: "):
        build(name, {"clip_hi": 0.3})


def test_mistakes_in_a_call_are_named() -> None:
    zeros = torch.zeros(1, 2)
    tensors = {"log_prob": zeros, "old_log_prob": zeros, "advantages": zeros, "mask": zeros}
    with pytest.raises(UnknownPlugin, match="ppo"):
        policy_loss("pppo", **tensors, aggregation="token-mean")
    with pytest.raises(ConfigError, match="no option clip_hi; its options: clip_low, clip_high, dual_clip"):
        policy_loss("ppo", **tensors, aggregation="token-mean", clip_hi=0.3)
    with pytest.raises(ConfigError, match="no aggregation 'mean'"):
        policy_loss("ppo", **tensors, aggregation="mean")
    with pytest.raises(ConfigError, match="no KL estimator"):
        kl_penalty("k4", zeros, zeros)
    with pytest.raises(ConfigError, match="drpo needs `groups`"):
        policy_loss("drpo", **tensors, aggregation="token-mean", max_length=4)
    with pytest.raises(ConfigError, match="one integer per row"):
        policy_loss("ppo", **tensors, aggregation="token-mean", groups=torch.zeros(2))
    with pytest.raises(ConfigError, match="equal"):
        policy_loss("ppo", **{**tensors, "mask": torch.zeros(1, 3)}, aggregation="token-mean")

"""Every policy loss against recorded values and gradients, in float32 as recorded and in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from loss_cases import cases, golden, padded
from torch import Tensor

from agentrl.loss import KL_KINDS, LossResult, kl_penalty, policy_loss
from agentrl.loss.policies.dcpo import DCPO

DTYPES = [torch.float32, torch.float64]
GEOMETRIC = "seq-mean-token-mean"
NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "ppo_clip_0.2_0.2_dual3": ("ppo", {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": 3.0}),
    "dapo_clip_0.2_0.28_dual10": ("dapo", {}),
    "gspo_3e-4_4e-4": ("gspo", {}),
    "gspo_0.2_0.2": ("gspo", {"clip_low": 0.2, "clip_high": 0.2}),
    "gpg": ("gpg", {}),
    "gmpo_0.4_0.4": ("gmpo", {}),
    "kl_cov_0.2_coef1": ("kl_cov", {"ratio": 0.2, "coef": 1.0}),
    "clip_cov_all_candidates_lb0.05_ub5": ("clip_cov", {"ratio": 1.0, "lb": 0.05, "ub": 5.0}),
}


def check(result: LossResult, log_prob: Tensor, loss: float, gradient: list[list[float]]) -> None:
    result.loss.backward()
    assert log_prob.grad is not None
    expected = padded(gradient, log_prob.dtype)[0].nan_to_num(0.0)
    assert result.loss.item() == pytest.approx(loss, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(log_prob.grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", cases("policyloss_*.json"))
def test_named_losses_match_the_recorded_ones(name: str, dtype: torch.dtype) -> None:
    case = golden(name)
    inputs = case["inputs"]
    old, mask = padded(inputs["old_log_prob"], dtype)
    advantages, _ = padded(inputs["advantage"], dtype)
    weights = None if inputs["rollout_is_weight"] is None else padded(inputs["rollout_is_weight"], dtype)[0]
    assert {recorded["loss_name"] for recorded in case["outputs"]["losses"]} == set(NAMED)
    for recorded in case["outputs"]["losses"]:
        loss_name, options = NAMED[recorded["loss_name"]]
        log_prob = padded(inputs["log_prob"], dtype)[0].requires_grad_()
        result = policy_loss(
            loss_name,
            log_prob=log_prob,
            old_log_prob=old,
            advantages=advantages,
            mask=mask,
            aggregation=GEOMETRIC if recorded["aggregation"] == "unused" else recorded["aggregation"],
            padded_length=inputs["padded_length"],
            rollout_weights=weights,
            **options,
        )
        check(result, log_prob, recorded["loss"], recorded["grad_log_prob"])
        metrics = result.metrics
        if loss_name != "gpg":
            assert metrics["actor/ppo_kl"] == pytest.approx(recorded["approx_kl"], rel=1e-4, abs=1e-6)
        if loss_name not in ("gpg", "kl_cov"):
            assert metrics["actor/pg_clipfrac"] == pytest.approx(recorded["clip_fraction"], abs=1e-6)
            lower = metrics.get("actor/pg_clipfrac_lower", 0.0)
            assert lower == pytest.approx(recorded["dual_clip_fraction"], abs=1e-6)


PER_TURN = [name for name in cases("*_loss_*.json") if not name.startswith(("policyloss", "rollout"))]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", PER_TURN)
def test_losses_with_their_own_file_match_the_recorded_ones(name: str, dtype: torch.dtype) -> None:
    case = golden(name)
    turns, outputs = case["inputs"]["turns"], case["outputs"]
    options = dict(case["hyperparameters"])
    aggregation = options.pop("aggregation")
    old, inside = padded([turn["old_logprob"] for turn in turns], dtype)
    mask = padded([turn["mask"] for turn in turns], dtype)[0].nan_to_num(0.0)
    log_prob = padded([turn["new_logprob"] for turn in turns], dtype)[0].requires_grad_()
    advantages = torch.tensor([[turn["advantage"]] for turn in turns], dtype=dtype).expand_as(old)
    result = policy_loss(
        name.partition("_loss_")[0],
        log_prob=log_prob,
        old_log_prob=old,
        advantages=advantages,
        mask=mask * inside,
        aggregation=aggregation,
        **options,
    )
    check(result, log_prob, outputs["loss"], outputs["grad_wrt_new_logprob"])
    recorded = {
        "actor/pg_clipfrac": outputs.get("clip_fraction"),
        "actor/pg_clipfrac_lower": outputs.get("clip_fraction_lower"),
        "actor/ppo_kl": outputs.get("ppo_kl"),
        "actor/bapo_low": outputs.get("low_bound"),
        "actor/bapo_high": outputs.get("high_bound"),
        **{f"actor/{key}": value for key, value in outputs.get("metrics", {}).items()},
    }
    for key, value in recorded.items():
        if value is not None:
            assert result.metrics.get(key, 0.0) == pytest.approx(value, rel=1e-4, abs=1e-6), key


def test_every_loss_with_a_file_of_its_own_has_recorded_cases() -> None:
    methods = {name.partition("_loss_")[0] for name in PER_TURN}
    assert methods == {"bapo", "cispo", "dcpo", "dppo_kl", "dppo_tv", "dro", "gppo", "mhpo", "sapo"}


def test_dcpo_bounds_match_the_recorded_table() -> None:
    case = golden("dcpo_bounds.json")
    options = case["hyperparameters"]
    loss = DCPO(options["clip_low"], options["clip_high"], options["cap"])
    for row in case["outputs"]["table"]:
        low, high = loss.bounds(torch.tensor(math.log(row["old_prob"]), dtype=torch.float64))
        assert low.item() == pytest.approx(row["low"], rel=1e-4)
        assert high.item() == pytest.approx(row["high"], rel=1e-4)


@pytest.mark.parametrize("name", cases("policyloss_*.json"))
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


@pytest.mark.parametrize("name", cases("hdpo_*.json"))
def test_two_channels_with_their_own_losses_match_the_recorded_sum(name: str) -> None:
    """HDPO: the efficiency loss is averaged over the episodes that it speaks of, over all if over none."""
    case = golden(name)
    options, inputs = case["hyperparameters"], case["inputs"]
    old, mask = padded(inputs["old_log_prob"])
    checked = 0
    for variant in case["outputs"]["variants"]:
        accuracy = torch.tensor(variant["acc_advantage"]).unsqueeze(-1).expand_as(old)
        tools = torch.tensor(variant["tool_advantage"]).unsqueeze(-1).expand_as(old)
        speaks = mask * (tools != 0) if (tools != 0).any() else mask
        for how in ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum"):
            recorded = variant[how]
            log_prob = padded(inputs["log_prob"])[0].requires_grad_()
            parts = [
                policy_loss(
                    "ppo",
                    log_prob=log_prob,
                    old_log_prob=old,
                    advantages=advantages,
                    mask=where,
                    aggregation=how,
                    clip_low=options["clip_low"],
                    clip_high=options["clip_high"],
                    dual_clip=options["dual_clip_c"],
                ).loss
                for advantages, where in ((accuracy, mask), (tools, speaks))
            ]
            assert parts[0].item() == pytest.approx(recorded["loss_acc"], rel=1e-4, abs=1e-6)
            assert parts[1].item() == pytest.approx(recorded["loss_tool"], rel=1e-4, abs=1e-6)
            total = options["w_acc"] * parts[0] + options["w_tool"] * parts[1]
            check(LossResult(total, {}), log_prob, recorded["loss"], recorded["grad_log_prob"])
            checked += 1
    assert checked == 3 * len(case["outputs"]["variants"]) > 0


@pytest.mark.parametrize("name", cases("drpo_*.json"))
def test_drpo_matches_the_recorded_losses(name: str) -> None:
    case = golden(name)
    episodes, options, outputs = case["inputs"]["episodes"], case["hyperparameters"], case["outputs"]
    old, mask = padded([episode["old_log_prob"] for episode in episodes])
    log_prob = padded([episode["log_prob"] for episode in episodes])[0].requires_grad_()
    result = policy_loss(
        "drpo",
        log_prob=log_prob,
        old_log_prob=old,
        advantages=torch.tensor([[episode["correct"]] for episode in episodes]).expand_as(old),
        mask=mask,
        groups=torch.tensor([episode["group_id"] for episode in episodes]),
        aggregation=GEOMETRIC,
        tau=options["tau"],
        lam=options["lambda"],
        beta=options["beta"],
        delta=options["delta"],
        max_length=options["max_response_length_for_length_ratio"],
    )
    assert result.metrics["actor/drpo_over_budget"] == outputs["over_budget"]
    assert result.metrics["actor/ppo_kl"] == pytest.approx(outputs["kl"], rel=1e-4, abs=1e-6)
    check(result, log_prob, outputs["loss"], outputs["grad_log_prob"])

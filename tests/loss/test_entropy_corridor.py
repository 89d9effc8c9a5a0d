"""EPO's corridor against recorded values, its gradient by hand, its history and its schedules."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import cases, golden, padded

from agentrl.errors import ConfigError
from agentrl.loss import (
    EntropyHistory,
    corridor_beta,
    entropy_corridor,
    released_weight,
    turn_entropies,
)

CASES = cases("epo_small_*.json")


def options_of(case: dict[str, Any]) -> dict[str, Any]:
    given = case["hyperparameters"]
    return {
        "kappa_low": given["kappa_low"],
        "kappa_high": given["kappa_high"],
        "alpha": given["alpha_out_of_range_penalty"],
        "smooth_coefficient": given["smooth_coefficient"],
        "entropy_coefficient": given["entropy_coefficient_lambda"],
    }


@pytest.mark.parametrize("name", CASES)
def test_the_released_form_matches_what_was_recorded(name: str) -> None:
    case = golden(name)
    turns = case["inputs"]["turns"]
    entropy, mask = padded([turn["entropies"] for turn in turns])
    history = EntropyHistory.from_json(case["inputs"]["entropy_history_by_step_and_turn_index"])
    reference = history.by_turn()
    assert reference == pytest.approx(case["outputs"]["reference_per_turn_index"], rel=1e-6)
    per_row = torch.tensor([reference[turn["turn_index"]] for turn in turns])
    assert len(case["outputs"]["released"]) == 2
    for recorded in case["outputs"]["released"]:
        result = entropy_corridor(
            entropy,
            mask,
            per_row,
            variant="released",
            mask_mode=recorded["mask_mode"],
            aggregation=case["hyperparameters"]["aggregation"],
            **options_of(case),
        )
        expected = padded(recorded["penalty"])[0].nan_to_num(0.0)
        torch.testing.assert_close(result.penalty_BT, expected, rtol=1e-6, atol=1e-8)
        assert result.entropy.item() == pytest.approx(recorded["entropy_loss"], rel=1e-4)
        assert result.smoothing.item() == pytest.approx(recorded["smoothing_loss"], rel=1e-4, abs=1e-6)
        assert result.loss.item() == pytest.approx(recorded["added_to_policy_loss"], rel=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_the_papers_form_matches_what_was_recorded(name: str) -> None:
    case = golden(name)
    recorded, options = case["outputs"]["paper"], options_of(case)
    entropy, mask = padded([turn["entropies"] for turn in case["inputs"]["turns"]], torch.float64)
    history = EntropyHistory.from_json(case["inputs"]["entropy_history_by_step_and_turn_index"])
    assert history.mean() == pytest.approx(recorded["history_reference"], abs=1e-12)
    result = entropy_corridor(entropy, mask, history.mean(), **options)
    expected = padded(recorded["corridor_distance"], torch.float64)[0].nan_to_num(0.0)
    torch.testing.assert_close(result.penalty_BT, options["alpha"] * expected, rtol=1e-5, atol=1e-8)
    outside = padded(recorded["corridor_indicator_times_alpha"])[0].nan_to_num(0.0) > 0
    assert torch.equal(result.penalty_BT > 0, outside)
    smoothing = recorded["smooth_loss_mean_over_tokens_per_turn_then_turns"]
    assert result.smoothing.item() == pytest.approx(smoothing, abs=1e-9)


def test_the_papers_gradient_pulls_entropy_back_into_the_corridor() -> None:
    entropy = torch.tensor([[0.1, 1.0, 5.0]], dtype=torch.float64, requires_grad=True)
    mask = torch.ones_like(entropy)
    result = entropy_corridor(
        entropy, mask, 1.0, kappa_low=0.5, kappa_high=2.0, alpha=0.3, smooth_coefficient=2.0
    )
    result.loss.backward()
    assert entropy.grad is not None
    # d/dH of −λ·mean(H − β·α·P) with dP/dH = −1 below, 0 inside, +1 above.
    expected = [-0.001 / 3 * (1 - 2.0 * 0.3 * slope) for slope in (-1, 0, 1)]
    assert entropy.grad[0].tolist() == pytest.approx(expected, abs=1e-12)
    spread = result.values_BT.sum() / 3
    assert spread.item() == pytest.approx(result.loss.item(), abs=1e-15)


def test_the_released_penalty_moves_the_loss_but_no_weight() -> None:
    gradients: list[list[float]] = []
    for reference in (None, 1.0):
        entropy = torch.tensor([[0.1, 1.0, 5.0]], requires_grad=True)
        result = entropy_corridor(entropy, torch.ones(1, 3), reference, variant="released", kappa_high=1.5)
        result.loss.backward()
        assert entropy.grad is not None
        gradients.append(entropy.grad[0].tolist())
    assert gradients[0] == gradients[1]


def test_without_history_there_is_only_the_entropy_bonus() -> None:
    entropy, mask = torch.tensor([[1.0, 3.0]]), torch.ones(1, 2)
    result = entropy_corridor(entropy, mask, EntropyHistory().mean())
    assert result.smoothing.item() == 0.0
    assert result.loss.item() == pytest.approx(-0.002)


@settings(deadline=None, max_examples=50)
@given(
    rows=st.lists(st.lists(st.floats(0, 6), min_size=1, max_size=4), min_size=1, max_size=4),
    filler=st.sampled_from([math.nan, math.inf, -math.inf, 1e30]),
    reference=st.floats(0.1, 3),
)
def test_masked_entropies_never_matter(rows: list[list[float]], filler: float, reference: float) -> None:
    results: list[tuple[float, torch.Tensor]] = []
    for fill, extra in ((0.0, 0), (filler, 2)):
        entropy, mask = padded(rows, torch.float64)
        mask = torch.nn.functional.pad(mask, (0, extra, 0, extra))
        entropy = torch.nn.functional.pad(entropy, (0, extra, 0, extra), value=math.nan)
        entropy = torch.where(mask > 0, entropy, torch.tensor(fill, dtype=torch.float64)).requires_grad_()
        result = entropy_corridor(entropy, mask, reference, kappa_low=0.5, kappa_high=1.5)
        result.loss.backward()
        assert entropy.grad is not None
        assert entropy.grad[mask == 0].abs().sum() == 0
        results.append((result.loss.item(), entropy.grad[mask > 0]))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-15)
    torch.testing.assert_close(results[0][1], results[1][1])


def test_nothing_trainable_gives_zero_with_a_graph() -> None:
    entropy = torch.full((2, 3), math.nan, requires_grad=True)
    for variant in ("paper", "released"):
        result = entropy_corridor(entropy, torch.zeros(2, 3), 1.0, variant=variant)
        result.loss.backward()
        assert result.loss.item() == 0.0
    assert entropy.grad is not None
    assert entropy.grad.abs().sum() == 0


def test_the_history_survives_a_checkpoint_and_grows_by_steps() -> None:
    history = EntropyHistory().after([0.1 + 0.2, 1 / 3]).after([2.0]).after([])
    assert len(history.steps) == 2
    again = EntropyHistory.from_json(json.loads(json.dumps(history.to_json())))
    assert again == history
    assert history.mean(window=1) == 2.0
    assert history.mean() == pytest.approx(((0.3 + 1 / 3) / 2 + 2.0) / 2)
    assert history.by_turn() == pytest.approx((0.15, (1 / 3 + 2.0) / 2))


def test_turn_entropies_average_tokens_then_turns() -> None:
    entropy = torch.tensor([[1.0, 3.0, 5.0], [7.0, math.nan, 4.0]])
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    turns = torch.tensor([[0, 0, 2], [0, 1, 2]])
    assert turn_entropies(entropy, mask, turns) == pytest.approx((4.5, 0.0, 4.5))
    assert turn_entropies(entropy, torch.zeros(2, 3), turns) == ()


def test_schedules_match_the_recorded_ones() -> None:
    outputs = golden("epo_schedule.json")["outputs"]
    for row in outputs["released_epoch_weight"]:
        assert released_weight(row["epoch"], row["max_epochs"]) == pytest.approx(row["weight"], abs=1e-12)
    for row in outputs["paper_beta_k"]:
        beta = corridor_beta(row["step"], row["total_steps"], row["gamma"])
        assert beta == pytest.approx(row["beta"], abs=1e-12)


def test_mistakes_are_named() -> None:
    ones = torch.ones(1, 2)
    with pytest.raises(ConfigError, match="variants"):
        entropy_corridor(ones, ones, 1.0, variant="indicator")
    with pytest.raises(ConfigError, match="kappa_low <= kappa_high"):
        entropy_corridor(ones, ones, 1.0, kappa_low=3.0)
    with pytest.raises(ConfigError, match="equal"):
        entropy_corridor(ones, torch.ones(1, 3), 1.0)
    with pytest.raises(ConfigError, match="does not fit"):
        entropy_corridor(ones, ones, torch.ones(3))

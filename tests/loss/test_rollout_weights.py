"""Rollout importance weights against recorded outputs of verl's own code."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import cases, golden, padded

from agentrl.errors import ConfigError
from agentrl.loss import rollout_weights


@pytest.mark.parametrize("name", cases("rollout_is_*.json"))
def test_weights_and_masks_match_the_recorded_ones(name: str) -> None:
    case = golden(name)
    train, mask = padded(case["inputs"]["train_log_prob"])
    rollout, _ = padded(case["inputs"]["rollout_log_prob"])
    assert case["outputs"]
    for recorded in case["outputs"]:
        options = {key: recorded[key] for key in ("level", "mode", "upper", "lower", "veto")}
        got = rollout_weights(train, rollout, mask, **options)
        expected, kept = (
            padded(recorded["weights"])[0].nan_to_num(0),
            padded(recorded["kept_mask"])[0].nan_to_num(0),
        )
        torch.testing.assert_close(got.weights_BT, expected, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(got.mask_BT, kept)


@settings(deadline=None, max_examples=40)
@given(
    rows=st.lists(st.lists(st.floats(-3, 3), min_size=1, max_size=4), min_size=1, max_size=3),
    options=st.fixed_dictionaries(
        {
            "level": st.sampled_from(["token", "sequence", "geometric"]),
            "mode": st.sampled_from(["truncate", "mask"]),
            "veto": st.sampled_from([None, 0.1]),
        }
    ),
    filler=st.sampled_from([math.nan, math.inf, -math.inf, 1e30]),
)
def test_masked_tokens_never_matter(rows: Any, options: dict[str, Any], filler: float) -> None:
    train, mask = padded(rows, torch.float64)
    rollout = torch.zeros_like(train)
    plain = rollout_weights(train.nan_to_num(0.0), rollout, mask, **options)
    wide_mask = torch.nn.functional.pad(mask, (0, 2, 0, 1))
    wide = torch.nn.functional.pad(train, (0, 2, 0, 1))
    wide = torch.where(wide_mask > 0, wide, filler)
    other = rollout_weights(wide, torch.zeros_like(wide), wide_mask, **options)
    for got, expected in ((other.weights_BT, plain.weights_BT), (other.mask_BT, plain.mask_BT)):
        torch.testing.assert_close(got[wide_mask > 0], expected[mask > 0])
        assert got[wide_mask == 0].abs().sum() == 0


def test_mistakes_are_named() -> None:
    zeros = torch.zeros(1, 1)
    with pytest.raises(ConfigError, match="levels"):
        rollout_weights(zeros, zeros, zeros, level="turn")
    with pytest.raises(ConfigError, match="hold 1 between them"):
        rollout_weights(zeros, zeros, zeros, upper=0.5)

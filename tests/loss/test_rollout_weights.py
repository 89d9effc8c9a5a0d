"""Rollout importance weights against recorded outputs of verl's own code."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from agentrl.errors import ConfigError
from agentrl.loss import rollout_weights

GOLDEN = Path(__file__).parents[1] / "golden" / "loss"
CASES = sorted(path.name for path in GOLDEN.glob("rollout_is_*.json"))


@pytest.mark.parametrize("name", CASES)
def test_weights_and_masks_match_the_recorded_ones(name: str) -> None:
    case = json.loads((GOLDEN / name).read_text())

    def padded(rows: list[list[float]]) -> torch.Tensor:
        width = max(len(row) for row in rows)
        return torch.tensor([row + [math.nan] * (width - len(row)) for row in rows])

    train, rollout = padded(case["inputs"]["train_log_prob"]), padded(case["inputs"]["rollout_log_prob"])
    mask = (~train.isnan()).float()
    assert case["outputs"]
    for recorded in case["outputs"]:
        options = {key: recorded[key] for key in ("level", "mode", "upper", "lower", "veto")}
        got = rollout_weights(train, rollout, mask, **options)
        expected, kept = (
            padded(recorded["weights"]).nan_to_num(0),
            padded(recorded["kept_mask"]).nan_to_num(0),
        )
        torch.testing.assert_close(got.weights_BT, expected, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(got.mask_BT, kept)


def test_mistakes_are_named() -> None:
    zeros = torch.zeros(1, 1)
    with pytest.raises(ConfigError, match="levels"):
        rollout_weights(zeros, zeros, zeros, level="turn")
    with pytest.raises(ConfigError, match="hold 1 between them"):
        rollout_weights(zeros, zeros, zeros, upper=0.5)

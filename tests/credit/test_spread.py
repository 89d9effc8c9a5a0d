"""Turn values on tokens: sampled tokens get the value, forced ones 0, uncredited turns nothing."""

from __future__ import annotations

import numpy as np
import pytest
from credit.episodes import episode

from agentrl.credit import spread
from agentrl.errors import AlignmentError
from agentrl.types import Turn

TURNS = (
    Turn(0, token_ids=(5, 6, 7), sampled=(1, 0, 1)),
    Turn(1, num_tokens=2),
    Turn(2, token_ids=(8,), sampled=(1,)),
)
EPISODE = episode("e", "g", TURNS)


def test_values_land_on_sampled_tokens() -> None:
    first, second, third = spread(EPISODE, [0.5, -1.0, None])
    np.testing.assert_array_equal(first, [0.5, 0.0, 0.5])
    np.testing.assert_array_equal(second, [-1.0, -1.0])
    assert third is None


def test_token_offsets_add_to_sampled_tokens() -> None:
    first, *_ = spread(EPISODE, [0.5, None, None], [np.array([0.25, -0.5]), np.zeros(2), np.zeros(1)])
    np.testing.assert_array_equal(first, [0.75, 0.0, 0.0])


def test_what_does_not_fit_is_our_bug() -> None:
    with pytest.raises(AlignmentError, match="3 turns but 2 values"):
        spread(EPISODE, [0.0, 0.0])
    with pytest.raises(AlignmentError, match="2 sampled tokens but 1 token offsets"):
        spread(EPISODE, [0.0, None, None], [np.zeros(1)] * 3)
    with pytest.raises(AlignmentError, match="3 tokens but a sampled mask of 2"):
        spread(episode("e", "g", [Turn(0, token_ids=(1, 2, 3), sampled=(1, 1))]), [1.0])

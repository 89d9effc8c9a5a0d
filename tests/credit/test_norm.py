"""The group-wise norm and the segment sums: worked values, exact zeros, properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.credit.norm import group_stats, groupwise_norm
from agentrl.credit.segments import discounted_returns, episode_sums

values = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40)


@st.composite
def grouped(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    value = np.array(draw(values))
    label = np.array(draw(st.lists(st.integers(0, 4), min_size=len(value), max_size=len(value))))
    return value, label


def test_worked_example() -> None:
    # group 0: 1, 2, 6 -> mean 3, unbiased var (4 + 1 + 9) / 2 = 7; group 1: 5, 5 -> constant
    value = np.array([1.0, 5.0, 2.0, 5.0, 6.0])
    label = np.array([0, 1, 0, 1, 0])
    expected = np.array([-2.0, 0.0, -1.0, 0.0, 3.0]) / (np.sqrt(7) + 1e-6)
    np.testing.assert_allclose(groupwise_norm(value, label), expected, rtol=1e-14)
    centred = groupwise_norm(value, label, scale="none")
    np.testing.assert_array_equal(centred, [-2.0, 0.0, -1.0, 0.0, 3.0])
    # 1 against the mean 4 of {2, 6}; 2 against 3.5; 6 against 1.5
    without = groupwise_norm(value, label, centre="leave_one_out", scale="none")
    np.testing.assert_allclose(without, [-3.0, 0.0, -1.5, 0.0, 4.5], rtol=1e-14)


def test_population_variance_and_epsilon_under_the_root() -> None:
    # 0, 2: mean 1, population var 1; (x - 1) / (sqrt(1 + 3) + 0.5)
    normed = groupwise_norm(
        np.array([0.0, 2.0]), np.zeros(2, np.int64), ddof=0, variance_epsilon=3.0, epsilon=0.5
    )
    np.testing.assert_allclose(normed, [-0.4, 0.4], rtol=1e-15)


def test_weights_count_like_repetitions() -> None:
    repeated = groupwise_norm(np.array([1.0, 1.0, 1.0, 4.0, 6.0]), np.zeros(5, np.int64))
    weighted = groupwise_norm(
        np.array([1.0, 4.0, 6.0]), np.zeros(3, np.int64), weight_N=np.array([3.0, 1.0, 1.0])
    )
    np.testing.assert_allclose(weighted, repeated[2:], rtol=1e-14)


def test_only_members_count_and_others_get_zero() -> None:
    value = np.array([1.0, 100.0, 3.0, 7.0])
    label = np.array([0, 0, 0, 1])
    member = np.array([True, False, True, False])
    centred = groupwise_norm(value, label, member_N=member, scale="none")
    np.testing.assert_array_equal(centred, [-1.0, 0.0, 1.0, 0.0])


@pytest.mark.parametrize("scale", ["std", "none"])
def test_a_group_of_one(scale: str) -> None:
    alone = (np.array([0.7]), np.array([0]))
    assert groupwise_norm(*alone, scale=scale, singleton="zero") == [0.0]
    raw = groupwise_norm(*alone, scale=scale, singleton="raw", epsilon=0.0)
    assert raw == [0.7]


@given(st.floats(-1e6, 1e6), st.integers(2, 200), st.sampled_from(["mean", "leave_one_out"]))
def test_a_constant_group_is_exactly_zero(value: float, size: int, centre: str) -> None:
    for scale in ("std", "none"):
        normed = groupwise_norm(np.full(size, value), np.zeros(size, np.int64), centre=centre, scale=scale)
        assert not normed.any()


@given(grouped())
def test_statistics_match_numpy(data: tuple[np.ndarray, np.ndarray]) -> None:
    value, label = data
    stats = group_stats(value, label)
    for group in np.unique(label):
        mine = value[label == group]
        assert stats.count_G[group] == len(mine)
        assert stats.constant_G[group] == (mine.max() == mine.min())
        assert stats.mean_G[group] == pytest.approx(mine.mean(), rel=1e-9, abs=1e-9)
        if len(mine) > 1:
            assert stats.variance_G[group] == pytest.approx(mine.var(ddof=1), rel=1e-9, abs=1e-9)


@given(grouped(), st.floats(-1e3, 1e3))
def test_a_common_shift_changes_nothing(data: tuple[np.ndarray, np.ndarray], shift: float) -> None:
    value, label = np.round(data[0], 3), data[1]
    before, after = (groupwise_norm(x, label, epsilon=1e-3) for x in (value, value + shift))
    np.testing.assert_allclose(after, before, atol=1e-6)


@given(grouped(), st.floats(-1e3, 1e3), st.integers(0, 4))
def test_padding_of_weight_zero_changes_nothing(
    data: tuple[np.ndarray, np.ndarray], padding: float, group: int
) -> None:
    value, label = data
    plain = groupwise_norm(value, label)
    padded = groupwise_norm(
        np.append(value, padding), np.append(label, group), weight_N=np.append(np.ones(len(value)), 0.0)
    )
    np.testing.assert_array_equal(padded[:-1], plain)


@given(grouped(), st.randoms(use_true_random=False))
def test_order_does_not_matter(data: tuple[np.ndarray, np.ndarray], random: object) -> None:
    value, label = data
    order = np.arange(len(value))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = groupwise_norm(value[order], label[order], epsilon=1e-3)
    np.testing.assert_allclose(shuffled, groupwise_norm(value, label, epsilon=1e-3)[order], atol=1e-6)


@given(st.lists(st.lists(st.floats(-10, 10), max_size=60), max_size=70), st.floats(0, 1))
def test_returns_are_the_definition_to_the_last_bit(rewards: list[list[float]], gamma: float) -> None:
    offsets = np.cumsum([0, *map(len, rewards)])
    expected: list[float] = []
    for paid in rewards:
        returns: list[float] = []
        for reward in reversed(paid):
            returns.append(reward + gamma * returns[-1] if returns else reward)
        expected += reversed(returns)
    flat = np.array([r for paid in rewards for r in paid], dtype=np.float64)
    np.testing.assert_array_equal(discounted_returns(flat, offsets, gamma), expected)
    sums = [float(np.cumsum([0.0, *paid])[-1]) for paid in rewards]
    np.testing.assert_array_equal(episode_sums(flat, offsets), sums)


def test_many_episodes_of_very_different_lengths() -> None:
    lengths = [0, 1, 500, *range(1, 60)]
    offsets = np.cumsum([0, *lengths])
    returns = discounted_returns(np.ones(offsets[-1]), offsets, 1.0)
    expected = np.concatenate([np.arange(n, 0, -1.0) for n in lengths])
    np.testing.assert_array_equal(returns, expected)

"""State keys: what is equal, what is similar, and what is refused."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest
from credit.episodes import episode, simple, turn
from hypothesis import given
from hypothesis import strategies as st

from agentrl.cli.bench_credit import make_similar_episodes, plain_clusters
from agentrl.credit import Batch, build
from agentrl.credit.similarity import Clusters
from agentrl.credit.states import canonical, state_labels
from agentrl.errors import ConfigError


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1, 2], (1, 2)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        ({"x": 1, "y": [2, 3]}, {"y": (2, 3), "x": 1.0}),
        (1, 1.0),
        (1, True),
        (np.array([[1, 2], [3, 4]]), [1, 2, 3, 4]),
        (np.float32(0.5), 0.5),
        ({"type": "array", "value": [[1, 2], [3, 4]]}, {"type": "tuple", "value": [1, 2, 3, 4]}),
        ({"type": "mapping", "value": {"a": [1]}}, {"a": (1,)}),
    ],
)
def test_equal_states(one: object, other: object) -> None:
    assert canonical(one) == canonical(other)
    assert hash(canonical(one)) == hash(canonical(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", 1),
        ([1, 2], [2, 1]),
        ([[1], [2]], [1, 2]),
        ({"a": 1}, [["a", 1]]),
        ({"a": None}, {}),
        ({"type": "array", "value": [1], "size": 1}, [1]),
        ({"type": "room", "value": [1]}, [1]),
    ],
)
def test_different_states(one: object, other: object) -> None:
    assert canonical(one) != canonical(other)


def test_a_key_that_is_not_json_is_refused() -> None:
    with pytest.raises(ConfigError, match="got object"):
        canonical([object()])


def test_groups_are_never_mixed() -> None:
    episodes = [
        episode("a", "g", [turn(0), turn(1)]),
        episode("b", "h", [turn(0)]),
        episode("c", "g", [turn(0)]),
    ]
    assert state_labels(Batch(tuple(episodes))).tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("method", ["gigpo"])
def test_an_absent_key_is_an_error_that_says_where(method: str) -> None:
    episodes = [episode("walk-7", "g", [turn(0), turn(1, state=None)])]
    with pytest.raises(ConfigError, match=r"turn 1 of episode 'walk-7' has no state_key.*grpo"):
        build({"preset": method}).run(episodes)
    build({"preset": "grpo"}).run(episodes)


def test_similarity_needs_text() -> None:
    episodes = [episode("e", "g", [turn(0, state=[1, 2])])]
    with pytest.raises(ConfigError, match="similarity_threshold"):
        build({"preset": "gigpo", "similarity_threshold": 0.9}).run(episodes)


def test_similarity_grouping_equals_comparing_everything() -> None:
    batch = Batch(tuple(make_similar_episodes()[:3]))
    assert state_labels(batch, 0.9).tolist() == plain_clusters(batch)


@given(
    st.lists(st.text("abcé ", max_size=12), min_size=1, max_size=25), st.sampled_from([0.1, 0.5, 0.8, 1.0])
)
def test_clusters_equal_comparing_everything(texts: list[str], threshold: float) -> None:
    from difflib import SequenceMatcher

    heads: list[str] = []
    expected: list[int] = []
    for text in texts:
        similar = (
            i for i, head in enumerate(heads) if SequenceMatcher(None, text, head).ratio() >= threshold
        )
        label = next(similar, len(heads))
        if label == len(heads):
            heads.append(text)
        expected.append(label)
    clusters = Clusters(threshold, count().__next__)
    assert [clusters[text] for text in texts] == expected


def test_many_clusters_and_characters() -> None:
    clusters = Clusters(1.0, count().__next__)
    texts = [chr(1000 + i) * 3 for i in range(600)]
    assert [clusters[text] for text in texts] == list(range(600))
    assert [clusters[text] for text in reversed(texts)] == list(reversed(range(600)))


def test_hit_rate_and_loops_are_reported() -> None:
    loop = simple({"g": [[0.0, 0.0, 1.0]]}, states="same")
    metrics = build({"preset": "gigpo"}).run(loop).metrics
    assert metrics["credit/step/hit_rate"] == 1.0
    assert metrics["credit/step/single_episode_share"] == 1.0
    unique = simple({"g": [[0.0, 1.0], [0.0, 0.0]]})
    assert build({"preset": "gigpo"}).run(unique).metrics["credit/step/hit_rate"] == 0.0

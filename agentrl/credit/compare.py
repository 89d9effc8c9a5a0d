"""How far two credits of the same episodes are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from agentrl.credit.segments import FloatArray

__all__ = ["Comparison", "compare"]

Advantages = Mapping[str, Sequence[float | None]]
"""Episode id -> one advantage per turn, None where not credited."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Differences over the turns that both credit; `correlation` is None where either is constant."""

    turns: int
    only_first: int
    only_second: int
    equal: int
    sign_changes: int
    max_abs_difference: float
    mean_abs_difference: float
    correlation: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON."""
        return asdict(self)


def compare(first: Advantages, second: Advantages) -> Comparison:
    """Compare turn by turn; a turn that one side lacks altogether counts as credited by the other only."""
    pairs = [
        (mine, theirs)
        for episode_id in dict.fromkeys([*first, *second])
        for mine, theirs in _aligned(first.get(episode_id, ()), second.get(episode_id, ()))
    ]
    both = np.array([(a, b) for a, b in pairs if a is not None and b is not None], dtype=np.float64).reshape(
        -1, 2
    )
    difference = np.abs(both[:, 0] - both[:, 1])
    varied = len(both) > 1 and bool((both.std(axis=0) > 0).all())
    return Comparison(
        turns=len(both),
        only_first=sum(a is not None and b is None for a, b in pairs),
        only_second=sum(a is None and b is not None for a, b in pairs),
        equal=int(np.count_nonzero(difference == 0)),
        sign_changes=int(np.count_nonzero(both[:, 0] * both[:, 1] < 0)),
        max_abs_difference=float(difference.max()) if len(both) else 0.0,
        mean_abs_difference=float(difference.mean()) if len(both) else 0.0,
        correlation=_correlation(both) if varied else None,
    )


def _correlation(pairs: FloatArray) -> float:
    deviation = pairs - pairs.mean(axis=0)
    return float((deviation[:, 0] @ deviation[:, 1]) / np.sqrt((deviation**2).sum(axis=0).prod()))


def _aligned(
    first: Sequence[float | None], second: Sequence[float | None]
) -> list[tuple[float | None, float | None]]:
    turns = max(len(first), len(second))
    padded = ([*values, *[None] * (turns - len(values))] for values in (first, second))
    return list(zip(*padded, strict=True))

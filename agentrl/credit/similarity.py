"""First-come clusters of similar texts, with Python's difflib ratio as the measure.

Joining is order dependent and not transitive, as in the method that uses it: a text joins the first
cluster whose *first* text is at least `threshold` similar, else it starts a new cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from difflib import SequenceMatcher

import numpy as np

from agentrl.credit.segments import IntArray

__all__ = ["Clusters"]


class Clusters(Mapping[Hashable, int]):
    """Text -> label, where looking up a text that was never seen assigns it.

    Gives exactly what comparing every text with every cluster gives, in far fewer comparisons. A text
    seen before needs none: the clusters that it was compared with never change and new ones come later.
    Clusters whose upper bound on the ratio (lengths, then shared characters) is below the threshold
    cannot be joined. difflib indexes its second text, so each cluster keeps its own matcher.
    """

    def __init__(self, threshold: float, new_label: Callable[[], int]) -> None:
        self.threshold = threshold
        self.new_label = new_label
        self._label_of: dict[str, int] = {}
        self._labels: list[int] = []
        self._matchers: list[SequenceMatcher[str]] = []
        self._columns: dict[str, int] = {}
        self._characters_CV: IntArray = np.zeros((8, 256), dtype=np.int64)
        self._length_C: IntArray = np.zeros(8, dtype=np.int64)

    def __getitem__(self, text: Hashable) -> int:
        if not isinstance(text, str):
            raise TypeError(f"{type(text).__name__}: {text!r:.80}")
        label = self._label_of.get(text)
        if label is None:
            label = self._label_of[text] = self._place(text)
        return label

    def __len__(self) -> int:
        return len(self._label_of)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._label_of)

    def _place(self, text: str) -> int:
        count_V = self._count_characters(text)
        for cluster in self._candidates(count_V, len(text)):
            matcher = self._matchers[cluster]
            matcher.set_seq1(text)
            if matcher.ratio() >= self.threshold:
                return self._labels[cluster]
        return self._open(text, count_V)

    def _candidates(self, count_V: IntArray, length: int) -> list[int]:
        """Clusters, in order, that sum_c min(count_a(c), count_b(c)) matching characters would admit."""
        clusters = len(self._labels)
        total_C = self._length_C[:clusters] + length
        shared_C = np.minimum(self._characters_CV[:clusters], count_V).sum(axis=1)
        bound_C = np.where(total_C > 0, 2.0 * shared_C / np.maximum(total_C, 1), 1.0)
        return np.flatnonzero(bound_C >= self.threshold).tolist()

    def _open(self, text: str, count_V: IntArray) -> int:
        cluster = len(self._labels)
        if cluster == len(self._length_C):
            self._characters_CV = np.pad(self._characters_CV, ((0, cluster), (0, 0)))
            self._length_C = np.pad(self._length_C, (0, cluster))
        self._characters_CV[cluster] = count_V
        self._length_C[cluster] = len(text)
        self._labels.append(self.new_label())
        self._matchers.append(SequenceMatcher(None, "", text))
        return self._labels[cluster]

    def _count_characters(self, text: str) -> IntArray:
        columns = self._columns
        codes = [columns.setdefault(character, len(columns)) for character in text]
        width = self._characters_CV.shape[1]
        if len(columns) > width:
            self._characters_CV = np.pad(self._characters_CV, ((0, 0), (0, max(width, len(columns) - width))))
            width = self._characters_CV.shape[1]
        return np.bincount(np.array(codes, dtype=np.int64), minlength=width)

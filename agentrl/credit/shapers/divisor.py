"""Make the number of rounds that are learnt from a multiple of the number of workers."""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from typing import Annotated

import numpy as np
from pydantic import Field

from agentrl.credit.batch import Batch
from agentrl.credit.stages import Scores, Shaped

__all__ = ["divisor"]


def divisor(
    shaped: Shaped, scores: Scores, batch: Batch, *, divisor: Annotated[int, Field(ge=1)] = 1
) -> Shaped:
    """Keep floor(N / D) D of the N credited turns; the others stay in the statistics with weight 0   [N]

    EAPO's adaptive down-sampling, arXiv 2511.07327 Which ones go looks random but is a function
    of episode and turn alone (blake2b of the episode's id and the turn's place), so neither the order of
    the batch nor a seed changes it. A batch of fewer than D turns is kept whole: there is nothing to keep
    otherwise. Failure case: with a large D and small batches whole episodes vanish.
    """
    credited = np.flatnonzero(shaped.credited_N)
    surplus = len(credited) % divisor if len(credited) >= divisor else 0
    place = credited - batch.offsets_E1[batch.episode_N[credited]]
    names = [batch.episodes[int(i)].episode_id for i in batch.episode_N[credited]]
    rank = [
        blake2b(f"{name}/{int(turn)}".encode(), digest_size=8).digest()
        for name, turn in zip(names, place, strict=True)
    ]
    credited_N = shaped.credited_N.copy()
    credited_N[credited[sorted(range(len(rank)), key=rank.__getitem__)[:surplus]]] = False
    return replace(shaped, credited_N=credited_N, metrics={"dropped_turns": float(surplus)})

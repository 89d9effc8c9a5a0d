"""Matrix products whose rows do not depend on how many rows there are, measured rather than assumed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ROW_TILE", "Linear", "choose_linear", "linear_in_tiles"]

ROW_TILE = 16
"""Rows of every product are padded to a multiple of this: for fewer, libraries pick other kernels."""

PROBED_ROWS = (16, 32, 48, 80, 144, 272, 528)

Linear = Callable[[Tensor, Tensor], Tensor]

log = logging.getLogger(__name__)


def choose_linear(matrices: Iterable[Tensor]) -> Linear:
    """Return the fastest `x @ w.T` under which a row's result is the same in any batch, on this machine."""
    shapes = {tuple(matrix.shape): matrix for matrix in matrices}
    for linear in (F.linear, linear_in_tiles):
        if all(_rows_agree(linear, matrix) for matrix in shapes.values()):
            return linear
    log.warning("matrix products here depend on the batch: equal requests may differ in their last bits")
    return F.linear


def linear_in_tiles(x_PH: Tensor, weight: Tensor) -> Tensor:
    """Multiply in products of one fixed shape; the number of rows is a multiple of `ROW_TILE`."""
    firsts = range(0, x_PH.shape[0], ROW_TILE)
    return torch.cat([F.linear(x_PH[first : first + ROW_TILE], weight) for first in firsts])


@torch.inference_mode()
def _rows_agree(linear: Linear, weight: Tensor) -> bool:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(max(PROBED_ROWS), weight.shape[1], generator=generator).to(weight.device, weight.dtype)
    expected = linear_in_tiles(x, weight)
    # Shifted by an odd number of rows: the place in a tile must not matter either.
    shifted = linear_in_tiles(x.roll(5, 0), weight).roll(-5, 0)
    return torch.equal(expected, shifted) and all(
        torch.equal(linear(x[:rows], weight), expected[:rows]) for rows in PROBED_ROWS
    )

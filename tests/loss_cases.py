"""Recorded loss cases: where they lie, and ragged lists as padded tensors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["GOLDEN", "cases", "golden", "padded"]

GOLDEN = Path(__file__).parent / "golden" / "loss"


def cases(pattern: str) -> list[str]:
    return sorted(path.name for path in GOLDEN.glob(pattern))


def golden(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / name).read_text())


def padded(rows: list[list[float]], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Rows of different lengths -> `[rows, tokens]` filled with NaN, and the mask."""
    width = max(len(row) for row in rows)
    values = torch.tensor([row + [math.nan] * (width - len(row)) for row in rows], dtype=dtype)
    return values, (~values.isnan()).to(dtype)

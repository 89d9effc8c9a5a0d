"""The training bench measures both sides on the same loss."""

from __future__ import annotations

import pytest
import torch

from agentrl.cli import bench_train
from agentrl.train.model import ModelShape, new_model
from agentrl.train.optimizer import build_optimizer


def test_rows_have_the_keys_of_every_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    for constant, value in (("EPISODES", 2), ("MEAN_TOKENS", 80), ("MAX_TOKENS", 100), ("ROUNDS", 1)):
        monkeypatch.setattr(bench_train, constant, value)
    rows = bench_train.rows()
    assert all(set(row) == {"what", "value", "unit", "baseline", "baseline_value", "ratio"} for row in rows)
    assert all(row["value"] > 0 and row["baseline_value"] > 0 for row in rows)


def test_packed_and_padded_take_the_same_step() -> None:
    shape = ModelShape(hidden=32, layers=1, heads=2, kv_heads=1, head_dim=16, ffn=32)
    sequences = [torch.arange(1, 9), torch.arange(3, 6)]
    models = [new_model(shape, 64) for _ in range(2)]
    for model, work in zip(models, (bench_train._packed, bench_train._padded), strict=True):  # pyright: ignore[reportPrivateUsage]
        optimizer = build_optimizer(model, "adamw", 1e-2)
        optimizer._parts = [torch.optim.SGD(model.parameters(), lr=1.0)]  # pyright: ignore[reportPrivateUsage]
        optimizer._peaks = [[1.0]]  # pyright: ignore[reportPrivateUsage]
        work(model, optimizer, sequences, torch.device("cpu"), half=False)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)

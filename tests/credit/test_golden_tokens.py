"""Golden vectors of token-level methods and of Knapsack's plans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from credit.episodes import episode, golden_cases, turn
from credit.recorded import Record, close, credit, record

from agentrl.credit import build
from agentrl.errors import ConfigError

GAE = list(golden_cases("gae_*.json"))
OTB = list(golden_cases("otb_*.json"))
DRPO = list(golden_cases("drpo_*.json"))
KNAPSACK = next(golden_cases("knapsack.json"))["outputs"]


def name(case: dict[str, Any]) -> str:
    return case["case"]


def test_the_golden_files_are_there() -> None:
    assert min(len(GAE), len(OTB), len(DRPO)) >= 4


def spans(mask: list[float]) -> list[list[int]]:
    """Cut a sequence into turns: the runs of tokens that the policy sampled."""
    runs: list[list[int]] = []
    for place, sampled in enumerate(mask):
        if sampled and place and mask[place - 1]:
            runs[-1].append(place)
        elif sampled:
            runs.append([place])
    return runs


def turns(sequence: dict[str, Any], **columns: str) -> list[Record]:
    return [
        {"num_tokens": len(run), "reward": sum(sequence["rewards"][j] for j in run)}
        | {key: [sequence[column][j] for j in run] for key, column in columns.items()}
        for run in spans(sequence["mask"])
    ]


def on_tokens(records: list[Record]) -> list[list[float]]:
    return [[a for t in r["turns"] for a in t["token_advantages"]] for r in records]


def trained(sequences: list[dict[str, Any]], values: list[list[float]]) -> list[list[float]]:
    return [
        [v for v, m in zip(row, s["mask"], strict=True) if m]
        for s, row in zip(sequences, values, strict=True)
    ]


@pytest.mark.parametrize("case", GAE, ids=name)
@pytest.mark.parametrize("kind", ["unwhitened", "whitened", "egae"])
def test_gae(case: dict[str, Any], kind: str, tmp_path: Path) -> None:
    sequences = case["inputs"]["sequences"]
    key = {"whitened": "official_whitened_advantage", "unwhitened": "unwhitened_advantage"}.get(
        kind, "egae_unwhitened_advantage_if_truncated"
    )
    records = [
        record(i, "g", turns(s, values="values"), truncated=kind == "egae") for i, s in enumerate(sequences)
    ]
    for variant in case["outputs"]["variants"]:
        config = {
            "preset": "egae" if kind == "egae" else "gae",
            "whiten": kind == "whitened",
            "gamma": variant["gamma"],
            "lambda": variant["lambda"],
        }
        result = credit(tmp_path, config, records)
        close(on_tokens(result.records), trained(sequences, variant[key]))
        for written in result.records:
            for each in written["turns"]:
                assert np.mean(each["token_advantages"]) == pytest.approx(each["advantage"], abs=1e-12)


@pytest.mark.parametrize("case", OTB, ids=name)
def test_optimal_token_baseline(case: dict[str, Any], tmp_path: Path) -> None:
    sequences = case["inputs"]["sequences"]
    records = [
        record(
            i,
            s["group_id"],
            turns(s, logprobs="old_log_prob", sum_pi_squared="sum_pi_squared", is_weight="is_weight"),
        )
        for i, s in enumerate(sequences)
    ]
    result = credit(tmp_path, {"preset": "otb", **case["hyperparameters"]}, records)
    close(on_tokens(result.records), trained(sequences, case["outputs"]["advantage"]))


@pytest.mark.parametrize("case", [c for c in DRPO if not c["outputs"]["over_budget"]], ids=name)
def test_drpo_is_the_gradient_of_its_objective(case: dict[str, Any], tmp_path: Path) -> None:
    episodes = case["inputs"]["episodes"]
    records = [
        record(
            i,
            e["group_id"],
            [{"num_tokens": len(e["log_prob"]), "logprobs": e["log_prob"]}],
            correct=bool(e["correct"]),
        )
        for i, e in enumerate(episodes)
    ]
    names = ("tau", "lambda", "max_response_length_for_length_ratio")
    config = {"preset": "drpo", **{key: case["hyperparameters"][key] for key in names}}
    tasks = len({e["group_id"] for e in episodes})
    wanted = [-sum(row) * tasks for row in case["outputs"]["grad_log_prob"]]
    close(credit(tmp_path, config, records).first(), wanted)


def test_drpo_has_nothing_to_say_about_a_group_of_one_sign(tmp_path: Path) -> None:
    records = [record(i, "g", [{"num_tokens": 1, "logprobs": [-i / 2]}], correct=True) for i in range(3)]
    assert credit(tmp_path, {"preset": "drpo"}, records).first() == [0.0, 0.0, 0.0]


def knapsack(rates: list[float], each: int, **options: Any) -> tuple[float, dict[str, Any]]:
    played = [
        episode(f"{q}-{i}", f"{q}", [turn(0)], correct=i < round(rate * each))
        for q, rate in enumerate(rates)
        for i in range(each)
    ]
    spec = {**build({"preset": "grpo"}).spec, "select": [{"id": "knapsack", **options}]}
    result = build(spec).run(played)
    assert result.credited_N.all()
    return result.metrics["credit/knapsack/value"], dict(result.memory["knapsack"])


@pytest.mark.parametrize("case", KNAPSACK["cases"], ids=lambda case: str(case["success_rates"]))
def test_knapsack_plans_are_optimal(case: dict[str, Any]) -> None:
    options = {key: case[key] for key in ("budget", "min_per_task", "max_per_task")}
    value, plan = knapsack(case["success_rates"], 20, **options)
    assert value == pytest.approx(case["optimal_value"], abs=1e-12)
    rollouts = [planned["rollouts"] for planned in plan.values()]
    assert sum(rollouts) == case["budget"]
    assert min(rollouts) >= case["min_per_task"]
    assert max(rollouts) <= case["max_per_task"]
    assert [planned["success_rate"] for planned in plan.values()] == case["success_rates"]


def test_knapsack_values() -> None:
    for row in KNAPSACK["value_table"]:
        n = row["n"]
        value, _ = knapsack([row["p"]], 100, budget=n, min_per_task=n, max_per_task=n)
        assert value == pytest.approx(row["value"], abs=1e-12)


def test_knapsack_gives_the_unsolved_a_chance_only_with_a_floor() -> None:
    _, without = knapsack([0.0, 0.5], 2, budget=20, max_per_task=18)
    _, with_floor = knapsack([0.0, 0.5], 2, budget=20, max_per_task=18, floor_rate=0.1)
    assert without["0"]["rollouts"] == 2 < with_floor["0"]["rollouts"]


def test_a_budget_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot give 3 rollouts to 2 tasks with 2 to 128 each"):
        knapsack([0.5, 0.5], 2, budget=3)

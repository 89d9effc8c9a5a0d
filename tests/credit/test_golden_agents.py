"""Golden vectors of OTC, HDPO and IGPO, through `agentrl credit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from credit.episodes import golden_cases
from credit.recorded import Record, close, credit, flat, record, score

OTC = list(golden_cases("otc_*.json"))
HDPO = list(golden_cases("hdpo_*.json"))
IGPO = list(golden_cases("igpo_*.json"))


def name(case: dict[str, Any]) -> str:
    return case["case"]


def test_the_golden_files_are_there() -> None:
    assert min(len(OTC), len(HDPO), len(IGPO)) >= 6


def otc_records(case: dict[str, Any]) -> list[Record]:
    return [
        record(
            e["episode_id"],
            e["task_id"],
            [{"tool_calls": 1}] * e["tool_calls"] + [{}],
            batch=batch,
            correct=e["correct"],
        )
        for batch, step in enumerate(case["inputs"]["steps"])
        for e in step
    ]


@pytest.mark.parametrize("variant", ["group", "single_sample"])
@pytest.mark.parametrize("case", OTC, ids=name)
def test_otc_rewards_and_memory(case: dict[str, Any], variant: str, tmp_path: Path) -> None:
    given = case["hyperparameters"]
    options = {"alpha": given["alpha"], "c_max_tool_calls": given["c_max_tool_calls"], "variant": variant}
    result = credit(tmp_path, score("otc", **options), otc_records(case))
    steps = case["outputs"]["steps"]
    close(result.first(), [e[f"reward_{variant}"] for step in steps for e in step["episodes"]], 1e-12)
    assert result.memory == {"otc": steps[-1]["memory_after"]}


@pytest.mark.parametrize("case", OTC, ids=name)
def test_otc_rewards_batch_by_batch_with_the_memory_in_a_file(case: dict[str, Any], tmp_path: Path) -> None:
    memory: dict[str, Any] = {}
    records = otc_records(case)
    options = {"c_max_tool_calls": case["hyperparameters"]["c_max_tool_calls"]}
    for batch, step in enumerate(case["outputs"]["steps"]):
        mine = [r for r in records if r["batch"] == batch]
        result = credit(tmp_path, score("otc", **options), mine, memory)
        close(result.first(), [e["reward_group"] for e in step["episodes"]], 1e-12)
        memory = result.memory
        assert memory == {"otc": step["memory_after"]}


@pytest.mark.parametrize("case", OTC, ids=name)
def test_otc_as_a_preset_compares_within_the_group(case: dict[str, Any], tmp_path: Path) -> None:
    options = {"c_max_tool_calls": case["hyperparameters"]["c_max_tool_calls"]}
    result = credit(tmp_path, {"preset": "otc", **options}, otc_records(case))
    got = result.first()
    for step in case["outputs"]["steps"]:
        by_task: dict[str, list[float]] = {}
        for e in step["episodes"]:
            by_task.setdefault(e["task_id"], []).append(e["reward_group"])
        for e in step["episodes"]:
            rewards = np.array(by_task[e["task_id"]])
            spread = rewards.std(ddof=1) + 1e-6 if len(set(rewards.tolist())) > 1 else np.inf
            assert got.pop(0) == pytest.approx((e["reward_group"] - rewards.mean()) / spread, abs=1e-9)


def hdpo_records(case: dict[str, Any]) -> list[Record]:
    return [
        record(
            i,
            e["group_id"],
            [{"tool_calls": e["num_tool_calls"], "num_tokens": e["num_tokens"]}],
            correct=bool(e["answer_correct"]),
            format_ok=bool(e["format_ok"]),
        )
        for i, e in enumerate(case["inputs"]["episodes"])
    ]


@pytest.mark.parametrize("case", HDPO, ids=name)
def test_hdpo_advantages_of_both_channels(case: dict[str, Any], tmp_path: Path) -> None:
    names = ("w_acc", "w_tool", "epsilon", "accuracy_weight", "format_weight")
    options = {key: case["hyperparameters"][key] for key in names}
    for variant in case["outputs"]["variants"]:
        config = {"preset": "hdpo", "divide_by_std": variant["divide_by_std"], **options}
        result = credit(tmp_path, config, hdpo_records(case))
        acc, tool = (np.array(variant[f"{key}_advantage"]) for key in ("acc", "tool"))
        close(result.first(), (options["w_acc"] * acc + options["w_tool"] * tool).tolist())
        close(result.term("accuracy/episode"), (options["w_acc"] * acc).tolist())
        close(result.term("tool/episode"), (options["w_tool"] * tool).tolist())
        # The efficiency loss covers the rows that it says something about (all where there are none).
        covered = [r["channels"]["tool"] != [None] for r in result.records]
        assert covered == ((tool != 0) | (tool == 0).all()).tolist()


@pytest.mark.parametrize("case", HDPO, ids=name)
def test_hdpo_rewards(case: dict[str, Any], tmp_path: Path) -> None:
    outputs, records = case["outputs"], hdpo_records(case)
    close(credit(tmp_path, score("accuracy"), records).first(), outputs["r_acc"], 1e-7)
    close(credit(tmp_path, score("tool_efficiency"), records).first(), outputs["r_tool"], 1e-7)


@pytest.mark.parametrize("case", [c for c in HDPO if "singleton" in c["case"]], ids=name)
def test_a_group_of_one_gives_nothing_where_that_is_asked_for(case: dict[str, Any], tmp_path: Path) -> None:
    plain = credit(tmp_path, {"preset": "hdpo", "variant": "paper"}, hdpo_records(case)).first()
    assert plain == [0.0, 0.0]
    assert credit(tmp_path, {"preset": "hdpo"}, hdpo_records(case)).first() != plain


def igpo_records(case: dict[str, Any]) -> list[Record]:
    made: list[Record] = []
    for i, e in enumerate(case["inputs"]["episodes"]):
        turns: list[Record] = [
            {"gold_logprob": level, "num_tokens": tokens}
            for level, tokens in zip(e["gt_mean_log_prob"], e["turn_tokens"], strict=True)
        ]
        turns[-1]["reward"] = e["f1"]
        made.append(record(i, e["group_id"], turns))
    return made


@pytest.mark.parametrize("case", IGPO, ids=name)
def test_igpo_matches_every_variant(case: dict[str, Any], tmp_path: Path) -> None:
    records = igpo_records(case)
    for variant in case["outputs"]["variants"]:
        options = {key: value for key, value in variant.items() if key != "advantage"}
        result = credit(tmp_path, {"preset": "igpo", **options}, records)
        # Nearly constant members divide by about 1e-4, so float32 noise is loud there.
        tight = variant["normalisation"] == "joint" or not variant["divide_by_std"]
        close(result.advantages, variant["advantage"], 2e-5 if tight else 1e-3)


@pytest.mark.parametrize("kind", ["prob_diff", "log_prob_diff"])
@pytest.mark.parametrize("case", IGPO, ids=name)
def test_information_gains(case: dict[str, Any], kind: str, tmp_path: Path) -> None:
    spelled = {
        "channel": [
            {
                "name": "task",
                "rewards": [{"id": "information_gain", "information_gain": kind}],
                "estimators": [
                    {"id": "accumulate", "scale": "none", "gamma": 0.0, "normalisation": "separate"}
                ],
            }
        ]
    }
    got = credit(tmp_path, spelled, igpo_records(case)).advantages
    wanted = case["outputs"][f"information_gain_{kind}"]
    groups = [e["group_id"] for e in case["inputs"]["episodes"]]
    for group in set(groups):
        members = [x for g, gains in zip(groups, wanted, strict=True) if g == group for x in gains if x != 0]
        centre = float(np.mean(members)) if len(members) > 1 else None
        for g, turns, gains in zip(groups, got, wanted, strict=True):
            for value, gain in zip(turns, gains, strict=False):
                if g == group and gain != 0:
                    assert value == pytest.approx(0.0 if centre is None else gain - centre, abs=2e-6)


def test_the_helpers_flatten() -> None:
    assert flat([[1.0, [2.0]], 3.0]) == [1.0, 2.0, 3.0]

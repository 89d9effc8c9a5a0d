"""Golden vectors of the other methods of whole episodes, through `agentrl credit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from credit.episodes import golden_cases
from credit.recorded import Record, close, credit, record, score

GDPO = list(golden_cases("gdpo_*.json"))
DCPO = list(golden_cases("dcpo_adv_*.json"))
EGRPO = list(golden_cases("egrpo_*.json"))
EAPO = list(golden_cases("eapo_*.json"))
APO = list(golden_cases("apo_*.json"))
HBPO = list(golden_cases("hbpo_*.json"))
ASPO = list(golden_cases("aspo_*.json"))


def name(case: dict[str, Any]) -> str:
    return case["case"]


def table(file: str) -> dict[str, Any]:
    return next(golden_cases(file))


def paid(reward: float, **turn: Any) -> list[Record]:
    return [{"reward": reward, **turn}]


def test_the_golden_files_are_there() -> None:
    found = [len(cases) for cases in (GDPO, DCPO, EGRPO, EAPO, APO, HBPO, ASPO)]
    assert found >= [4, 4, 4, 3, 2, 3, 6]


@pytest.mark.parametrize("case", GDPO, ids=name)
def test_gdpo(case: dict[str, Any], tmp_path: Path) -> None:
    records = [
        record(i, e["group_id"], [{"num_tokens": e["num_tokens"]}], rewards=e["rewards"])
        for i, e in enumerate(case["inputs"]["episodes"])
    ]
    options = {key: case["hyperparameters"][key] for key in ("weights", "divide_by_std")}
    result = credit(tmp_path, {"preset": "gdpo", **options}, records)
    close(result.first(), case["outputs"]["advantage"])
    for key, wanted in case["outputs"]["advantage_per_reward"].items():
        single = {
            "id": "group_norm",
            "singleton": "raw",
            "scale": "std" if options["divide_by_std"] else "none",
        }
        rewards = [{"id": "component", "key": key}]
        spelled = {"channel": [{"name": "task", "rewards": rewards, "estimators": [single]}]}
        close(credit(tmp_path, spelled, records).first(), wanted)


@pytest.mark.parametrize("case", DCPO, ids=name)
def test_dcpo_with_its_history_in_the_memory_file(case: dict[str, Any], tmp_path: Path) -> None:
    records = [record(e["episode_id"], e["group_id"], paid(e["reward"])) for e in case["inputs"]["episodes"]]
    history = case["inputs"]["history"]
    result = credit(tmp_path, {"preset": "dcpo"}, records, {"dcpo": history})
    close(result.first(), case["outputs"]["advantage"])
    for group, before in history.items():
        after = result.memory["dcpo"][group]
        assert after["times"] == before["times"] + 1
        assert after["mean"] == pytest.approx(case["outputs"]["cumulative_mean"][group], abs=1e-6)
        assert after["std"] == pytest.approx(case["outputs"]["cumulative_std"][group], abs=1e-6)


def test_spo_tracks_twenty_visits(tmp_path: Path) -> None:
    case = table("spo_tracker.json")
    initial, visits = case["inputs"]["initial"][0], case["outputs"]["visits"]
    options = {key: initial[key] for key in ("prior_successes", "prior_trials")}
    config = {"preset": "spo", **options, **case["hyperparameters"]}
    shifts = [v["mean_abs_logprob_shift"] for v in visits]
    records = [
        record(k, "t", paid(v["reward"]), metadata={"mean_abs_logprob_shift": shift}, batch=k)
        for k, (v, shift) in enumerate(zip(visits, shifts, strict=True))
    ]
    result = credit(tmp_path, {**config, "whiten": False}, records)
    close(result.first(), [v["raw_advantage"] for v in visits], 1e-12)
    last = {"alpha": visits[-1]["alpha_after"], "beta": visits[-1]["beta_after"]}
    assert result.memory["spo"]["t"] == pytest.approx(last)
    one_batch = [{**r, "batch": 0} for r in records]
    result = credit(tmp_path, {**config, "visits": "stream"}, one_batch)
    close(result.first(), case["outputs"]["batch_whitened_advantage_of_all_visits_as_one_batch"], 1e-8)


@pytest.mark.parametrize("case", EGRPO, ids=name)
def test_egrpo(case: dict[str, Any], tmp_path: Path) -> None:
    records = [
        record(
            e["episode_id"],
            e["task_id"],
            correct=e["correct"],
            format_ok=not e["error"],
            truncated=e["overlong"],
            metadata={key: e[key] for key in ("matched_entities", "total_entities")},
        )
        for e in case["inputs"]["episodes"]
    ]
    outputs, alpha = case["outputs"], case["hyperparameters"]["alpha"]
    close(credit(tmp_path, score("egrpo", alpha=alpha), records).first(), outputs["reward"], 1e-12)
    got = credit(tmp_path, {"preset": "egrpo", "alpha": alpha}, records).first()
    assert [value is not None for value in got] == outputs["in_loss"]
    wanted = [a if kept else None for a, kept in zip(outputs["advantage"], outputs["in_loss"], strict=True)]
    close([a for a in got if a is not None], [a for a in wanted if a is not None], 1e-9)


@pytest.mark.parametrize("case", EAPO, ids=name)
def test_eapo(case: dict[str, Any], tmp_path: Path) -> None:
    episodes, given = case["inputs"]["episodes"], case["hyperparameters"]
    records = [
        record(
            e["episode_id"],
            "g",
            [{}] * (e["num_rounds"] - 1) + paid(e["final_reward"]),
        )
        for e in episodes
    ]
    got = credit(tmp_path, score("eapo", gamma=given["gamma"]), records).advantages
    close(got, case["outputs"]["round_rewards"], 1e-12)
    result = credit(tmp_path, {"preset": "eapo", **given}, records)
    kept = [a for turns in result.advantages for a in turns if a is not None]
    assert len(kept) == case["outputs"]["num_rounds_kept"]


@pytest.mark.parametrize("case", APO, ids=name)
def test_apo(case: dict[str, Any], tmp_path: Path) -> None:
    records = [
        record(
            e["episode_id"],
            e["task_id"],
            correct=e["correct"],
            format_ok=e["format_ok"],
            metadata={"mode": e["mode"], "forced": e["forced"]},
        )
        for e in case["inputs"]["episodes"]
    ]
    result = credit(tmp_path, score("apo", **case["hyperparameters"]), records)
    close(result.first(), [e["reward"] for e in case["outputs"]["episodes"]], 1e-12)
    assert credit(tmp_path, {"preset": "apo", **case["hyperparameters"]}, records).first()


@pytest.mark.parametrize("case", HBPO, ids=name)
def test_hbpo(case: dict[str, Any], tmp_path: Path) -> None:
    records = [
        record(
            i,
            "g",
            [{"num_tokens": e["length"]}],
            correct=e["correct"],
            metadata={"budget": e["budget"]},
        )
        for i, e in enumerate(case["inputs"]["episodes"])
    ]
    outputs = case["outputs"]
    result = credit(tmp_path, {"preset": "hbpo", **case["hyperparameters"]}, records)
    close(result.term("intra"), outputs["intra_advantage"], 1e-9)
    close(result.term("inter"), outputs["inter_advantage"], 1e-9)
    close(result.first(), outputs["advantage"], 1e-9)
    rewards = credit(tmp_path, score("hbpo", **case["hyperparameters"]), records)
    close(rewards.first(), outputs["reward"], 1e-12)


@pytest.mark.parametrize("case", ASPO, ids=name)
def test_aspo(case: dict[str, Any], tmp_path: Path) -> None:
    records = []
    for e in case["inputs"]["episodes"]:
        position = e["first_tool_call_position"]
        called = {} if position is None else {"tool_calls": 1, "tool_call_at": position}
        turns = paid(e["reward"], num_tokens=e["length"], **called)
        records.append(record(e["episode_id"], e["task_id"], turns, correct=e["correct"]))
    result = credit(tmp_path, {"preset": "aspo", **case["hyperparameters"]}, records)
    close(result.first(), case["outputs"]["advantage"], 1e-9)
    close(result.term("episode"), case["outputs"]["base_advantage"], 1e-9)
    close(result.term("aspo"), case["outputs"]["shaping_bonus"], 1e-9)


@pytest.mark.parametrize("variant", ["cosine", "linear"])
def test_hapo_for_every_history(variant: str, tmp_path: Path) -> None:
    case = table("hapo_table.json")
    given = {key: case["hyperparameters"][key] for key in ("correct_floor", "tolerance_ratio_linear")}
    records, wanted = [], []
    for i, row in enumerate(case["outputs"]):
        task = f"t{i}"
        if row["history_min_length"] is not None:
            shortest = [{"num_tokens": row["history_min_length"]}]
            records.append(record(f"before-{i}", task, shortest, correct=True, batch=0))
            longer = [{"num_tokens": row["history_min_length"] + 7}]
            records.append(record(f"longer-{i}", task, longer, correct=True, batch=0))
        records.append(record(i, task, [{"num_tokens": row["length"]}], correct=row["correct"], batch=1))
        wanted.append(row[f"length_reward_{variant}"])
    result = credit(tmp_path, score("hapo", variant=variant, **given), records)
    got = [value for r, value in zip(records, result.first(), strict=True) if r["batch"] == 1]
    close(got, wanted, 1e-12)


def test_the_overlong_penalty(tmp_path: Path) -> None:
    for row in table("dapo_overlong.json")["outputs"]["table"]:
        options = {key: row[key] for key in ("max_length", "buffer", "factor")}
        result = credit(
            tmp_path, score("overlong", **options), [record("e", "g", [{"num_tokens": row["length"]}])]
        )
        assert result.first() == [row["penalty"]]


def test_dynamic_sampling_keeps_what_the_release_keeps(tmp_path: Path) -> None:
    for case in table("dynamic_sampling_filter.json")["outputs"]["cases"]:
        records = [
            record(f"{g}-{i}", f"g{g}", paid(reward))
            for g, rewards in enumerate(case["group_rewards"])
            for i, reward in enumerate(rewards)
        ]
        config = {
            "select": [{"id": "dynamic_sampling", "last_try": case["last_try"]}],
            **score("environment"),
        }
        kept = [i for i, value in enumerate(credit(tmp_path, config, records).first()) if value is not None]
        assert kept == case["kept_episode_indices"]

"""Golden vectors of released code: GiGPO, GRPO, RLOO and REINFORCE++-baseline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from credit.episodes import golden_cases, golden_episodes

from agentrl.credit import Batch, build
from agentrl.credit.norm import group_stats
from agentrl.credit.segments import discounted_returns
from agentrl.credit.states import state_labels

GIGPO = list(golden_cases("gigpo_*.json"))
GRPO = list(golden_cases("grpo_*.json"))


def flat(rows: list[list[float]]) -> np.ndarray:
    return np.concatenate([np.asarray(row) for row in rows])


def name(case: dict[str, Any]) -> str:
    return case["case"]


def test_the_golden_files_are_there() -> None:
    assert len(GIGPO) >= 8
    assert len(GRPO) >= 8


@pytest.mark.parametrize("case", GIGPO, ids=name)
def test_gigpo_matches_every_released_variant(case: dict[str, Any]) -> None:
    episodes, options = golden_episodes(case), case["hyperparameters"]
    for variant in case["outputs"]["variants"]:
        config = {
            "preset": "gigpo",
            "variant": "verl-agent",
            "mode": variant["mode"],
            "statistics_over": variant["episode_statistics_over"],
            **options,
        }
        if variant["episode_statistics_over"] == "per_turn_row":
            del config["statistics_over"]  # the variant's default
        result = build(config).run(episodes)
        weight = options["step_advantage_weight"]
        np.testing.assert_allclose(result.advantage_N, flat(variant["advantage"]), rtol=0, atol=2e-5)
        np.testing.assert_allclose(
            result.terms["episode"], flat(variant["episode_advantage"]), rtol=0, atol=2e-5
        )
        np.testing.assert_allclose(
            result.terms["step"], weight * flat(variant["step_advantage"]), rtol=0, atol=2e-5
        )


@pytest.mark.parametrize("case", GIGPO, ids=name)
def test_gigpo_intermediate_values(case: dict[str, Any]) -> None:
    batch, options, outputs = Batch(tuple(golden_episodes(case))), case["hyperparameters"], case["outputs"]
    labels = state_labels(batch, options["similarity_threshold"])
    assert labels.tolist() == flat(outputs["step_group_label"]).tolist()
    assert labels.max() + 1 == outputs["num_step_groups"]
    returns = discounted_returns(batch.reward_N, batch.offsets_E1, options["gamma"])
    np.testing.assert_allclose(returns, flat(outputs["discounted_returns"]), rtol=0, atol=2e-6)
    penalised = returns - options["invalid_action_penalty"] * ~batch.action_valid_N
    stats = group_stats(penalised, labels)
    constant = (stats.constant_G & (stats.count_G > 1))[labels]  # the files say so only of sets
    assert constant.tolist() == flat(outputs["step_group_is_constant"]).tolist()


@pytest.mark.parametrize("case", GRPO, ids=name)
def test_episode_level_estimators_match(case: dict[str, Any]) -> None:
    episodes, options = golden_episodes(case), case["hyperparameters"]
    for wanted in case["outputs"]["estimators"]:
        config = {
            "preset": wanted["estimator"],
            "variant": "verl-agent",
            "statistics_over": wanted["episode_statistics_over"],
            "invalid_action_penalty": options["invalid_action_penalty"],
        }
        if wanted["estimator"] == "grpo":
            config |= {"divide_by_std": wanted["divide_by_std"], "epsilon": options["epsilon"]}
        result = build(config).run(episodes)
        np.testing.assert_allclose(result.advantage_N, flat(wanted["advantage"]), rtol=0, atol=2e-5)


@pytest.mark.parametrize("case", GRPO, ids=name)
def test_two_names_for_one_method(case: dict[str, Any]) -> None:
    episodes = golden_episodes(case)
    drgrpo, centred = build({"preset": "drgrpo"}), build({"preset": "grpo", "divide_by_std": False})
    assert drgrpo.run(episodes).advantages() == centred.run(episodes).advantages()
    short, long = build({"preset": "reinforce_pp"}), build({"preset": "reinforce_pp_baseline"})
    assert short.run(episodes).advantages() == long.run(episodes).advantages()

"""Methods without recorded vectors, by hand; what is refused; how parts combine."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from credit.episodes import complete, episode, simple, turn
from credit.recorded import credit, record, score
from hypothesis import given
from hypothesis import strategies as st

from agentrl.credit import build
from agentrl.credit.traits import traits_of
from agentrl.errors import ConfigError
from agentrl.types import Episode, StopReason

EVERYTHING = {
    "channel": [
        {
            "name": "task",
            "rewards": [{"id": "environment"}, {"id": "otc", "weight": 0.5}, {"id": "information_gain"}],
            "estimators": [
                {"id": "group_norm", "name": "episode", "of": ["environment", "otc"]},
                {"id": "step_norm", "name": "step", "of": ["environment"]},
                {"id": "accumulate", "name": "gain", "of": ["information_gain"], "gamma": 0.95},
            ],
        },
        {
            "name": "efficiency",
            "weight": 0.15,
            "rewards": [{"id": "tool_efficiency"}],
            "estimators": [{"id": "group_norm", "name": "episode"}],
            "shapers": [{"id": "nonzero_only"}],
        },
    ]
}
PLAYED = complete(
    simple(
        {"g": [[0.0, 1.0], [0.0, 0.0, 0.3], [0.5], [0.0, 1.0, 0.0]], "h": [[1.0], [0.0, 0.0]]},
        states="same",
    )
)


def one_turn(rewards: list[float], **keys: Any) -> list[Episode]:
    return [
        episode(f"e{i}", "g", [turn(0, r)], correct=r > 0.5, format_ok=True, **keys)
        for i, r in enumerate(rewards)
    ]


def advantages(pipeline: dict[str, Any], episodes: list[Episode]) -> list[Any]:
    return [values[0] for values in build(pipeline).run(episodes).advantages()]


def with_shaper(shaper: str, **options: Any) -> dict[str, Any]:
    spec = score("environment")
    spec["channel"][0]["shapers"] = [{"id": shaper, **options}]
    return spec


# --- combining ------------------------------------------------------------------------------------------


def test_parts_of_many_methods_make_one_pipeline_whose_terms_sum() -> None:
    result = build(EVERYTHING).run(PLAYED)
    assert list(result.terms) == ["task/episode", "task/step", "task/gain", "efficiency/episode"]
    assert all(term.any() for term in result.terms.values())
    np.testing.assert_array_equal(sum(result.terms.values()), result.advantage_N)
    assert result.memory["task/otc"].keys() == {"g", "h"}


def test_parts_do_not_change_each_other() -> None:
    together, alone = build(EVERYTHING).run(PLAYED), build({"preset": "gigpo"}).run(PLAYED)
    np.testing.assert_array_equal(together.terms["task/step"], alone.terms["step"])


@pytest.mark.parametrize("preset", ["otc", "hapo", "dcpo", "spo", "riskpo"])
def test_memory_does_not_depend_on_the_order_of_the_batch(preset: str) -> None:
    pipeline = build({"preset": preset})
    first = pipeline.run(PLAYED)
    again = pipeline.run(PLAYED, first.memory)
    turned = pipeline.run(PLAYED[::-1], first.memory)
    assert json.loads(json.dumps(again.memory)) == again.memory
    flat = [json.dumps(r.memory, sort_keys=True) for r in (again, turned)]
    assert _numbers(json.loads(flat[0])) == pytest.approx(_numbers(json.loads(flat[1])))
    for one, other in zip(again.advantages(), turned.advantages()[::-1], strict=True):
        assert one == pytest.approx(other, abs=1e-12)


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [x for key in sorted(value) for x in _numbers(value[key])]
    return [float(value)]


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=12))
def test_otc_rewards_the_cheapest_correct_episode_most(played: list[tuple[int, bool]]) -> None:
    episodes = [
        replace(
            episode(f"e{i}", "g", [turn(0)], correct=ok),
            turns=(replace(turn(0), tool_calls=calls),),
        )
        for i, (calls, ok) in enumerate(played)
    ]
    got = advantages(score("otc"), episodes)
    correct = [(calls, reward) for (calls, ok), reward in zip(played, got, strict=True) if ok]
    assert all(reward == 0 for (_, ok), reward in zip(played, got, strict=True) if not ok)
    if correct:
        assert min(correct)[1] == pytest.approx(1.0)
        rewards = [reward for _, reward in sorted(correct)]
        assert rewards == sorted(rewards, reverse=True)


def test_equal_gains_and_outcomes_give_exactly_zero_when_compared_separately() -> None:
    episodes = [replace(e, episode_id=f"{e.episode_id}-{i}") for i in range(4) for e in PLAYED[:1]]
    result = build({"preset": "igpo", "normalisation": "separate"}).run(episodes)
    assert not result.advantage_N.any()


def test_a_truncated_episode_without_scores_is_compared_by_its_outcome_alone() -> None:
    cut = replace(
        PLAYED[0],
        episode_id="cut",
        stop_reason=StopReason.MAX_TURNS,
        turns=tuple(replace(t, gold_logprob=None) for t in PLAYED[0].turns),
    )
    result = build({"preset": "igpo"}).run([*PLAYED, cut])
    advantage = result.advantages()[-1]
    assert len(set(advantage)) == 1  # both turns carry the outcome's credit
    assert result.metrics["credit/information_gain/share"] < 0.5


# --- by hand --------------------------------------------------------------------------------------------


def test_bnpo_divides_by_the_density_of_the_success_rate() -> None:
    half = advantages({"preset": "bnpo"}, one_turn([1.0, 0.0]))
    density = 8 / math.pi * 0.5  # Beta(3/2, 3/2) at one half
    assert half == pytest.approx([0.5 / density, -0.5 / density])
    episodes = complete(simple({"a": [[1.0], [0.0], [0.0], [0.0]], "b": [[1.0], [1.0], [1.0], [0.0]]}))
    strength = 0.5 * 0.5 / 0.0625 - 1
    shape = 1 + strength / 2 / 3
    norm = math.gamma(2 * shape) / math.gamma(shape) ** 2
    density = norm * (0.25 * 0.75) ** (shape - 1)
    got = advantages({"preset": "bnpo"}, episodes)
    assert got == pytest.approx([x / density for x in (0.75, -0.25, -0.25, -0.25, 0.25, 0.25, 0.25, -0.75)])


def test_riskpo_learns_from_the_lower_tail_of_bundles() -> None:
    episodes = [
        replace(e, metadata={"bundle": f"b{i % 2}"}) for i, e in enumerate(one_turn([0.0, 1.0, 0.2, 0.9]))
    ]
    memory = {"riskpo": {"low": 0.5, "high": 1.5}}
    result = build({"preset": "riskpo", "omega": 0.5}).run(episodes, memory)
    assert [a[0] for a in result.advantages()] == pytest.approx([1.5 * (0.2 - 0.5) - 1.0, 0.0] * 2)
    assert result.memory["riskpo"]["low"] == pytest.approx(0.5 + 0.1 * (0.2 - 0.5))
    assert result.memory["riskpo"]["high"] == pytest.approx(1.5 + 0.1 * (0.8 - 0.5))


def test_mt_grpo_credits_the_turns_up_to_the_first_call() -> None:
    def played(name: str, early: float, correct: bool) -> Episode:
        turns = [turn(0), replace(turn(1, early), tool_calls=1), turn(2, float(correct))]
        return episode(name, "g", turns, correct=correct)

    episodes = [played("a", 1.0, False), played("b", 0.0, True)]
    result = build({"preset": "mt_grpo", "whiten": False, "coef": 0.5}).run(episodes)
    z = 0.5 / (math.sqrt(0.5) + 1e-6)
    assert result.advantages()[0] == pytest.approx([-z + z / 2, -z + z / 2, -z])
    assert result.advantages()[1] == pytest.approx([z - z / 2, z - z / 2, z])


def test_mt_grpo_leaves_episodes_without_calls_out_of_the_comparison() -> None:
    result = build({"preset": "mt_grpo", "whiten": False}).run(one_turn([1.0, 0.0]))
    assert not result.terms["turn"].any()


def test_flow_grpo_as_released_counts_turns() -> None:
    paper, released = (
        build({"preset": "flow_grpo", "variant": v}).run(PLAYED).advantage_N for v in ("paper", "agentflow")
    )
    np.testing.assert_array_equal(paper, build({"preset": "grpo"}).run(PLAYED).advantage_N)
    assert not np.allclose(paper, released)


def test_fapo_pays_less_for_a_flawed_success() -> None:
    judged = zip(one_turn([1.0, 1.0, 0.0]), (-1, 2, 0), strict=True)
    episodes = [replace(e, metadata={"first_error_index": at}) for e, at in judged]
    assert advantages(score("fapo", flaw_penalty=0.75), episodes) == [1.0, 0.25, -1.0]


def test_error_categories_have_prices() -> None:
    wrong = replace(turn(0), extra={"error_category": "parse"})
    played = [episode("e", "g", [wrong, turn(1)])]
    result = build(score("error_categories", penalties={"parse": 0.3})).run(played)
    assert result.advantages() == [[-0.3, 0.0]]
    with pytest.raises(ConfigError, match="error_category 'parse'; penalties lists other"):
        build(score("error_categories", penalties={"other": 0.3})).run(played)


def test_the_format_reward() -> None:
    episodes = [replace(e, format_ok=ok) for e, ok in zip(one_turn([1.0, 1.0]), (True, False), strict=True)]
    assert advantages(score("format_reward", kept=0.2, broken=-0.1), episodes) == [0.2, -0.1]


def test_hapo_can_remember_the_mean_and_measure_in_tool_calls() -> None:
    def played(name: str, calls: int, batch: int) -> dict[str, Any]:
        return record(name, "t", [{"tool_calls": calls}], correct=True, batch=batch)

    spec = build(score("hapo", history="mean", measure="tool_calls", variant="linear"))
    from agentrl.store.record import episode_from_record

    records = [played("a", 2, 0), played("b", 4, 0), played("c", 1, 1), played("d", 3, 1)]
    first, second = spec.run_batches([episode_from_record(r) for r in records])
    assert not first.advantage_N.any()
    assert first.memory["hapo"]["t"] == {"length": 3.0, "count": 2}
    assert second.advantage_N.tolist() == pytest.approx([1 - 1 / 3, 0.0])


def test_d3s_keeps_the_ends_of_each_group() -> None:
    got = advantages(with_shaper("d3s", share=0.5), one_turn([0.1, 0.9, 0.5, 0.4]))
    assert got == [0.1, 0.9, None, None]
    assert advantages(with_shaper("d3s", share=1.0), one_turn([0.1, 0.9])) == [0.1, 0.9]


def tokens(entropies: list[float], reward: float) -> Episode:
    logprobs = tuple(-x for x in entropies)
    spoken = replace(turn(0, reward, tokens=len(entropies)), entropies=tuple(entropies), logprobs=logprobs)
    return episode(f"e{reward}", "g", [spoken])


def test_token_masks_keep_the_uncertain_tokens() -> None:
    played = [tokens([0.1, 2.0, 0.2, 0.3], 1.0), tokens([0.5, 0.0], -4.0)]
    result = build(with_shaper("token_mask", share=0.34)).run(played)
    kept = [[bool(round(a, 9)) for a in turns[0]] for turns in result.token_advantages() or []]
    assert kept == [[False, True, False, True], [True, False]]
    ranked = build(with_shaper("token_mask", share=0.3, by="advantage_entropy")).run(played)
    kept = [[bool(round(a, 9)) for a in turns[0]] for turns in ranked.token_advantages() or []]
    assert kept == [[False, True, False, False], [True, False]]
    np.testing.assert_allclose(ranked.advantage_N, [0.25, -2.0])  # the mean over a turn's tokens


def test_focal_factors_weigh_by_rarity() -> None:
    result = build(with_shaper("focal", focal_gamma=2.0)).run([tokens([0.0, math.log(2)], 1.0)])
    assert (result.token_advantages() or [])[0][0] == pytest.approx([0.0, 0.25])
    assert result.advantage_N.tolist() == pytest.approx([0.125])


def test_token_advantages_are_written(tmp_path: Path) -> None:
    spoken = {"num_tokens": 2, "reward": 1.0, "logprobs": [0.0, -math.log(2)], "entropies": [0.0, 1.0]}
    written = credit(tmp_path, with_shaper("focal"), [record("e", "g", [spoken])]).records[0]["turns"][0]
    assert written["token_advantages"] == pytest.approx([0.0, 0.5])
    assert sum(written["terms"].values()) == pytest.approx(written["advantage"])


def test_mask_truncated_keeps_the_statistics() -> None:
    episodes = one_turn([1.0, 0.0])
    episodes[1] = replace(episodes[1], stop_reason=StopReason.MAX_TOKENS)
    assert advantages(with_shaper("mask_truncated"), episodes) == [1.0, None]


def test_hints_rise_while_everything_fails_and_fall_after_a_success() -> None:
    spec = {**score("environment"), "select": [{"id": "hints", "tiers": 2, "patience": 2}]}
    memory: Any = {}
    seen = []
    for reward in (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0):
        memory = build(spec).run(one_turn([reward, 0.0]), memory).memory
        seen.append(memory["hints"]["g"]["share"])
    assert seen == [0.0, 0.5, 0.5, 1.0, 1.0, 1.0, 0.0]


def test_priority_prefers_tasks_of_even_odds() -> None:
    spec = {**score("environment"), "select": [{"id": "priority"}]}
    episodes = complete(simple({"even": [[1.0], [0.0]], "solved": [[1.0], [1.0]], "lost": [[0.0], [0.0]]}))
    weights = {task: s["weight"] for task, s in build(spec).run(episodes).memory["priority"].items()}
    assert weights["even"] > weights["solved"] == pytest.approx(weights["lost"])


def test_hdpo_tool_channel_needs_two_correct_episodes() -> None:
    episodes = complete(simple({"g": [[1.0], [0.0], [0.0]]}))
    result = build({"preset": "hdpo"}).run(episodes)
    assert not result.terms["tool/episode"].any()
    assert result.channels[1].credited_N.all()


# --- refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "strip", "message"),
    [
        ("igpo", {"gold_logprob": None}, r"turn 0 of episode 'g-0' has no gold_logprob.*gold answers.*grpo"),
        ("gigpo", {"state_key": None}, r"turn 0 of episode 'g-0' has no state_key.*grpo"),
        ("otb", {"logprobs": None}, "no logprobs, and otb needs it; store the episodes with their tokens"),
        ("otb", {"extra": {}}, r"no turn.sum_pi_squared"),
        ("gae", {"extra": {}}, r"no turn.values"),
    ],
)
def test_turns_that_lack_something_are_refused(preset: str, strip: dict[str, Any], message: str) -> None:
    played = [replace(e, turns=tuple(replace(t, **strip) for t in e.turns)) for e in PLAYED]
    with pytest.raises(ConfigError, match=message) as caught:
        build({"preset": preset}).run(played)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("preset", "strip", "message"),
    [
        ("otc", {"correct": None}, "episode 'g-0' has no correct, and otc needs it; let the environment"),
        ("hdpo", {"format_ok": None}, "no format_ok, and accuracy needs it"),
        ("apo", {"metadata": {"mode": "instant"}}, "no metadata.forced, and apo needs it"),
        ("egrpo", {"metadata": {}}, "no metadata.matched_entities"),
        ("hbpo", {"metadata": {"budget": "big"}}, "finite number 'budget' in its metadata, got 'big'"),
        ("gdpo", {"metadata": {"rewards": {"style": 1}}}, "no finite reward 'accuracy'; its rewards: style"),
        ("spo", {"episode_return": 3.0}, "return outside 0..1"),
    ],
)
def test_episodes_that_lack_something_are_refused(preset: str, strip: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build({"preset": preset}).run([replace(e, **strip) for e in PLAYED])
    assert "\n" not in str(caught.value)


def test_a_failed_episode_may_lack_anything() -> None:
    broken = episode("broken", "g", [turn(0)], failed=True)
    assert build({"preset": "igpo"}).run([*PLAYED, broken]).advantages()[-1] == [None]


def test_a_discount_on_top_of_a_discount_is_refused() -> None:
    channel = {
        "name": "task",
        "rewards": [{"id": "environment"}, {"id": "eapo"}],
        "estimators": [{"id": "group_norm"}, {"id": "step_norm"}],
    }
    with pytest.raises(ConfigError, match=r"'eapo' is discounted already .*'step_norm' .*gamma = 1.0"):
        build({"channel": [channel]})
    build({"channel": [{**channel, "estimators": [{"id": "step_norm", "gamma": 1.0}]}]})
    build({"channel": [{**channel, "estimators": [{"id": "step_norm", "of": ["environment"]}]}]})
    build(
        {
            "channel": [
                {
                    **channel,
                    "rewards": [{"id": "eapo", "gamma": 1.0}],
                    "estimators": [{"id": "step_norm"}],
                }
            ]
        }
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"preset": "otc", "c": 4}, "unknown key c; known: .*c_max_tool_calls"),
        ({"preset": "otc", "c_max_tool_calls": 0}, "c_max_tool_calls: .*greater than 0"),
        ({"preset": "aspo", "k": 1.0}, "k: .*less than 1"),
        ({"preset": "gae", "lambda": 1.5}, "lambda_: .*less than or equal to 1"),
        ({"preset": "gdpo", "weights": {"accuracy": "much"}}, "weights.*number"),
        ({"preset": "eapo", "divisor": 0}, "divisor: .*greater than or equal to 1"),
        ({"preset": "igpo", "normalisation": "both"}, "normalisation: .*'joint' or 'separate'"),
    ],
)
def test_wrong_options_say_what_is_right(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build(config)
    assert "\n" not in str(caught.value)


def test_a_pipeline_says_what_it_needs_before_anything_is_played() -> None:
    assert build({"preset": "grpo"}).needs == {}
    assert build({"preset": "igpo"}).needs == {"information_gain": ("gold_logprob",)}
    assert build(EVERYTHING).needs["step_norm"] == ("state_key",)
    assert traits_of(len).needs == ()

"""The pipeline: terms, drops, memory, channels, spelled-out configs and what they refuse."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from credit.episodes import complete, episode, golden_cases, golden_episodes, simple, turn

from agentrl import registry
from agentrl.credit import Batch, build
from agentrl.credit.options import check_options
from agentrl.errors import ConfigError, UnknownPlugin

PRESETS = registry.names("credit.preset")
EPISODES = complete(
    [
        *golden_episodes(next(golden_cases("gigpo_small_07*"))),
        *simple({"other": [[0.0, 1.0], [0.5], [0.0, 0.0, 0.3]]}, states="same"),
    ]
)
NOT_SHIFT_INVARIANT = {
    "eapo": "multiplies the return",
    "igpo": "compares the return with gains",
    "spo": "tracks rates between 0 and 1",
    "riskpo": "compares with absolute quantiles",
}
NOT_RELATIVE = {
    "dapo": "leaves such groups out",
    "igpo": "compares turns with other turns; see test_methods",
    "riskpo": "compares with quantiles of the batch",
    "eapo": "later rounds of an episode are worth more than earlier ones",
    "egae": "compares with a critic",
    "gae": "compares with a critic",
    "hbpo": "compares with what the budget promises",
}
ONE_FILE = {"preset": "credit.one_file_method:preset"}


def rebuilt(toml: str) -> Any:
    document = tomllib.loads(toml)
    return build(document["credit"], loss_terms=document.get("loss", {}).get("term", ()))


@pytest.mark.parametrize("preset", PRESETS)
def test_explain_round_trips(preset: str) -> None:
    pipeline = build({"preset": preset})
    again = rebuilt(pipeline.explain())
    assert again == pipeline
    assert again.explain() == pipeline.explain()
    assert again.run(EPISODES).advantages() == pipeline.run(EPISODES).advantages()


def test_explain_round_trips_with_everything() -> None:
    gigpo = build({"preset": "gigpo", "similarity_threshold": 0.5, "variant": "verl-agent"}).spec
    spelled = {**gigpo, "select": [{"id": "dynamic_sampling"}]}
    terms = [{"id": "corridor", "weight": 0.1, "bounds": [0.0, 2.0], "label": 'a "b" \\ é\n', "on": True}]
    pipeline = build(spelled, loss_terms=terms)
    assert rebuilt(pipeline.explain()) == pipeline
    assert pipeline.loss_terms[0].options == {"bounds": [0.0, 2.0], "label": 'a "b" \\ é\n', "on": True}


@pytest.mark.parametrize("preset", [*PRESETS, ONE_FILE["preset"]])
def test_terms_sum_to_the_advantage_bit_for_bit(preset: str) -> None:
    result = build({"preset": preset}).run(EPISODES)
    for record in result.records():
        for credited in record["turns"]:
            total = 0.0
            for value in credited["terms"].values():
                total += value
            assert total == credited["advantage"]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_failed_episode_leaves_no_trace_in_the_others(preset: str) -> None:
    failed = [
        replace(EPISODES[0], episode_id="f1", error={"code": "env.timeout"}),
        episode("f2", "other", [turn(0, 1e9)], failed=True),
        episode("f3", "lonely", [], failed=True),
    ]
    mixed = [failed[0], *EPISODES[:3], failed[1], *EPISODES[3:], failed[2]]
    pipeline = build({"preset": preset})
    result, alone = pipeline.run(mixed), pipeline.run(EPISODES)
    advantages = result.advantages()
    assert [advantages[i] for i in (1, 2, 3, 5, 6, 7)] == alone.advantages()
    assert advantages[0] == [None] * len(EPISODES[0].turns)
    assert advantages[4] == [None]
    assert advantages[8] == []
    assert result.metrics["credit/dropped_episodes"] == 3
    assert not result.advantage_N[~result.credited_N].any()


@pytest.mark.parametrize("preset", PRESETS)
def test_order_of_episodes_does_not_matter(preset: str) -> None:
    pipeline = build({"preset": preset})
    forward = pipeline.run(EPISODES).advantages()
    backward = pipeline.run(EPISODES[::-1]).advantages()[::-1]
    for one, other in zip(forward, backward, strict=True):
        assert one == pytest.approx(other, abs=1e-12)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name not in NOT_SHIFT_INVARIANT])
def test_a_common_shift_of_the_return_changes_no_group_comparison(preset: str) -> None:
    shifted = [replace(e, episode_return=e.ret + 5.0) for e in EPISODES]
    pipeline = build({"preset": preset})
    before, after = pipeline.run(EPISODES), pipeline.run(shifted)
    np.testing.assert_allclose(after.advantage_N, before.advantage_N, atol=1e-9)


@pytest.mark.parametrize("weight", [0.0, 0.5, 3.0])
def test_gigpo_is_grpo_where_states_never_repeat(weight: float) -> None:
    episodes = simple({"g": [[0.0, 1.0], [0.0, 0.2, 0.3], [0.0]], "h": [[1.0], [0.0, 0.0]]})
    gigpo = build({"preset": "gigpo", "step_advantage_weight": weight}).run(episodes)
    grpo = build({"preset": "grpo"}).run(episodes)
    assert gigpo.advantages() == grpo.advantages()


@pytest.mark.parametrize(
    ("preset", "reward"),
    [
        (preset, reward)
        for preset in PRESETS
        for reward in (0.1, 0.9, 9.9, 10.0 - 0.1)
        if preset not in NOT_RELATIVE and not (preset == "spo" and reward > 1)  # success rates end at 1
    ],
)
def test_a_group_that_always_does_the_same_gets_exactly_zero(preset: str, reward: float) -> None:
    episodes = complete(simple({"g": [[0.0, reward]] * 8, "h": [[0.0, reward]] * 3}, states="same"))
    if preset == "gigpo":  # the same states at the same times, so no visit differs from its peers
        episodes = [replace(e, turns=tuple(replace(t, state_key=t.index) for t in e.turns)) for e in episodes]
    result = build({"preset": preset}).run(episodes)
    assert result.credited_N.all()
    assert not result.advantage_N.any()
    assert result.metrics["credit/zero_advantage_group_share"] == 1.0


def test_an_invalid_action_among_equal_returns_cannot_explode() -> None:
    quiet = [turn(0, 0.0, "a"), turn(1, 1.0, "b")]
    clumsy = [turn(0, 0.0, "a"), turn(1, 1.0, "b", valid=False)]
    episodes = [episode("1", "g", quiet), episode("2", "g", clumsy)]
    assert np.abs(build({"preset": "gigpo"}).run(episodes).advantage_N).max() < 1.0


def test_nothing_to_credit() -> None:
    for episodes in ([], [episode("f", "g", [turn(0)], failed=True)], [episode("e", "g", [])]):
        result = build({"preset": "gigpo"}).run(episodes)
        assert not result.credited_N.any()
        assert list(result.terms) == ["episode", "step"]


def test_select_leaves_out_groups_that_cannot_teach() -> None:
    spec = {**build({"preset": "grpo"}).spec, "select": [{"id": "dynamic_sampling"}]}
    episodes = simple({"mixed": [[1.0], [0.0]], "solved": [[1.0], [1.0]], "single": [[1.0]]})
    result = build(spec).run(episodes)
    assert result.credited_N.tolist() == [True, True, False, False, False]
    assert result.advantages()[2] == [None]
    assert result.metrics["credit/dynamic_sampling/dropped_groups"] == 2
    spec["select"] = [{"id": "dynamic_sampling", "singletons": "keep"}]
    assert build(spec).run(episodes).credited_N.tolist() == [True, True, False, False, True]


def test_a_method_in_one_file_with_channels_memory_and_a_loss_term() -> None:
    def attempt(name: str, calls: int, correct: bool, batch: int = 0) -> Any:
        made = episode(name, "t", [turn(0, float(correct))], correct=correct, batch=batch)
        return replace(made, turns=tuple(replace(t, tool_calls=calls) for t in made.turns))

    pipeline = build({**ONE_FILE, "efficiency_weight": 2.0})
    assert pipeline.loss_terms[0].id == "entropy"
    assert rebuilt(pipeline.explain()) == pipeline
    episodes = [
        attempt("a", 2, True),
        attempt("b", 4, True),
        attempt("c", 1, False),
        attempt("d", 8, True, 1),
    ]
    first, second = pipeline.run_batches(episodes)
    assert second.memory == {"efficiency/frugal": {"t": 2}}
    assert first.memory == {"efficiency/frugal": {"t": 2}}
    efficiency = first.channels[1]
    np.testing.assert_allclose(efficiency.advantage_N, [0.5, 0.0, 0.0])  # 1, 0.5, 0 centred; c is masked
    assert efficiency.credited_N.tolist() == [True, True, False]
    assert first.credited_N.all()
    np.testing.assert_array_equal(first.terms["efficiency/group_norm"], 2.0 * efficiency.advantage_N)
    record = list(first.records())[2]
    assert record["channels"]["efficiency"] == [None]
    assert record["turns"][0]["advantage"] == record["channels"]["accuracy"][0]


def test_memory_is_not_changed_in_place() -> None:
    memory = {"efficiency/frugal": {"t": 5}}
    solved = episode("a", "t", [turn(0, 1.0)], correct=True)
    result = build(ONE_FILE).run([solved], memory)
    assert memory == {"efficiency/frugal": {"t": 5}}
    assert result.memory == {"efficiency/frugal": {"t": 1}}


def test_estimators_can_read_one_reward_each() -> None:
    channel = {
        "name": "task",
        "rewards": [
            {"id": "environment"},
            {"id": "invalid_action", "name": "clumsy", "penalty": 1.0, "weight": 2.0},
        ],
        "estimators": [
            {"id": "score", "name": "paid", "of": ["environment"]},
            {"id": "score", "name": "fined", "of": ["clumsy"], "weight": 0.5},
        ],
    }
    episodes = [episode("e", "g", [turn(0, 3.0, valid=False), turn(1, 1.0)])]
    result = build({"channel": [channel]}).run(episodes)
    assert result.terms["paid"].tolist() == [4.0, 4.0]
    assert result.terms["fined"].tolist() == [-1.0, 0.0]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, r"needs preset = .* the presets are .*gigpo"),
        ({"preset": 3}, "preset is a name"),
        ({"preset": "gigpo", "gama": 0.9}, r"unknown key gama; known: .*gamma"),
        ({"preset": "gigpo", "gamma": "high"}, r"gamma: .*number, got 'high'"),
        ({"preset": "gigpo", "gamma": 1.5}, r"gamma: .*less than or equal to 1, got 1.5"),
        ({"preset": "gigpo", "gamma": float("nan")}, "gamma: .*finite"),
        ({"preset": "grpo", "divide_by_std": 1}, r"divide_by_std: .*boolean, got 1"),
        ({"preset": "gigpo", "mode": "mean"}, r"mode: .*'mean_std_norm' or 'mean_norm', got 'mean'"),
        ({"preset": "gigpo", "similarity_threshold": 0}, r"similarity_threshold: .*greater than 0"),
        ({"channel": []}, r"channel: .*at least 1 item"),
        ({"channel": "task"}, r"channel: .*list, got 'task'"),
        ({"channel": [{"name": "a"}]}, r"credit.channel\[0\]: missing key rewards; missing key estimators"),
        ({"channel": [{"name": "a"}], "gamma": 1}, "unknown key gamma; known: channel, loss_term, select"),
    ],
)
def test_bad_configs_get_one_clear_line(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": [{}]}, r"channel\[0\].rewards\[0\]: missing key id"),
        (
            {"rewards": [{"id": "environment", "scale": 2}]},
            r"rewards\[0\] \(environment\): unknown key scale",
        ),
        ({"estimators": [{"id": "group_norm", "weight": "1"}]}, r"weight: .*number, got '1'"),
        ({"estimators": [{"id": "group_norm"}] * 2}, "two entries are called 'group_norm'"),
        (
            {"estimators": [{"id": "group_norm", "of": ["judge"]}]},
            "reads reward 'judge'; the channel has environment",
        ),
        ({"weight": "heavy"}, r"credit.channel\[0\]: weight"),
    ],
)
def test_bad_channels_say_where(change: dict[str, Any], message: str) -> None:
    channel = {"name": "a", "rewards": [{"id": "environment"}], "estimators": [{"id": "group_norm"}]}
    with pytest.raises(ConfigError, match=message):
        build({"channel": [channel | change]})


def test_unknown_ids_list_what_exists() -> None:
    with pytest.raises(UnknownPlugin, match=r"'gigpoo'.*gigpo, grpo"):
        build({"preset": "gigpoo"})
    with pytest.raises(UnknownPlugin, match=r"'curiosity'.*environment.*invalid_action"):
        build(
            {
                "channel": [
                    {"name": "a", "rewards": [{"id": "curiosity"}], "estimators": [{"id": "group_norm"}]}
                ]
            }
        )


def test_rewards_must_be_finite() -> None:
    with pytest.raises(ConfigError, match="episode 'e' has a reward of nan"):
        build({"preset": "grpo"}).run([episode("e", "g", [turn(0, float("nan"))])])


@pytest.mark.parametrize(
    "kind", ["credit.select", "credit.reward", "credit.estimator", "credit.shaper", "credit.preset"]
)
def test_every_method_loads_has_defaults_and_says_what_it_does(kind: str) -> None:
    for plugin in registry.names(kind):
        method = registry.load(kind, plugin)
        assert method.__name__ == plugin
        assert method.__doc__
        options = check_options(method, {}, where=plugin)
        kept = {"preset"} if kind == "credit.preset" else {"id", "name", "weight", "of", "preset"}
        assert not options.keys() & kept, "the pipeline keeps these names"


def test_work_grows_linearly() -> None:
    """Count calls, not seconds: twice the turns may not cost more than twice the calls."""
    import cProfile
    import pstats

    def calls(turns: int) -> int:
        batch = Batch(tuple(simple({f"g{i}": [[0.0] * turns] * 4 for i in range(40)}, states="same")))
        profile = cProfile.Profile()
        profile.runcall(build({"preset": "gigpo"}).run_batch, batch)
        return pstats.Stats(profile).total_calls  # type: ignore[attr-defined]

    calls(5)
    assert calls(80) < 2.1 * calls(40)

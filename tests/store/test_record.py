"""The episode record: exact round trips, lenient about what is missing, strict about what is wrong."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentrl.errors import AlignmentError, ConfigError, StoreError
from agentrl.store.db import Store
from agentrl.store.parquet import read_parquet, write_parquet
from agentrl.store.record import episode_from_record, episode_to_record, read_jsonl, record_line, write_jsonl
from agentrl.types import Episode, StopReason, Turn

MakeEpisode = Callable[..., Episode]

TURN_NAMES = {field.name for field in dataclasses.fields(Turn)}
EPISODE_NAMES = {field.name for field in dataclasses.fields(Episode)}
DERIVED = {"return", "truncated"}
RESERVED = TURN_NAMES | EPISODE_NAMES | DERIVED

finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=20)
rewards = finite.filter(lambda value: abs(value) < 1e300)  # their sum is a number
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
json_objects = st.dictionaries(texts, json_values, max_size=3)
extras = st.dictionaries(names.filter(lambda name: name not in RESERVED), json_values, max_size=2)
maybe_int = st.none() | st.integers(0, 10_000)


@st.composite
def turns(draw: st.DrawFn, index: int) -> Turn:
    tokens: dict[str, Any] = {}
    if draw(st.booleans()):
        token_ids = draw(st.lists(st.integers(0, 200_000), max_size=6).map(tuple))
        sampled = draw(st.tuples(*(st.sampled_from((0, 1)) for _ in token_ids)))
        values = st.tuples(
            *(finite | st.floats(width=32, allow_nan=False, allow_infinity=False),) * sum(sampled)
        )
        tokens = {
            "prompt_ids": draw(st.lists(st.integers(0, 60_000), max_size=4).map(tuple)),
            "token_ids": token_ids,
            "sampled": sampled,
            "logprobs": draw(values),
            "entropies": draw(values),
        }
    return Turn(
        index=index,
        reward=draw(rewards),
        state_key=draw(json_values),
        action_valid=draw(st.booleans()),
        tool_calls=draw(st.integers(0, 5)),
        tool_call_at=draw(maybe_int),
        num_tokens=draw(maybe_int),
        policy_version=draw(maybe_int),
        gold_logprob=draw(st.none() | finite),
        observation=draw(st.none() | texts),
        reply=draw(st.none() | texts),
        fresh_context=draw(st.booleans()),
        extra=draw(extras),
        **tokens,
    )


@st.composite
def episodes(draw: st.DrawFn) -> Episode:
    played = tuple(draw(turns(index)) for index in range(draw(st.integers(0, 3))))
    error = draw(st.none() | st.just({"code": "env.lost", "message": "it went away", "detail": {}}))
    recorded = draw(st.none() | finite)
    return Episode(
        episode_id=draw(names),
        group_id=draw(names),
        task_id=draw(names),
        env=draw(texts),
        seed=draw(st.integers()),
        turns=played,
        stop_reason=StopReason.ERROR if error else draw(st.sampled_from(list(StopReason)[:4])),
        batch=draw(st.integers(0, 100)),
        env_version=draw(texts),
        config_hash=draw(texts),
        correct=draw(st.none() | st.booleans()),
        format_ok=draw(st.none() | st.booleans()),
        error=error,
        # A recorded return that equals the sum of the rewards says nothing of its own.
        episode_return=None if recorded == sum(turn.reward for turn in played) else recorded,
        parent_episode_id=draw(st.none() | names),
        branch_turn=draw(maybe_int),
        metadata=draw(json_objects),
        extra=draw(extras),
    )


@given(episodes())
def test_round_trip_is_exact(episode: Episode) -> None:
    line = record_line(episode)
    back = episode_from_record(json.loads(line))
    assert back == episode
    assert record_line(back) == line
    assert line.count(b"\n") == 1


@given(episodes())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_round_trip_through_a_store_is_exact(store: Store, episode: Episode) -> None:
    episode = replace(episode, env=episode.env.replace("\0", ""), env_version="1", config_hash="")
    run_id = store.add_run(name="any", env="any", config={})
    store.add_episodes(run_id, [episode])
    assert list(store.episodes(run_id)) == [episode]
    assert store.add_episodes(run_id, list(store.episodes(run_id))) == 0


def test_record_has_a_key_for_every_field(make_episode: MakeEpisode) -> None:
    record = episode_to_record(make_episode())
    assert set(record) == EPISODE_NAMES - {"episode_return", "extra"} | DERIVED
    assert set(record["turns"][0]) == TURN_NAMES - {"extra"}


def test_minimal_record() -> None:
    record = {"episode_id": "a", "group_id": "g", "turns": [{"state_key": 3, "reward": 1}, {"reward": None}]}
    episode = episode_from_record(record)
    assert (episode.task_id, episode.env, episode.seed, episode.batch) == ("g", "", 0, 0)
    assert [turn.index for turn in episode.turns] == [0, 1]
    assert [turn.reward for turn in episode.turns] == [1.0, 0.0]
    assert (episode.ret, episode.correct, episode.stop_reason) == (1.0, None, StopReason.TERMINATED)


@pytest.mark.parametrize(
    ("given_keys", "stop_reason"),
    [
        ({}, "terminated"),
        ({"truncated": False}, "terminated"),
        ({"truncated": True}, "max_turns"),
        ({"error": "boom"}, "error"),
        ({"error": {"code": "x", "message": "boom"}}, "error"),
        ({"error": "", "truncated": None}, "terminated"),
        ({"stop_reason": "timeout"}, "timeout"),
        ({"stop_reason": "max_tokens", "truncated": True}, "max_tokens"),
    ],
)
def test_stop_reason_is_worked_out(given_keys: dict[str, Any], stop_reason: str) -> None:
    episode = episode_from_record({"episode_id": "a", "group_id": "g", "turns": [], **given_keys})
    assert episode.stop_reason == stop_reason


def test_recorded_return_is_kept_apart_from_rewards() -> None:
    record = {"episode_id": "a", "group_id": "g", "turns": [{"reward": 1.0}]}
    assert episode_from_record({**record, "return": 5}).ret == 5.0
    assert episode_from_record({**record, "episode_return": 5}).episode_return == 5.0
    assert episode_from_record({**record, "return": 1.0}).episode_return is None


def test_unknown_keys_are_written_back_where_they_stood() -> None:
    record = {
        "episode_id": "a",
        "group_id": "g",
        "mine": {"x": None},
        "none": None,
        "turns": [{"extra": 1, "model_config": [2]}],
    }
    written = episode_to_record(episode_from_record(record))
    assert (written["mine"], written["none"]) == ({"x": None}, None)
    assert (written["turns"][0]["extra"], written["turns"][0]["model_config"]) == (1, [2])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"episode_id": None}, "episode_id: Field required"),
        ({"turns": "no"}, "turns"),
        ({"turns": [{"reward": "high"}]}, "turns.0.reward"),
        ({"turns": [{"reward": float("nan")}]}, "finite"),
        ({"turns": [{"index": 1}, {"index": 1}]}, "'index' must increase"),
        ({"turns": [{"tool_call_at": -1}]}, "tool_call_at"),
        ({"stop_reason": "length"}, "'max_tokens'"),
        ({"stop_reason": "terminated", "truncated": True}, "leave one of them out"),
    ],
)
def test_wrong_records_say_what_was_expected(change: dict[str, Any], expected: str) -> None:
    record = {"episode_id": "a", "group_id": "g", "turns": [], **change}
    with pytest.raises(ConfigError, match=expected):
        episode_from_record(record)


def test_extra_cannot_overwrite_a_key_of_ours(make_episode: MakeEpisode) -> None:
    with pytest.raises(AlignmentError, match="reward"):
        episode_to_record(make_episode(turns=(Turn(0, extra={"reward": 2.0}),)))


def test_what_json_cannot_say_is_refused(make_episode: MakeEpisode) -> None:
    for bad in ({"x": float("nan")}, {"x": b"bytes"}):
        with pytest.raises(AlignmentError, match="'e0'"):
            record_line(make_episode(metadata=bad))


def test_lone_surrogates_survive_a_file(tmp_path: Path, make_episode: MakeEpisode) -> None:
    episode = make_episode(turns=(Turn(0, reply="\ud800 \u2028 é"),))
    write_jsonl(tmp_path / "e.jsonl", [episode])
    assert list(read_jsonl(tmp_path / "e.jsonl")) == [episode]


def test_bad_line_is_named_and_earlier_ones_are_read(tmp_path: Path, make_episode: MakeEpisode) -> None:
    path = tmp_path / "e.jsonl"
    good = record_line(make_episode())
    for bad, expected in [
        (b"{oops", "expected one JSON object"),
        (b"[1]", "expected a JSON object.*got list"),
        (b'{"episode_id": "b"}', "group_id"),
        (b'{"episode_id": "b", "group_id": "g", "turns": [{"reward": NaN}]}', "NaN"),
        (b"\xff\xfe", "expected one JSON object"),
    ]:
        path.write_bytes(good + b"\n" + bad + b"\n")
        reader = read_jsonl(path)
        assert next(reader).episode_id == "e0"
        with pytest.raises(ConfigError, match=rf"e\.jsonl:3: .*{expected}"):
            next(reader)
    with pytest.raises(ConfigError, match="No such file"):
        next(read_jsonl(tmp_path / "missing.jsonl"))


def test_files_are_written_whole_or_not_at_all(tmp_path: Path, make_episode: MakeEpisode) -> None:
    path = tmp_path / "e.jsonl"
    assert write_jsonl(path, [make_episode("a"), make_episode("b")]) == 2
    before = path.read_bytes()
    with pytest.raises(AlignmentError):
        write_jsonl(path, [make_episode("c"), make_episode(metadata={"x": object()})])
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["e.jsonl"]
    with pytest.raises(StoreError, match="No such file"):
        write_jsonl(tmp_path / "no" / "e.jsonl", [])


def test_parquet_round_trip(tmp_path: Path, make_episode: MakeEpisode) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'agentrl[parquet]'")
    path = tmp_path / "e.parquet"
    failed = {"code": "env.lost", "message": "gone", "detail": {"a": [1]}}
    written = [
        make_episode("full", seed=2**80, metadata={"a": {"b": None}}, extra={"mine": 1}),
        make_episode("bare", turns=(Turn(0, extra={"x": 2}), Turn(3, state_key="text"))),
        make_episode("failed", turns=(), stop_reason=StopReason.ERROR, error=failed, correct=None),
        *(make_episode(f"e{number}") for number in range(70)),
    ]
    assert write_parquet(path, written) == 73
    assert list(read_parquet(path)) == written
    with pytest.raises(StoreError, match=r"export to \.jsonl"):
        write_parquet(path, [make_episode(turns=(Turn(0, reply="\ud800"),))])
    assert len(list(read_parquet(path))) == 73
    (tmp_path / "x.parquet").write_text("not parquet")
    with pytest.raises(ConfigError, match=r"x\.parquet"):
        next(read_parquet(tmp_path / "x.parquet"))

"""What a store promises, on both engines."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, delete, select, update
from sqlalchemy.exc import DBAPIError

from agentrl.errors import AlignmentError, StoreError
from agentrl.store import schema
from agentrl.store.db import Store
from agentrl.store.entries import EpisodeCredit, RunStatus
from agentrl.types import Episode, StopReason, Turn

MakeEpisode = Callable[..., Episode]

FAILED = {"code": "env.lost", "message": "the game server went away", "detail": {"attempt": 2}}


def ids(store: Store, run_id: str, **filters: Any) -> list[str]:
    return [episode.episode_id for episode in store.episodes(run_id, **filters)]


class TestEpisodes:
    def test_round_trip(self, store: Store, run_id: str, make_episode: MakeEpisode) -> None:
        written = [
            make_episode("full", seed=2**70, metadata={"b": [1, None]}, extra={"mine": {"x": 1.5}}),
            make_episode("failed", turns=(), stop_reason=StopReason.ERROR, error=FAILED, correct=None),
            make_episode(
                "branch", parent_episode_id="full", branch_turn=1, episode_return=0.1, format_ok=False
            ),
            make_episode("no tokens", turns=(Turn(0), Turn(5, tool_call_at=0, num_tokens=0, state_key=[]))),
            make_episode("odd text", turns=(Turn(0, reply="\0 \ud800 🏠", observation="", state_key="\0"),)),
            make_episode("nothing sampled", turns=(Turn(0, token_ids=(1,), sampled=(0,), logprobs=()),)),
            make_episode("empty reply", turns=(Turn(0, prompt_ids=(), token_ids=(), sampled=()),)),
            make_episode("odd numbers", turns=(Turn(0, prompt_ids=(-1, 2**31, 2**40), reward=1e-320),)),
        ]
        assert store.add_episodes(run_id, written) == len(written)
        assert list(store.episodes(run_id)) == written
        assert store.episode("full") == written[0]

    def test_log_probs_are_exact_whether_float32_or_not(
        self, store: Store, run_id: str, make_episode: MakeEpisode
    ) -> None:
        single, double, huge = (-0.5, -3.0), (-0.1, -1 / 3), (-1e300, 0.0)
        turns = tuple(
            Turn(index, token_ids=(1, 2), sampled=(1, 1), logprobs=values, entropies=values)
            for index, values in enumerate((single, double, huge))
        )
        store.add_episodes(run_id, [make_episode(turns=turns)])
        assert store.episode("e0").turns == turns

    def test_readers_see_batches_and_places_in_order(
        self, store: Store, run_id: str, make_episode: MakeEpisode
    ) -> None:
        groups = {
            place: [make_episode(f"b{batch}-{place + offset}", batch=batch) for offset in range(2)]
            for batch in (0, 1)
            for place in (batch * 10, batch * 10 + 2)
        }
        for place in (12, 2, 10, 0):  # groups finish in any order
            store.add_episodes(run_id, groups[place], position=place % 10)
        assert ids(store, run_id) == ["b0-0", "b0-1", "b0-2", "b0-3", "b1-10", "b1-11", "b1-12", "b1-13"]
        assert ids(store, run_id, batch=1) == ["b1-10", "b1-11", "b1-12", "b1-13"]
        assert ids(store, run_id, after="b0-2", limit=3) == ["b0-3", "b1-10", "b1-11"]
        assert ids(store, run_id, after="b1-13") == []
        assert ids(store, run_id, limit=0) == []
        with pytest.raises(StoreError, match="cursor"):
            store.episodes(run_id, after="nobody")

    def test_without_places_the_order_of_adding_is_kept_over_many_pages(
        self, store: Store, run_id: str, make_episode: MakeEpisode
    ) -> None:
        names = [f"e{number}" for number in range(100, 0, -1)]
        for start in range(0, 100, 30):
            store.add_episodes(
                run_id, [make_episode(name, num_turns=1) for name in names[start : start + 30]]
            )
        assert ids(store, run_id) == names
        assert [summary.episode_id for summary in store.summaries(run_id)] == names

    def test_filters_and_summaries(self, store: Store, run_id: str, make_episode: MakeEpisode) -> None:
        failed = make_episode("b", group_id="g1", turns=(), stop_reason=StopReason.ERROR, error=FAILED)
        store.add_episodes(run_id, [make_episode("a"), replace(failed, correct=None)])
        assert ids(store, run_id, group_id="g1") == ["b"]
        first, second = store.summaries(run_id)
        assert (first.num_turns, first.ret, first.correct, first.error_code) == (3, 1.5, True, None)
        assert (second.num_turns, second.stop_reason, second.error_code) == (0, "error", "env.lost")

    def test_failed_episodes_are_stored_and_counted(
        self, store: Store, run_id: str, make_episode: MakeEpisode
    ) -> None:
        failed = make_episode("b", stop_reason=StopReason.ERROR, error=FAILED, correct=None)
        wrong = make_episode("c", correct=False, batch=3)
        store.add_episodes(run_id, [make_episode("a"), failed, wrong])
        counts = store.stats()[run_id]
        assert (counts.episodes, counts.failed, counts.judged, counts.correct) == (3, 1, 2, 1)
        assert (counts.turns, counts.batches, counts.success_rate) == (9, 2, 0.5)

    def test_one_episode_of_several_runs(self, store: Store, run_id: str, make_episode: MakeEpisode) -> None:
        other = store.add_run(name="other", env="echo", config={})
        store.add_episodes(run_id, [make_episode(correct=True)])
        store.add_episodes(other, [make_episode(correct=False)])
        with pytest.raises(StoreError, match="say which run"):
            store.episode("e0")
        assert store.episode("e0", run_id=other).correct is False
        with pytest.raises(StoreError, match="no episode 'nobody'"):
            store.episode("nobody")


class TestAddingAgain:
    def test_the_same_is_there_once(self, store: Store, run_id: str, make_episode: MakeEpisode) -> None:
        first = make_episode("a", metadata={"x": 1, "y": 2})
        assert store.add_episodes(run_id, [first]) == 1
        assert store.add_episodes(run_id, [first, make_episode("b"), make_episode("b")]) == 1
        assert store.add_episodes(run_id, [replace(first, metadata={"y": 2, "x": 1})]) == 0
        assert ids(store, run_id) == ["a", "b"]

    @pytest.mark.parametrize(
        "change",
        [
            {"batch": 1},
            {"correct": None},
            {"seed": 8},
            {"num_turns": 2},
            {"metadata": {"x": 1}},
            {"group_id": "g"},
        ],
    )
    def test_something_else_under_the_same_id_is_refused(
        self, store: Store, run_id: str, make_episode: MakeEpisode, change: dict[str, Any]
    ) -> None:
        store.add_episodes(run_id, [make_episode("a")])
        with pytest.raises(StoreError, match=r"'a'.*store\.episode_conflict"):
            store.add_episodes(run_id, [make_episode("b"), make_episode("a", **change)])
        assert list(store.episodes(run_id)) == [make_episode("a")]

    def test_texts_are_stored_once(
        self, store: Store, run_id: str, engine: Engine, make_episode: MakeEpisode
    ) -> None:
        store.add_episodes(run_id, [make_episode(f"e{number}") for number in range(20)])
        with engine.connect() as connection:
            stored = len(connection.execute(select(schema.contents.c.id)).all())
        replies, turns = 20, 3
        assert stored == replies + 3 * turns, "observations, state keys and prompts recur in every episode"


class TestResuming:
    def test_what_was_played_past_the_commit_no_longer_counts(
        self, store: Store, run_id: str, make_episode: MakeEpisode
    ) -> None:
        assert store.last_committed_batch(run_id) is None
        for batch in range(3):
            store.add_episodes(run_id, [make_episode(f"b{batch}", batch=batch)])
            store.add_metrics(run_id, batch, {"loss": float(batch)})
        store.commit_batch(run_id, 0, "step-1")
        store.commit_batch(run_id, 0, "step-1")
        assert store.last_committed_batch(run_id) == 0

        assert store.resume(run_id, from_batch=1) == 1
        assert ids(store, run_id) == ["b0"]
        assert [metric.step for metric in store.metrics(run_id)] == [0]
        same, other = make_episode("b1", batch=1), make_episode("b2", batch=2, correct=False)
        assert store.add_episodes(run_id, [same, other]) == 2
        assert store.add_episodes(run_id, [same]) == 0
        assert list(store.episodes(run_id)) == [make_episode("b0"), same, other]
        assert store.episode("b2").correct is False
        assert store.stats()[run_id].episodes == 3
        store.commit_batch(run_id, 1, "step-2")
        assert [(each.batch, each.checkpoint) for each in store.commits(run_id)] == [
            (0, "step-1"),
            (1, "step-2"),
        ]

        store.resume(run_id, from_batch=0)
        assert ids(store, run_id) == []
        assert store.last_committed_batch(run_id) is None

    def test_a_process_that_lives_on_disturbs_nobody(
        self, store: Store, run_id: str, store_url: str, make_episode: MakeEpisode
    ) -> None:
        with Store.open(store_url) as elsewhere:
            elsewhere.resume(run_id, from_batch=1)
            store.add_episodes(run_id, [make_episode("late", batch=1)])
            store.commit_batch(run_id, 1, "late")
            elsewhere.add_episodes(run_id, [make_episode("new", batch=1)])
            assert ids(elsewhere, run_id) == ["new"] == ids(store, run_id)
            assert store.last_committed_batch(run_id) is None

    def test_a_step_is_committed_once(self, store: Store, run_id: str) -> None:
        store.commit_batch(run_id, 4, "a")
        with pytest.raises(StoreError, match="two processes"):
            store.commit_batch(run_id, 4, "b")


class TestInvariants:
    @pytest.mark.parametrize(
        ("fields", "problem"),
        [
            ({"token_ids": (1, 2), "sampled": (1,)}, "1 sampled marks for 2 tokens"),
            ({"sampled": (1,)}, "1 sampled marks for None tokens"),
            ({"token_ids": (1,), "sampled": (2,)}, "other than 0 and 1"),
            ({"token_ids": (1, 2), "sampled": (0, 1), "logprobs": (-1.0, -1.0)}, "2 logprobs for 1 sampled"),
            ({"token_ids": (1, 2), "sampled": (0, 1), "entropies": ()}, "0 entropies for 1 sampled"),
            ({"token_ids": (1,), "logprobs": (-1.0,)}, "1 logprobs for None sampled"),
            ({"token_ids": (1,), "sampled": (1,), "logprobs": (-math.inf,)}, "logprobs holds -inf"),
            ({"reward": math.nan}, "reward holds nan"),
            ({"gold_logprob": math.inf}, "gold_logprob holds inf"),
            ({"index": -1}, "index must increase"),
            ({"extra": {"x": object()}}, "extra cannot be stored as JSON"),
        ],
    )
    def test_misaligned_turns_are_refused(
        self, store: Store, run_id: str, make_episode: MakeEpisode, fields: dict[str, Any], problem: str
    ) -> None:
        turn = Turn(**{"index": 0, **fields})
        with pytest.raises(AlignmentError, match=rf"'e1' turn .*{problem}"):
            store.add_episodes(run_id, [make_episode("e0"), make_episode("e1", turns=(turn,))])
        assert ids(store, run_id) == []

    @pytest.mark.parametrize("change", [{"episode_id": ""}, {"group_id": ""}, {"task_id": "a\0b"}])
    def test_bad_ids_are_refused(
        self, store: Store, run_id: str, make_episode: MakeEpisode, change: dict[str, Any]
    ) -> None:
        with pytest.raises(StoreError, match=next(iter(change))):
            store.add_episodes(run_id, [replace(make_episode(), **change)])

    @pytest.mark.parametrize(
        "change",
        [{"task_id": ""}, {"env": ""}, {"env_version": ""}, {"config_hash": ""}, {"turns": (Turn(0),)}],
    )
    def test_a_configured_run_wants_to_know_where_episodes_come_from(
        self, store: Store, make_episode: MakeEpisode, change: dict[str, Any]
    ) -> None:
        run_id = store.add_run(name="strict", env="echo", config={}, config_hash="abc")
        with pytest.raises(StoreError, match=r"store\.provenance"):
            store.add_episodes(run_id, [make_episode("a"), make_episode("b", **change)])
        assert ids(store, run_id) == []
        never_began = make_episode("c", turns=(), env_version="", stop_reason=StopReason.ERROR, error=FAILED)
        assert store.add_episodes(run_id, [make_episode("a"), never_began]) == 2

    def test_rows_cannot_be_changed_or_removed(
        self, store: Store, run_id: str, engine: Engine, make_episode: MakeEpisode
    ) -> None:
        store.add_episodes(run_id, [make_episode(num_turns=1)])
        store.add_credit_run(run_id, {}, [EpisodeCredit("e0", (1.0,), ({"a": 1.0},), {"c": (1.0,)})])
        store.add_metrics(run_id, 0, {"loss": 1.0})
        store.commit_batch(run_id, 0)
        for name in (*schema.APPEND_ONLY, "runs"):
            table = schema.METADATA.tables[name]
            column = table.c.run_id if name == "runs" else list(table.c)[-1]
            for change in (delete(table), update(table).values({column.name: None})):
                with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
                    connection.execute(change)
            with engine.connect() as connection:
                assert connection.execute(select(table)).first() is not None

    def test_the_store_offers_no_way_to_change_anything(self) -> None:
        public = {name for name in vars(Store) if not name.startswith("_")}
        assert public == {
            *("open", "url", "close"),
            *("add_run", "get_run", "find_run", "list_runs", "stats", "set_status"),
            *("resume", "commit_batch", "commits", "last_committed_batch"),
            *("add_episodes", "episodes", "summaries", "episode"),
            *("add_credit_run", "add_credit", "credit_runs", "credit", "add_metrics", "metrics"),
        }


class TestCredit:
    def test_round_trip_and_none_is_not_zero(
        self, store: Store, run_id: str, make_episode: MakeEpisode
    ) -> None:
        store.add_episodes(run_id, [make_episode("a"), make_episode("b"), make_episode("c", turns=())])
        credit = [
            EpisodeCredit(
                "b", (None, 0.0, 1 / 3), ({}, {"x": 0.0}, {"x": 1.0, "y": -2 / 3}), {"out": (1.0, None, 0.0)}
            ),
            EpisodeCredit("a", (0.5, 0.5, 0.5)),
            EpisodeCredit("c", ()),
        ]
        credit_run_id = store.add_credit_run(run_id, {"preset": "gigpo"}, credit)
        assert list(store.credit(credit_run_id)) == [credit[1], credit[0]]
        [found] = store.credit_runs(run_id)
        assert (found.credit_run_id, found.run_id, found.config) == (
            credit_run_id,
            run_id,
            {"preset": "gigpo"},
        )

    def test_batch_by_batch_and_never_twice(
        self, store: Store, run_id: str, make_episode: MakeEpisode
    ) -> None:
        credit_run_id = store.add_credit_run(run_id, {})
        for batch in range(2):
            store.add_episodes(run_id, [make_episode(f"b{batch}", batch=batch)])
            store.add_credit(credit_run_id, [EpisodeCredit(f"b{batch}", (float(batch),) * 3)])
        second = store.add_credit_run(run_id, {}, [EpisodeCredit("b0", (9.0,) * 3)])
        with pytest.raises(StoreError, match="a second opinion is a new credit run"):
            store.add_credit(credit_run_id, [EpisodeCredit("b0", (9.0,) * 3)])
        assert [each.advantages[0] for each in store.credit(credit_run_id)] == [0.0, 1.0]
        assert [each.advantages[0] for each in store.credit(second)] == [9.0]

    @pytest.mark.parametrize(
        ("credit", "problem"),
        [
            (EpisodeCredit("e0", (1.0,)), "1 advantages for 3 turns"),
            (EpisodeCredit("e0", (1.0,) * 3, ({},)), "1 terms for 3 turns"),
            (EpisodeCredit("e0", (1.0,) * 3, (), {"c": (1.0,)}), "1 channel 'c' for 3 turns"),
            (EpisodeCredit("e0", (1.0, math.nan, 0.0)), "the value nan"),
        ],
    )
    def test_misaligned_credit_is_refused(
        self, store: Store, run_id: str, make_episode: MakeEpisode, credit: EpisodeCredit, problem: str
    ) -> None:
        store.add_episodes(run_id, [make_episode()])
        with pytest.raises(AlignmentError, match=problem):
            store.add_credit_run(run_id, {}, [credit])
        assert store.credit_runs(run_id) == []
        with pytest.raises(StoreError, match="no episode 'nobody'"):
            store.add_credit_run(run_id, {}, [EpisodeCredit("nobody", ())])
        with pytest.raises(StoreError, match="no credit run 'x'"):
            store.credit("x")


class TestRuns:
    def test_everything_but_the_status_stays(self, store: Store) -> None:
        run_id = store.add_run(
            name="GiGPO on ALFWorld", env="alfworld", config={"lr": 1e-5}, config_hash="ff"
        )
        assert run_id.startswith("GiGPO-on-ALFWorld-")
        before = store.get_run(run_id)
        assert (before.env, before.config, before.config_hash) == ("alfworld", {"lr": 1e-5}, "ff")
        assert before.status is RunStatus.RUNNING
        assert {"agentrl", "python"} <= before.software.keys()
        store.set_status(run_id, RunStatus.FINISHED)
        assert store.get_run(run_id) == replace(before, status=RunStatus.FINISHED)

    def test_runs_are_found_by_id_name_or_prefix(self, store: Store) -> None:
        for run_id, name in (("r-10", "one"), ("r-11", "two"), ("r-2", "two"), ("r", "r-1_")):
            store.add_run(name=name, env="echo", config={}, run_id=run_id)
        assert [run.run_id for run in store.list_runs()] == ["r", "r-2", "r-11", "r-10"]
        assert [store.find_run(name).run_id for name in ("r", "one", "r-11", "r-2")] == [
            "r",
            "r-10",
            "r-11",
            "r-2",
        ]
        for ambiguous in ("two", "r-1"):
            with pytest.raises(StoreError, match=r"2 runs .*give one of these ids"):
                store.find_run(ambiguous)
        for unknown in ("r-%", "nobody"):
            with pytest.raises(StoreError, match="`agentrl runs` lists"):
                store.find_run(unknown)
        with pytest.raises(StoreError, match="already has a run 'r-2'"):
            store.add_run(name="x", env="echo", config={}, run_id="r-2")

    def test_unknown_runs_are_refused(self, store: Store, make_episode: MakeEpisode) -> None:
        for use in (
            lambda: store.get_run("x"),
            lambda: store.add_episodes("x", [make_episode()]),
            lambda: store.episodes("x"),
            lambda: store.add_metrics("x", 0, {"a": 1.0}),
            lambda: store.resume("x", from_batch=0),
        ):
            with pytest.raises(StoreError, match="no run 'x'"):
                use()

    def test_metrics_keep_order_and_nan(self, store: Store, run_id: str) -> None:
        store.add_metrics(run_id, 1, {"actor/entropy": math.nan, "b": math.inf})
        store.add_metrics(run_id, 0, {"b": 2})
        store.add_metrics(run_id, 0, {})
        assert [(each.step, each.name) for each in store.metrics(run_id)] == [
            (0, "b"),
            (1, "actor/entropy"),
            (1, "b"),
        ]
        assert [each.value for each in store.metrics(run_id, name="b")] == [2.0, math.inf]
        assert math.isnan(store.metrics(run_id, name="actor/entropy")[0].value)

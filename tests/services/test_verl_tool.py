"""verl-tool's wire: trajectories that a trainer names, over two workers, one of which may die."""

from __future__ import annotations

import concurrent.futures
import os
import random
import signal
import time
from collections.abc import Generator, Sequence
from typing import Any

import pytest
from service_process import ServiceProcess, running_service
from trouble_service import PRIVATE, TROUBLE

PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def service() -> Generator[ServiceProcess]:
    """Two workers."""
    with running_service("--workers", "2", "drain_s=0", name=TROUBLE) as running:
        yield running


def act(service: ServiceProcess, ids: Sequence[Any], actions: Sequence[str], **columns: Any) -> Any:
    """Return status and answer of one request."""
    return service.post("/get_observation", {"trajectory_ids": ids, "actions": actions, **columns})


def acted(service: ServiceProcess, ids: Sequence[Any], actions: Sequence[str], **columns: Any) -> list[Any]:
    """Return (observation, done, valid) of each trajectory."""
    status, answer = act(service, ids, actions, **columns)
    assert status == 200, answer
    assert set(answer) == {"observations", "dones", "valids", "processing_time_ms"}
    return list(zip(answer["observations"], answer["dones"], answer["valids"], strict=True))


def assert_lost(result: Any, code: str) -> None:
    """See that a trajectory is over, why, and that no model is shown it."""
    observation, done, valid = result
    assert (observation["obs"], done, valid) == ("", True, False)
    assert observation["error"]["code"] == code
    assert observation["error"]["next_step"]


def live_sessions(service: ServiceProcess) -> float:
    return service.metric("agentrl_sessions")


def test_many_trajectories_of_unequal_length_do_not_mix_and_leave_nothing(service: ServiceProcess) -> None:
    rng = random.Random(7)
    left = {f"many-{n}": rng.randint(1, 9) for n in range(150)}
    taken = dict.fromkeys(left, 0)
    while left:
        ids = rng.sample(list(left), min(len(left), rng.randint(1, 60)))
        last = [left[name] == 1 for name in ids]
        seeds = [{"seed": int(name[5:]), "data_source": "x"} for name in ids]
        shown = acted(service, ids, [f"I am {name}" for name in ids], extra_fields=seeds, is_last_step=last)
        for name, (observation, done, valid) in zip(ids, shown, strict=True):
            taken[name] += 1
            assert observation == f"train-{name[5:]} after {taken[name]}: I am {name}"
            assert (done, valid) == (False, True)
            left[name] -= 1
            if not left[name]:
                del left[name]
    assert live_sessions(service) == 0


def test_finish_ends_a_trajectory_and_its_name_may_begin_another(service: ServiceProcess) -> None:
    assert acted(service, ["f", 7], ["a", "b"], extra_fields=[{"seed": 1}, {"seed": 2}]) == [
        ("train-1 after 1: a", False, True),
        ("train-2 after 1: b", False, True),
    ]
    assert acted(service, ["f", "7"], ["c", "d"], finish=[True, False]) == [
        ("", True, False),
        ("train-2 after 2: d", False, True),
    ]
    assert acted(service, ["f"], ["e"], extra_fields=[{"seed": 3}]) == [("train-3 after 1: e", False, True)]
    assert acted(service, ["f", "7", "never"], ["", "", ""], finish=[True] * 3) == [("", True, False)] * 3
    assert live_sessions(service) == 0


def test_what_is_done_is_over_and_is_not_begun_again_unseen(service: ServiceProcess) -> None:
    assert acted(service, ["d"], ["stop"], extra_fields=[{"seed": 1}]) == [("over", True, True)]
    assert live_sessions(service) == 0
    for _ in range(3):
        assert_lost(acted(service, ["d"], ["hello"])[0], "session.ended")
    acted(service, ["d"], [""], finish=[True])
    assert acted(service, ["d"], ["hello"], extra_fields=[{"seed": 2}], is_last_step=[True]) == [
        ("train-2 after 1: hello", False, True)
    ]


def test_extra_fields_choose_the_episode_and_the_rest_of_them_is_the_trainers(
    service: ServiceProcess,
) -> None:
    extra = [
        {"index": 5, "split": "slow"},
        {"seed": 1005},
        {"seed": 1, "task": {"task_id": "mine", "env": "x"}, "reply": 1, "session_id": "0-1", "split": None},
        None,
        {"index": 10_000},
        {"seed": "5"},
        {"split": "no such"},
    ]
    shown = acted(
        service, [f"e{n}" for n in range(7)], ["x"] * 7, extra_fields=extra, is_last_step=[True] * 7
    )
    assert [result[0] for result in shown[:3]] == [
        "slow-5 after 1: x",
        "train-5 after 1: x",
        "train-1 after 1: x",
    ]
    assert shown[3][0].endswith("after 1: x")
    assert_lost(shown[4], "wire.invalid")
    assert_lost(shown[5], "wire.invalid")
    assert_lost(shown[6], "env.unknown_split")


@pytest.mark.parametrize(
    "body",
    [
        {"trajectory_ids": ["a"], "actions": []},
        {"trajectory_ids": ["a", "a"], "actions": ["x", "y"]},
        {"trajectory_ids": [1, "1"], "actions": ["x", "y"]},
        {"trajectory_ids": ["a"], "actions": ["x"], "finish": []},
        {"trajectory_ids": ["a"], "actions": ["x"], "is_last_step": [True, True]},
        {"trajectory_ids": ["a"], "actions": ["x"], "extra_fields": [{}, {}]},
        {"trajectory_ids": ["a"], "actions": [7]},
        {"trajectory_ids": [None], "actions": ["x"]},
        {"trajectory_ids": "a", "actions": "x"},
        {"trajectory_ids": ["a"] * 5000, "actions": ["x"] * 5000},
        {},
        [],
    ],
)
def test_what_is_not_in_step_is_refused_and_nothing_is_done(service: ServiceProcess, body: Any) -> None:
    before = live_sessions(service)
    status, answer = service.post("/get_observation", body)
    assert (status, answer["error"]["code"]) == (422, "wire.invalid")
    assert live_sessions(service) == before


def test_no_trajectories_are_no_mistake(service: ServiceProcess) -> None:
    assert acted(service, [], []) == []


def test_what_fails_in_the_environment_ends_its_trajectory_and_is_shown_to_no_model(
    service: ServiceProcess,
) -> None:
    shown = acted(service, ["w1", "w2", "w3", "w4"], ["raise", "junk", "half", "fine"])
    assert_lost(shown[0], "env.step")
    assert_lost(shown[2], "env.not_json")
    assert PRIVATE not in shown[0][0]["obs"]
    assert shown[3][0].endswith("after 1: fine")
    again = acted(service, ["w1", "w4"], ["hello", "hello"], is_last_step=[False, True])
    assert_lost(again[0], "session.ended")
    assert again[1][0].endswith("after 2: hello")
    acted(service, ["w1", "w2", "w3"], [""] * 3, finish=[True] * 3)


def test_the_same_action_twice_at_once_is_taken_once_and_another_one_is_refused(
    service: ServiceProcess,
) -> None:
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        same = [pool.submit(acted, service, ["once"], ["sleep 0.5"]) for _ in range(4)]
        time.sleep(0.2)
        other = pool.submit(acted, service, ["once"], ["hello"])
    assert_lost(other.result()[0], "session.out_of_order")
    assert len({result.result()[0][0] for result in same}) == 1
    assert acted(service, ["once"], ["hello"], is_last_step=[True])[0][0].endswith("after 2: hello")


def test_a_full_service_refuses_the_whole_request_so_that_it_can_be_made_again() -> None:
    with running_service(
        "max_sessions=2", "queue=0", "queue_timeout_s=0.1", "drain_s=0", name=TROUBLE
    ) as service:
        acted(service, ["a", "b"], ["x", "x"])
        status, answer, headers = service.ask(
            "POST", "/get_observation", {"trajectory_ids": ["c", "d"], "actions": ["x", "x"]}
        )
        assert (status, answer["error"]["code"]) == (429, "service.full")
        assert int(headers["Retry-After"]) >= 1
        shown = acted(service, ["c", "a"], ["y", "y"], is_last_step=[False, True])
        assert_lost(shown[0], "service.full")
        assert shown[1][0].endswith("after 2: y")  # it was done, so the request is not refused
        assert acted(service, ["d"], ["x"])[0][0].endswith("after 1: x")


def test_a_trajectory_that_was_not_used_for_too_long_is_over_and_not_begun_again() -> None:
    with running_service("idle_timeout_s=0.2", "drain_s=0", name=TROUBLE) as service:
        acted(service, ["slow"], ["one"])
        until = time.monotonic() + PATIENCE_S
        while live_sessions(service):
            assert time.monotonic() < until
            time.sleep(0.05)
        assert_lost(acted(service, ["slow"], ["two"])[0], "session.ended")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_killed_worker_ends_its_trajectories_and_begins_none_of_them_again(workers: str) -> None:
    with running_service("--workers", workers, "drain_s=0", name=TROUBLE) as service:
        ids = [f"k{n}" for n in range(40)]
        seeds = [{"seed": n} for n in range(40)]
        begun = acted(service, ids, ["one"] * 40, extra_fields=seeds)
        assert begun == [(f"train-{n} after 1: one", False, True) for n in range(40)]
        acted(service, ids[:3], [""] * 3, finish=[True] * 3)  # these may begin anew
        victim = service.worker_pids[0]
        os.kill(victim, signal.SIGKILL)
        until = time.monotonic() + PATIENCE_S
        while victim in service.worker_pids or len(service.worker_pids) < int(workers):
            assert time.monotonic() < until
            time.sleep(0.05)
        results = acted(service, ids[3:], ["two"] * 37, extra_fields=seeds[3:])
        lost = [name for name, result in zip(ids[3:], results, strict=True) if result[1]]
        went_on = 0
        for name, result in zip(ids[3:], results, strict=True):
            if name in lost:
                assert_lost(result, "session.ended")
            else:
                assert result[0] == f"train-{name[1:]} after 2: two"
                went_on += 1
        assert lost
        assert bool(went_on) == (workers == "2")
        for _ in range(5):  # nor later, when the new worker is at work
            for result in acted(service, lost, ["three"] * len(lost), extra_fields=[{"seed": 1}] * len(lost)):
                assert_lost(result, "session.ended")
            time.sleep(0.2)
        assert acted(service, ids[:3], ["anew"] * 3, extra_fields=seeds[:3]) == [
            (f"train-{n} after 1: anew", False, True) for n in range(3)
        ]

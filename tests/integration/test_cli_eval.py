"""`agentrl eval`, `rollout`, `credit`, `export`, `import`, `games`, and Ctrl-C: what people do by hand."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import pytest
from integration.command import RunFolder, agentrl, finish, records, start, wait_for
from integration.conftest import InProcess, WriteConfig
from pydantic import TypeAdapter

from agentrl.rollout.report import Report
from agentrl.store.db import Store
from agentrl.store.entries import RunStatus
from agentrl.store.record import read_jsonl
from agentrl.train.metrics import read_metrics

KINDS = ("pick_and_place_simple", "pick_clean_then_place", "pick_heat_then_place", "look_at_obj_in_light")
PROMPT_S = 20.0  # an interrupted run ends within this, on a machine that does other things as well


@pytest.mark.slow
def test_eval_of_a_config(write_config: WriteConfig, tmp_path: Path) -> None:
    """Success with its 95 % interval for every kind of task, and pass@k."""
    said = agentrl(tmp_path, "eval", write_config(tmp_path), "--samples", "2")
    for kind in KINDS:
        assert re.search(rf"{kind}\S* +│ +2 │ +\d+\.\d% │ +\(\d+–\d+\) │", said), said
    assert re.search(r"all +│ +8 │", said)
    assert "95 % interval" in said
    assert re.search(r"pass@1 \d+\.\d%  pass@2 \d+\.\d%", said)
    assert "valid_unseen of integration.flaky:FlakyAlfWorld, temperature 1.0" in said
    with Store.open(f"sqlite:///{tmp_path / 'runs' / 'agentrl.db'}") as store:
        (run,) = store.list_runs()
        assert (run.name, run.status) == ("tiny.eval", RunStatus.FINISHED)
        groups = [episode.group_id for episode in store.episodes(run.run_id)]
    assert groups == sorted(groups)
    assert len(groups) == 8


@pytest.mark.slow
def test_eval_of_a_run(
    finished: RunFolder, write_config: WriteConfig, here: InProcess, tmp_path: Path
) -> None:
    """Plays the latest weights as the run's own evaluation did, and stores what it plays."""
    store = f"store.url=sqlite:///{tmp_path / 'eval.db'}"
    code, stdout, stderr = here(finished.cwd, "eval", finished.run_id, store, "--json")
    assert (code, "Traceback" in stderr) == (0, False)
    report = TypeAdapter(Report).validate_json(stdout)
    assert report == TypeAdapter(Report).validate_json((finished.dir / "after.json").read_bytes())
    for row in (report.overall, *report.kinds):
        assert 0 <= row.low <= row.rate <= row.high <= 1

    more = (store, "--samples", "2", "--episodes", "1", "--split", "train")
    said = here.done(finished.cwd, "eval", finished.run_id, *more)
    assert "train of integration.flaky:FlakyAlfWorld" in said
    assert "pass@2" in said
    with Store.open(store.partition("=")[2]) as opened:
        runs = opened.list_runs()
        played = [list(opened.episodes(run.run_id)) for run in runs]
    assert [run.name for run in runs] == [f"{finished.run_id}.eval"] * 2
    assert [len(episodes) for episodes in played] == [2, 4]
    assert all(e.task_id.startswith("train-") for e in played[0])


@pytest.mark.slow
def test_eval_of_the_base_is_what_training_began_with(
    finished: RunFolder, write_config: WriteConfig, here: InProcess, tmp_path: Path
) -> None:
    code, stdout, _ = here(tmp_path, "eval", write_config(tmp_path), "--json")
    assert code == 0
    assert json.loads(stdout) == json.loads((finished.dir / "before.json").read_text())


def test_bad_questions(write_config: WriteConfig, here: InProcess, tmp_path: Path) -> None:
    config = write_config(tmp_path)
    assert "'moon'" in here.refused(tmp_path, "eval", config, "--split", "moon")
    assert "--samples" in here.refused(tmp_path, "eval", config, "--samples", "0")
    assert "there is no run 'tiny-0'" in here.refused(tmp_path, "eval", "tiny-0")
    assert "the store has no run 'tiny'" in here.refused(tmp_path, "export", "tiny", "out.jsonl")


def test_rollout_then_credit_then_export_then_import(
    finished: RunFolder, write_config: WriteConfig, here: InProcess, tmp_path: Path
) -> None:
    """What training plays first, without training; its credit again, with other settings; out and in."""
    config = write_config(tmp_path)
    code, stdout, _ = here(tmp_path, "rollout", config, "--batches", "2", "--json")
    played = json.loads(stdout)
    assert (code, played["report"]["overall"]["episodes"]) == (0, 8)
    run, url = played["run"], f"sqlite:///{tmp_path / 'runs' / 'agentrl.db'}"
    with Store.open(url) as store:
        episodes = list(store.episodes(run))
        assert store.get_run(run).status is RunStatus.FINISHED
    assert [e.batch for e in episodes] == [0] * 4 + [1] * 4
    trained = [json.loads(line) for line in finished.records(batch=0)]
    same = [json.loads(line) for line in records(episodes)][:4]
    for mine, theirs in zip(same, trained, strict=True):
        assert mine["turns"] == theirs["turns"]
        assert mine["seed"] == theirs["seed"]

    stored = ("--store", url, "--run", run)
    said = json.loads(
        here.done(tmp_path, "credit", "--config", config, *stored, "--out", "a.jsonl", "--save", "--json")
    )
    assert (said["episodes"], said["dropped_episodes"]) == (8, 0)
    mine = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [tuple(turn["advantage"] for turn in record["turns"]) for record in mine[:4]] == [
        credit.advantages for credit in finished.credit()[:4]
    ]
    (tmp_path / "other").mkdir()
    other = write_config(tmp_path / "other", credit={"preset": "grpo"})
    diff = here.done(tmp_path, "credit", "--config", other, *stored, "--diff", said["credit_run_id"])
    assert "against the other credit: " in diff

    for name in ("out.jsonl", "out.parquet"):
        assert f"8 episodes of {run} -> {name}" in here.done(tmp_path, "export", run, name, "--store", url)
        here.done(tmp_path, "import", name, "--store", "sqlite:///second.db", "--name", f"from {name}")
    assert list(read_jsonl(tmp_path / "out.jsonl")) == episodes
    with Store.open(f"sqlite:///{tmp_path / 'second.db'}") as store:
        imported = [list(store.episodes(run.run_id)) for run in store.list_runs()]
    assert imported == [episodes, episodes]
    here.done(tmp_path, "credit", "--config", config, "--episodes", "out.jsonl", "--out", "b.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    listed = json.loads(here.done(tmp_path, "runs", "--store", "sqlite:///second.db", "--json"))
    assert {row["episodes"] for row in listed} == {8}


def test_games_are_written_and_played(write_config: WriteConfig, here: InProcess, tmp_path: Path) -> None:
    written = here.done(
        tmp_path, "games", "data", "--size", "small", "--games", "3", "--split", "valid_unseen", "--json"
    )
    assert json.loads(written) == {"written": 3, "skipped": 0}
    again = here.done(tmp_path, "games", "data", "--size", "small", "--games", "4", "--split", "valid_unseen")
    assert "wrote 1 games to data, 3 were there already" in again
    data = {"id": "alfworld", "train_games": None, "any_reward": None, "data": str(tmp_path / "data")}
    code, stdout, _ = here(tmp_path, "eval", write_config(tmp_path, env=data), "eval.tasks=9", "--json")
    report = json.loads(stdout)
    assert (code, report["overall"]["episodes"], report["errors"]) == (0, 4, {})
    with Store.open(f"sqlite:///{tmp_path / 'runs' / 'agentrl.db'}") as store:
        (run,) = store.list_runs()
        episodes = list(store.episodes(run.run_id))
    files = (tmp_path / "data" / "json_2.1.1").glob("valid_unseen/*/*/game.tw-pddl")
    assert sorted(e.task_id for e in episodes) == sorted(
        f"valid_unseen/{f.parent.parent.name}/{f.parent.name}" for f in files
    )
    assert all("-= Welcome to TextWorld, ALFRED! =-" in str(e.turns[0].observation) for e in episodes)


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "sessions", "steps"), [("evaluating", 1, 0), ("playing", 9, 1)])
def test_ctrl_c_stops_at_once_and_the_run_goes_on_later(
    finished: RunFolder, write_config: WriteConfig, tmp_path: Path, moment: str, sessions: int, steps: int
) -> None:
    """Also in the middle of an evaluation; four games are held out, and four played in a step."""

    def reached() -> bool:
        if moment == "evaluating":
            return RunFolder.evaluating(tmp_path)
        return bool(list(tmp_path.glob("runs/*/checkpoints/latest")))

    with start(
        tmp_path, "train", write_config(tmp_path), env={"AGENTRL_TEST_SESSIONS": str(sessions)}
    ) as running:
        wait_for(running, reached)
        interrupted_s = time.monotonic()
        running.send_signal(signal.SIGINT)
        stdout, stderr = finish(running)
    assert time.monotonic() - interrupted_s < PROMPT_S
    run = RunFolder.only(tmp_path)
    assert running.returncode == 130
    (line,) = stderr.strip().splitlines()
    assert line == (
        f"agentrl: stopped after {steps} of 4 steps; what was played is stored; "
        f"go on with: agentrl train --resume {run.run_id}"
    )
    assert "Traceback" not in stdout
    with run.store() as store:
        statuses = {stored.name: stored.status for stored in store.list_runs()}
    assert statuses["tiny"] is RunStatus.INTERRUPTED
    if moment == "evaluating":
        assert statuses[f"{run.run_id}.before"] is RunStatus.INTERRUPTED
    kept = run.records()
    assert set(kept) <= set(finished.records())
    agentrl(tmp_path, *line.rpartition("agentrl ")[2].split())
    assert run.records() == finished.records()
    assert run.weights(4) == finished.weights(4)
    assert run.credit() == finished.credit()
    assert [row["step"] for row in read_metrics(run.dir)] == [0, 1, 2, 3]

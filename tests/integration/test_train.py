"""`agentrl train` from a config to weights, and the promises that only the whole loop can keep."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from integration.command import ROOT, RunFolder, agentrl, toml
from integration.conftest import InProcess, WriteConfig
from pydantic import TypeAdapter

from agentrl import registry
from agentrl.policy.render import Renderer
from agentrl.rollout.report import Report
from agentrl.store.db import Store
from agentrl.store.entries import RunStatus
from agentrl.train.checkpoint import latest_checkpoint, load_checkpoint
from agentrl.train.metrics import read_metrics
from agentrl.train.model import load_model
from agentrl.train.optimizer import build_optimizer
from agentrl.types import Episode


def train(cwd: Path, config: Path, *arguments: object) -> RunFolder:
    agentrl(cwd, "train", config, *arguments)
    return RunFolder.only(cwd)


@pytest.mark.slow
def test_a_run_ends_well_and_says_so(finished: RunFolder) -> None:
    said = (finished.cwd / "stdout").read_text()
    assert finished.run_id in said
    assert "before and after 4 steps" in said
    assert said.count("step ") >= 4
    with finished.store() as store:
        runs = {run.name: run for run in store.list_runs()}
        run_id = finished.run_id
        assert {name: run.status for name, run in runs.items()} == {
            "tiny": RunStatus.FINISHED,
            f"{run_id}.before": RunStatus.FINISHED,
            f"{run_id}.after": RunStatus.FINISHED,
        }
        assert runs[f"{run_id}.before"].parent_run_id == run_id
        assert [commit.batch for commit in store.commits(run_id)] == [0, 1, 2, 3]
        held_out = [list(store.episodes(runs[f"{run_id}.{label}"].run_id)) for label in ("before", "after")]
    reports = [
        TypeAdapter(Report).validate_json((finished.dir / f"{label}.json").read_bytes())
        for label in ("before", "after")
    ]
    for episodes, report in zip(held_out, reports, strict=True):
        assert report.overall.episodes == len(episodes) == 4
    before, after = held_out
    assert [(e.task_id, e.seed) for e in before] == [(e.task_id, e.seed) for e in after]
    assert {version for e in after for version in e.policy_versions} == {4}
    assert (finished.dir / "report.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((finished.dir / "config.json").read_text())["train"]["steps"] == 4


@pytest.mark.slow
def test_episodes_credit_and_metrics_are_in_the_store(finished: RunFolder) -> None:
    with finished.store() as store:
        episodes = list(store.episodes(finished.run_id))
        metrics = store.metrics(finished.run_id)
    assert [e.batch for e in episodes] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    credit = finished.credit()
    assert [c.episode_id for c in credit] == [e.episode_id for e in episodes]
    for of_episode, episode in zip(credit, episodes, strict=True):
        assert len(of_episode.advantages) == len(episode.turns) > 0
        for advantage, terms in zip(of_episode.advantages, of_episode.terms, strict=True):
            assert advantage == sum(terms.values())
    assert any(advantage for c in credit for advantage in c.advantages), "no signal: the run proves nothing"
    by_step = [{m.name: m.value for m in metrics if m.step == step} for step in range(4)]
    assert len(metrics) == sum(map(len, by_step))
    for stored, logged in zip(by_step, read_metrics(finished.dir), strict=True):
        assert stored | {"step": logged["step"]} == logged
        assert stored["actor/grad_norm"] > 0
        assert stored["timing_s/gen"] > 0
    for name in ("episode/success_rate", "actor/entropy", "actor/pg_loss", "credit/turns", "perf/throughput"):
        assert name in by_step[0]
    assert list((finished.dir / "tensorboard").iterdir())


@pytest.mark.slow
def test_checkpoints_load(finished: RunFolder, tiny_base: Path) -> None:
    latest = latest_checkpoint(finished.dir / "checkpoints")
    assert latest is not None
    assert latest.name == "step_00000004"
    model = load_model(tiny_base)
    state = load_checkpoint(latest, model=model, optimizer=build_optimizer(model, "adamw", 1e-3))
    assert (state.step, state.policy_version) == (4, 4)
    Renderer.load(latest / "policy")
    before, trained = load_model(tiny_base).state_dict(), load_model(latest / "policy").state_dict()
    assert all(torch.equal(trained[name], model.state_dict()[name]) for name in trained)
    assert not all(torch.equal(trained[name], before[name]) for name in trained)


@pytest.mark.slow
def test_what_the_model_saw_is_what_was_stored(finished: RunFolder, tiny_base: Path) -> None:
    """Invariants 1 and 2: one log-prob and entropy per sampled token, and spans that read as the dialogue."""
    renderer = Renderer.load(tiny_base)
    with finished.store() as store:
        for episode in store.episodes(finished.run_id):
            for turn in episode.turns:
                assert turn.token_ids is not None
                assert turn.sampled == (1,) * len(turn.token_ids)
                assert len(turn.logprobs or ()) == len(turn.entropies or ()) == len(turn.token_ids)
                assert turn.fresh_context is (turn.index == 0)
                assert renderer.parse(turn.token_ids).content == turn.reply
                assert str(turn.observation) in renderer.decode(turn.prompt_ids or ())


@pytest.mark.slow
def test_every_episode_says_where_it_comes_from(finished: RunFolder) -> None:
    """Invariant 4; step k is played by version k, in groups of one task with a seed for each episode."""
    with finished.store() as store:
        run = store.get_run(finished.run_id)
        episodes = list(store.episodes(finished.run_id))
    groups: dict[str, list[Episode]] = {}
    for episode in episodes:
        assert (episode.env, episode.env_version) == ("alfworld", "1")
        assert episode.config_hash == run.config_hash != ""
        assert episode.task_id.startswith("train-small-")
        assert episode.policy_versions == (episode.batch,)
        assert [turn.policy_version for turn in episode.turns] == [episode.batch] * len(episode.turns)
        groups.setdefault(episode.group_id, []).append(episode)
    assert [len(group) for group in groups.values()] == [2] * 8
    assert all(len({e.task_id for e in group}) == 1 for group in groups.values())
    assert len({e.seed for e in episodes}) == len({e.episode_id for e in episodes}) == 16


def test_the_trainer_names_no_credit_method() -> None:
    """Invariant 5: no preset is named anywhere in the trainer or the losses, and no stage's id is a text."""
    presets = re.compile(rf"\b({'|'.join(registry.names('credit.preset'))})\b")
    stages = {name for kind in registry.KINDS if kind.startswith("credit.") for name in registry.names(kind)}
    assert {"gigpo", "whiten"} <= stages
    files = [file for folder in ("train", "loss") for file in (ROOT / "agentrl" / folder).rglob("*.py")]
    # A policy loss is a plug-in with a name of its own; DAPO, DCPO and DRPO are a loss and a credit method.
    files = [file for file in files if file.parent.name != "policies"]
    assert len(files) > 15
    for file in files:
        source = file.read_text(encoding="utf-8")
        assert presets.search(source) is None, file
        texts = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
        assert not texts & stages, file


@pytest.mark.slow
def test_a_failed_episode_is_data(write_config: WriteConfig, tmp_path: Path) -> None:
    """Invariants 3 and 6: it is stored with its error; its credit is absent, and its group's is exactly 0."""
    config = write_config(
        tmp_path,
        env={"fails_after": 1, "any_reward": False},
        rollout={"concurrency": 1, "group_size": 3},
        credit={"preset": "grpo"},
        train={"steps": 1},
        eval={"tasks": 1, "samples": 2},
    )
    run = train(tmp_path, config)
    with run.store() as store:
        episodes = list(store.episodes(run.run_id))
        stats = store.stats()[run.run_id]
        metrics = {m.name: m.value for m in store.metrics(run.run_id)}
    failed = [episode.error is not None for episode in episodes]
    assert failed == [True, False, True] * 2
    assert stats.failed == metrics["credit/dropped_episodes"] == 4
    assert metrics["episode/error_rate"] == pytest.approx(4 / 6)
    assert metrics["update/rows"] == 2
    for episode, credit in zip(episodes, run.credit(), strict=True):
        if episode.error is None:
            assert credit.advantages == (0.0,) * len(episode.turns)
            continue
        assert episode.error["code"] == "env.step"
        assert "the simulator went away" in episode.error["message"]
        assert len(episode.turns) == 1
        assert credit.advantages == (None,)
        assert set(credit.channels.values()) == {(None,)}
    report = json.loads((run.dir / "before.json").read_text())
    assert report["errors"] == {"env.step": 1}
    assert report["overall"]["episodes"] == 2


@pytest.mark.slow
def test_a_batch_in_which_everything_fails_does_not_stop_the_run(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    config = write_config(tmp_path, env={"fails_after": 0}, rollout={"group_size": 1}, train={"steps": 2})
    run = train(tmp_path, config)
    with run.store() as store:
        assert [e.stop_reason for e in store.episodes(run.run_id, batch=0)] == ["error", "error"]
        rates = store.metrics(run.run_id, name="episode/error_rate")
        assert [m.value for m in rates][:1] == [1.0]
        assert store.get_run(run.run_id).status is RunStatus.FINISHED
    assert all(turns == () for turns in (c.advantages for c in run.credit()[:2]))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 16])
def test_any_number_of_workers_plays_the_same(
    finished: RunFolder, write_config: WriteConfig, tmp_path: Path, workers: int
) -> None:
    """Invariant 9: episode records to the byte, credit, metrics and weights."""
    config = write_config(
        tmp_path, rollout={"concurrency": workers}, policy={"slots": workers}, train={"steps": 2}
    )
    run = train(tmp_path, config)
    assert run.records() == finished.records(batch=0) + finished.records(batch=1)
    assert run.weights(2) == finished.weights(2)
    assert run.credit() == finished.credit()[:8]
    assert run.metrics() == [metric for metric in finished.metrics() if metric[0] < 2]
    assert (run.dir / "before.json").read_bytes() == (finished.dir / "before.json").read_bytes()


@pytest.mark.slow
def test_the_result_as_json_and_no_step_at_all(
    write_config: WriteConfig, here: InProcess, tmp_path: Path
) -> None:
    said = agentrl(tmp_path, "train", write_config(tmp_path), "train.steps=0", "eval.tasks=1", "--json")
    result: dict[str, Any] = json.loads(said)
    assert result["run"] == RunFolder.only(tmp_path).run_id
    assert result["before"]["kinds"] == result["after"]["kinds"]
    assert (tmp_path / result["picture"]).exists()


def test_a_config_needs_no_more_than_an_environment(tmp_path: Path, here: InProcess) -> None:
    (tmp_path / "no.toml").write_text(toml({"env": {"id": "alfworld"}, "policy": {"checkpoint": "nowhere"}}))
    assert "there is no model in nowhere" in here.refused(tmp_path, "train", "no.toml")
    assert not (tmp_path / "runs").exists()
    with pytest.raises(Exception, match="no store"):
        Store.open(f"sqlite:///{tmp_path / 'runs' / 'agentrl.db'}", create=False)

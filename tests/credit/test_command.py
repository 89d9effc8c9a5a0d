"""`agentrl credit`, from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from credit.episodes import episode, golden_cases, golden_episodes, simple, turn

from agentrl.cli.credit import command
from agentrl.errors import AgentRLError
from agentrl.store.db import Store
from agentrl.store.record import write_jsonl

EPISODES = golden_episodes(next(golden_cases("gigpo_small_07*")))
GIGPO = '[credit]\npreset = "gigpo"\n'


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("gigpo.toml").write_text(GIGPO)
    Path("grpo.toml").write_text('[credit]\npreset = "grpo"\n')
    Path("frugal.toml").write_text('[credit]\npreset = "credit.one_file_method:preset"\n')
    write_jsonl("episodes.jsonl", EPISODES)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, catch_exceptions=False)


def lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_out_has_every_turn_with_its_terms(files: Path) -> None:
    assert (
        run("--config", "gigpo.toml", "--episodes", "episodes.jsonl", "--out", "credit.jsonl").exit_code == 0
    )
    written = lines("credit.jsonl")
    assert [record["episode_id"] for record in written] == [e.episode_id for e in EPISODES]
    first = written[0]["turns"][1]
    assert first["index"] == 1
    assert first["terms"]["episode"] + first["terms"]["step"] == first["advantage"]
    assert written[0]["channels"]["task"] == [t["advantage"] for t in written[0]["turns"]]


def test_out_to_standard_output(files: Path) -> None:
    result = run("--config", "gigpo.toml", "--episodes", "episodes.jsonl", "--out", "-")
    assert [json.loads(line)["episode_id"] for line in result.stdout.splitlines()] == ["0", "1", "2"]


def test_failed_episodes_are_null_and_counted(files: Path) -> None:
    write_jsonl("some.jsonl", [*EPISODES, episode("x", "g0", [turn(0)], failed=True)])
    result = run("--config", "gigpo.toml", "--episodes", "some.jsonl", "--out", "o.jsonl", "--json")
    assert json.loads(result.stdout)["dropped_episodes"] == 1
    assert lines("o.jsonl")[-1] == {
        "episode_id": "x",
        "turns": [{"index": 0, "advantage": None, "terms": {}}],
        "channels": {"task": [None]},
    }


def test_batches_run_in_order_with_memory_and_come_out_in_file_order(files: Path) -> None:
    late = episode("late", "t", [turn(0, 1.0), turn(1)], correct=True, batch=1)
    early = episode("early", "t", [turn(0, 1.0)], correct=True, batch=0)
    write_jsonl("two.jsonl", [late, early])
    Path("before.json").write_text('{"other": {"kept": 1}}')
    result = run(
        *("--config", "frugal.toml", "--episodes", "two.jsonl", "--out", "o.jsonl", "--json"),
        *("--memory-in", "before.json", "--memory-out", "after.json"),
    )
    assert [batch["batch"] for batch in json.loads(result.stdout)["batches"]] == [0, 1]
    assert [record["episode_id"] for record in lines("o.jsonl")] == ["late", "early"]
    after = json.loads(Path("after.json").read_text())
    assert after == {"other": {"kept": 1}, "efficiency/frugal": {"t": 1}}


def test_diff_with_a_file(files: Path) -> None:
    run("--config", "grpo.toml", "--episodes", "episodes.jsonl", "--out", "grpo.jsonl")
    same = run("--config", "grpo.toml", "--episodes", "episodes.jsonl", "--diff", "grpo.jsonl", "--json")
    other = run("--config", "gigpo.toml", "--episodes", "episodes.jsonl", "--diff", "grpo.jsonl", "--json")
    turns = sum(len(e.turns) for e in EPISODES)
    same_diff, other_diff = json.loads(same.stdout)["diff"], json.loads(other.stdout)["diff"]
    assert same_diff["equal"] == same_diff["turns"] == turns
    assert same_diff["max_abs_difference"] == 0
    assert other_diff["max_abs_difference"] > 0
    assert 0 < other_diff["correlation"] < 1


def test_stored_runs_are_credited_saved_and_compared(files: Path) -> None:
    url = "sqlite:///store.db"
    with Store.open(url) as store:
        run_id = store.add_run(name="played", env="test", config={})
        store.add_episodes(run_id, EPISODES)
    saved = run("--config", "grpo.toml", "--store", url, "--run", "played", "--save", "--json")
    credit_run_id = json.loads(saved.stdout)["credit_run_id"]
    result = run("--config", "grpo.toml", "--store", url, "--run", run_id, "--diff", credit_run_id, "--json")
    difference = json.loads(result.stdout)["diff"]
    assert difference["equal"] == difference["turns"] > 0
    with Store.open(url) as store:
        (credited,) = store.credit_runs(run_id)
        assert credited.credit_run_id == credit_run_id
        assert credited.config["channel"][0]["name"] == "task"


def test_explain_prints_a_config_that_gives_the_same(files: Path) -> None:
    Path("spelled.toml").write_text(run("--config", "gigpo.toml", "--explain").stdout)
    for config in ("gigpo", "spelled"):
        run("--config", f"{config}.toml", "--episodes", "episodes.jsonl", "--out", f"{config}.jsonl")
    assert lines("gigpo.jsonl") == lines("spelled.jsonl")


def test_a_person_sees_a_table(files: Path) -> None:
    result = run("--config", "gigpo.toml", "--episodes", "episodes.jsonl")
    assert "credited 9 turns of 3 episodes" in result.stdout
    for term in ("episode", "step", "total"):
        assert term in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "gigpo.toml"], "either --episodes FILE or --run RUN"),
        (["--config", "gigpo.toml", "--episodes", "e", "--run", "r"], "either --episodes FILE or --run RUN"),
        (["--config", "gigpo.toml", "--episodes", "episodes.jsonl", "--save"], "--save .* needs --run"),
        (["--config", "none.toml", "--explain"], "cannot read the config 'none.toml'"),
        (["--config", "empty.toml", "--explain"], r"no \[credit\] table"),
        (["--config", "broken.toml", "--explain"], "not valid TOML"),
        (["--config", "typo.toml", "--explain"], "typo.toml: .*unknown key gama"),
        (["--config", "term.toml", "--explain"], r"\[\[loss.term\]\]"),
        (["--config", "gigpo.toml", "--episodes", "none.jsonl"], "none.jsonl"),
        (
            ["--config", "gigpo.toml", "--episodes", "episodes.jsonl", "--memory-in", "no.json"],
            "memory 'no.json'",
        ),
        (
            ["--config", "gigpo.toml", "--episodes", "episodes.jsonl", "--memory-in", "list.json"],
            "JSON object",
        ),
        (["--config", "gigpo.toml", "--episodes", "episodes.jsonl", "--diff", "list.json"], "--out` wrote"),
    ],
)
def test_bad_input_is_one_clear_line(files: Path, arguments: list[str], message: str) -> None:
    Path("empty.toml").write_text("[run]\n")
    Path("broken.toml").write_text("[credit")
    Path("typo.toml").write_text(GIGPO + "gama = 1\n")
    Path("term.toml").write_text(GIGPO + '[loss]\nterm = "entropy"\n')
    Path("list.json").write_text("[1]")
    with pytest.raises(AgentRLError, match=message) as caught:
        run(*arguments)
    assert "\n" not in str(caught.value)


def test_a_file_without_episodes(files: Path) -> None:
    Path("none.jsonl").write_text("")
    assert run("--config", "gigpo.toml", "--episodes", "none.jsonl", "--memory-out", "m.json").exit_code == 0
    assert json.loads(Path("m.json").read_text()) == {}


def test_numbers_do_not_depend_on_the_other_batches(files: Path) -> None:
    write_jsonl("one.jsonl", simple({"g": [[1.0], [0.0]]}))
    both = [*simple({"g": [[1.0], [0.0]]}), *(e for e in simple({"g": [[0.3], [0.9]]}))]
    moved = [e if i < 2 else _in_batch(e, 1) for i, e in enumerate(both)]
    write_jsonl("both.jsonl", moved)
    for name in ("one", "both"):
        run("--config", "grpo.toml", "--episodes", f"{name}.jsonl", "--out", f"{name}.out")
    assert lines("both.out")[:2] == lines("one.out")


def _in_batch(given: Any, batch: int) -> Any:
    from dataclasses import replace

    return replace(given, episode_id=f"{given.episode_id}-{batch}", batch=batch)

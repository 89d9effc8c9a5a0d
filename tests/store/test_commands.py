"""`agentrl runs`, `export` and `import`, and the benchmark's arithmetic."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentrl.cli import bench_store, export, import_, runs
from agentrl.errors import AgentRLError, ConfigError, StoreError
from agentrl.store.db import Store
from agentrl.store.entries import RunStatus
from agentrl.store.record import read_jsonl, write_jsonl
from agentrl.types import Episode

MakeEpisode = Callable[..., Episode]


def invoke(command: object, *arguments: object) -> str:
    result = CliRunner().invoke(command, [str(each) for each in arguments])  # type: ignore[arg-type]
    if isinstance(result.exception, AgentRLError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_out_and_in_again(tmp_path: Path, make_episode: MakeEpisode, ending: str) -> None:
    if ending == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'agentrl[parquet]'")
    url, out = f"sqlite:///{tmp_path / 'store.db'}", tmp_path / f"out.{ending}"
    episodes = [make_episode(f"e{number}", batch=number // 50, extra={"n": number}) for number in range(100)]
    write_jsonl(tmp_path / "in.jsonl", episodes)

    first = json.loads(invoke(import_.command, tmp_path / "in.jsonl", "--store", url, "--json"))
    assert first["episodes"] == 100
    assert json.loads(invoke(export.command, "in", out, "--store", url, "--json"))["episodes"] == 100
    assert "100 episodes" in invoke(import_.command, out, "--store", url, "--name", "back")
    with Store.open(url) as store:
        back = store.find_run("back")
        assert (back.env, back.status, back.config) == (
            "echo",
            RunStatus.FINISHED,
            {"imported_from": out.name},
        )
        assert list(store.episodes(back.run_id)) == episodes

    listed = json.loads(invoke(runs.command, "--store", url, "--json"))
    assert [row["name"] for row in listed] == ["back", "in"]
    assert listed[0] | {"run": "", "created": ""} == {
        **{"run": "", "name": "back", "env": "echo", "status": "finished", "created": ""},
        **{"episodes": 100, "failed": 0, "success_rate": 1.0, "batches": 2},
    }
    assert "100.0%" in invoke(runs.command, "--store", url)


def test_a_file_that_is_wrong_half_way(tmp_path: Path, make_episode: MakeEpisode) -> None:
    url, path = f"sqlite:///{tmp_path / 'store.db'}", tmp_path / "in.jsonl"
    write_jsonl(path, [make_episode(f"e{number}") for number in range(70)])
    with path.open("a") as file:
        file.write("oops\n")
    with pytest.raises(ConfigError, match=r"in\.jsonl:71"):
        invoke(import_.command, path, "--store", url)
    with Store.open(url) as store:
        run = store.find_run("in")
        assert (run.status, store.stats()[run.run_id].episodes) == (RunStatus.FAILED, 64)


def test_mistakes_are_named(tmp_path: Path, make_episode: MakeEpisode) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with pytest.raises(StoreError, match="there is no store"):
        invoke(runs.command, "--store", url)
    with Store.open(url) as store:
        store.add_run(name="empty", env="echo", config={})
    (tmp_path / "in.jsonl").write_text("\n")
    for command, arguments, message in (
        (import_.command, (tmp_path / "in.jsonl",), "no episodes"),
        (import_.command, (tmp_path / "in.csv",), "end its name"),
        (import_.command, (tmp_path / "none.jsonl",), "No such file"),
        (export.command, ("empty", tmp_path / "out.csv"), "end its name"),
    ):
        with pytest.raises(ConfigError, match=message):
            invoke(command, *arguments, "--store", url)
    with pytest.raises(StoreError, match="no run 'nobody'"):
        invoke(export.command, "nobody", tmp_path / "out.jsonl", "--store", url)
    invoke(export.command, "empty", tmp_path / "out.jsonl", "--store", url)
    assert list(read_jsonl(tmp_path / "out.jsonl")) == []


def test_benchmark_rows_compare_with_a_baseline() -> None:
    measured = bench_store.rows(groups=1)
    assert {tuple(row) for row in measured} == {
        ("what", "value", "unit", "baseline", "baseline_value", "ratio")
    }
    assert all(row["value"] > 0 and row["baseline_value"] > 0 for row in measured)


def test_the_store_needs_neither_torch_nor_numpy() -> None:
    program = """
import sys
import agentrl.store.db, agentrl.store.record, agentrl.cli.runs, agentrl.cli.export, agentrl.cli.import_
print(sorted({"torch", "numpy", "pyarrow", "alembic"} & set(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"

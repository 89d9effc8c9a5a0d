"""The command line: light to start, exit codes that mean something, one clear line for bad input."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from agentrl import cli

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = cli.agentrl.list_commands(click.Context(cli.agentrl))
HELP = [[], *([name] for name in COMMANDS), ["check", "env"], ["check", "tool"]]
# Jobs that a shell started in the background ignore Ctrl-C, and so would what the tests start.
PROGRAM = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from agentrl.cli import main; main()"
)
LIGHT_PROGRAM = """
import sys
from agentrl.cli import main
try:
    main()
finally:
    heavy = [name for name in ("torch", "transformers", "tensorboard", "matplotlib") if name in sys.modules]
    assert not heavy, f"imported {heavy}"
"""
HELP_CPU_S = 0.3
BARE_CPU_S = 0.06
"""What an interpreter with click and asyncio takes where HELP_CPU_S is the limit."""


def agentrl(*arguments: str, cwd: Path, program: str = PROGRAM) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(cwd)])
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )


def child_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.fixture(scope="module")
def help_cpu_s() -> float:
    """HELP_CPU_S, or more of it where everything takes longer: a slow or busy machine."""
    before_s = child_cpu_s()
    for _ in range(5):
        subprocess.run([sys.executable, "-c", "import asyncio, click"], check=True)
    bare_s = (child_cpu_s() - before_s) / 5
    return HELP_CPU_S * max(1.0, bare_s / BARE_CPU_S)


@pytest.mark.parametrize("arguments", HELP, ids=" ".join)
def test_help_is_immediate_and_loads_nothing_heavy(
    arguments: list[str], tmp_path: Path, help_cpu_s: float
) -> None:
    needed_s: list[float] = []
    for _ in range(4):
        before_s = child_cpu_s()
        done = agentrl(*arguments, "--help", cwd=tmp_path, program=LIGHT_PROGRAM)
        needed_s.append(child_cpu_s() - before_s)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"Usage: {' '.join(['agentrl', *arguments])} ")
        if needed_s[-1] < help_cpu_s:
            break
    assert min(needed_s) < help_cpu_s
    assert list(tmp_path.iterdir()) == []


def test_every_command_has_its_file_and_its_line_of_help(tmp_path: Path) -> None:
    assert sorted(cli.SUMMARIES) == COMMANDS
    shown = agentrl("--help", cwd=tmp_path).stdout
    for name, summary in cli.SUMMARIES.items():
        assert f"  {name} " in shown
        assert summary.split(";")[0].split()[0] in shown


def test_version(tmp_path: Path) -> None:
    done = agentrl("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "agentrl, version 0.1.0\n")


def test_no_arguments_show_the_help(tmp_path: Path) -> None:
    done = agentrl(cwd=tmp_path)
    assert done.returncode == 2
    assert "Usage: agentrl" in done.stderr


BAD = [
    ("trian", "No such command 'trian'"),
    ("train --no-such-option x", "--no-such-option"),
    ("train", "which config?"),
    ("train no_such.toml", "there is no config file 'no_such.toml'"),
    ("train configs/quickstart.toml train.step=1", "unknown key train.step; known: "),
    ("train configs/quickstart.toml train.steps=many", "train.steps: input should be a valid integer"),
    ("train configs/quickstart.toml steps", "section.key=value"),
    ("train --resume no_such_run", "there is no run 'no_such_run'"),
    ("eval no_such.toml", "there is no config file"),
    ("eval no_such_run", "there is no run 'no_such_run'"),
    ("rollout no_such.toml", "there is no config file"),
    ("credit --config no_such.toml --episodes x", "no_such.toml"),
    ("runs --store sqlite:///no/such/folder/x.db", "no/such/folder"),
    ("check", None),
    ("check tool", "Missing argument 'ID'"),
    ("check tool calculater", "there is no tool 'calculater'; those that exist: calculator"),
    ("check tool ../calculator", "there is no tool '../calculator'"),
    ("check tool no_such_package:thing", "there is no such module"),
    ("check env alfwrld", "there is no env 'alfwrld'; those that exist: alfworld"),
    ("check env os:getcwd", "not an environment class"),
    (
        "check env guess:GuessEnv tip=9",
        "settings of guess:GuessEnv: unknown key tip; known: fresh_every, top",
    ),
    ("check env guess:GuessEnv --split moon", "there is no split 'moon'; splits: train, valid_unseen"),
    ("check env guess:GuessEnv --tasks 0", "--tasks"),
    ("bench speed", "speed"),
    ("bench services --only rockets", "has no part 'rockets'; parts: alfworld-engine"),
]


@pytest.mark.parametrize(("line", "expected"), BAD, ids=[line for line, _ in BAD])
def test_bad_input_is_exit_code_2_and_one_line(line: str, expected: str | None, tmp_path: Path) -> None:
    done = agentrl(*line.split(), cwd=tmp_path)
    assert done.returncode == 2
    if expected is None:  # a group without a command shows its help
        return
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("agentrl: ")
    assert expected in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("check tool nope --json", "plugin.unknown"),
        ("bench speed --json", "cli.usage"),
        ("trian --json", "cli.usage"),
        ("train no_such.toml --json", "config.not_found"),
    ],
)
def test_bad_input_is_json_where_that_was_asked_for(line: str, code: str, tmp_path: Path) -> None:
    done = agentrl(*line.split(), cwd=tmp_path)
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert error["code"] == code
    assert set(error) == {"code", "message", "detail"}
    assert len(done.stderr.splitlines()) == 1


def test_a_message_of_many_lines_is_one(tmp_path: Path) -> None:
    (tmp_path / "wordy.py").write_text("raise ImportError('first\\nsecond\\n  third')\n")
    done = agentrl("check", "tool", "wordy:x", cwd=tmp_path)
    assert done.returncode == 2
    assert "its own import failed: first second third" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_check_that_holds_is_exit_code_0(tmp_path: Path) -> None:
    done = agentrl("check", "tool", "calculator", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "5 of 5 checks passed" in done.stdout
    done = agentrl("check", "env", "guess:GuessEnv", "top=20", "--tasks", "1", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["passed"] is True


def test_a_check_that_fails_is_exit_code_1(tmp_path: Path) -> None:
    done = agentrl("check", "tool", "os:getcwd", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    result = json.loads(done.stdout)
    assert result["passed"] is False
    assert "decorate the function with @tool" in result["findings"][0]["seen"]


def test_doctor_says_what_is_here(tmp_path: Path) -> None:
    done = agentrl("doctor", "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["ok"] else 1)
    found = {finding["name"]: finding for finding in report["findings"]}
    assert found["env"]["state"] == found["tool"]["state"] == found["credit.preset"]["state"] == "ok"
    assert "alfworld" in found["env"]["seen"]
    assert {finding["state"] for finding in report["findings"]} <= {"ok", "missing", "broken"}


def test_an_interrupt_stops_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "from guess import GuessEnv\n"
        "class Slow(GuessEnv):\n"
        "    def __init__(self, settings):\n"
        "        super().__init__(settings)\n"
        "        self.faults.hang_in_step = lambda place: print('ready', flush=True) is None\n"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(tmp_path)])
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "check", "env", "slow:Slow"],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGINT)
        _, stderr = running.communicate(timeout=60)
    assert running.returncode == 130
    assert stderr.strip().splitlines()[-1] == "agentrl: stopped"
    assert "Traceback" not in stderr

"""Documents cannot lie: their programs run, and the tests that they name exist."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from types import ModuleType

import pytest
from fakes import byte_renderer
from guess import guess_player

import agentrl.credit.estimators
import envs
import tools
from agentrl import registry
from agentrl.check import check_env, check_tool
from agentrl.config import load_config
from agentrl.credit import build
from agentrl.policy.scripted import ScriptedPolicy
from agentrl.rollout.episode import EpisodeSpec, play
from agentrl.rollout.setup import build_env
from agentrl.tool import call_tool
from agentrl.types import Episode, StopReason, ToolCall

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(\w+)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PACKAGES: dict[str, ModuleType] = {
    "envs": envs,
    "tools": tools,
    "agentrl/credit/estimators": agentrl.credit.estimators,
}
NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The programs of docs/extending.md, each in the package that the text puts it in."""
    for _, name, text in BLOCK.findall((ROOT / "docs" / "extending.md").read_text(encoding="utf-8")):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    for folder, package in PACKAGES.items():
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / folder)])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        package_name, _, attribute = name.rpartition(".")
        if attribute in ("dice", "sums", "rank") and package_name:
            delattr(sys.modules[package_name], attribute)
        del sys.modules[name]


def test_every_kind_has_its_example(examples: Path) -> None:
    files = {str(path.relative_to(examples)) for path in examples.rglob("*.*") if path.is_file()}
    assert files == {"tools/dice.py", "envs/sums.py", "agentrl/credit/estimators/rank.py", "sums.toml"}


def test_the_examples_are_written_as_the_code_is(examples: Path) -> None:
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent))
    if ruff is None:
        pytest.skip("ruff is not installed (pip install -e '.[check]')")
    settings = str(ROOT / "pyproject.toml")
    done = subprocess.run(
        [ruff, "check", "--no-cache", "--config", settings, str(examples)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


async def test_the_tool_example_works(examples: Path) -> None:
    dice = registry.load("tool", "dice")
    assert [finding for finding in await check_tool(dice) if not finding.passed] == []
    given = {"rng": Random(0)}
    rolled = await call_tool({"dice": dice}, ToolCall("1", "dice", {"sides": 6, "count": 3}), given)
    assert rolled.valid
    assert re.fullmatch(r"[1-6] [1-6] [1-6]", rolled.content)
    refused = await call_tool({"dice": dice}, ToolCall("2", "dice", {"sides": 100, "count": 20}), given)
    assert refused.content == "Error: the table holds 1000 sides in all; roll fewer or smaller dice"
    wrong = await call_tool({"dice": dice}, ToolCall("3", "dice", {"sides": 1}), given)
    assert "sides: input should be greater than or equal to 2" in wrong.content


async def test_the_environment_example_works(examples: Path) -> None:
    plugin = registry.load("env", "sums")
    findings = await check_env(lambda: plugin(plugin.Settings()), ["train", "valid_unseen"], 3)
    assert [finding for finding in findings if not finding.passed] == []
    assert any(finding.name.endswith("its expert solves it") for finding in findings)


async def test_the_credit_example_works_on_the_environment_example(examples: Path) -> None:
    config = load_config(examples / "sums.toml")
    env = build_env(config)
    task = env.tasks("train")[0]
    right = task.data["a"] + task.data["b"]
    call = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "1/"}}\n</tool_call>'
    scripts = [
        [call, f"<answer>{right}</answer>"],
        ["<answer>1000</answer>"],
        ["well", "<answer>1001</answer>"],
        ["well"] * 4,
    ]
    renderer = byte_renderer()
    limits = replace(guess_player().limits, turns=4, reply_tokens=200)
    played: list[Episode] = []
    for place, script in enumerate(scripts):
        player = replace(
            guess_player(),
            env=env,
            policy=ScriptedPolicy(renderer, script),
            renderer=renderer,
            limits=limits,
        )
        played.append(await play(player, EpisodeSpec(f"e{place}", "g", task, place)))
    assert [episode.ret for episode in played] == [1.0, 0.0, 0.0, 0.0]
    assert [turn.action_valid for turn in played[0].turns] == [False, True]  # "1/" is no arithmetic
    assert [turn.tool_calls for turn in played[0].turns] == [1, 0]
    assert played[3].stop_reason is StopReason.MAX_TURNS
    advantages = build(config.credit).run(played).advantages()
    assert advantages == [[0.5625] * 2, [-0.0625], [-0.0625] * 2, [-0.0625] * 4]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_and_files_that_a_document_names_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for file, name in NAMED_TEST.findall(text):
        assert (ROOT / file).is_file(), f"{document.name} names {file}"
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {name}"
    for target in re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", text):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_every_invariant_has_its_test() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \|.*$", text, re.MULTILINE)
    assert rows == [str(number) for number in range(1, 10)]
    for line in text.splitlines():
        if re.match(r"\| \d \|", line):
            assert NAMED_TEST.search(line), line

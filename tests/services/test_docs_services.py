"""docs/services.md: its examples run against a real service, and its tables say what the code does."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest
from service_process import REPOSITORY, ServiceProcess, running_service
from websockets.sync.client import connect

from agentrl import registry
from agentrl.config import load_config
from agentrl.rollout.setup import build_env
from services._base.answers import STATUS
from services._base.desk import MESSAGE_TYPES
from services._base.settings import ServiceSettings

PAGE = (REPOSITORY / "docs" / "services.md").read_text(encoding="utf-8")
ADDRESS = "127.0.0.1:8000"
SERVE = "agentrl serve "
OPENENV = "# with openenv-core\n"
RUN_S = 120.0
CODE = re.compile(r"(?:auth|env|http|mcp|remote|serve|service|session|wire)\.[a-z_]+")
NO_CODES = {"http.request", "http.disconnect", "http.response"}
"""ASGI's messages."""


@dataclass(frozen=True)
class Block:
    """A fenced block of the page."""

    heading: str
    language: str
    text: str

    @property
    def commands(self) -> list[tuple[str, str]]:
        """The commands of a console block, each with what it prints."""
        parts = re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]
        return [(command, output.strip()) for command, _, output in (part.partition("\n") for part in parts)]


def blocks() -> list[Block]:
    found: list[Block] = []
    for section in re.split(r"^#+ ", PAGE, flags=re.MULTILINE)[1:]:
        heading = section.partition("\n")[0]
        fenced = re.findall(r"^```(\w+)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
        found += [Block(heading, language, text) for language, text in fenced]
    return found


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the table under a heading, without its head; tables after each other are one."""
    section = re.search(rf"^#+ {heading}\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section is not None, heading
    lines = [line for line in section[1].splitlines() if line.startswith("|")]
    heads = {place - 1 for place, line in enumerate(lines) if re.match(r"\|[-|]+\|$", line)}
    kept = [line for place, line in enumerate(lines) if place not in heads and place - 1 not in heads]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in kept]


SERVED = [
    (command, output)
    for block in blocks()
    if block.language == "console"
    for command, output in block.commands
    if SERVE in command
]
CONSOLE = [
    block
    for block in blocks()
    if block.language == "console" and not any(SERVE in c for c, _ in block.commands)
]
PYTHON = [block for block in blocks() if block.language == "python"]


def served(command: str) -> tuple[list[str], dict[str, str]]:
    """Return the arguments and the environment of `[NAME=VALUE] agentrl serve ...`."""
    words = shlex.split(command)
    start = words.index("agentrl")
    return words[start + 2 :], dict(word.split("=", 1) for word in words[:start])


@pytest.fixture(scope="module")
def service() -> Generator[ServiceProcess]:
    """What the first command of the page starts."""
    (name, *arguments), environment = served(SERVED[0][0])
    with running_service(*arguments, "drain_s=0.5", name=name, environment=environment) as running:
        yield running


def here(text: str, service: ServiceProcess) -> str:
    return text.replace(ADDRESS, service.url.removeprefix("http://"))


@pytest.mark.parametrize(("command", "output"), SERVED, ids=[command for command, _ in SERVED])
def test_services_start_as_the_page_says(command: str, output: str) -> None:
    (name, *arguments), environment = served(command)
    said = re.fullmatch(r"(\w+): (http://(\S+):8000) \(workers: (\d+); play it: (\S+)\)", output)
    assert said is not None
    assert said[5] == f"{said[2]}/play"
    assert said[1] == (registry.names("service")[0] if name == "all" else name)
    # A test never lets other machines in.
    listening = [argument.replace("0.0.0.0", "127.0.0.1") for argument in arguments]
    assert said[3] == (arguments[arguments.index("--host") + 1] if "--host" in arguments else "127.0.0.1")
    with running_service(*listening, name=name, environment=environment) as started:
        token = next(iter(environment.values())).split(",")[0] if environment else None
        status, metadata = started.get("/metadata", token=token)
        assert (status, metadata["name"], metadata["workers"]) == (200, said[1], int(said[4]))
        assert started.get("/metadata")[0] == (401 if environment else 200)


@pytest.mark.parametrize("block", CONSOLE, ids=lambda block: block.heading)
def test_commands_print_what_the_page_says(block: Block, service: ServiceProcess, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    assert block.commands
    for command, output in block.commands:
        words = ["bash", "-c", here(command, service)]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=RUN_S)
        pattern = re.escape(output).replace("…", ".*")
        assert re.fullmatch(pattern, done.stdout.strip(), re.DOTALL), f"{command}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.heading)
def test_programs_run(
    block: Block, service: ServiceProcess, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    python = Path(sys.executable)
    if block.text.startswith(OPENENV):
        python = request.getfixturevalue("openenv_interpreter")
    program = tmp_path / "program.py"
    program.write_text(here(block.text, service), encoding="utf-8")
    paths = "" if block.text.startswith(OPENENV) else str(REPOSITORY)
    environment = {**{k: v for k, v in os.environ.items() if k != "AGENTRL_TOKEN"}, "PYTHONPATH": paths}
    done = subprocess.run(
        [python, program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=RUN_S
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_programs_are_written_as_the_code_is(tmp_path: Path) -> None:
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent))
    if ruff is None:
        pytest.skip("ruff is not installed (pip install -e '.[check]')")
    for place, block in enumerate(PYTHON):
        (tmp_path / f"program_{place}.py").write_text(block.text, encoding="utf-8")
    settings = ["--no-cache", "--config", str(REPOSITORY / "pyproject.toml")]
    for order in (["check"], ["format", "--check", "--diff"]):
        done = subprocess.run([ruff, *order, *settings, str(tmp_path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_service_fits_the_config_that_it_is_said_to_train(monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = (block for block in blocks() if block.language == "sh")
    serve, train = block.text.splitlines()
    (name, *arguments), _ = served(serve)
    _, command, config, *overrides = shlex.split(train)
    assert command == "train"
    monkeypatch.delenv("AGENTRL_TOKEN", raising=False)
    with running_service(*arguments, name=name) as started:
        loaded = load_config(REPOSITORY / config, [here(override, started) for override in overrides])
        assert loaded.env.url == started.url
        assert build_env(loaded).tasks("train")[0].env == name  # which compares their settings


def test_every_route_is_in_the_table(service: ServiceProcess) -> None:
    written = {row[0].strip("`") for row in rows("Routes")}
    sockets = {"WebSocket `/ws", "WebSocket `/mcp"}
    _, api = service.get("/openapi.json")
    routes = {f"{method.upper()} {path}" for path, ways in api["paths"].items() for method in ways}
    assert written == routes | sockets | {"GET /openapi.json"}
    for path in ("/ws", "/mcp"):
        with connect(f"ws://127.0.0.1:{service.port}{path}"):
            pass


def test_every_message_is_in_the_table() -> None:
    assert sorted(row[0].strip("`") for row in rows("WebSocket")) == sorted([*MESSAGE_TYPES, "mcp", "batch"])


def test_every_limit_is_in_the_table() -> None:
    written = [(row[0].strip("`"), row[1]) for row in rows("Limits")]
    assert written == [(name, repr(field.default)) for name, field in ServiceSettings.model_fields.items()]


def test_every_metric_is_in_the_table(service: ServiceProcess) -> None:
    _, text = service.get("/metrics")
    types = dict(re.findall(r"^# TYPE (\w+(?<!_created)) (\w+)$", text, re.MULTILINE))
    assert {row[0].strip("`"): row[1] for row in rows("Operating")} == types


def sources() -> list[Path]:
    folders = ("services/_base", "agentrl/remote")
    files = [file for folder in folders for file in sorted((REPOSITORY / folder).glob("*.py"))]
    return [*files, REPOSITORY / "agentrl" / "cli" / "serve.py"]


def codes() -> dict[str, set[str]]:
    """Return every error code of the services and their clients, with the classes that it is raised as."""
    found: dict[str, set[str]] = {}
    for file in sources():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value):
                found.setdefault(node.value, set())
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                for argument in node.args[:2]:
                    if isinstance(argument, ast.Constant) and argument.value in found | {argument.value: 0}:
                        kinds = found.setdefault(str(argument.value), set())
                        first = node.args[0]
                        kinds.add(first.id if isinstance(first, ast.Name) else node.func.id)
    return {code: kinds for code, kinds in found.items() if CODE.fullmatch(code) and code not in NO_CODES}


def test_every_error_code_is_in_the_table() -> None:
    raised = codes()
    assert {"auth.missing", "session.unknown", "env.step", "remote.url", "serve.no_token"} <= set(raised)
    table = {row[0].strip("`"): row[1] for row in rows("Errors")}
    assert sorted(set(raised) - set(table)) == []
    assert sorted(set(table) - set(raised)) == []
    for code, written in table.items():
        if written.isdecimal():
            usual = 400 if "RequestError" in raised[code] or not raised[code] else 500
            assert int(written) == STATUS.get(code, usual), code


def test_what_the_page_links_to_inside_itself_exists() -> None:
    headings = re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert {target for target in re.findall(r"\]\(#([^)]+)\)", PAGE) if target not in anchors} == set()

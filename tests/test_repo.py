"""The house itself: who may import whom, how long files are, and what an installed wheel is."""

from __future__ import annotations

import ast
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from agentrl import registry

ROOT = Path(__file__).resolve().parents[1]
CODE = ("agentrl", "envs", "tools", "sandboxes", "services")
CARRIED = ("envs", "tools", "sandboxes", "services", "configs", "models")
SCRATCH = shutil.ignore_patterns(
    ".git", ".venv*", ".*_cache", ".hypothesis", ".whl", "__pycache__", "runs", "dist", "build", "*.db*"
)
MAX_LINES = 400
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

NEEDS_TORCH = re.compile(r"agentrl\.(policy\.local|loss|train)(\.|$)")
"""The packages that compute; everything else works where torch is not installed."""
NOT_TO_IMPORT = re.compile(r"agentrl\.store\.migrations\.|agentrl\.cli\.bench_|\.__main__$")
"""Alembic's scripts run inside Alembic; benchmarks may measure what needs torch."""


def modules() -> Iterator[tuple[str, Path]]:
    for top in CODE:
        for file in sorted((ROOT / top).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


MODULES = dict(modules())


def test_imports_go_one_way() -> None:
    lint_imports = Path(sys.executable).parent / "lint-imports"
    if not lint_imports.exists():
        pytest.skip("import-linter is not installed (pip install -e '.[check]')")
    done = subprocess.run(
        [lint_imports, "--no-cache"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_what_does_not_compute_needs_no_torch() -> None:
    light = [name for name in MODULES if not NEEDS_TORCH.match(name) and not NOT_TO_IMPORT.search(name)]
    assert {"agentrl.store", "agentrl.credit.pipeline", "agentrl.rollout.episode"} <= set(light)
    program = (
        "import importlib, sys\n"
        "for absent in ('torch', 'transformers', 'safetensors', 'tensorboard', 'matplotlib'):\n"
        "    sys.modules[absent] = None\n"
        f"for name in {light!r}:\n"
        "    importlib.import_module(name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_our_siblings_are_the_ones_in_this_checkout() -> None:
    import envs
    import sandboxes
    import services
    import tools

    for module in (envs, sandboxes, services, tools):
        assert Path(str(module.__file__)).is_relative_to(ROOT)


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_short_or_say_why_not(name: str) -> None:
    text = MODULES[name].read_text(encoding="utf-8")
    if len(text.splitlines()) > MAX_LINES:
        assert "lines because" in (ast.get_docstring(ast.parse(text)) or "")


def test_no_file_is_called_after_nothing_in_particular() -> None:
    vague = {"utils", "util", "helpers", "misc", "common"}
    assert [name for name in MODULES if name.rpartition(".")[2] in vague] == []


def test_tests_are_no_packages() -> None:
    """`tests/tools/__init__.py` would become `tools`."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_invariant_5_the_trainer_knows_no_credit_method_by_name() -> None:
    kinds = [kind for kind in registry.KINDS if kind.startswith("credit.")]
    methods = {name for kind in kinds for name in registry.names(kind)}
    packages = tuple(registry.KINDS[kind] for kind in kinds)
    assert {"gigpo", "grpo", "group_norm"} <= methods
    for file in (ROOT / "agentrl" / "train").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant):
                assert node.value not in methods, f"{file.name}, line {node.lineno}"
            if isinstance(node, ast.ImportFrom) and node.module:
                assert not node.module.startswith(packages), f"{file.name}, line {node.lineno}"


# What is installed -----------------------------------------------------------------------------------------


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert pinned == sorted(pinned, key=lambda line: line.partition("==")[0])
    for line in pinned:
        assert re.fullmatch(r"[a-z0-9-]+==[A-Za-z0-9.]+", line), line
    return dict(line.split("==") for line in pinned)


def requirements() -> Iterator[Requirement]:
    extras = PROJECT["optional-dependencies"]
    ours = (extras[name] for name in ("train", "serve", "postgres", "parquet", "test", "check"))
    yield from map(Requirement, itertools.chain(PROJECT["dependencies"], *ours))


def test_every_requirement_is_pinned_inside_its_range() -> None:
    pinned = pins()
    for requirement in requirements():
        name = canonicalize_name(requirement.name)
        assert name in pinned
        assert requirement.specifier.contains(pinned[name]), f"{requirement} but {pinned[name]} is pinned"


def test_the_pins_are_what_these_tests_run_with() -> None:
    for name in ("numpy", "pydantic", "sqlalchemy", "tokenizers", "pytest"):
        if pins()[name] != version(name):
            pytest.skip(f"these tests run with {name} {version(name)}, not with the constraints")


def test_ci_runs_what_people_run() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built from a copy of it."""
    copy = tmp_path_factory.mktemp("build") / "checkout"
    shutil.copytree(ROOT, copy, ignore=SCRATCH)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(copy / "dist")],
        cwd=copy,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (copy / "dist").glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_has_one_name_and_carries_the_siblings(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {PurePosixPath(name) for name in archive.namelist()}
    assert {path.parts[0] for path in names} == {"agentrl", f"agentrl-{PROJECT['version']}.dist-info"}
    checkout = wheel.parents[1]
    for folder in ("agentrl", *CARRIED):
        inside = PurePosixPath("agentrl") if folder == "agentrl" else PurePosixPath("agentrl/_bundle", folder)
        for file in (checkout / folder).rglob("*"):
            if file.is_file():
                assert inside / file.relative_to(checkout / folder) in names, file
    assert PurePosixPath("agentrl/_bundle/envs/alfworld/data/alfred.pddl") in names
    assert any(path.match("agentrl/store/migrations/versions/*.py") for path in names)
    assert not any("tests" in path.parts or "__pycache__" in path.parts for path in names)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel beside a stranger that ships its own top-level `tools`."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    options = ["--quiet", "--no-deps", "--no-index"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", *options, str(wheel)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (site_packages,) = folder.glob("lib/python*/site-packages")
    # What the wheel depends on, from the environment of these tests; after the wheel on the path.
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages / "dependencies.pth").write_text("\n".join(sorted(paths)) + "\n", encoding="utf-8")
    stranger = site_packages / "tools"
    stranger.mkdir()
    (stranger / "__init__.py").write_text("STRANGER = True\n", encoding="utf-8")
    (stranger / "calculator.py").write_text("raise ImportError('a stranger')\n", encoding="utf-8")
    return folder


def run(folder: Path, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: os.environ[name] for name in os.environ.keys() - {"PYTHONPATH", "VIRTUAL_ENV"}}
    return subprocess.run(
        [str(folder / "bin" / command[0]), *command[1:]],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
def test_an_installed_wheel_plays_beside_a_strangers_tools(installed: Path, tmp_path: Path) -> None:
    where = "import agentrl, tools; print(agentrl.__file__); print(tools.STRANGER)"
    done = run(installed, "python", "-c", where, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (ours,) = installed.glob("lib/python*/site-packages/agentrl/__init__.py")
    assert done.stdout.splitlines() == [str(ours), "True"]

    done = run(installed, "agentrl", "check", "tool", "calculator", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")

    done = run(installed, "agentrl", "check", "env", "alfworld", "--tasks", "1", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    findings = json.loads(done.stdout)["findings"]
    assert any(f["name"].endswith("its expert solves it") and f["passed"] for f in findings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_installed_wheel_finds_its_configs_and_migrations(installed: Path, tmp_path: Path) -> None:
    program = (
        "from agentrl import bundle; bundle.activate()\n"
        "from agentrl.config import load_config\n"
        "from agentrl.rollout.setup import build_env\n"
        "from agentrl.store.db import Store\n"
        "config = load_config('configs/quickstart.toml')\n"
        "print(len(build_env(config).tasks('train')) > 0)\n"
        "with Store.open('sqlite:///new.db') as store:\n"
        "    print(store.add_run(name='r', env='e', config={}, config_hash='h') != '')\n"
    )
    done = run(installed, "python", "-c", program, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\nTrue\n", "")
    assert (tmp_path / "new.db").exists()

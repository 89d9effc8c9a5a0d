"""Where the siblings are found, and that they come first on the path."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentrl import bundle

ROOT = Path(__file__).resolve().parents[1]


def test_home_is_the_checkout() -> None:
    assert bundle.home() == ROOT


def test_find_prefers_what_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert bundle.find("configs/quickstart.toml") == ROOT / "configs/quickstart.toml"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quickstart.toml").touch()
    assert bundle.find("configs/quickstart.toml") == Path("configs/quickstart.toml")


def test_find_gives_back_what_exists_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert bundle.find("nope.toml") == Path("nope.toml")
    assert bundle.find(tmp_path / "nope.toml") == tmp_path / "nope.toml"


def test_activate_puts_the_siblings_first_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["elsewhere", str(ROOT), "more"])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["theirs", str(ROOT)]))
    bundle.activate()
    bundle.activate()
    assert sys.path == [str(ROOT), "elsewhere", "more"]
    assert os.environ["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "theirs"]


def test_activate_without_a_pythonpath(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "")
    bundle.activate()
    assert os.environ["PYTHONPATH"] == str(ROOT)


def test_children_find_our_siblings_before_a_strangers(tmp_path: Path) -> None:
    """A stranger's `tools/` in the working directory (which `python -c` puts first) must lose."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "__init__.py").write_text("raise ImportError('the wrong tools')\n")
    child = "import tools.calculator; print(tools.calculator.__file__)"
    program = (
        "import subprocess, sys\n"
        "from agentrl import bundle\n"
        "bundle.activate()\n"
        "import tools.calculator\n"
        f"subprocess.run([sys.executable, '-P', '-c', {child!r}], check=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == str(ROOT / "tools" / "calculator.py")

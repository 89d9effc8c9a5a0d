"""Plug-ins: a file is its id, an unknown id lists what exists, a broken file says why."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentrl import registry
from agentrl.errors import ConfigError, UnknownPlugin
from agentrl.tool import Tool


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `their_pkg` on the path, also searched as the plug-ins of kind "tool"."""
    package = tmp_path / "their_pkg"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry.KINDS, "tool", "their_pkg")
    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == "their_pkg"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in registry.KINDS for name in registry.names(kind)],
    ids=lambda part: part,
)
def test_every_shipped_plugin_loads_by_its_id(kind: str, name: str) -> None:
    registry.load(kind, name)


def test_our_files_are_found_without_a_list() -> None:
    assert "calculator" in registry.names("tool")
    assert "alfworld" in registry.names("env")
    assert isinstance(registry.load("tool", "calculator"), Tool)


def test_an_unknown_id_lists_what_exists() -> None:
    with pytest.raises(
        UnknownPlugin, match=r"there is no tool 'calculater'; those that exist: .*calculator"
    ) as caught:
        registry.load("tool", "calculater")
    assert caught.value.code == "plugin.unknown"
    assert caught.value.detail["existing"] == registry.names("tool")


def test_an_unknown_kind_lists_the_kinds() -> None:
    with pytest.raises(ConfigError, match="no plug-in kind 'wizard'; the kinds are env, tool"):
        registry.names("wizard")
    with pytest.raises(ConfigError):
        registry.load("wizard", "x")


@pytest.mark.parametrize(
    "plugin_id",
    [
        "../x",
        "a.b",
        "",
        " ",
        "/etc/passwd",
        "x/y",
        "calculator.py",
        "__init__",
        "_private",
        "class",
        "a b",
        "x\0",
    ],
)
def test_an_id_that_is_no_file_name_is_refused(plugin_id: str) -> None:
    with pytest.raises(UnknownPlugin) as caught:
        registry.load("tool", plugin_id)
    assert caught.value.code == "plugin.unknown"


@pytest.mark.parametrize(
    "plugin_id", [":", "x:", ":x", "..x:y", "a..b:c", "a/b:c", "a:b:c", "a.b:c.d", "os: x"]
)
def test_a_third_party_id_of_another_form_is_refused(plugin_id: str) -> None:
    with pytest.raises(UnknownPlugin, match=r"package\.module:Name"):
        registry.load("tool", plugin_id)


def test_a_file_is_a_plugin(plugins: Path) -> None:
    (plugins / "lamp.py").write_text("__all__ = ['lamp']\nlamp = object()\n")
    (plugins / "_helper.py").write_text("")
    assert registry.names("tool") == ["lamp"]
    assert registry.load("tool", "lamp") is registry.load("tool", "their_pkg.lamp:lamp")


def test_a_folder_is_a_plugin(plugins: Path) -> None:
    (plugins / "game").mkdir()
    (plugins / "game" / "__init__.py").write_text("__all__ = ['Game']\nclass Game: ...\n")
    assert registry.load("tool", "game").__name__ == "Game"


@pytest.mark.parametrize(
    ("text", "exported"),
    [("x = 1", r"\[\]"), ("__all__ = []", r"\[\]"), ("__all__ = ['a', 'b']\na = b = 1", r"\['a', 'b'\]")],
)
def test_a_file_exports_exactly_one_object(plugins: Path, text: str, exported: str) -> None:
    (plugins / "lamp.py").write_text(text)
    with pytest.raises(
        UnknownPlugin, match=f"exactly one object in __all__, it exports {exported}"
    ) as caught:
        registry.load("tool", "lamp")
    assert caught.value.code == "plugin.exports"


def test_an_export_that_does_not_exist_is_named(plugins: Path) -> None:
    (plugins / "lamp.py").write_text("__all__ = ['lantern']")
    with pytest.raises(UnknownPlugin, match=r"their_pkg\.lamp:lantern: the module has no 'lantern'"):
        registry.load("tool", "lamp")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import no_such_library", "its own import failed: No module named 'no_such_library'"),
        ("from os import no_such_name", "its own import failed: cannot import name 'no_such_name'"),
        ("from their_pkg import no_such_file", "its own import failed: cannot import name"),
        ("import their_pkg.missing", "its own import failed: No module named 'their_pkg.missing'"),
        ("1 / 0", "its own import failed: ZeroDivisionError: division by zero"),
        ("def broken(:", "its own import failed: SyntaxError"),
    ],
)
@pytest.mark.parametrize("plugin_id", ["lamp", "their_pkg.lamp:lamp"])
def test_a_plugin_whose_own_import_fails_says_so(
    plugins: Path, text: str, reason: str, plugin_id: str
) -> None:
    (plugins / "lamp.py").write_text(text)
    with pytest.raises(UnknownPlugin) as caught:
        registry.load("tool", plugin_id)
    assert caught.value.code == "plugin.import"
    assert f"cannot load tool plug-in their_pkg.lamp: {reason}" in caught.value.message


@pytest.mark.parametrize("plugin_id", ["no_such_pkg:x", "no_such_pkg.deep:x", "their_pkg.nothing:x"])
def test_a_module_that_does_not_exist_is_not_called_broken(plugins: Path, plugin_id: str) -> None:
    with pytest.raises(UnknownPlugin, match="there is no such module"):
        registry.load("tool", plugin_id)


def test_a_third_party_object_that_does_not_exist_is_named(plugins: Path) -> None:
    with pytest.raises(UnknownPlugin, match="their_pkg:Thing: the module has no 'Thing'"):
        registry.load("env", "their_pkg:Thing")


def test_an_installed_entry_point_is_a_plugin(plugins: Path) -> None:
    (plugins / "mod.py").write_text("class Thing: ...\n")
    metadata = plugins.parent / "their_pkg-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-pkg\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[agentrl.env]\nfancy-env = their_pkg.mod:Thing\n")
    assert "fancy-env" in registry.names("env")
    assert "alfworld" in registry.names("env")
    assert registry.load("env", "fancy-env") is registry.load("env", "their_pkg.mod:Thing")
    with pytest.raises(UnknownPlugin, match=r"those that exist: .*fancy-env"):
        registry.load("env", "fancy")


def test_a_kind_whose_package_is_not_there_has_no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.KINDS, "tool", "no_such_package")
    assert registry.names("tool") == []
    with pytest.raises(UnknownPlugin, match="those that exist: none"):
        registry.load("tool", "calculator")

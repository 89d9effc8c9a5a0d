"""Typed TOML: overrides, mistakes that say what was expected, and a hash of what matters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError

from agentrl.config import Config, load_config, parse_overrides, parse_settings
from agentrl.errors import ConfigError
from agentrl.rollout.setup import build_env

ROOT = Path(__file__).parents[1]
SHIPPED = sorted((ROOT / "configs").rglob("*.toml"))


def write(folder: Path, text: str) -> Path:
    file = folder / "c.toml"
    file.write_text(text, encoding="utf-8")
    return file


def config(**sections: Any) -> Config:
    return parse_settings(Config, {"env": {"id": "alfworld"}, **sections}, where="test")


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_shipped_config_loads(file: Path) -> None:
    loaded = load_config(file)
    build_env(loaded)


def test_a_file_says_only_what_differs(tmp_path: Path) -> None:
    loaded = load_config(
        write(tmp_path, '[env]\nid = "alfworld"\nsize = "small"\n[rollout]\nmax_turns = 3\n')
    )
    assert loaded.env.settings == {"size": "small"}
    assert (loaded.rollout.max_turns, loaded.rollout.group_size) == (3, 8)
    assert loaded.store_url == "sqlite:///runs/agentrl.db"


def test_overrides_win_and_keep_their_types(tmp_path: Path) -> None:
    file = write(tmp_path, '[env]\nid = "alfworld"\n[train]\nsteps = 3\n')
    loaded = load_config(
        file,
        [
            "train.steps=7",
            "train.lr = 3e-5",
            "run.name=over",
            "policy.device='cpu'",
            "env.size=small",
            "env.kinds=['heat', 'cool']",
            "train.autocast=false",
            "loss.options.clip_low=0.1",
        ],
    )
    assert (loaded.train.steps, loaded.train.lr, loaded.train.autocast) == (7, 3e-5, False)
    assert (loaded.run.name, loaded.policy.device) == ("over", "cpu")
    assert loaded.env.settings == {"size": "small", "kinds": ["heat", "cool"]}
    assert loaded.loss.options == {"clip_low": 0.1}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a.b=1", {"a": {"b": 1}}),
        ("a.b=1.5", {"a": {"b": 1.5}}),
        ("a.b=true", {"a": {"b": True}}),
        ("a.b=word", {"a": {"b": "word"}}),
        ("a.b=two words", {"a": {"b": "two words"}}),
        ("a.b=x=y", {"a": {"b": "x=y"}}),
        ("a.b=", {"a": {"b": ""}}),
        ("a.b=[1, 2]", {"a": {"b": [1, 2]}}),
        ("a={b = 1}", {"a": {"b": 1}}),
    ],
)
def test_override_values_are_toml_or_else_words(override: str, expected: dict[str, Any]) -> None:
    assert parse_overrides([override]) == expected


@pytest.mark.parametrize("override", ["a.b", "=1", ".a=1", "a.=1", "a..b=1", ""])
def test_an_override_of_another_form_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=r"section\.key=value"):
        parse_overrides([override])


def test_an_override_cannot_turn_a_value_into_a_section() -> None:
    with pytest.raises(ConfigError, match="train is a value, not a section"):
        parse_overrides(["train.steps=1"], {"train": 3})


def test_an_unknown_key_lists_those_that_exist(tmp_path: Path) -> None:
    file = write(tmp_path, '[env]\nid = "alfworld"\n[train]\nstep = 3\n')
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert caught.value.code == "config.invalid"
    assert "unknown key train.step; known: " in caught.value.message
    assert "steps" in caught.value.message
    assert str(file) in caught.value.message


def test_an_unknown_key_of_an_optional_section_lists_that_sections_keys() -> None:
    with pytest.raises(ConfigError, match=r"unknown key clone\.episode; known: .*episodes.*token_budget"):
        config(clone={"episodes": 3, "episode": 3})


def test_an_unknown_section_lists_the_sections() -> None:
    with pytest.raises(ConfigError, match=r"unknown key trainer; known: .*rollout.*train"):
        config(trainer={})


@pytest.mark.parametrize(
    ("sections", "complaint"),
    [
        ({"train": {"steps": "many"}}, r"train\.steps: input should be a valid integer.*, got 'many'"),
        ({"train": {"steps": -1}}, r"train\.steps: input should be greater than or equal to 0, got -1"),
        ({"train": {"lr": 0}}, r"train\.lr: input should be greater than 0, got 0"),
        (
            {"policy": {"device": "tpu"}},
            r"policy\.device: input should be 'auto', 'cpu' or 'cuda', got 'tpu'",
        ),
        ({"rollout": 3}, r"rollout: input should be a valid dictionary.*, got 3"),
        ({"run": {"name": "../up"}}, r"run\.name: .*, got '\.\./up'"),
        ({"rollout": {"top_p": 0}}, r"rollout\.top_p"),
        ({"clone": {}}, r"missing key clone\.episodes"),
        ({"env": {}}, r"missing key env\.id"),
    ],
)
def test_a_wrong_value_names_key_value_and_what_was_expected(
    sections: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        config(**sections)
    assert "\n" not in caught.value.message


def test_several_mistakes_are_all_reported() -> None:
    with pytest.raises(ConfigError) as caught:
        config(train={"steps": "x"}, rollout={"nope": 1})
    assert "train.steps" in caught.value.message
    assert "rollout.nope" in caught.value.message


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing key env"):
        load_config(write(tmp_path, "[train]\nsteps = 1\n"))


@pytest.mark.parametrize("text", ["[env", "a = ", 'x = "\\q"', "a = 1\na = 2"])
def test_bad_toml_is_one_clear_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"c\.toml is not valid TOML") as caught:
        load_config(write(tmp_path, text))
    assert caught.value.code == "config.syntax"
    assert "\n" not in caught.value.message


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(tmp_path / "c.toml")


@pytest.mark.parametrize("name", ["no/such.toml", "nowhere.toml"])
def test_a_missing_file_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"there is no config file '{name}'"):
        load_config(name)


def test_a_folder_or_an_impossible_name_is_unreadable(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / ("x" * 300)):
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert caught.value.code == "config.unreadable"


def test_configs_are_frozen() -> None:
    with pytest.raises(ValidationError):
        config().train.steps = 3  # type: ignore[misc]


def test_the_hash_is_that_of_another_process() -> None:
    assert config().hash == config().hash
    assert len(config().hash) == 16
    same = parse_settings(
        Config, {"rollout": {"max_turns": 50}, "env": {"id": "alfworld"}}, where="spelled-out default"
    )
    assert same.hash == config().hash


@pytest.mark.parametrize(
    "sections",
    [
        {"rollout": {"concurrency": 3}},
        {"policy": {"slots": 7}},
        {"policy": {"threads": 1}},
        {"run": {"dir": "elsewhere"}},
        {"run": {"name": "other"}},
        {"store": {"url": "sqlite:///x.db"}},
    ],
)
def test_where_and_with_how_many_workers_does_not_change_the_hash(sections: dict[str, Any]) -> None:
    assert config(**sections).hash == config().hash


@pytest.mark.parametrize(
    "sections",
    [
        {"run": {"seed": 1}},
        {"env": {"id": "alfworld", "size": "small"}},
        {"rollout": {"temperature": 0.9}},
        {"credit": {"preset": "grpo"}},
        {"policy": {"max_context_tokens": 99}},
    ],
)
def test_what_is_played_changes_the_hash(sections: dict[str, Any]) -> None:
    assert config(**sections).hash != config().hash


@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{3,8}", fullmatch=True).filter(lambda key: key != "id"),
        st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(),
        max_size=4,
    )
)
def test_settings_of_a_plugin_go_through_unchanged(settings: dict[str, Any]) -> None:
    loaded = config(env={"id": "alfworld", **settings})
    assert loaded.env.settings == settings
    again = parse_settings(Config, loaded.to_json(), where="round trip")
    assert again.hash == loaded.hash


def test_plugin_settings_are_checked_by_their_own_model() -> None:
    class Inner(BaseModel):
        model_config = ConfigDict(extra="forbid")
        depth: int = 1

    class Outer(BaseModel):
        model_config = ConfigDict(extra="forbid")
        inner: Inner = Inner()

    assert parse_settings(Outer, {"inner": {"depth": 2}}, where="[env]").inner.depth == 2
    with pytest.raises(ConfigError, match=r"\[env\]: unknown key inner\.deep; known: depth"):
        parse_settings(Outer, {"inner": {"deep": 2}}, where="[env]")

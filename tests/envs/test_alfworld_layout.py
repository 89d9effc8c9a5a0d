"""The real data's folders: the reference loader's rules, an index that stays true, no way out of the data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentrl.errors import ConfigError, EnvError
from envs.alfworld import layout
from envs.alfworld.layout import find_games, resolve_game
from envs.alfworld.rooms import TASK_TYPES

GAME = {"pddl_domain": "", "grammar": "", "pddl_problem": "", "walkthrough": [], "solvable": True}


def add_trial(data: Path, task: str, *, kind: str = "pick_and_place_simple", game: Any = GAME) -> Path:
    trial = data / "json_2.1.1" / "train" / task / "trial_T1"
    trial.mkdir(parents=True)
    (trial / "traj_data.json").write_text(json.dumps({"task_type": kind}))
    if game is not None:
        (trial / "game.tw-pddl").write_text(game if isinstance(game, str) else json.dumps(game))
    return trial


@pytest.fixture
def data(tmp_path: Path) -> Path:
    add_trial(tmp_path, "pick-Mug-None-Desk-2")
    add_trial(tmp_path, "pick-Egg-None-Fridge-1")
    add_trial(tmp_path, "pick_and_place_with_movable_recep-Egg-Bowl-Fridge-1")
    add_trial(tmp_path, "pick-EggSliced-None-Fridge-1")
    add_trial(tmp_path, "other", kind="pick_and_place_with_something_else")
    add_trial(tmp_path, "nogame", game=None)
    add_trial(tmp_path, "nokey", game={"pddl_problem": ""})
    add_trial(tmp_path, "unsolvable", game={**GAME, "solvable": False})
    add_trial(tmp_path, "broken", game="{")
    (tmp_path / "json_2.1.1" / "train" / "empty").mkdir()
    return tmp_path


def paths(data: Path) -> list[str]:
    return [game.path for game in find_games(data, "train", TASK_TYPES).games]


def test_the_reference_loaders_rules(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        found = find_games(data, "train", TASK_TYPES)
    assert [(game.path, game.task_type) for game in found.games] == [
        ("train/pick-Egg-None-Fridge-1/trial_T1/game.tw-pddl", "pick_and_place_simple"),
        ("train/pick-Mug-None-Desk-2/trial_T1/game.tw-pddl", "pick_and_place_simple"),
    ]
    assert found.left_out == {
        "movable receptacle or sliced object": 2,
        "other task type": 1,
        "no game file": 1,
        "no solvable key": 1,
        "unsolvable": 1,
        "unreadable": 1,
    }
    assert len(caplog.records) == 1, "one summary, not one line for each game"


def test_the_versioned_folder_itself_will_do(data: Path) -> None:
    assert paths(data / "json_2.1.1") == paths(data)


def test_task_types_select(data: Path) -> None:
    assert find_games(data, "train", ["look_at_obj_in_light"]).games == ()


def test_the_index_saves_reading_until_a_file_changes(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = paths(data)
    read: list[Path] = []
    judge = layout._judge  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(layout, "_judge", lambda root, trial: (read.append(trial), judge(root, trial))[1])
    assert paths(data) == first
    assert read == []
    game = data / "json_2.1.1" / "train" / "unsolvable" / "trial_T1" / "game.tw-pddl"
    game.write_text(json.dumps({**GAME, "solvable": True, "walkthrough": ["look"]}))
    assert len(paths(data)) == len(first) + 1
    assert read == [game.parent]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"version": 1, "entries": 3}', '{"version": 99}', "[" * 99_999]
)
def test_a_broken_index_is_made_again(data: Path, content: str) -> None:
    first = paths(data)
    (data / "json_2.1.1" / ".agentrl-train.json").write_text(content)
    assert paths(data) == first
    assert json.loads((data / "json_2.1.1" / ".agentrl-train.json").read_text())["version"] == 1


def test_read_only_data_keeps_its_index_in_the_users_cache(
    data: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(layout.os, "access", lambda *_: False)
    first = paths(data)
    assert [file.suffix for file in (cache / "agentrl").iterdir()] == [".json"]
    assert not (data / "json_2.1.1" / ".agentrl-train.json").exists()
    assert paths(data) == first


def test_an_index_that_cannot_be_written_only_costs_time(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = data / "a file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setattr(layout.os, "access", lambda *_: False)
    assert len(paths(data)) == 2


def test_a_missing_split_is_the_users_mistake(data: Path) -> None:
    with pytest.raises(ConfigError, match="alfworld-download"):
        find_games(data, "valid_seen", TASK_TYPES)


def test_links_out_of_the_data_are_not_followed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "game.tw-pddl").write_text(json.dumps(GAME))
    inside = add_trial(data, "linked", game=None)
    (inside / "game.tw-pddl").symlink_to(outside / "game.tw-pddl")
    found = find_games(data, "train", TASK_TYPES)
    assert found.left_out["unreadable"] == 2
    link = "train/linked/trial_T1/game.tw-pddl"
    for path in (link, "../../etc/passwd", "/etc/passwd", "train/../../x", "a\0b"):
        with pytest.raises(EnvError, match="beneath"):
            resolve_game(data, path)
    assert resolve_game(data, paths(data)[0]).is_file()

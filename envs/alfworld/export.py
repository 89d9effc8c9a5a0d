"""Write generated games as files in the layout of the real ALFWorld data, for our loader or the real package.

DIRECTORY/json_2.1.1/SPLIT/TYPE-OBJECT-None-TARGET-SCENE/trial_T.../{game.tw-pddl, traj_data.json, ...}
DIRECTORY/logic/{alfred.pddl, alfred.twl2}
"""

import json
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentrl.errors import ConfigError
from envs.alfworld.generator import GeneratedGame
from envs.alfworld.layout import DATA_VERSION, GAME, TRAJECTORY
from envs.alfworld.problem import domain_text, grammar_template
from envs.alfworld.rooms import SPLITS, Split

_PLAIN_NAME: Final = re.compile(r"\w[\w-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Exported:
    """How many games an export wrote, and how many were there already."""

    written: int
    skipped: int


def export(directory: Path, games: Iterable[GeneratedGame], split: Split) -> Exported:
    """Write `games` under `directory`; what an earlier export finished is left as it is.

    A game appears complete or not at all, also when the export is interrupted. Games of both action grammars
    may be mixed: every game carries its own, and `logic/alfred.twl2` is the new one.

    Raises:
        ConfigError: `split` is not a split, or a link on the way leads out of `directory`.
        OSError: a file cannot be written.
    """
    if split not in SPLITS:
        raise ConfigError(
            "alfworld.split_unknown",
            f"cannot export games as split {split!r}: known are {', '.join(SPLITS)}",
            {"split": split},
        )
    directory.mkdir(parents=True, exist_ok=True)
    root = directory.resolve()
    written = skipped = 0
    # Games are put together beside the data, where no loader looks, and moved into their place in one step.
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=root) as workshop:
        _write_logic(root, Path(workshop))
        for game in games:
            folder = _folder(root, game, split)
            if folder.is_dir():
                skipped += 1
            else:
                _write_game(game, folder, Path(workshop))
                written += 1
    return Exported(written, skipped)


def _folder(root: Path, game: GeneratedGame, split: Split) -> Path:
    goal = game.traj_data["pddl_params"]
    target = goal["parent_target"] or goal["toggle_target"]
    kind = f"{game.task_type}-{goal['object_target']}-None-{target}-{game.scene_num}"
    return _inside(root, DATA_VERSION, split, kind, game.traj_data["task_id"])


def _inside(root: Path, *parts: str) -> Path:
    """Return the path of `parts` under `root`, which it must not leave even once links are followed."""
    path = root.joinpath(*parts)
    plain = all(_PLAIN_NAME.fullmatch(part) for part in parts if part != DATA_VERSION)
    if not plain or not path.resolve().is_relative_to(root):
        raise ConfigError(
            "alfworld.export_outside",
            f"cannot export a game to {path}: it lies outside of {root}; remove the link that leads there",
            {"path": str(path)},
        )
    return path


def _write_game(game: GeneratedGame, folder: Path, workshop: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = workshop / game.traj_data["task_id"]
    draft.mkdir()
    (draft / GAME).write_text(json.dumps(game.game_json), encoding="utf-8")
    (draft / TRAJECTORY).write_text(json.dumps(game.traj_data, indent=1), encoding="utf-8")
    (draft / "initial_state.pddl").write_text(game.game_json["pddl_problem"], encoding="utf-8")
    try:
        draft.rename(folder)
    except OSError:
        # Another export may have finished the same game in the meantime; its files are the same.
        if not folder.is_dir():
            raise
        shutil.rmtree(draft)


def _write_logic(root: Path, workshop: Path) -> None:
    logic = _inside(root, "logic")
    logic.mkdir(exist_ok=True)
    for name, text in (("alfred.pddl", domain_text()), ("alfred.twl2", grammar_template("new"))):
        draft = workshop / name
        draft.write_text(text, encoding="utf-8")
        draft.replace(logic / name)

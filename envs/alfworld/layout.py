"""Find the games of the real ALFWorld data: `json_2.1.1/<split>/<task>/<trial>/game.tw-pddl`.

The same games count as in the reference's loader (AlfredTWEnv.collect_game_files); what it leaves out is
counted by reason. Which games are solvable stands inside 3,500 large files, so a small index beside the data
remembers it, entry by entry, for as long as both files of a trial keep their size and time stamp.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from agentrl.errors import ConfigError, EnvError

__all__ = ["GameFile", "SplitFiles", "find_games", "resolve_game"]

DATA_VERSION = "json_2.1.1"
GAME, TRAJECTORY = "game.tw-pddl", "traj_data.json"
MAX_FILE_BYTES = 8_000_000
INDEX_VERSION = 1

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GameFile:
    """A playable game: its path beneath the data folder, and its task type."""

    path: str
    task_type: str


@dataclass(frozen=True, slots=True)
class SplitFiles:
    """The games of a split, in the order of their paths, and how many were left out for which reason."""

    games: tuple[GameFile, ...]
    left_out: Mapping[str, int]


def find_games(data: Path, split: str, task_types: Collection[str]) -> SplitFiles:
    """Return the playable games of a split; logs one line when some were left out.

    `data` is what ALFWORLD_DATA names, or its `json_2.1.1` folder.

    Raises:
        ConfigError: there is no such data.
    """
    root = _version_folder(data)
    folder = root / split
    if not folder.is_dir():
        raise ConfigError(
            "alfworld.no_data",
            f"cannot find split {split!r} of the ALFWorld data: {folder} is not a folder; "
            "run alfworld-download, or leave `data` out to play generated games",
            {"path": str(folder)},
        )
    index = _Index.read(root, split)
    games: list[GameFile] = []
    left_out: Counter[str] = Counter()
    for trial in _trials(folder):
        path = trial.relative_to(root).as_posix()
        if "movable" in path or "Sliced" in path:
            left_out["movable receptacle or sliced object"] += 1
            continue
        task_type, verdict = index.look_up(root, path)
        if task_type not in task_types and verdict != "unreadable":
            left_out["other task type"] += 1
        elif verdict != "playable":
            left_out[verdict] += 1
        else:
            games.append(GameFile(f"{path}/{GAME}", task_type))
    index.write()
    if left_out:
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
        _log.info("ALFWorld %s: %d games; left out: %s", split, len(games), counts)
    return SplitFiles(tuple(games), dict(left_out))


def resolve_game(data: Path, path: str) -> Path:
    """Return the file of a game, which lies beneath the data folder whatever `path` says.

    Raises:
        EnvError: the path leads out of the data folder (`..`, an absolute path or a link).
    """
    root = _version_folder(data).resolve()
    found = _beneath(root, root / path) if "\0" not in path else None
    if found is None:
        raise EnvError(
            "env.game_outside",
            f"refused to open ALFWorld game {path!r}: it is not beneath {root}; "
            "use the paths that the task list gives",
            {"path": path},
        )
    return found


def _version_folder(data: Path) -> Path:
    versioned = data / DATA_VERSION
    return versioned if versioned.is_dir() else data


def _beneath(root: Path, path: Path) -> Path | None:
    """Return the real path when it lies under the (real) root, links followed."""
    try:
        real = path.resolve()
    except (OSError, RuntimeError):
        return None
    return real if real.is_relative_to(root) else None


def _trials(folder: Path) -> Iterator[Path]:
    """Yield the folders with a trajectory, sorted; links to folders are not followed."""
    found = [Path(place) for place, _, files in os.walk(folder) if TRAJECTORY in files]
    yield from sorted(found)


class _Index:
    """What is known of each trial: the stamps of its two files, its task type, and the verdict."""

    def __init__(self, file: Path, entries: dict[str, Any]) -> None:
        self._file = file
        self._known = entries
        self._current: dict[str, Any] = {}

    @classmethod
    def read(cls, root: Path, split: str) -> _Index:
        """Read the index from beside the data, or from the user's cache where that is read-only."""
        file = root / f".agentrl-{split}.json"
        if not os.access(root, os.W_OK):
            name = hashlib.blake2b(str(root.resolve()).encode(), digest_size=8).hexdigest()
            cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            file = cache / "agentrl" / f"alfworld-{name}-{split}.json"
        try:
            content: Any = json.loads(file.read_bytes())
            entries: Any = content["entries"] if content["version"] == INDEX_VERSION else {}
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            entries = {}
        return cls(file, cast("dict[str, Any]", entries) if isinstance(entries, dict) else {})

    def look_up(self, root: Path, path: str) -> tuple[str, str]:
        """Return the task type and the verdict of a trial, reading its files only when they changed."""
        trial = root / path
        stamps = [_stamp(trial / TRAJECTORY), _stamp(trial / GAME)]
        entry = self._known.get(path)
        match entry:
            case [known_stamps, str(task_type), str(verdict)] if known_stamps == stamps:
                pass
            case _:
                task_type, verdict = _judge(root.resolve(), trial)
        self._current[path] = [stamps, task_type, verdict]
        return task_type, verdict

    def write(self) -> None:
        """Replace the index when something changed; a place that cannot be written only costs time."""
        if self._current == self._known:
            return
        text = json.dumps({"version": INDEX_VERSION, "entries": self._current})
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self._file.parent, prefix=self._file.name)
        except OSError as error:
            _log.info("the ALFWorld index is not kept: %s", error)
            return
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            Path(name).replace(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            _log.info("the ALFWorld index is not kept: %s", error)


def _stamp(file: Path) -> list[int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return [status.st_mtime_ns, status.st_size]


def _judge(root: Path, trial: Path) -> tuple[str, str]:
    """Return a trial's task type, and `playable` or why it is not."""
    try:
        task_type = _read_object(root, trial / TRAJECTORY)["task_type"]
        if not isinstance(task_type, str):
            return "", "unreadable"
        if not (trial / GAME).exists():
            return task_type, "no game file"
        game = _read_object(root, trial / GAME)
    except (OSError, ValueError, LookupError, RecursionError):
        return "", "unreadable"
    if "solvable" not in game:
        return task_type, "no solvable key"
    return task_type, "playable" if game["solvable"] else "unsolvable"


def _read_object(root: Path, file: Path) -> dict[str, Any]:
    real = _beneath(root, file)
    if real is None:
        raise ValueError("a link out of the data folder")
    with real.open("rb") as opened:
        raw = opened.read(MAX_FILE_BYTES + 1)
    if len(raw) > MAX_FILE_BYTES:
        raise ValueError("too long")
    content: Any = json.loads(raw)
    if not isinstance(content, dict):
        raise ValueError("not an object")
    return cast("dict[str, Any]", content)

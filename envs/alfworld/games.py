"""Where games come from: generated from a seed, or read from the real data; both through one cache."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar, overload

from pydantic import BaseModel, ConfigDict, ValidationError

from agentrl.errors import ConfigError, EnvError
from agentrl.types import Task
from envs.alfworld.game import Game, load_game, parse_game
from envs.alfworld.generator import generate
from envs.alfworld.layout import SplitFiles, find_games, resolve_game
from envs.alfworld.problem import Grammar
from envs.alfworld.rooms import SPLITS, Size, Split, TaskType
from envs.alfworld.settings import Settings

__all__ = ["CachedGames", "Games", "LazySequence", "check_split", "open_games"]

GENERATED_TRAIN_GAMES = 100_000
GENERATED_VALID_GAMES = 1_000
# Seeds of different runs never meet: a run has at most this many games.
SEEDS_PER_RUN = 1_000_000_000

T = TypeVar("T")


class Recipe(BaseModel):
    """What a generated game is made from; tasks may come from outside, so it is checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    split: Split
    seed: int
    task_type: TaskType
    size: Size
    grammar: Grammar


class Games(Protocol):
    """A source of games: tasks by split, and the game that a task means."""

    def tasks(self, split: Split) -> Sequence[Task]:
        """Return the tasks of a split, in a fixed order."""
        ...

    def load(self, task: Task) -> Game:
        """Return the game of a task.

        Raises:
            EnvError: the task is not one of this source, or its game cannot be read.
        """
        ...


def open_games(settings: Settings) -> Games:
    """Return the source of games that the settings name."""
    return _GeneratedGames(settings) if settings.data is None else _FileGames(settings, settings.data)


def check_split(split: str) -> Split:
    """Return the split.

    Raises:
        ConfigError: there is no such split.
    """
    for known in SPLITS:
        if split == known:
            return known
    raise ConfigError(
        "env.unknown_split",
        f"cannot list tasks of split {split!r}: ALFWorld has {', '.join(SPLITS)}",
        {"split": split, "existing": list(SPLITS)},
    )


class _GeneratedGames:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def tasks(self, split: Split) -> Sequence[Task]:
        settings = self._settings
        if split == "train":
            count = settings.train_games or GENERATED_TRAIN_GAMES
        else:
            count = settings.valid_games or GENERATED_VALID_GAMES
        return LazySequence(count, lambda index: self._task(split, index))

    def _task(self, split: Split, index: int) -> Task:
        settings = self._settings
        kind = settings.task_types[index % len(settings.task_types)]
        seed = settings.seed * SEEDS_PER_RUN + index
        return Task(
            task_id=f"{split}-{settings.size}-{kind}-{seed}",
            env="alfworld",
            kind=kind,
            split=split,
            seed=seed,
            data={"seed": seed, "task_type": kind, "size": settings.size, "grammar": settings.grammar},
        )

    def load(self, task: Task) -> Game:
        try:
            recipe = Recipe.model_validate({"split": task.split, **task.data})
        except ValidationError as error:
            problem = "; ".join(f"{item['loc'][0]}: {item['msg']}" for item in error.errors())
            raise _foreign(task, "the recipe of a generated game", problem) from error
        return parse_game(generate(**recipe.model_dump()).game_json, task.task_id)


class _FileGames:
    def __init__(self, settings: Settings, data: Path) -> None:
        self._settings = settings
        self._data = data
        self._found: dict[Split, SplitFiles] = {}
        self._lock = threading.Lock()

    def tasks(self, split: Split) -> Sequence[Task]:
        with self._lock:
            if split not in self._found:
                self._found[split] = find_games(self._data, split, self._settings.task_types)
            games = self._found[split].games
        limit = self._settings.train_games if split == "train" else self._settings.valid_games
        return LazySequence(min(limit or len(games), len(games)), lambda index: self._task(split, index))

    def _task(self, split: Split, index: int) -> Task:
        game = self._found[split].games[index]
        return Task(
            task_id=game.path.rpartition("/")[0],
            env="alfworld",
            kind=game.task_type,
            split=split,
            seed=index,
            data={"path": game.path},
        )

    def load(self, task: Task) -> Game:
        path = task.data.get("path")
        if not isinstance(path, str):
            raise _foreign(task, "the path of a game file", f"got {type(path).__name__}")
        return load_game(resolve_game(self._data, path))


def _foreign(task: Task, expected: str, problem: str) -> EnvError:
    return EnvError(
        "env.bad_task",
        f"cannot play ALFWorld task {task.task_id}: its data must hold {expected}: {problem}; "
        "take tasks from the environment's own list",
        {"task_id": task.task_id},
    )


class LazySequence(Sequence[T]):
    """A sequence whose items are built when asked for."""

    def __init__(self, length: int, build: Callable[[int], T]) -> None:
        self._length = length
        self._build = build

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        positions = range(self._length)[index]
        if isinstance(positions, range):
            chosen = positions
            return LazySequence(len(chosen), lambda place: self._build(chosen[place]))
        return self._build(positions)


class CachedGames:
    """Keeps the games that were played last, for all threads."""

    def __init__(self, source: Games, capacity: int) -> None:
        self._source = source
        self._capacity = capacity
        self._games: OrderedDict[str, Game] = OrderedDict()
        self._lock = threading.Lock()

    def cached(self, task: Task) -> Game | None:
        """Return the game of a task when it is at hand, without ever waiting for a disk."""
        key = _key(task)
        with self._lock:
            game = self._games.get(key)
            if game is not None:
                self._games.move_to_end(key)
        return game

    def load(self, task: Task) -> Game:
        """Return the game of a task, reading it if need be.

        Raises:
            EnvError: as its source does.
        """
        game = self.cached(task)
        if game is None:
            game = self._source.load(task)
            with self._lock:
                self._games[_key(task)] = game
                while len(self._games) > self._capacity:
                    self._games.popitem(last=False)
        return game


def _key(task: Task) -> str:
    return repr((task.split, sorted(task.data.items())))

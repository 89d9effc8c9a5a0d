"""Run a golden case as a user would: records in a file, a config, and `agentrl credit`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner

from agentrl.cli.credit import command
from agentrl.credit.spec import to_toml

Record = dict[str, Any]


@dataclass(frozen=True)
class Credited:
    """What the command wrote."""

    records: list[Record]
    memory: Record

    @property
    def advantages(self) -> list[list[float | None]]:
        return [[turn["advantage"] for turn in record["turns"]] for record in self.records]

    def term(self, name: str) -> list[float]:
        """One term at each episode's first turn."""
        return [record["turns"][0]["terms"][name] for record in self.records]

    def first(self) -> list[float | None]:
        return [turns[0] for turns in self.advantages]


def record(name: Any, group: Any, turns: Sequence[Mapping[str, Any]] | None = None, **keys: Any) -> Record:
    return {"episode_id": str(name), "group_id": group, "turns": turns or [{}], **keys}


def credit(
    folder: Path, config: Mapping[str, Any], records: Sequence[Record], memory: Record | None = None
) -> Credited:
    (folder / "episodes.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in records))
    (folder / "memory.json").write_text(json.dumps(memory or {}))
    (folder / "config.toml").write_text(_toml(config))
    arguments = {"config": "config.toml", "episodes": "episodes.jsonl", "out": "credit.jsonl"}
    arguments |= {"memory-in": "memory.json", "memory-out": "after.json"}
    argv = [part for name, file in arguments.items() for part in (f"--{name}", str(folder / file))]
    outcome = CliRunner().invoke(command, argv, catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    written = [json.loads(line) for line in (folder / "credit.jsonl").read_text().splitlines()]
    return Credited(written, json.loads((folder / "after.json").read_text()))


def close(actual: Sequence[Any], wanted: Sequence[Any], atol: float = 2e-5) -> None:
    np.testing.assert_allclose(flat(actual), flat(wanted), rtol=0, atol=atol)


def flat(values: Sequence[Any]) -> list[float]:
    return [x for value in values for x in (flat(value) if isinstance(value, list) else [value])]


def score(reward: str, **options: Any) -> dict[str, Any]:
    """A pipeline whose advantage is one reward itself."""
    channel = {"name": "task", "rewards": [{"id": reward, **options}], "estimators": [{"id": "score"}]}
    return {"channel": [channel]}


def _toml(config: Mapping[str, Any]) -> str:
    if "preset" not in config:
        return to_toml(config)
    given = {name: value for name, value in config.items() if value is not None}
    lines = [f"{name} = {_inline(value)}" for name, value in given.items()]
    return "\n".join(["[credit]", *lines, ""])


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(k)} = {_inline(v)}" for k, v in value.items()) + " }"
    return json.dumps(value)

"""Episodes as a parquet file: one row an episode, turns as a list of structs.

What may be any JSON (state keys, metadata, errors, unknown keys) and seeds, which may pass 64 bits, are
text columns. Written and read some episodes at a time. pyarrow is optional and imported when needed.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from agentrl.errors import ConfigError, StoreError
from agentrl.store.files import replacing
from agentrl.store.record import episode_from_record, episode_to_record
from agentrl.types import Episode

__all__ = ["read_parquet", "write_parquet"]

_EPISODES_PER_ROW_GROUP: Final = 64
_JSON_COLUMNS: Final = ("state_key", "error", "metadata", "extra")
_TURN_TYPES: Final = {
    "index": "int32",
    "state_key": "string",
    "reward": "float64",
    "action_valid": "bool",
    "tool_calls": "int32",
    "tool_call_at": "int32",
    "num_tokens": "int32",
    "gold_logprob": "float64",
    "policy_version": "int64",
    "observation": "string",
    "reply": "string",
    "fresh_context": "bool",
    "prompt_ids": "list<int32>",
    "token_ids": "list<int32>",
    "sampled": "list<int8>",
    "logprobs": "list<float64>",
    "entropies": "list<float64>",
    "extra": "string",
}
_EPISODE_TYPES: Final = {
    "episode_id": "string",
    "group_id": "string",
    "task_id": "string",
    "env": "string",
    "env_version": "string",
    "seed": "string",
    "batch": "int64",
    "config_hash": "string",
    "correct": "bool",
    "format_ok": "bool",
    "return": "float64",
    "stop_reason": "string",
    "truncated": "bool",
    "error": "string",
    "parent_episode_id": "string",
    "branch_turn": "int32",
    "metadata": "string",
    "extra": "string",
}


def write_parquet(path: str | Path, episodes: Iterable[Episode]) -> int:
    """Write episodes, the whole file or nothing, and return how many were written.

    Raises:
        ConfigError: pyarrow is not installed.
        StoreError: the file cannot be written, or parquet cannot hold an episode (JSONL can).
    """
    pa, pq = _pyarrow(), _pyarrow("parquet")
    schema = _schema(pa)
    count = 0
    with replacing(Path(path)) as draft, pq.ParquetWriter(draft, schema, compression="zstd") as writer:
        rows: list[dict[str, Any]] = []
        for episode in episodes:
            rows.append(_row(episode))
            count += 1
            if len(rows) == _EPISODES_PER_ROW_GROUP:
                writer.write_table(_table(pa, schema, rows))
                rows = []
        writer.write_table(_table(pa, schema, rows))
    return count


def read_parquet(path: str | Path) -> Iterator[Episode]:
    """Yield the episodes of a file, a row group at a time.

    Raises:
        ConfigError: pyarrow is not installed, no such file, not parquet, or a row is not an episode.
    """
    pa, pq = _pyarrow(), _pyarrow("parquet")
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        problem = str(error).splitlines()[0]
        raise ConfigError("record.file", f"cannot read episodes from {path}: {problem}") from error
    with file:
        number = 0
        for batch in file.iter_batches(batch_size=_EPISODES_PER_ROW_GROUP):
            for row in batch.to_pylist():
                number += 1
                try:
                    yield episode_from_record(_record(row))
                except (ConfigError, ValueError) as error:
                    code = error.code if isinstance(error, ConfigError) else "record.json"
                    problem = error.message if isinstance(error, ConfigError) else str(error)
                    raise ConfigError(code, f"{path}, row {number}: {problem}") from error


def _pyarrow(module: str | None = None) -> Any:
    try:
        return importlib.import_module("pyarrow" if module is None else f"pyarrow.{module}")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "store.parquet", "parquet files need pyarrow: pip install 'agentrl[parquet]', or use .jsonl"
        ) from error


def _schema(pa: Any) -> Any:
    def field(name: str, kind: str) -> Any:
        if kind.startswith("list<"):
            return pa.field(name, pa.list_(pa.type_for_alias(kind[5:-1])))
        return pa.field(name, pa.type_for_alias(kind))

    turn = pa.struct([field(name, kind) for name, kind in _TURN_TYPES.items()])
    columns = [field(name, kind) for name, kind in _EPISODE_TYPES.items()]
    return pa.schema([*columns, pa.field("turns", pa.list_(turn))])


def _table(pa: Any, schema: Any, rows: list[dict[str, Any]]) -> Any:
    try:
        return pa.Table.from_pylist(rows, schema=schema)
    except (ValueError, TypeError, OverflowError) as error:
        ids = [row["episode_id"] for row in rows]
        raise StoreError(
            "store.parquet",
            f"parquet cannot hold one of the episodes {ids[0]!r} to {ids[-1]!r} ({error}); export to .jsonl",
        ) from error


def _row(episode: Episode) -> dict[str, Any]:
    record = episode_to_record(episode)
    record["turns"] = [_flat(turn, _TURN_TYPES) for turn in record["turns"]]
    return _flat(record, {**_EPISODE_TYPES, "turns": ""}) | {"seed": str(episode.seed)}


def _flat(record: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """Return a row with one entry per column: unknown keys together, free-form ones as text."""
    known = columns.keys() - {"extra"}
    row = {name: record.get(name) for name in known}
    row["extra"] = {name: value for name, value in record.items() if name not in known} or None
    for name in columns.keys() & set(_JSON_COLUMNS):
        if row[name] is not None:
            row[name] = json.dumps(row[name], allow_nan=False, separators=(",", ":"))
    return row


def _record(row: Mapping[str, Any]) -> dict[str, Any]:
    record = dict(row)
    record["turns"] = [_unflat(turn) for turn in record.get("turns") or ()]
    return _unflat(record)


def _unflat(row: Mapping[str, Any]) -> dict[str, Any]:
    record = {name: value for name, value in row.items() if value is not None}
    for name in record.keys() & set(_JSON_COLUMNS):
        if isinstance(record[name], str):
            record[name] = json.loads(record[name])
    extra = record.pop("extra", {})
    return record | extra

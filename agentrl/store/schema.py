r"""The tables, declared once. Alembic's numbered revisions build them; a test proves that both agree.

    runs --- attempts, commits, metrics
      \--- episodes --- turns -(refs)-> contents
              ^---- credit_turns, credit_channels ---- credit_runs

Append-only: every table but `runs.status` refuses UPDATE and DELETE by trigger. What a resumed run plays
again does not overwrite what it played before a crash: an *attempt* says from which batch on all earlier
attempts no longer count, and readers skip what no longer counts.

`contents` holds each distinct text, state key and prompt span once, under its digest. Token arrays are
packed by `codec`; JSON columns are text in one canonical form, so that both engines keep it exactly.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

__all__ = [
    "APPEND_ONLY",
    "METADATA",
    "MUTABLE_RUN_COLUMN",
    "REVISION",
    "VERSION_TABLE",
    "attempts",
    "commits",
    "contents",
    "credit_channels",
    "credit_runs",
    "credit_turns",
    "episodes",
    "metrics",
    "runs",
    "turns",
]

REVISION: Final = "0001"
"""The newest revision in `migrations/versions`: what this version of agentrl reads and writes."""

VERSION_TABLE: Final = "agentrl_schema"
"""Alembic's bookkeeping, under a name of our own: a PostgreSQL database may hold other projects."""

METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows itself only in a column that is declared exactly INTEGER PRIMARY KEY.
_Key = BigInteger().with_variant(Integer, "sqlite")

runs = Table(
    "runs",
    METADATA,
    Column("id", _Key, primary_key=True),
    Column("run_id", String, nullable=False, unique=True),
    Column("name", String, nullable=False),
    Column("created", String, nullable=False, comment="ISO 8601, UTC"),
    Column("env", String, nullable=False),
    Column("config", Text, nullable=False, comment="resolved configuration, JSON"),
    Column("config_hash", String, nullable=False),
    Column("software", Text, nullable=False, comment="versions that started the run, JSON"),
    Column("parent_run_id", String),
    Column("status", String, nullable=False, comment="the only column of the store that ever changes"),
)

attempts = Table(
    "attempts",
    METADATA,
    Column("run", _Key, ForeignKey("runs.id"), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("from_batch", BigInteger, nullable=False, comment="earlier attempts stop counting here"),
    Column("created", String, nullable=False),
)

commits = Table(
    "commits",
    METADATA,
    Column("run", _Key, ForeignKey("runs.id"), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("batch", BigInteger, primary_key=True, autoincrement=False),
    Column("checkpoint", String, nullable=False, comment="where the weights of this step are; may be empty"),
    Column("created", String, nullable=False),
)

episodes = Table(
    "episodes",
    METADATA,
    Column("id", _Key, primary_key=True),
    Column("run", _Key, ForeignKey("runs.id"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("batch", BigInteger, nullable=False),
    Column("position", Integer, nullable=False, comment="place in the batch; readers follow it"),
    Column("episode_id", String, nullable=False),
    Column("group_id", String, nullable=False),
    Column("task_id", String, nullable=False),
    Column("env", String, nullable=False),
    Column("env_version", String, nullable=False),
    Column("config_hash", String, nullable=False),
    Column("seed", String, nullable=False, comment="an integer of any size"),
    Column("stop_reason", String, nullable=False),
    Column("correct", Boolean),
    Column("format_ok", Boolean),
    Column("ret", Double, nullable=False, comment="the return, recorded or summed"),
    Column("episode_return", Double, comment="the recorded return, if there was one"),
    Column("num_turns", Integer, nullable=False),
    Column("error_code", String),
    Column("error", Text, comment="JSON"),
    Column("parent_episode_id", String),
    Column("branch_turn", Integer),
    Column("metadata", Text, comment="JSON; null where empty"),
    Column("extra", Text, comment="JSON; null where empty"),
    Column("digest", LargeBinary(16), nullable=False, comment="of everything the episode says"),
    UniqueConstraint("run", "episode_id", "attempt"),
    Index(None, "run", "batch", "position", "id"),
    Index(None, "episode_id"),
)

contents = Table(
    "contents",
    METADATA,
    Column("id", _Key, primary_key=True),
    Column("digest", LargeBinary(16), nullable=False, unique=True),
    Column("data", LargeBinary, nullable=False, comment="first byte: 0 as it is, 1 zlib"),
)

turns = Table(
    "turns",
    METADATA,
    Column("episode", _Key, ForeignKey("episodes.id"), primary_key=True),
    Column("turn", Integer, primary_key=True, autoincrement=False),
    Column("reward", Double, nullable=False),
    Column("action_valid", Boolean, nullable=False),
    Column("tool_calls", Integer, nullable=False),
    Column("tool_call_at", Integer),
    Column("num_tokens", Integer),
    Column("policy_version", BigInteger),
    Column("gold_logprob", Double),
    Column("fresh_context", Boolean, nullable=False),
    Column("state_key", _Key, ForeignKey("contents.id"), comment="JSON; equal keys, equal ref"),
    Column("observation", _Key, ForeignKey("contents.id")),
    Column("reply", _Key, ForeignKey("contents.id")),
    Column("prompt_ids", _Key, ForeignKey("contents.id")),
    Column("token_ids", LargeBinary),
    Column("sampled", LargeBinary),
    Column("logprobs", LargeBinary),
    Column("entropies", LargeBinary),
    Column("extra", Text, comment="JSON; null where empty"),
    sqlite_with_rowid=False,
)

credit_runs = Table(
    "credit_runs",
    METADATA,
    Column("id", _Key, primary_key=True),
    Column("credit_run_id", String, nullable=False, unique=True),
    Column("run", _Key, ForeignKey("runs.id"), nullable=False, index=True),
    Column("created", String, nullable=False),
    Column("config", Text, nullable=False, comment="JSON"),
)

credit_turns = Table(
    "credit_turns",
    METADATA,
    Column("credit_run", _Key, ForeignKey("credit_runs.id"), primary_key=True),
    Column("episode", _Key, ForeignKey("episodes.id"), primary_key=True),
    Column("turn", Integer, primary_key=True, autoincrement=False),
    Column("advantage", Double, comment="null: this turn was not credited, which is not zero"),
    Column("terms", Text, comment="JSON, name to contribution; null where empty"),
    sqlite_with_rowid=False,
)

credit_channels = Table(
    "credit_channels",
    METADATA,
    Column("credit_run", _Key, ForeignKey("credit_runs.id"), primary_key=True),
    Column("episode", _Key, ForeignKey("episodes.id"), primary_key=True),
    Column("name", String, primary_key=True),
    Column("per_turn", Text, nullable=False, comment="JSON, one number or null per turn"),
    sqlite_with_rowid=False,
)

metrics = Table(
    "metrics",
    METADATA,
    Column("id", _Key, primary_key=True),
    Column("run", _Key, ForeignKey("runs.id"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("name", String, nullable=False),
    Column("value", Double, comment="null: not a number"),
    Index(None, "run", "step", "id"),
)

MUTABLE_RUN_COLUMN: Final = "status"
APPEND_ONLY: Final = tuple(table.name for table in METADATA.sorted_tables if table is not runs)
"""Every table whose rows never change. `runs` is guarded too, except for its status."""

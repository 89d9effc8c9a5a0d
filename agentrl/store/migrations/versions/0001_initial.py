"""Runs, their episodes and turns, what credit was computed for them, and the append-only guards."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

APPEND_ONLY = (
    "attempts",
    "commits",
    "contents",
    "credit_channels",
    "credit_runs",
    "credit_turns",
    "episodes",
    "metrics",
    "turns",
)
FIXED_RUN_COLUMNS = "id, run_id, name, created, env, config, config_hash, software, parent_run_id"


def upgrade() -> None:
    """Build everything from an empty database."""
    key = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "runs",
        sa.Column("id", key, nullable=False),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("created", sa.String, nullable=False, comment="ISO 8601, UTC"),
        sa.Column("env", sa.String, nullable=False),
        sa.Column("config", sa.Text, nullable=False, comment="resolved configuration, JSON"),
        sa.Column("config_hash", sa.String, nullable=False),
        sa.Column("software", sa.Text, nullable=False, comment="versions that started the run, JSON"),
        sa.Column("parent_run_id", sa.String),
        sa.Column(
            "status", sa.String, nullable=False, comment="the only column of the store that ever changes"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sa.UniqueConstraint("run_id", name="uq_runs_run_id"),
    )
    op.create_table(
        "attempts",
        sa.Column("run", key, nullable=False),
        sa.Column("attempt", sa.Integer, autoincrement=False, nullable=False),
        sa.Column(
            "from_batch", sa.BigInteger, nullable=False, comment="earlier attempts stop counting here"
        ),
        sa.Column("created", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("run", "attempt", name="pk_attempts"),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name="fk_attempts_run"),
    )
    op.create_table(
        "commits",
        sa.Column("run", key, nullable=False),
        sa.Column("attempt", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("batch", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column(
            "checkpoint",
            sa.String,
            nullable=False,
            comment="where the weights of this step are; may be empty",
        ),
        sa.Column("created", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("run", "attempt", "batch", name="pk_commits"),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name="fk_commits_run"),
    )
    op.create_table(
        "episodes",
        sa.Column("id", key, nullable=False),
        sa.Column("run", key, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("batch", sa.BigInteger, nullable=False),
        sa.Column("position", sa.Integer, nullable=False, comment="place in the batch; readers follow it"),
        sa.Column("episode_id", sa.String, nullable=False),
        sa.Column("group_id", sa.String, nullable=False),
        sa.Column("task_id", sa.String, nullable=False),
        sa.Column("env", sa.String, nullable=False),
        sa.Column("env_version", sa.String, nullable=False),
        sa.Column("config_hash", sa.String, nullable=False),
        sa.Column("seed", sa.String, nullable=False, comment="an integer of any size"),
        sa.Column("stop_reason", sa.String, nullable=False),
        sa.Column("correct", sa.Boolean),
        sa.Column("format_ok", sa.Boolean),
        sa.Column("ret", sa.Double, nullable=False, comment="the return, recorded or summed"),
        sa.Column("episode_return", sa.Double, comment="the recorded return, if there was one"),
        sa.Column("num_turns", sa.Integer, nullable=False),
        sa.Column("error_code", sa.String),
        sa.Column("error", sa.Text, comment="JSON"),
        sa.Column("parent_episode_id", sa.String),
        sa.Column("branch_turn", sa.Integer),
        sa.Column("metadata", sa.Text, comment="JSON; null where empty"),
        sa.Column("extra", sa.Text, comment="JSON; null where empty"),
        sa.Column(
            "digest", sa.LargeBinary(16), nullable=False, comment="of everything the episode says"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_episodes"),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name="fk_episodes_run"),
        sa.UniqueConstraint("run", "episode_id", "attempt", name="uq_episodes_run_episode_id_attempt"),
    )
    op.create_index("ix_episodes_run_batch_position_id", "episodes", ["run", "batch", "position", "id"])
    op.create_index("ix_episodes_episode_id", "episodes", ["episode_id"])
    op.create_table(
        "contents",
        sa.Column("id", key, nullable=False),
        sa.Column("digest", sa.LargeBinary(16), nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False, comment="first byte: 0 as it is, 1 zlib"),
        sa.PrimaryKeyConstraint("id", name="pk_contents"),
        sa.UniqueConstraint("digest", name="uq_contents_digest"),
    )
    op.create_table(
        "turns",
        sa.Column("episode", key, nullable=False),
        sa.Column("turn", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("reward", sa.Double, nullable=False),
        sa.Column("action_valid", sa.Boolean, nullable=False),
        sa.Column("tool_calls", sa.Integer, nullable=False),
        sa.Column("tool_call_at", sa.Integer),
        sa.Column("num_tokens", sa.Integer),
        sa.Column("policy_version", sa.BigInteger),
        sa.Column("gold_logprob", sa.Double),
        sa.Column("fresh_context", sa.Boolean, nullable=False),
        sa.Column("state_key", key, comment="JSON; equal keys, equal ref"),
        sa.Column("observation", key),
        sa.Column("reply", key),
        sa.Column("prompt_ids", key),
        sa.Column("token_ids", sa.LargeBinary),
        sa.Column("sampled", sa.LargeBinary),
        sa.Column("logprobs", sa.LargeBinary),
        sa.Column("entropies", sa.LargeBinary),
        sa.Column("extra", sa.Text, comment="JSON; null where empty"),
        sa.PrimaryKeyConstraint("episode", "turn", name="pk_turns"),
        sa.ForeignKeyConstraint(["episode"], ["episodes.id"], name="fk_turns_episode"),
        sa.ForeignKeyConstraint(["state_key"], ["contents.id"], name="fk_turns_state_key"),
        sa.ForeignKeyConstraint(["observation"], ["contents.id"], name="fk_turns_observation"),
        sa.ForeignKeyConstraint(["reply"], ["contents.id"], name="fk_turns_reply"),
        sa.ForeignKeyConstraint(["prompt_ids"], ["contents.id"], name="fk_turns_prompt_ids"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "credit_runs",
        sa.Column("id", key, nullable=False),
        sa.Column("credit_run_id", sa.String, nullable=False),
        sa.Column("run", key, nullable=False),
        sa.Column("created", sa.String, nullable=False),
        sa.Column("config", sa.Text, nullable=False, comment="JSON"),
        sa.PrimaryKeyConstraint("id", name="pk_credit_runs"),
        sa.UniqueConstraint("credit_run_id", name="uq_credit_runs_credit_run_id"),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name="fk_credit_runs_run"),
    )
    op.create_index("ix_credit_runs_run", "credit_runs", ["run"])
    op.create_table(
        "credit_turns",
        sa.Column("credit_run", key, nullable=False),
        sa.Column("episode", key, nullable=False),
        sa.Column("turn", sa.Integer, autoincrement=False, nullable=False),
        sa.Column(
            "advantage", sa.Double, comment="null: this turn was not credited, which is not zero"
        ),
        sa.Column("terms", sa.Text, comment="JSON, name to contribution; null where empty"),
        sa.PrimaryKeyConstraint("credit_run", "episode", "turn", name="pk_credit_turns"),
        sa.ForeignKeyConstraint(["credit_run"], ["credit_runs.id"], name="fk_credit_turns_credit_run"),
        sa.ForeignKeyConstraint(["episode"], ["episodes.id"], name="fk_credit_turns_episode"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "credit_channels",
        sa.Column("credit_run", key, nullable=False),
        sa.Column("episode", key, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("per_turn", sa.Text, nullable=False, comment="JSON, one number or null per turn"),
        sa.PrimaryKeyConstraint("credit_run", "episode", "name", name="pk_credit_channels"),
        sa.ForeignKeyConstraint(
            ["credit_run"], ["credit_runs.id"], name="fk_credit_channels_credit_run"
        ),
        sa.ForeignKeyConstraint(["episode"], ["episodes.id"], name="fk_credit_channels_episode"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "metrics",
        sa.Column("id", key, nullable=False),
        sa.Column("run", key, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("value", sa.Double, comment="null: not a number"),
        sa.PrimaryKeyConstraint("id", name="pk_metrics"),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name="fk_metrics_run"),
    )
    op.create_index("ix_metrics_run_step_id", "metrics", ["run", "step", "id"])
    guard = _guard_postgresql if op.get_bind().dialect.name == "postgresql" else _guard_sqlite
    for statement in guard():
        op.execute(sa.text(statement))


def downgrade() -> None:
    """Refuse: it would delete every trajectory."""
    raise NotImplementedError("revision 0001 is the first; delete the database instead")


def _guard_sqlite() -> list[str]:
    changes = [(table, verb, verb) for table in APPEND_ONLY for verb in ("UPDATE", "DELETE")]
    changes += [("runs", "DELETE", "DELETE"), ("runs", "UPDATE", f"UPDATE OF {FIXED_RUN_COLUMNS}")]
    return [
        f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {change} ON {table} "
        f"BEGIN SELECT RAISE(ABORT, 'the trajectory store is append-only: no {verb} on {table}'); END"
        for table, verb, change in changes
    ]


def _guard_postgresql() -> list[str]:
    function = """
        CREATE FUNCTION agentrl_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'the trajectory store is append-only: no % on %', TG_OP, TG_TABLE_NAME;
        END $$
    """
    rows = [(table, "row", "UPDATE OR DELETE", "ROW") for table in APPEND_ONLY]
    rows += [("runs", "row", f"DELETE OR UPDATE OF {FIXED_RUN_COLUMNS}", "ROW")]
    tables = [(table, "table", "TRUNCATE", "STATEMENT") for table in (*APPEND_ONLY, "runs")]
    return [function] + [
        f"CREATE TRIGGER {table}_append_only_{scope} BEFORE {changes} ON {table} "
        f"FOR EACH {level} EXECUTE FUNCTION agentrl_append_only()"
        for table, scope, changes, level in (*rows, *tables)
    ]

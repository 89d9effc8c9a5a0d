"""Alembic's entry point. `engine.upgrade` hands it an open transaction; there is no alembic.ini.

To add a revision: change `schema.py`, copy the newest file of `versions` under the next number, write
both tables' difference into its `upgrade`, and raise `schema.REVISION`. A released revision never changes.
"""

from __future__ import annotations

from alembic import context

from agentrl.store.schema import METADATA, VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()

"""The schema: numbered revisions build exactly what the tables declare, and a newer one is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, text

from agentrl.errors import StoreError
from agentrl.store.db import Store
from agentrl.store.engine import MIGRATIONS
from agentrl.store.schema import METADATA, REVISION, VERSION_TABLE


def test_revisions_build_what_the_tables_declare(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, METADATA) == []
        assert context.get_current_revision() == REVISION


def test_the_newest_revision_is_the_one_that_the_code_expects() -> None:
    assert ScriptDirectory(str(MIGRATIONS)).get_current_head() == REVISION


def test_a_newer_schema_is_refused(engine: Engine, store_url: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '0999'"))
    with pytest.raises(StoreError, match=rf"0999.*{REVISION}.*upgrade agentrl") as caught:
        Store.open(store_url)
    assert caught.value.code == "store.newer_schema"


def test_many_can_make_a_store_at_once(store_url: str) -> None:
    def make(number: int) -> str:
        with Store.open(store_url) as store:
            return store.add_run(name=f"run {number}", env="echo", config={})

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(make, range(8)))
    with Store.open(store_url) as store:
        assert sorted(run.run_id for run in store.list_runs()) == sorted(made)


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'theirs.db'}"
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE theirs (x INTEGER)"))
    engine.dispose()
    with pytest.raises(StoreError, match="another program"):
        Store.open(url)

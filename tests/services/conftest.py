"""What several tests of the services share: OpenEnv's interpreter, and services that are started once."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from openenv_process import NoOpenEnv, OpenEnvProcess, openenv_python, running_openenv


@pytest.fixture(scope="session")
def openenv_interpreter() -> Path:
    """OpenEnv's interpreter."""
    try:
        return openenv_python()
    except NoOpenEnv as error:
        pytest.skip(f"no OpenEnv to test against: {error}")


@pytest.fixture(scope="session")
def openenv(openenv_interpreter: Path) -> Generator[OpenEnvProcess]:
    """A process with OpenEnv's clients."""
    with running_openenv(openenv_interpreter) as process:
        yield process

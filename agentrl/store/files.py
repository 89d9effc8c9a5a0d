"""Write a file completely or not at all."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from agentrl.errors import StoreError

__all__ = ["replacing"]


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Yield a temporary sibling of `path` that takes its name once the block has succeeded.

    A reader sees the old file or the whole new one; after an error the old one is untouched.

    Raises:
        StoreError: the folder does not exist, cannot be written to, or is full (the operator's).
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            yield draft
            with draft.open("rb") as written:
                os.fsync(written.fileno())
            draft.replace(path)
        except OSError as error:
            problem = error.strerror or str(error)
            raise StoreError(
                "store.file",
                f"cannot write {path}: {problem}; nothing that was there has changed",
                {"path": str(path)},
            ) from error
    finally:
        draft.unlink(missing_ok=True)

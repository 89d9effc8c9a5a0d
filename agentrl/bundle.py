"""Where the siblings of this package live: the checkout, or `agentrl/_bundle` in an installed wheel.

`envs`, `tools`, `sandboxes` and `services` have names too generic for site-packages, so the wheel carries
them (with `configs` and `models`) inside `agentrl/_bundle`. Their parent directory is put first on the
path at start-up of the `agentrl` command, in pytest's `pythonpath` and in the container images; nowhere
else.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["activate", "find", "home"]


def home() -> Path:
    """Return the directory that holds `envs/`, `tools/`, `configs/` and `models/`."""
    package = Path(__file__).resolve().parent
    bundled = package / "_bundle"
    return bundled if bundled.is_dir() else package.parent


def activate() -> None:
    """Put the siblings' parent first on the path, for this process and (PYTHONPATH) its children."""
    root = str(home())
    if root in sys.path:
        sys.path.remove(root)
    sys.path.insert(0, root)
    inherited = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != root]
    os.environ["PYTHONPATH"] = os.pathsep.join([root, *inherited])


def find(path: str | Path) -> Path:
    """Return a path as given if it exists from here, else the one of that name that ships with agentrl."""
    given = Path(path)
    if given.exists() or given.is_absolute():
        return given
    shipped = home() / given
    return shipped if shipped.exists() else given

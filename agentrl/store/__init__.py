"""The trajectory store: every episode, kept for ever, and what was later computed about it.

`record` is one episode as one JSON object (files), `db` is `Store` (SQLite or PostgreSQL). Rows are only
ever added: a second opinion about an episode is a new row set that points at it. Importing this package
imports nothing heavy, so that command lines can name the default store at once.
"""

from __future__ import annotations

from typing import Final

__all__ = ["DEFAULT_URL", "URL_VARIABLE"]

DEFAULT_URL: Final = "sqlite:///runs/agentrl.db"
"""Where episodes go when nobody says otherwise."""

URL_VARIABLE: Final = "AGENTRL_STORE"
"""Environment variable that overrides `DEFAULT_URL` (a service URL, hence not in a config file)."""

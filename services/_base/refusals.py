"""How what a client sent is refused: which field, what was expected, and a few words on what was got."""

from __future__ import annotations

import reprlib
from typing import Any

from agentrl.errors import RequestError

__all__ = ["brief", "invalid", "whole_number"]

MAX_SEED = 1 << 63
SHORT = reprlib.Repr()
SHORT.maxlevel, SHORT.maxstring, SHORT.maxother, SHORT.maxlong = 3, 80, 80, 40


def invalid(name: str, expected: str, got: Any, problem: str = "") -> RequestError:
    """Return the refusal of a field, showing what was got (never all of something long)."""
    why = f" ({problem[:200]})" if problem else ""
    return RequestError(
        "wire.invalid",
        f"{name}: expected {expected}, got {brief(got)}{why}",
        f"correct {name}; GET /schema describes what is accepted",
        {"field": name},
    )


def brief(value: Any) -> str:
    """Return a few words on a value that a client sent, however long or deep it is."""
    shown = SHORT.repr(value)
    return shown if len(shown) <= 80 else shown[:80] + "…"


def whole_number(name: str, value: Any, below: int = MAX_SEED) -> int:
    """Return the number.

    Raises:
        RequestError: it is not a whole number from 0 up to `below`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < below:
        raise invalid(name, f"a whole number from 0 to {below - 1}", value)
    return value

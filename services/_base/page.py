"""The page on which a person plays: one document; its policy names its only style and script by hash."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files

__all__ = ["play_page"]

PARTS = {"style": "play.css", "script": "play.js"}
POLICY = (
    "default-src 'none'; style-src {style}; script-src {script}; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


@cache
def play_page() -> tuple[str, dict[str, str]]:
    """Return the document and the headers that it is sent with."""
    folder = files(__package__ or "services._base")
    page = folder.joinpath("play.html").read_text(encoding="utf-8")
    hashes: dict[str, str] = {}
    for part, name in PARTS.items():
        text = folder.joinpath(name).read_text(encoding="utf-8")
        page = page.replace(f"<{part}>/* {name} */</{part}>", f"<{part}>{text}</{part}>")
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        hashes[part] = f"'sha256-{digest}'"
    headers = {
        "Content-Security-Policy": POLICY.format(**hashes),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }
    return page, headers

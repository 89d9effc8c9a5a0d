"""Selectors: `select(batch, *, options) -> Selection`, one a file."""

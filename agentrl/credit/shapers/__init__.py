"""Shapers: `shaper(shaped, scores, batch, *, options) -> Shaped`, one a file."""

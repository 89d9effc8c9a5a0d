"""Presets: `preset(*, options) -> Spec`, a whole pipeline under one name, one a file."""

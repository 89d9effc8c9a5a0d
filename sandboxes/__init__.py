"""Isolation back-ends for code that a model wrote: one file each; its name is its id."""

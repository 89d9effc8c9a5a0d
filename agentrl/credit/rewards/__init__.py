"""Rewards: `reward(batch, *, options) -> Scores`, one a file."""

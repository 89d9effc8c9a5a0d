"""Estimators: `estimator(scores, batch, *, options) -> Estimate`, one a file."""

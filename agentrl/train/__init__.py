"""Advantages -> weights: the loop on one screen (`loop`), what it stands on beside it.

`loop` is the whole of reinforcement learning here; `run` sets it up and resumes it; `update` is one step
of the optimiser, `packing` the batches, `checkpoint` exact resume; `cloning` and `demonstrations` make a
base model from a scripted expert.
"""

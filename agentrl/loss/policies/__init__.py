"""Policy losses, one file each: the file's name is the id, its `__all__` the one class.

To add one, write a frozen dataclass whose fields are the options (validated in `__post_init__`) and
whose `__call__` maps `LossInputs` to `TokenLosses`. Nothing else needs to know of it.
"""

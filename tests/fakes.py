"""Stand-ins that tests share: a byte tokenizer and its renderer."""

from __future__ import annotations

from tokenizers import Tokenizer

from agentrl.policy.render import Renderer
from agentrl.policy.tokenizer import train_tokenizer

__all__ = ["byte_renderer", "byte_tokenizer"]


def byte_tokenizer() -> Tokenizer:
    """Return a ChatML tokenizer in which every byte is one token (267 tokens, no merges)."""
    return train_tokenizer([], 267)


def byte_renderer() -> Renderer:
    """Return a renderer over `byte_tokenizer`."""
    return Renderer(byte_tokenizer())

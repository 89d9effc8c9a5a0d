"""Train and save a small byte-level BPE tokenizer in the layout that transformers and vLLM load.

Qwen's pre-tokenisation (digits split singly), ChatML's three special tokens, and the tags of agent
formats as added tokens that are not special, so that decoding keeps them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from agentrl.errors import CheckpointError, ConfigError, boundary

__all__ = ["CHAT_TEMPLATE", "SPECIAL_TOKENS", "TAG_TOKENS", "save_tokenizer", "train_tokenizer"]

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAG_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
    "<action>",
    "</action>",
)
"""Added, never special: a reply decodes with its tags in place."""

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen's split: every digit is a token of its own."""

CHAT_TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages and messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- '# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\nYou are provided\
 with function signatures within <tools></tools> XML tags:\\n<tools>' }}
    {%- for tool in tools %}
        {{- '\\n' }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '\\n</tools>\\n\\nFor each function call, return a json object with function name and arguments\
 within <tool_call></tool_call> XML tags:\\n<tool_call>\\n{"name": <function-name>,\
 "arguments": <args-json-object>}\\n</tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == 'system' and loop.first and tools %}
    {%- elif message.role == 'system' or message.role == 'user' %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' + content }}
        {%- if message.tool_calls and '<tool_call>' not in content %}
            {%- for tool_call in message.tool_calls %}
                {%- if content or not loop.first %}
                    {{- '\\n' }}
                {%- endif %}
                {%- set call = tool_call.function if tool_call.function else tool_call %}
                {{- '<tool_call>\\n{"name": ' + (call.name | tojson) + ', "arguments": ' }}
                {{- call.arguments if call.arguments is string else call.arguments | tojson }}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
"""Qwen3's conversation, prefix-preserving (earlier thoughts stay) and without a default system prompt."""

_TAGS = re.compile("|".join(map(re.escape, SPECIAL_TOKENS + TAG_TOKENS)))


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train on texts; the vocabulary has at most `vocab_size` entries, special and tag tokens included.

    Raises:
        ConfigError: the vocabulary cannot hold the 256 bytes and the fixed tokens.
    """
    smallest = 256 + len(SPECIAL_TOKENS) + len(TAG_TOKENS)
    if vocab_size < smallest:
        raise ConfigError(
            "tokenizer.vocab_size",
            f"vocab_size must be at least {smallest} (bytes and tags), got {vocab_size}",
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(TAG_TOKENS),
        special_tokens=list(SPECIAL_TOKENS),
        # The alphabet comes as an unordered set, and ids must be the same in every process.
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_without_tags(texts), trainer)
    tags = [AddedToken(tag, special=False, normalized=False) for tag in TAG_TOKENS]
    untyped: Any = tokenizer
    untyped.add_tokens(tags)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: str | Path, *, max_tokens: int = 32_768) -> None:
    """Write tokenizer.json and tokenizer_config.json, which AutoTokenizer and vLLM load as they are.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    path = Path(folder)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "model_max_length": max_tokens,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    with boundary(
        CheckpointError, "checkpoint.unwritable", f"saving the tokenizer to {path}", path=str(path)
    ):
        path.mkdir(parents=True, exist_ok=True)
        tokenizer.save(str(path / "tokenizer.json"))
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (path / "tokenizer_config.json").write_text(text, encoding="utf-8")


def _without_tags(texts: Iterable[str]) -> Iterator[str]:
    # Merges learnt inside a tag would be dead: in use, the added token wins.
    for text in texts:
        yield from (piece for piece in _TAGS.split(text) if piece)

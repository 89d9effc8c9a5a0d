from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from agentrl.errors import ConfigError
from agentrl.policy.tokenizer import SPECIAL_TOKENS, TAG_TOKENS, save_tokenizer, train_tokenizer

TEXTS = [
    "go to shelf 12, then take apple 3 from shelf 12",
    "you see a cabinet 1 and a <think>drawer</think>",
] * 9


def test_same_texts_give_same_ids() -> None:
    assert train_tokenizer(TEXTS, 320).to_str() == train_tokenizer(TEXTS, 320).to_str()


def test_vocabulary_is_bounded_and_starts_with_special_tokens() -> None:
    tokenizer = train_tokenizer(TEXTS, 320)
    assert tokenizer.get_vocab_size() <= 320
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2]
    assert all(tokenizer.token_to_id(tag) is not None for tag in TAG_TOKENS)


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 267"):
        train_tokenizer(TEXTS, 266)


def test_any_text_survives_and_digits_split_singly() -> None:
    tokenizer = train_tokenizer(TEXTS, 320)
    text = "Grüße 2026\t中文 \U0001f600\r\n  <action>go 12</action>"
    encoded = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(encoded.ids, skip_special_tokens=False) == text
    assert [token for token in encoded.tokens if token[-1].isdigit()] == ["2", "0", "2", "6", "1", "2"]
    assert "<action>" in encoded.tokens


def test_transformers_loads_it_as_it_is(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, 320)
    save_tokenizer(tokenizer, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "take apple 3 <tool_call> <|im_end|>\n"
    assert loaded.encode(text) == tokenizer.encode(text, add_special_tokens=False).ids
    assert loaded.eos_token_id == 2
    assert (
        loaded.decode(loaded.encode("<think>a</think><|im_end|>"), skip_special_tokens=True)
        == "<think>a</think>"
    )
    assert "user" in loaded.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert "system" not in loaded.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)

"""An episode as rows and back, exactly.

Arrays carry one tag byte and little-endian values: token ids take two or three bytes where all fit (a
vocabulary of 150,000 needs three), log-probs four where all of them are float32 numbers (what engines
give) and eight otherwise. A sampled mask is a bit per token, or one byte when every token was sampled.
What may recur (texts, state keys, prompt spans) becomes a reference to content stored once. The digest of
an episode covers all it says, before any compression, so it does not depend on a compressor's version.
"""

from __future__ import annotations

import json
import sys
import zlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from agentrl.errors import AlignmentError, StoreError
from agentrl.types import Episode, StopReason, Turn

__all__ = [
    "CONTENT_COLUMNS",
    "EncodedEpisode",
    "canonical_json",
    "compress",
    "decode_episode",
    "decompress",
    "encode_episode",
]

CONTENT_COLUMNS = ("state_key", "observation", "reply", "prompt_ids")
"""Columns of `turns` that hold references to `contents`."""

_ALL_SAMPLED = b"1"
_THREE_BYTES = b"t"
_PLAIN, _ZLIB = b"\x00", b"\x01"
_WORTH_COMPRESSING_BYTES = 64
_SWAP = sys.byteorder == "big"


@dataclass(frozen=True, slots=True)
class EncodedEpisode:
    """Rows to be written: references in `turns` are digests, to be exchanged for content ids."""

    episode_id: str
    row: Mapping[str, Any]
    turns: Sequence[Mapping[str, Any]]
    contents: Mapping[bytes, bytes]


def encode_episode(episode: Episode) -> EncodedEpisode:
    """Return the rows of an episode that `check.check_episode` has passed.

    Raises:
        AlignmentError: a free-form field holds what JSON cannot say (the environment's or our bug).
    """
    where = f"episode {episode.episode_id!r}"
    contents: dict[bytes, bytes] = {}
    rows = [_encode_turn(turn, contents, f"{where} turn {turn.index}") for turn in episode.turns]
    error = None if episode.error is None else canonical_json(episode.error, f"{where}: error")
    row: dict[str, Any] = {
        "batch": episode.batch,
        "episode_id": episode.episode_id,
        "group_id": episode.group_id,
        "task_id": episode.task_id,
        "env": episode.env,
        "env_version": episode.env_version,
        "config_hash": episode.config_hash,
        "seed": str(episode.seed),
        "stop_reason": episode.stop_reason.value,
        "correct": episode.correct,
        "format_ok": episode.format_ok,
        "ret": _number(episode.ret),
        "episode_return": _number(episode.episode_return),
        "num_turns": len(episode.turns),
        "error_code": None if episode.error is None else str(episode.error.get("code", "unknown")),
        "error": error,
        "parent_episode_id": episode.parent_episode_id,
        "branch_turn": episode.branch_turn,
        "metadata": _json_or_none(episode.metadata, f"{where}: metadata"),
        "extra": _json_or_none(episode.extra, f"{where}: extra"),
    }
    row["digest"] = _digest_of_rows([row, *rows])
    return EncodedEpisode(episode.episode_id, row, rows, contents)


def decode_episode(row: Any, turn_rows: Sequence[Any], contents: Mapping[int, bytes]) -> Episode:
    """Return the episode that was encoded; `contents` maps content ids to what they stand for."""
    return Episode(
        episode_id=row.episode_id,
        group_id=row.group_id,
        task_id=row.task_id,
        env=row.env,
        seed=int(row.seed),
        turns=tuple(_decode_turn(turn, contents) for turn in turn_rows),
        stop_reason=StopReason(row.stop_reason),
        batch=row.batch,
        env_version=row.env_version,
        config_hash=row.config_hash,
        correct=row.correct,
        format_ok=row.format_ok,
        error=None if row.error is None else json.loads(row.error),
        episode_return=row.episode_return,
        parent_episode_id=row.parent_episode_id,
        branch_turn=row.branch_turn,
        metadata=_mapping(row.metadata),
        extra=_mapping(row.extra),
    )


def canonical_json(value: Any, where: str) -> str:
    """Return the one ASCII text that stands for a JSON value, whatever the order of its keys.

    Raises:
        AlignmentError: the value is not JSON; `where` names it.
    """
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise AlignmentError("store.not_json", f"{where} cannot be stored as JSON: {error}") from error


def compress(data: bytes) -> bytes:
    """Return the data with a leading byte that says whether it was worth compressing."""
    if len(data) >= _WORTH_COMPRESSING_BYTES:
        smaller = zlib.compress(data, 6)
        if len(smaller) < len(data):
            return _ZLIB + smaller
    return _PLAIN + data


def decompress(stored: bytes) -> bytes:
    """Undo `compress`.

    Raises:
        StoreError: the bytes were not written by `compress` (a damaged file).
    """
    try:
        return zlib.decompress(stored[1:]) if stored[:1] == _ZLIB else stored[1:]
    except zlib.error as error:
        raise StoreError(
            "store.corrupt",
            f"a stored text cannot be decompressed ({error}); restore the store from a backup",
        ) from error


def _encode_turn(turn: Turn, contents: dict[bytes, bytes], where: str) -> dict[str, Any]:
    def refer(data: bytes | None) -> bytes | None:
        if data is None:
            return None
        digest = blake2b(data, digest_size=16).digest()
        contents[digest] = data
        return digest

    key = None if turn.state_key is None else canonical_json(turn.state_key, f"{where}: state_key").encode()
    return {
        "turn": turn.index,
        "reward": _number(turn.reward),
        "action_valid": turn.action_valid,
        "tool_calls": turn.tool_calls,
        "tool_call_at": turn.tool_call_at,
        "num_tokens": turn.num_tokens,
        "policy_version": turn.policy_version,
        "gold_logprob": _number(turn.gold_logprob),
        "fresh_context": turn.fresh_context,
        "state_key": refer(key),
        "observation": refer(_text_bytes(turn.observation)),
        "reply": refer(_text_bytes(turn.reply)),
        "prompt_ids": refer(_pack_ids(turn.prompt_ids)),
        "token_ids": _pack_ids(turn.token_ids),
        "sampled": _pack_mask(turn.sampled),
        "logprobs": _pack_floats(turn.logprobs),
        "entropies": _pack_floats(turn.entropies),
        "extra": _json_or_none(turn.extra, f"{where}: extra"),
    }


def _decode_turn(row: Any, contents: Mapping[int, bytes]) -> Turn:
    def text(reference: int | None) -> str | None:
        return None if reference is None else contents[reference].decode("utf-8", "surrogatepass")

    token_ids = _unpack_ids(row.token_ids)
    return Turn(
        index=row.turn,
        reward=row.reward,
        state_key=None if row.state_key is None else json.loads(contents[row.state_key]),
        action_valid=row.action_valid,
        tool_calls=row.tool_calls,
        tool_call_at=row.tool_call_at,
        num_tokens=row.num_tokens,
        policy_version=row.policy_version,
        gold_logprob=row.gold_logprob,
        observation=text(row.observation),
        reply=text(row.reply),
        fresh_context=row.fresh_context,
        prompt_ids=None if row.prompt_ids is None else _unpack_ids(contents[row.prompt_ids]),
        token_ids=token_ids,
        sampled=_unpack_mask(row.sampled, 0 if token_ids is None else len(token_ids)),
        logprobs=_unpack_floats(row.logprobs),
        entropies=_unpack_floats(row.entropies),
        extra=_mapping(row.extra),
    )


def _number(value: float | None) -> float | None:
    # SQLite keeps no sign of zero, and a digest must be the same before and after storing.
    return None if value is None else float(value) + 0.0


def _json_or_none(value: Mapping[str, Any], where: str) -> str | None:
    return canonical_json(value, where) if value else None


def _mapping(text: str | None) -> Mapping[str, Any]:
    return {} if text is None else json.loads(text)


def _text_bytes(text: str | None) -> bytes | None:
    # A policy may sample any code point, lone surrogates included; what it said is kept as it is.
    return None if text is None else text.encode("utf-8", "surrogatepass")


def _digest_of_rows(rows: Sequence[Mapping[str, Any]]) -> bytes:
    # What is absent is left out, so that a column added later does not change the digest of old episodes.
    said = [[(name, value) for name, value in row.items() if value is not None] for row in rows]
    return blake2b(repr(said).encode(), digest_size=16).digest()


def _packed(tag: str, values: array[Any]) -> bytes:
    if _SWAP:
        values.byteswap()
    return tag.encode() + values.tobytes()


def _unpacked(data: bytes) -> array[Any]:
    values: array[Any] = array(chr(data[0]))
    values.frombytes(data[1:])
    if _SWAP:
        values.byteswap()
    return values


def _pack_ids(ids: Sequence[int] | None) -> bytes | None:
    if ids is None:
        return None
    low, high = (min(ids), max(ids)) if ids else (0, 0)
    if low < 0 or high >= 2**31:
        return _packed("q", array("q", ids))
    if high < 2**16:
        return _packed("H", array("H", ids))
    four_bytes = bytearray(_packed("i", array("i", ids)))
    if high < 2**24:
        del four_bytes[4::4]
        return _THREE_BYTES + four_bytes[1:]
    return bytes(four_bytes)


def _unpack_ids(data: bytes | None) -> tuple[int, ...] | None:
    if data is None:
        return None
    if data[:1] == _THREE_BYTES:
        four_bytes = bytearray(4 * (len(data) // 3))
        for place in range(3):
            four_bytes[place::4] = data[place + 1 :: 3]
        data = b"i" + four_bytes
    return tuple(_unpacked(data))


def _pack_floats(values: Sequence[float] | None) -> bytes | None:
    if values is None:
        return None
    exact = array("d", values)
    try:
        single = array("f", values)
    except OverflowError:
        return _packed("d", exact)
    return _packed("f", single) if single.tolist() == exact.tolist() else _packed("d", exact)


def _unpack_floats(data: bytes | None) -> tuple[float, ...] | None:
    return None if data is None else tuple(_unpacked(data))


def _pack_mask(mask: Sequence[int] | None) -> bytes | None:
    if mask is None:
        return None
    if all(mask):
        return _ALL_SAMPLED
    bits = int("".join("1" if bit else "0" for bit in reversed(mask)), 2)
    return b"0" + bits.to_bytes((len(mask) + 7) // 8, "little")


def _unpack_mask(data: bytes | None, length: int) -> tuple[int, ...] | None:
    if data is None:
        return None
    if data == _ALL_SAMPLED:
        return (1,) * length
    bits = f"{int.from_bytes(data[1:], 'little'):0{length}b}"
    return tuple(int(bit) for bit in reversed(bits))

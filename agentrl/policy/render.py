"""Messages to token spans and back: the only user of a tokenizer.

A conversation is tokenised once, piece by piece, as it grows: `open_ids`, then for every turn what the
policy sampled and `append_ids`. The concatenation of these spans is what the model sees; nothing is ever
tokenised again, so what was sampled is what is trained on. The format is ChatML as Qwen3 and Hermes use it.

Content is never trusted with structure: text that spells a special token, and tool tags in text that came
from outside (user and tool messages), become ordinary tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer

from agentrl.errors import CheckpointError, ConfigError, boundary
from agentrl.types import Message, ToolCall

__all__ = ["Renderer", "read_reply"]

START, END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
STRUCTURAL_TAG = re.compile(r"(?<=<)(?=/?tool_(?:call|response)>)")
TOOLS_HEAD = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
TOOLS_TAIL = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


class Renderer:
    """Turn messages into the tokens that a model sees, and its tokens into a message."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Wrap a tokenizer that has ChatML's special tokens.

        Raises:
            ConfigError: it has not, or text could spell them.
        """
        self._tokenizer = tokenizer
        self._tokenizer.encode_special_tokens = True
        self._start, self._end = self._special(START), self._special(END)
        end_of_text = tokenizer.token_to_id(END_OF_TEXT)
        self._stop_ids = (self._end,) if end_of_text is None else (self._end, end_of_text)
        self._tags = {
            token.content: token_id
            for token_id, token in tokenizer.get_added_tokens_decoder().items()
            if not token.special
        }

    @classmethod
    def load(cls, folder: str | Path) -> Renderer:
        """Read the tokenizer of a checkpoint folder (tokenizer.json, and the chat template beside it).

        Raises:
            CheckpointError: there is no readable tokenizer.
            ConfigError: its chat template is not of the ChatML family.
        """
        path = Path(folder)
        file = path / "tokenizer.json"
        if not file.is_file():
            raise CheckpointError(
                "checkpoint.no_tokenizer", f"there is no tokenizer.json in {path}", {"path": str(path)}
            )
        template = _chat_template(path)
        if START not in template or END not in template:
            raise ConfigError(
                "render.template",
                f"the chat template of {path} is not ChatML ({START}role ... {END}), the only family that "
                "can be rendered without tokenising replies again; use a Qwen, Hermes or SmolLM checkpoint",
                {"path": str(path)},
            )
        with boundary(CheckpointError, "checkpoint.unreadable", f"loading {file}", path=str(file)):
            tokenizer = Tokenizer.from_file(str(file))
        return cls(tokenizer)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end a reply."""
        return self._stop_ids

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included (a model may pad its own count beyond)."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def open_ids(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> tuple[int, ...]:
        """Return a new context: the messages, with `tools` (JSON schemas) declared, up to the reply."""
        ids: list[int] = []
        if tools:
            head, messages = _split_system(messages)
            declared = "".join(f"\n{json.dumps(tool, ensure_ascii=False)}" for tool in tools)
            prologue = f"{head}\n\n" if head else ""
            system = Message("system", f"{prologue}{TOOLS_HEAD}{declared}{TOOLS_TAIL}")
            messages = (system, *messages)
        for turn in _turns(messages):
            ids += [self._start, *self._encode(turn), self._end, *self._encode(["\n"])]
        return (*ids, *self._generation_prompt())

    def append_ids(self, new_messages: Sequence[Message], *, closed: bool) -> tuple[int, ...]:
        """Return what follows a reply up to the next: its end unless it is `closed`, then the messages."""
        ending = () if closed else (self._end,)
        return (*ending, *self._encode(["\n"]), *self.open_ids(new_messages))

    def reply_ids(self, text: str) -> tuple[int, ...]:
        """Tokenise a reply that somebody else wrote (an expert, a script), end of turn included."""
        return (*self._encode([text]), self._end)

    def parse(self, token_ids: Sequence[int]) -> Message:
        """Read a reply as `read_reply` does, without the end of turn."""
        return read_reply(self.decode(token_ids[:-1] if self._ends(token_ids) else token_ids))

    def tool_call_at(self, token_ids: Sequence[int]) -> int | None:
        """Return the offset of the token in which the first tool call starts, None without a call."""
        if CALL_OPEN not in self.decode(token_ids):
            return None
        # The model may have spelt the tag with several tokens, so look for the prefix that completes it.
        stop = next(n for n in range(1, len(token_ids) + 1) if CALL_OPEN in self.decode(token_ids[:n]))
        return next(n for n in reversed(range(stop)) if CALL_OPEN in self.decode(token_ids[n:stop]))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones spelt out; ids that the tokenizer lacks are skipped."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=False)

    def _special(self, token: str) -> int:
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise ConfigError(
                "render.tokens", f"the tokenizer has no {token} token: it is not a ChatML tokenizer"
            )
        if token_id in self._encode([token]):
            raise ConfigError(
                "render.tokens", f"the tokenizer does not mark {token} as special, so content could forge it"
            )
        return token_id

    def _ends(self, token_ids: Sequence[int]) -> bool:
        return bool(token_ids) and token_ids[-1] in self._stop_ids

    def _generation_prompt(self) -> list[int]:
        return [self._start, *self._encode(["assistant\n"])]

    def _encode(self, pieces: Iterable[str]) -> list[int]:
        # Each piece on its own: a boundary between pieces is a boundary between tokens.
        ids: list[int] = []
        for piece in pieces:
            ids += self._tokenizer.encode(piece, add_special_tokens=False).ids
        return ids


def read_reply(text: str) -> Message:
    """Return the message that a reply says: `content` is its text as written, tool calls are parsed.

    Thoughts and the calls' own text stay in `content`. A call whose JSON is wrong or unfinished has
    `arguments` None and says why in `error`.
    """
    return Message("assistant", text, tool_calls=tuple(_tool_calls(text)))


def _chat_template(path: Path) -> str:
    standalone = path / "chat_template.jinja"
    config_file = path / "tokenizer_config.json"
    try:
        if standalone.is_file():
            return standalone.read_text(encoding="utf-8")
        config: Any = json.loads(config_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "checkpoint.unreadable", f"cannot read the chat template in {path}: {error}", {"path": str(path)}
        ) from None
    template = cast("dict[str, Any]", config).get("chat_template") if isinstance(config, dict) else None
    return template if isinstance(template, str) else ""


def _split_system(messages: Sequence[Message]) -> tuple[str, Sequence[Message]]:
    if messages and messages[0].role == "system":
        return messages[0].content, messages[1:]
    return "", messages


def _turns(messages: Sequence[Message]) -> Iterator[list[str]]:
    """Yield the pieces of each ChatML turn; neighbouring tool results share one."""
    index = 0
    while index < len(messages):
        message = messages[index]
        if message.role != "tool":
            index += 1
            yield _joined(f"{message.role}\n", _content(message))
            continue
        parts: list[str | list[str]] = ["user"]
        while index < len(messages) and messages[index].role == "tool":
            parts += ["\n<tool_response>\n", _content(messages[index]), "\n</tool_response>"]
            index += 1
        yield _joined(*parts)


def _content(message: Message) -> list[str]:
    if message.role in ("user", "tool"):
        # Cut inside the tag: no tokenizer can put the halves back into one token.
        return STRUCTURAL_TAG.split(message.content)
    if message.tool_calls and CALL_OPEN not in message.content:
        calls = "\n".join(_call_text(call) for call in message.tool_calls)
        return [f"{message.content}\n{calls}" if message.content else calls]
    return [message.content]


def _joined(*parts: str | list[str]) -> list[str]:
    # Text is tokenised in one piece wherever it may be, as the chat template's own rendering would be.
    pieces = [""]
    for part in parts:
        first, *others = [part] if isinstance(part, str) else part
        pieces[-1] += first
        pieces += others
    return pieces


def _call_text(call: ToolCall) -> str:
    arguments = json.dumps(call.arguments or {}, ensure_ascii=False)
    name = json.dumps(call.name, ensure_ascii=False)
    return f'{CALL_OPEN}\n{{"name": {name}, "arguments": {arguments}}}\n{CALL_CLOSE}'


def _tool_calls(text: str) -> Iterator[ToolCall]:
    for index, part in enumerate(text.split(CALL_OPEN)[1:]):
        body, close, _ = part.partition(CALL_CLOSE)
        yield _tool_call(f"call_{index}", body, closed=bool(close))


def _tool_call(call_id: str, body: str, *, closed: bool) -> ToolCall:
    if not closed:
        return ToolCall(call_id, "", None, f"the call is not closed by {CALL_CLOSE}")
    try:
        call: Any = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return ToolCall(call_id, "", None, f"the call is not valid JSON: {error}")
    fields = cast("dict[str, Any]", call) if isinstance(call, dict) else {}
    name, arguments = fields.get("name"), fields.get("arguments")
    if not isinstance(name, str):
        return ToolCall(call_id, "", None, 'the call must be an object with a "name"')
    if not isinstance(arguments, dict):
        return ToolCall(call_id, name, None, 'the call\'s "arguments" must be an object')
    return ToolCall(call_id, name, cast("dict[str, Any]", arguments))


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")

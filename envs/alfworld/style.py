"""How a command is written in a reply: explained to the model, written by the expert, read back."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from agentrl.types import Message
from envs.alfworld.settings import Style

__all__ = ["Reply", "instructions", "other_wording", "read_reply", "write_reply"]

TOOL = "act"
_FALLBACK_CHARS = 30
_PUT = re.compile(r"put (.+) in/on (.+)")
_MOVE = re.compile(r"move (.+) to (.+)")


@dataclass(frozen=True, slots=True)
class Reply:
    """A command, and whether the reply was formed as the style asks.

    `call_id` is the tool call to answer. `problem` replaces the game's answer when no command could be read.
    """

    command: str
    well_formed: bool
    call_id: str | None = None
    problem: str | None = None


def instructions(style: Style, *, think: bool, place: str) -> str:
    """Return what tells a model how to play; `place` is the game's command for putting down."""
    put = place.format(o="OBJECT", r="RECEPTACLE")
    commands = (
        "look, inventory, go to RECEPTACLE, open RECEPTACLE, close RECEPTACLE, examine THING, "
        f"take OBJECT from RECEPTACLE, {put}, use OBJECT, heat|cool|clean OBJECT with RECEPTACLE, "
        "slice OBJECT with KNIFE"
    )
    first = "First think inside <think></think>. Then answer" if think else "Answer"
    example = write_reply("go to fridge 1", style, think=False)
    return (
        f"You act in a house to do a task. Commands: {commands}. "
        f"{first} with one command, like this: {example}"
    )


def write_reply(command: str, style: Style, *, think: bool) -> str:
    """Return the reply that gives a command, after an empty thought where one is due."""
    if think:
        return "<think></think>" + write_reply(command, style, think=False)
    if style == "plain":
        return command
    if style == "action":
        return f"<action>{command}</action>"
    call = json.dumps({"name": TOOL, "arguments": {"command": command}})
    return f"<tool_call>\n{call}\n</tool_call>"


def read_reply(message: Message, style: Style, *, think: bool) -> Reply:
    """Return the command in a reply; every reply has one, if only one that does nothing."""
    thought = not think or _between(message.content, "<think>", "</think>") is not None
    if style == "tool_call":
        return _read_call(message, thought)
    if style == "plain":
        text = message.content.rpartition("</think>")[2] if think else message.content
        return Reply(text.strip(), thought)
    text = message.content.lower()
    command = _between(text, "<action>", "</action>")
    if command is None:
        return Reply(text[-_FALLBACK_CHARS:].strip(), well_formed=False)
    return Reply(command.strip(), thought)


def _between(text: str, opening: str, closing: str) -> str | None:
    # Not a regular expression: on a hostile reply its search would take time quadratic in the length.
    _, found, rest = text.partition(opening)
    inside, closed, _ = rest.partition(closing)
    return inside if found and closed else None


def _read_call(message: Message, thought: bool) -> Reply:
    if not message.tool_calls:
        return Reply("", well_formed=False)
    call = message.tool_calls[0]
    command = call.arguments.get("command") if call.arguments is not None else None
    if call.name != TOOL or not isinstance(command, str):
        problem = call.error or f"call {TOOL} with one text argument, command"
        return Reply("", well_formed=False, call_id=call.call_id, problem=f"Error: {problem}.")
    return Reply(command.strip(), thought and len(message.tool_calls) == 1, call_id=call.call_id)


def other_wording(command: str) -> str:
    """Return `move X to Y` for `put X in/on Y` and the other way round; other commands as they are."""
    if match := _PUT.fullmatch(command):
        return f"move {match[1]} to {match[2]}"
    if match := _MOVE.fullmatch(command):
        return f"put {match[1]} in/on {match[2]}"
    return command

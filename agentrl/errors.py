"""Every error that agentrl raises, in one tree, and the one way to classify a foreign one.

    AgentRLError(code, message, detail)
      ConfigError       a config, command line or file that a person wrote          -> stop, exit code 2
      UnknownPlugin     an id that names nothing, or a plug-in that cannot import    -> stop, exit code 2
      StoreError        the trajectory store cannot be read or written               -> stop, exit code 2
      CheckpointError   weights or trainer state that do not fit                     -> stop, exit code 2
      AlignmentError    token spans, masks and log-probs that disagree               -> stop: our bug
      RolloutError      recorded on the episode; its siblings go on
        PolicyError     the policy could not sample
        SandboxError    the sandbox, not the program in it, failed
        EnvError        the environment failed or was given an unreadable game
        ToolsetError    a tool's service failed
        LimitExceeded   a limit on turns, tokens or seconds was passed
      RequestError      a client's request that a service refuses        -> an HTTP 4xx; its session lives
    ToolError           not an AgentRLError: its text is shown to the model

The `code` is a stable dotted string, the same in Python, HTTP and SQL. A message says what was
attempted, what was got, which id, and what to do next; it never holds a secret. To add an error,
reuse a class here with a new code: a new class is needed only where a caller must act differently.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "AgentRLError",
    "AlignmentError",
    "CheckpointError",
    "ConfigError",
    "EnvError",
    "LimitExceeded",
    "PolicyError",
    "RequestError",
    "RolloutError",
    "SandboxError",
    "StoreError",
    "ToolError",
    "ToolsetError",
    "UnknownPlugin",
    "boundary",
]


class AgentRLError(Exception):
    """Carry a stable `code`, a message for people and a JSON-able `detail`."""

    def __init__(self, code: str, message: str, detail: Mapping[str, Any] | None = None) -> None:
        super().__init__(code, message, dict(detail or {}))
        self.code = code
        self.message = message
        self.detail: dict[str, Any] = dict(detail or {})

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]"

    def to_json(self) -> dict[str, Any]:
        """Return the body that HTTP, SQL and `--json` share."""
        return {"code": self.code, "message": self.message, "detail": self.detail}


class ConfigError(AgentRLError):
    """Report a mistake in something that a person wrote."""


class UnknownPlugin(AgentRLError):
    """Report an id that names nothing, listing what exists."""


class StoreError(AgentRLError):
    """Report a trajectory store that cannot be read or written."""


class CheckpointError(AgentRLError):
    """Report weights or trainer state that cannot be loaded here."""


class AlignmentError(AgentRLError):
    """Report token spans, masks or log-probs that disagree (a bug of ours or of an engine)."""


class RolloutError(AgentRLError):
    """Fail one episode: the error is recorded on it, its siblings go on."""


class PolicyError(RolloutError):
    """Report a policy that could not sample."""


class SandboxError(RolloutError):
    """Report a sandbox that failed (never a program that failed inside one)."""


class EnvError(RolloutError):
    """Report an environment that failed, or a game that it cannot read."""


class ToolsetError(RolloutError):
    """Report a tool whose service failed (never bad arguments from the model)."""


class LimitExceeded(RolloutError):
    """Report an episode that passed a limit which counts as a failure."""


class RequestError(AgentRLError):
    """Refuse a client's request, saying what to do instead."""

    def __init__(
        self, code: str, message: str, next_step: str, detail: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(code, message, detail)
        self.next_step = next_step

    def to_json(self) -> dict[str, Any]:
        """Return the body, with the next step."""
        return {**super().to_json(), "next_step": self.next_step}


class ToolError(Exception):
    """Tell the model what was wrong with its call; raised by tools, never by the platform."""


class boundary:
    """Classify once, at an edge, whatever escapes: `with boundary(EnvError, "env.step", "a step"):`.

    Our own errors, a model-facing `ToolError` and cancellation pass unchanged; a time-out gets the
    code `<code>_timeout`; anything else becomes `kind(code, …)` chained to its cause.
    """

    # A class, because every step of every episode passes two: a generator would cost three times as much.
    __slots__ = ("_code", "_detail", "_doing", "_kind")

    def __init__(self, kind: type[AgentRLError], code: str, doing: str, **detail: Any) -> None:
        self._kind, self._code, self._doing, self._detail = kind, code, doing, detail

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, AgentRLError | ToolError):
            return
        if isinstance(error, TimeoutError):
            raise self._kind(f"{self._code}_timeout", f"{self._doing} timed out", self._detail) from error
        cause = f"{type(error).__name__}: {error}".rstrip(": ")
        detail = {**self._detail, "cause": cause}
        raise self._kind(self._code, f"{self._doing} failed: {cause}", detail) from error

"""A policy that plays replies somebody else wrote: experts, tests, replay."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agentrl.errors import PolicyError, boundary
from agentrl.policy.base import Completion, SampleRequest
from agentrl.policy.render import Renderer

__all__ = ["ScriptedPolicy"]


class ScriptedPolicy:
    """Play fixed replies in order, per session, or ask a function of the context's text.

    Log-probs and entropies are 0: the script is certain. A reply longer than `max_tokens` is cut off.
    """

    def __init__(
        self,
        renderer: Renderer,
        script: Sequence[str] | Callable[[str], str],
        *,
        max_context_tokens: int = 32_768,
        version: int = 0,
    ) -> None:
        """Take the replies as texts; the renderer makes tokens of them."""
        self._renderer = renderer
        self._script = script
        self._max_context_tokens = max_context_tokens
        self._version = version
        self._played: dict[str, int] = {}

    @property
    def version(self) -> int:
        """The version that was given."""
        return self._version

    @property
    def max_context_tokens(self) -> int:
        """Largest prompt plus reply that fits, in tokens."""
        return self._max_context_tokens

    async def sample(self, request: SampleRequest) -> Completion:
        """Return the next reply of this session.

        Raises:
            PolicyError: the script has no reply left, or the function failed.
        """
        ids = self._renderer.reply_ids(self._reply(request))
        finish = "stop" if len(ids) <= request.params.max_tokens else "length"
        ids = ids[: request.params.max_tokens]
        certain = (0.0,) * len(ids)
        return Completion(ids, certain, certain, self._version, finish)

    async def score(self, context_ids: Sequence[int], target_ids: Sequence[int]) -> tuple[float, ...]:
        """Return 0 for every target token: a script is certain of whatever it says."""
        return (0.0,) * len(target_ids)

    async def end_session(self, session: str) -> None:
        """Forget how far a session has come."""
        self._played.pop(session, None)

    async def close(self) -> None:
        """Do nothing: a script holds nothing."""

    def _reply(self, request: SampleRequest) -> str:
        if callable(self._script):
            with boundary(PolicyError, "policy.script", f"the script of session {request.session}"):
                return self._script(self._renderer.decode(request.context_ids))
        turn = self._played.get(request.session, 0)
        if turn >= len(self._script):
            raise PolicyError(
                "policy.script_ended",
                f"session {request.session} asked for reply {turn + 1} of a script of {len(self._script)}",
                {"session": request.session, "replies": len(self._script)},
            )
        self._played[request.session] = turn + 1
        return self._script[turn]

from __future__ import annotations

import pytest
from fakes import byte_renderer

from agentrl.errors import PolicyError
from agentrl.policy.base import SampleRequest, SamplingParams
from agentrl.policy.scripted import ScriptedPolicy
from agentrl.types import Message

RENDERER = byte_renderer()


def request(session: str = "a", text: str = "hi", max_tokens: int = 50) -> SampleRequest:
    return SampleRequest(session, RENDERER.open_ids([Message("user", text)]), 0, SamplingParams(max_tokens))


async def test_fixed_replies_are_played_in_order_per_session() -> None:
    policy = ScriptedPolicy(RENDERER, ["one", "two"], version=7)
    first = await policy.sample(request("a"))
    await policy.sample(request("b"))
    second = await policy.sample(request("a"))
    assert [RENDERER.parse(c.token_ids).content for c in (first, second)] == ["one", "two"]
    assert first.logprobs == first.entropies == (0.0,) * len(first.token_ids)
    assert (first.finish, first.policy_version) == ("stop", 7)


async def test_an_ended_script_says_so_and_an_ended_session_starts_again() -> None:
    policy = ScriptedPolicy(RENDERER, ["one"])
    await policy.sample(request())
    with pytest.raises(PolicyError, match="reply 2 of a script of 1"):
        await policy.sample(request())
    await policy.end_session("a")
    await policy.end_session("a")
    assert (await policy.sample(request())).finish == "stop"


async def test_a_function_sees_the_context_as_text() -> None:
    policy = ScriptedPolicy(RENDERER, lambda text: "yes" if "tea?" in text else "no")
    replies = [await policy.sample(request(text=text)) for text in ("tea?", "rain?")]
    assert [RENDERER.parse(c.token_ids).content for c in replies] == ["yes", "no"]


async def test_a_failing_function_is_a_policy_error() -> None:
    def broken(text: str) -> str:
        raise KeyError("plan")

    with pytest.raises(PolicyError, match="KeyError"):
        await ScriptedPolicy(RENDERER, broken).sample(request())


async def test_a_long_reply_is_cut_off() -> None:
    completion = await ScriptedPolicy(RENDERER, ["abcdef"]).sample(request(max_tokens=3))
    assert (len(completion.token_ids), completion.finish) == (3, "length")


async def test_score_is_certain_and_close_does_nothing() -> None:
    policy = ScriptedPolicy(RENDERER, [])
    assert await policy.score((1,), (2, 3)) == (0.0, 0.0)
    await policy.close()
    await policy.close()

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import Qwen3ForCausalLM

from agentrl.errors import CheckpointError, ConfigError, PolicyError
from agentrl.policy.base import Completion, SampleRequest, SamplingParams
from agentrl.policy.local import LocalPolicy, kernels
from agentrl.policy.local.engine import Engine

SESSIONS, TURNS = 48, 4

Played = tuple[list[tuple[int, Completion]], list[int]]
"""The replies of one episode, each with its place in the context, and the whole context."""


def request(
    session: str = "a", context: Sequence[int] = (5, 6, 7), seed: int = 0, **params: Any
) -> SampleRequest:
    return SampleRequest(session, context, seed, SamplingParams(**({"max_tokens": 8} | params)))


async def episode(policy: LocalPolicy, index: int, limit: asyncio.Semaphore) -> Played:
    """Play ragged turns whose every length is a function of the index; groups of 8 share a prompt."""
    group, own = random.Random(index // 8), random.Random(index)
    context = [group.randrange(1024) for _ in range(group.randint(40, 160))]
    context += [own.randrange(1024) for _ in range(own.randint(1, 30))]
    completions: list[tuple[int, Completion]] = []
    async with limit:
        for turn in range(TURNS):
            completion = await policy.sample(
                request(
                    f"s{index}",
                    tuple(context),
                    seed=index * 100 + turn,
                    max_tokens=own.randint(1, 12),
                    temperature=own.choice([0.0, 0.7, 1.0]),
                    top_p=own.choice([1.0, 0.8]),
                    stop_ids=tuple(range(40)),
                )
            )
            completions.append((len(context), completion))
            context += completion.token_ids
            context += [own.randrange(1024) for _ in range(own.randint(1, 60))]
            await asyncio.sleep(random.random() * 0.003)
    return completions, context


async def play_all(model: Qwen3ForCausalLM, *, slots: int, concurrency: int) -> list[Played]:
    policy = LocalPolicy(model, slots=slots, max_context_tokens=512)
    limit = asyncio.Semaphore(concurrency)
    order = random.sample(range(SESSIONS), SESSIONS)
    played = await asyncio.gather(*(episode(policy, index, limit) for index in order))
    await policy.close()
    by_index = dict(zip(order, played, strict=True))
    return [by_index[index] for index in range(SESSIONS)]


@pytest.fixture(scope="module")
def reference(tiny_model: Qwen3ForCausalLM) -> list[Played]:
    return asyncio.run(play_all(tiny_model, slots=64, concurrency=64))


@pytest.mark.parametrize(
    ("slots", "concurrency"),
    [(1, 1), (64, 7), (16, 16), (7, 64)],
    ids=["one at a time", "seven at a time", "sixteen slots", "always evicting"],
)
async def test_nothing_depends_on_what_else_is_played(
    tiny_model: Qwen3ForCausalLM,
    reference: list[Played],
    slots: int,
    concurrency: int,
) -> None:
    # Equal dataclasses: token ids, and log-probs and entropies to the last bit.
    assert await play_all(tiny_model, slots=slots, concurrency=concurrency) == reference


async def test_products_of_one_fixed_shape_are_invariant_too(
    tiny_model: Qwen3ForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentrl.policy.local.network.choose_linear", lambda _: kernels.linear_in_tiles)
    policy = LocalPolicy(tiny_model, slots=4, max_context_tokens=256)
    alone = await policy.sample(request("alone"))
    crowd = await asyncio.gather(
        *(policy.sample(request(f"s{i}", context=[5, 6, 7] * (1 + i % 3))) for i in range(7))
    )
    assert crowd[0] == alone == crowd[3]
    await policy.close()


def test_the_kernels_of_this_machine_pass_the_check(tiny_model: Qwen3ForCausalLM) -> None:
    assert LocalPolicy(tiny_model, slots=2).batch_invariant


async def test_logprobs_and_entropies_are_those_of_the_plain_forward_pass(
    tiny_model: Qwen3ForCausalLM, reference: list[Played]
) -> None:
    for completions, context in reference[::6]:
        with torch.no_grad():
            logprobs = tiny_model(torch.tensor([context])).logits[0].log_softmax(-1)
        entropies = -(logprobs.exp() * logprobs).sum(-1)
        for start, completion in completions:
            ids = completion.token_ids
            rows = torch.arange(start - 1, start - 1 + len(ids))
            expected = logprobs[rows, torch.tensor(ids)]
            assert torch.allclose(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=0)
            assert torch.allclose(torch.tensor(completion.entropies), entropies[rows], atol=1e-4, rtol=0)


async def test_score_gives_the_bits_that_sampling_gave(tiny_model: Qwen3ForCausalLM) -> None:
    policy = LocalPolicy(tiny_model, slots=4)
    context = list(range(200, 400))
    sampled = await policy.sample(request(context=context, max_tokens=40))
    assert await policy.score(context, sampled.token_ids) == sampled.logprobs
    assert await policy.score(context, ()) == ()
    await policy.close()


async def test_greedy_is_the_argmax_and_stop_tokens_end_a_reply(tiny_model: Qwen3ForCausalLM) -> None:
    policy = LocalPolicy(tiny_model, slots=4)
    free = await policy.sample(request(temperature=0.0))
    with torch.no_grad():
        assert free.token_ids[0] == tiny_model(torch.tensor([[5, 6, 7]])).logits[0, -1].argmax().item()
    assert (free.finish, len(free.token_ids)) == ("length", 8)
    stop = free.token_ids[3]
    stopped = await policy.sample(request("b", temperature=0.0, stop_ids=(stop,)))
    assert stopped.token_ids == free.token_ids[: free.token_ids.index(stop) + 1]
    assert stopped.finish == "stop"
    await policy.close()


async def test_a_context_that_changed_behind_is_computed_anew(tiny_model: Qwen3ForCausalLM) -> None:
    policy = LocalPolicy(tiny_model, slots=2)
    await policy.sample(request("a", range(100, 160)))
    changed = [*range(100, 130), *range(500, 520)]
    again = await policy.sample(request("a", changed))
    assert again == await policy.sample(request("fresh", changed))
    await policy.close()


async def test_refresh_takes_new_weights_and_stamps_the_version(tiny_model: Qwen3ForCausalLM) -> None:
    model = copy.deepcopy(tiny_model)
    policy = LocalPolicy(model, slots=4, version=3)
    before = await policy.sample(request(context=range(60)))
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(-1)
    # Training must not leak into the engine before it is told.
    assert (await policy.sample(request("b", range(60)))).logprobs == before.logprobs
    policy.refresh(4)
    after = await policy.sample(request(context=range(60)))
    assert (before.policy_version, after.policy_version, policy.version) == (3, 4, 4)
    assert after == await LocalPolicy(model, version=4).sample(request(context=range(60)))
    assert after.logprobs != before.logprobs
    await policy.close()


async def test_refresh_amid_a_reply_starts_it_again(tiny_model: Qwen3ForCausalLM) -> None:
    model = copy.deepcopy(tiny_model)
    policy = LocalPolicy(model, slots=4)
    under_way = asyncio.create_task(policy.sample(request(max_tokens=200)))
    await asyncio.sleep(0.03)
    with torch.no_grad():
        model.model.norm.weight.mul_(0.5)
    policy.refresh(1)
    completion = await under_way
    assert completion.policy_version == 1
    assert completion == await LocalPolicy(model, version=1).sample(request("b", max_tokens=200))
    await policy.close()


async def test_weights_that_do_not_fit_leave_the_old_ones(tiny_model: Qwen3ForCausalLM) -> None:
    policy = LocalPolicy(tiny_model, slots=4)
    before = await policy.sample(request())
    with pytest.raises(CheckpointError, match="missing"):
        policy.refresh(9, {"model.norm.weight": torch.zeros(128)})
    assert await policy.sample(request("b")) == before
    await policy.close()


async def test_refresh_needs_something_to_read(tiny_model: Qwen3ForCausalLM, tmp_path: Any) -> None:
    tiny_model.save_pretrained(tmp_path)
    policy = LocalPolicy(tmp_path, slots=1)
    with pytest.raises(ConfigError, match="loaded from"):
        policy.refresh(1)
    policy.refresh(1, tiny_model.state_dict())
    assert policy.version == 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (request(context=()), "no tokens"),
        (request(context=[1] * 250, max_tokens=7), "needs 250 tokens and 7 more, the engine holds 256"),
        (request(context=[1, 1024]), "token id 1024, the model's vocabulary has 1024"),
        (request(context=[-1]), "token id -1"),
        (request(max_tokens=0), "max_tokens"),
        (request(temperature=-1.0), "temperature"),
        (request(temperature=float("nan")), "temperature"),
        (request(top_p=0.0), "top_p"),
    ],
)
async def test_bad_requests_are_refused_with_numbers(
    tiny_model: Qwen3ForCausalLM, bad: SampleRequest, message: str
) -> None:
    policy = LocalPolicy(tiny_model, slots=1, max_context_tokens=256)
    with pytest.raises(PolicyError, match=message):
        await policy.sample(bad)
    await policy.close()


def test_a_context_longer_than_the_model_is_cut_down(tiny_model: Qwen3ForCausalLM) -> None:
    assert LocalPolicy(tiny_model, slots=1, max_context_tokens=100_000).max_context_tokens == 4096
    assert LocalPolicy(tiny_model, slots=1, max_context_tokens=40).max_context_tokens == 40


@pytest.mark.parametrize(("option", "value"), [("device", "cuda"), ("device", "toaster"), ("dtype", "int3")])
def test_devices_and_dtypes_that_are_not_there_are_named(
    tiny_model: Qwen3ForCausalLM, option: str, value: str
) -> None:
    if value == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    options: dict[str, Any] = {option: value}
    with pytest.raises(ConfigError, match=value):
        LocalPolicy(tiny_model, **options)


async def test_diverged_weights_fail_the_request_and_leave_no_trace(tiny_model: Qwen3ForCausalLM) -> None:
    model = copy.deepcopy(tiny_model)
    with torch.no_grad():
        model.model.embed_tokens.weight[7] = float("nan")
    healthy = copy.deepcopy(tiny_model)
    with torch.no_grad():
        healthy.model.embed_tokens.weight[7] = 0.0
    policy = LocalPolicy(model, slots=1)
    with pytest.raises(PolicyError, match="not finite"):
        await policy.sample(request(context=[5, 6, 7] * 50))
    with pytest.raises(PolicyError, match="not finite"):
        await policy.score([5, 6, 7] * 50, [1, 2])
    # The same slot serves a session of healthy weights: no NaN may be left in it.
    policy.refresh(0, healthy.state_dict())
    after = await policy.sample(request("b", context=[5, 6, 8]))
    assert after == await LocalPolicy(healthy, slots=1).sample(request("b", context=[5, 6, 8]))
    await policy.close()


async def test_a_step_that_fails_fails_its_requests_and_no_others(
    tiny_model: Qwen3ForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = LocalPolicy(tiny_model, slots=4)
    expected = await policy.sample(request())

    def out_of_memory(self: Engine, jobs: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "step", out_of_memory)
        outcomes = await asyncio.gather(
            *(policy.sample(request(f"s{i}")) for i in range(3)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [PolicyError] * 3
        assert "out of memory" in str(outcomes[0])
    assert await policy.sample(request("after")) == expected
    await policy.close()


async def test_a_cancelled_request_frees_its_slot(tiny_model: Qwen3ForCausalLM) -> None:
    policy = LocalPolicy(tiny_model, slots=1, max_context_tokens=4096)
    endless = asyncio.create_task(policy.sample(request("endless", max_tokens=4000)))
    waiting = asyncio.create_task(policy.sample(request("waiting", max_tokens=4000)))
    await asyncio.sleep(0.03)
    waiting.cancel()
    endless.cancel()
    assert await asyncio.wait_for(policy.sample(request("next")), 5)
    assert endless.cancelled()
    await policy.end_session("endless")
    await policy.end_session("never seen")
    await policy.close()


async def test_close_fails_what_is_in_flight_and_may_be_called_again(tiny_model: Qwen3ForCausalLM) -> None:
    policy = LocalPolicy(tiny_model, slots=1, max_context_tokens=4096)
    flights = [asyncio.create_task(policy.sample(request(f"s{i}", max_tokens=4000))) for i in range(2)]
    await asyncio.sleep(0.03)
    await policy.close()
    await policy.close()
    for flight in flights:
        with pytest.raises(PolicyError, match="closed"):
            await flight
    with pytest.raises(PolicyError, match="closed"):
        await policy.sample(request())


def test_one_policy_serves_one_event_loop_after_another(tiny_model: Qwen3ForCausalLM) -> None:
    policy = LocalPolicy(tiny_model, slots=2, max_context_tokens=4096)

    async def abandon() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(policy.sample(request("left", max_tokens=4000)), 0.05)

    asyncio.run(abandon())
    first = asyncio.run(policy.sample(request("x")))
    assert first == asyncio.run(policy.sample(request("y")))
    asyncio.run(policy.close())


async def test_bfloat16_runs_and_is_close(tiny_model: Qwen3ForCausalLM) -> None:
    half, full = LocalPolicy(tiny_model, slots=2, dtype="bfloat16"), LocalPolicy(tiny_model, slots=2)
    context, target = list(range(50)), list(range(50, 60))
    pairs = zip(await half.score(context, target), await full.score(context, target), strict=True)
    assert max(abs(a - b) for a, b in pairs) < 0.5
    await half.close()
    await full.close()

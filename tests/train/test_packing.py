"""Packed batches give what each sequence gives alone, and rows hold what the model saw."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from train_fakes import VOCAB, episode
from transformers import Qwen3ForCausalLM

from agentrl.errors import AlignmentError
from agentrl.train import packing
from agentrl.train.packing import collate, logprobs, pack
from agentrl.train.rows import sequence_rows

CPU = torch.device("cpu")


def sequences(lengths: tuple[int, ...]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(0, VOCAB, (length,), generator=generator) for length in lengths]
    chosen = [torch.rand(length, generator=generator) < 0.6 for length in lengths]
    for flags in chosen:
        flags[0] = False
    return ids, chosen


@pytest.mark.parametrize("lengths", [(5, 40, 1, 17, 64), (23, 23, 23), (9,)])
def test_a_packed_sequence_is_computed_as_if_it_were_alone(
    tiny: Qwen3ForCausalLM, lengths: tuple[int, ...]
) -> None:
    ids, chosen = sequences(lengths)
    scored = logprobs(tiny, batch := collate(ids, chosen, CPU), entropy="value")
    assert scored.entropies_N is not None
    logprobs_BL, entropies_BL = batch.by_sequence(scored.logprobs_N), batch.by_sequence(scored.entropies_N)
    for b, sequence in enumerate(ids):
        count = int(chosen[b].sum())
        if not count:
            continue
        logits = tiny(input_ids=sequence[None]).logits[0, :-1].log_softmax(-1)
        expected = logits.gather(1, sequence[1:, None])[:, 0][chosen[b][1:]]
        entropy = -(logits.exp() * logits).sum(-1)[chosen[b][1:]]
        torch.testing.assert_close(logprobs_BL[b, :count], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(entropies_BL[b, :count], entropy, rtol=0, atol=1e-5)
        assert logprobs_BL[b, count:].abs().sum() == 0


def test_no_gradient_crosses_from_one_sequence_to_another(tiny: Qwen3ForCausalLM) -> None:
    ids, chosen = sequences((12, 9))
    both = logprobs(tiny, collate(ids, chosen, CPU)).logprobs_N.sum()
    both.backward()
    together = [p.grad.clone() for p in tiny.parameters() if p.grad is not None]
    tiny.zero_grad()
    for b in range(2):
        logprobs(tiny, collate(ids[b : b + 1], chosen[b : b + 1], CPU)).logprobs_N.sum().backward()
    apart = [p.grad for p in tiny.parameters() if p.grad is not None]
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_logits_in_chunks_change_nothing(tiny: Qwen3ForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = collate(*sequences((30, 21)), CPU)

    def run() -> tuple[torch.Tensor, list[torch.Tensor]]:
        tiny.zero_grad()
        scored = logprobs(tiny, batch, entropy="gradient")
        assert scored.entropies_N is not None
        (scored.logprobs_N.sum() + scored.entropies_N.sum()).backward()
        return scored.logprobs_N.detach(), [p.grad.clone() for p in tiny.parameters() if p.grad is not None]

    whole, gradients = run()
    monkeypatch.setattr(packing, "LOGITS_PER_CHUNK", 4 * tiny.config.vocab_size)
    chunked, chunked_gradients = run()
    torch.testing.assert_close(whole, chunked)
    for one, other in zip(gradients, chunked_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_nothing_chosen_still_gives_a_gradient_of_zero(tiny: Qwen3ForCausalLM) -> None:
    ids, chosen = sequences((4,))
    scored = logprobs(tiny, collate(ids, [torch.zeros_like(chosen[0])], CPU), entropy="value")
    assert scored.logprobs_N.shape == (0,)
    scored.logprobs_N.sum().backward()


@given(st.lists(st.integers(1, 300), max_size=40), st.integers(1, 500))
def test_micro_batches_hold_every_sequence_once_and_fit(lengths: list[int], max_tokens: int) -> None:
    batches = pack(lengths, max_tokens)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or sum(lengths[i] for i in batch) <= max_tokens for batch in batches)
    assert batches == pack(lengths, max_tokens)
    assert all(batches)


def test_micro_batches_are_balanced() -> None:
    loads = [
        sum((500, 400, 300, 200, 100)[i] for i in batch) for batch in pack((500, 400, 300, 200, 100), 900)
    ]
    assert sorted(loads) == [700, 800]


def test_an_episode_becomes_one_row_per_context() -> None:
    played = episode(3, turns=4, fresh=(2,))
    rows = sequence_rows(played, {"credit": [0.5, None, -1.0, 0.0]}, vocab_size=VOCAB)
    assert [row.turns_T.unique().tolist() for row in rows] == [[0, 1], [2, 3]]
    first, second = rows
    seen = [token for turn in played.turns[:2] for token in (*turn.prompt_ids, *turn.token_ids)]  # type: ignore[misc]
    assert first.ids_T.tolist() == seen
    logprobs_seen = [value for turn in played.turns[:2] for value in turn.logprobs or ()]
    torch.testing.assert_close(first.logprobs_T[first.sampled_T], torch.tensor(logprobs_seen))
    credited = first.channels["credit"].credited_T
    assert torch.equal(credited, first.sampled_T & (first.turns_T == 0)), "None is no advantage"
    assert torch.equal(second.channels["credit"].credited_T, second.sampled_T), "zero is one"
    assert set(first.channels["credit"].advantages_T[credited].tolist()) == {0.5}
    assert torch.equal(first.trainable_T, credited)


def test_tokens_of_a_turn_may_differ_in_their_advantage() -> None:
    played = episode(3, turns=3)
    counts = [len(turn.logprobs or ()) for turn in played.turns]
    offsets = [[float(place) for place in range(count)] for count in counts]
    (row,) = sequence_rows(played, {"a": [1.0, None, 0.0], "b": [2.0] * 3}, token_offsets={"a": offsets})
    channel = row.channels["a"]
    trained = channel.advantages_T[channel.credited_T]
    assert trained.tolist() == [1.0 + value for value in offsets[0]] + offsets[2]
    assert set(row.channels["b"].advantages_T[row.sampled_T].tolist()) == {2.0}
    with pytest.raises(AlignmentError, match="adds 1 values"):
        sequence_rows(played, {"a": [1.0] * 3}, token_offsets={"a": [[0.0]] * 3})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"sampled": (1,)}, "sampled flags"),
        ({"logprobs": ()}, "log-probs"),
        ({"logprobs": None}, "without tokens"),
        ({"prompt_ids": ()}, "no prompt"),
        ({"prompt_ids": (VOCAB,)}, "the vocabulary has"),
        ({"prompt_ids": (-1,)}, "the vocabulary has"),
    ],
)
def test_spans_that_disagree_are_refused(change: dict[str, Any], problem: str) -> None:
    played = episode(5, turns=1)
    broken = replace(played, turns=(replace(played.turns[0], **change),))
    with pytest.raises(AlignmentError, match=problem):
        sequence_rows(broken, {"credit": [1.0]}, vocab_size=VOCAB)


def test_advantages_that_do_not_fit_are_refused() -> None:
    with pytest.raises(AlignmentError, match="2 advantages for 3 turns"):
        sequence_rows(episode(1), {"credit": [1.0, 2.0]})
    with pytest.raises(AlignmentError, match="advantage nan"):
        sequence_rows(episode(1), {"credit": [1.0, float("nan"), 0.0]})
    positive = episode(5, turns=1)
    count = len(positive.turns[0].logprobs or ())
    broken = replace(positive, turns=(replace(positive.turns[0], logprobs=(0.5,) * count),))
    with pytest.raises(AlignmentError, match="no log of a probability"):
        sequence_rows(broken, {"credit": [1.0]})

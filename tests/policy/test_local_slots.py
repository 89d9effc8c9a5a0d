from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentrl.policy.local.slots import Slots, common_prefix


@given(st.lists(st.integers(0, 2), max_size=12), st.lists(st.integers(0, 2), max_size=12))
def test_common_prefix_counts_equal_leading_tokens(first: list[int], second: list[int]) -> None:
    expected = 0
    while expected < min(len(first), len(second)) and first[expected] == second[expected]:
        expected += 1
    assert common_prefix(first, tuple(second)) == expected


def test_a_session_keeps_its_slot_and_what_still_holds_of_it() -> None:
    slots = Slots(2)
    slot = slots.acquire("a", [1, 2, 3])
    assert slot is not None
    slot.ids = [1, 2, 3, 4]
    slots.release(slot)
    assert slots.acquire("a", [1, 2, 9, 9]) is slot
    assert slot.ids == [1, 2]


def test_the_last_token_is_always_left_to_compute() -> None:
    slots = Slots(1)
    slot = slots.acquire("a", [1])
    assert slot is not None
    slot.ids = [1, 2]
    slots.release(slot)
    assert slots.acquire("a", [1, 2]) is slot
    assert slot.ids == [1]


def test_who_has_idled_longest_is_evicted_and_busy_slots_are_not() -> None:
    slots = Slots(2)
    first, second = slots.acquire("a", [1]), slots.acquire("b", [1])
    assert first is not None
    assert second is not None
    assert slots.acquire("c", [1]) is None
    slots.release(second)
    slots.release(first)
    assert slots.acquire("c", [1]) is second
    assert slots.acquire("b", [1]) is first
    assert slots.acquire("a", [1]) is None


def test_ended_sessions_free_their_slot_even_while_busy() -> None:
    slots = Slots(1)
    slot = slots.acquire("a", [1])
    assert slot is not None
    slot.ids = [1]
    slots.end("a")
    slots.end("a")
    slots.release(slot)
    assert slot.ids == []
    assert slots.acquire("b", [1]) is slot


def test_a_busy_session_asked_for_again_gets_a_passing_slot() -> None:
    slots = Slots(3)
    own, passing = slots.acquire("a", [1]), slots.acquire("a", [1])
    assert own is not None
    assert passing is not None
    assert own is not passing
    slots.release(passing)
    slots.release(own)
    assert slots.acquire("a", [1]) is own


def test_the_donor_is_who_shares_most() -> None:
    slots = Slots(3)
    for session, ids in (("a", [1, 2]), ("b", [1, 2, 3, 4]), ("c", [9])):
        slot = slots.acquire(session, ids)
        assert slot is not None
        slot.ids = ids
    donor, shared = slots.donor([1, 2, 3, 5])
    assert donor is not None
    assert (donor.session, shared) == ("b", 3)
    slots.clear()
    assert slots.donor([1, 2, 3]) == (None, 0)

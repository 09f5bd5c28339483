"""Whose turn it is, and who has a slot: pure."""

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from jsjobs.model.job import Priority
from jsjobs.worker.intake.intake import BOUNCES, LINGER, patience
from jsjobs.worker.intake.slots import WEIGHTS, Room, Slots, Turns

ALL = tuple(Priority)


def taken(turns: Turns, busy: set[Priority], count: int) -> list[Priority]:
    took = []
    for _ in range(count):
        priority = turns.next(busy)
        turns.took(priority, busy)
        took.append(priority)
    return took


def test_ten_slots_in_a_row_are_shared_by_weight() -> None:
    took = taken(Turns(), set(ALL), 10)
    assert took[0] is Priority.CRITICAL
    assert Counter(took) == {Priority.CRITICAL: 4, Priority.HIGH: 3, Priority.NORMAL: 2, Priority.LOW: 1}


def test_one_that_is_alone_has_all_slots() -> None:
    assert set(taken(Turns(), {Priority.LOW}, 50)) == {Priority.LOW}


def test_one_that_was_quiet_gets_no_more_than_its_share_afterwards() -> None:
    turns = Turns()
    taken(turns, {Priority.LOW}, 1000)
    assert Counter(taken(turns, set(ALL), 100))[Priority.CRITICAL] == 40


@given(st.lists(st.sets(st.sampled_from(ALL), min_size=1), max_size=200))
def test_nobody_who_stays_busy_waits_longer_than_a_round(rounds: list[set[Priority]]) -> None:
    turns, last = Turns(), 0
    for number, busy in enumerate(rounds, 1):
        if taken(turns, busy | {Priority.LOW}, 1) == [Priority.LOW]:
            last = number
        assert number - last <= 2 * sum(WEIGHTS.values())


def test_a_job_that_came_back_often_waits_longer_up_to_a_bound() -> None:
    waits = [patience(attempt) for attempt in range(1, 2000)]
    assert waits == sorted(waits)
    assert waits[: BOUNCES - 1] == [LINGER] * (BOUNCES - 1)
    assert waits[-1] == 2.0


async def test_a_slot_is_left_and_taken_again_with_its_room() -> None:
    slots, room = Slots(2), Room(1)
    slots.on_free = lambda: None
    slot, other = slots.take(Priority.LOW), slots.take(Priority.LOW)
    assert slot.enter(room)
    assert not other.enter(room)
    slot.leave()
    slot.leave()
    assert (slots.free, room.free) == (1, 1)
    had = slot.wait()
    slots.serve(Priority.LOW)
    await had
    assert (slots.free, room.free, slot.is_taken) == (0, 0, True)


async def test_a_slot_without_room_is_not_taken_again() -> None:
    slots, room, calls = Slots(2), Room(1), []
    slot = slots.take(Priority.LOW)
    assert slot.enter(room)
    slot.leave()
    other = slots.take(Priority.LOW)
    assert other.enter(room)
    had = slot.wait()
    slots.on_free = lambda: calls.append(1)
    slots.serve(Priority.LOW)
    await asyncio.wait({had}, timeout=1)
    assert had.cancelled()
    assert (slots.free, room.free, slot.is_taken) == (1, 0, False)
    assert calls, "the slot is somebody else's"
    slot.leave()
    assert slots.free == 1


async def test_who_no_longer_waits_takes_no_slot() -> None:
    slots = Slots(1)
    slot = slots.take(Priority.HIGH)
    slot.leave()
    gone, waits = slot.wait(), slots.take(Priority.HIGH)
    gone.cancel()
    waits.leave()
    slots.serve(Priority.HIGH)
    assert (slots.free, slots.count_waiting, slot.is_taken) == (1, 0, False)

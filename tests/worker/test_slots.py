"""Slots: how many requests of a connection are in flight, divided among workers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.slots import LEASE, TURN, Share, Slots, divide

NAMES = st.sampled_from(["a", "b", "c", "d", "e"])


def test_a_worker_alone_gets_all() -> None:
    """Nobody else wants any: the whole limit is one worker's."""
    slots = Slots()
    wish = Share(wants=100)

    slots.ask(0, "a", wish, keep=0, limit=8)

    assert wish.held == 8


def test_no_more_than_is_wanted_is_held_but_for_a_small_lot() -> None:
    """What nobody uses stays free for the others, up to what the worker would like to have ready."""
    slots = Slots()
    wish = Share(wants=1)

    slots.ask(0, "a", wish, keep=3, limit=8)

    assert wish.held == 3


def test_a_second_worker_gets_its_part_as_requests_end() -> None:
    """Slots in use are not taken away; their holder is told to come down, and the other gets what it gives back."""
    slots = Slots()
    first = Share(used=8, wants=5)
    slots.ask(0, "a", first, keep=0, limit=8)
    second = Share(wants=5)

    slots.ask(0.01, "b", second, keep=0, limit=8)
    assert second.held == 0
    first = Share(used=6, wants=5)
    target = slots.ask(0.02, "a", first, keep=0, limit=8)
    assert (first.held, target) == (6, 4)
    slots.ask(0.03, "b", second, keep=0, limit=8)
    assert second.held == 2


def test_the_slots_of_a_silent_worker_are_free_again() -> None:
    """A worker that died holds nothing once its lease has run out."""
    slots = Slots()
    slots.ask(0, "dead", Share(used=8), keep=0, limit=8)
    wish = Share(wants=8)

    slots.expire(LEASE - 0.1)
    slots.ask(LEASE - 0.1, "b", wish, keep=0, limit=8)
    assert wish.held == 0
    slots.expire(LEASE + 0.1)
    slots.ask(LEASE + 0.1, "b", wish, keep=0, limit=8)
    assert wish.held == 8


def test_idle_slots_go_to_who_needs_them() -> None:
    """What a worker only keeps ready it gives up as soon as another lacks some."""
    slots = Slots()
    slots.ask(0, "a", Share(), keep=8, limit=8)
    other = Share(wants=8)
    slots.ask(1, "b", other, keep=0, limit=8)
    idle = Share()

    slots.ask(2, "a", idle, keep=8, limit=8)
    slots.ask(3, "b", other, keep=0, limit=8)

    assert (idle.held, other.held) == (0, 8)


@given(
    demands=st.dictionaries(NAMES, st.integers(0, 50), min_size=1),
    limit=st.integers(0, 60),
    now=st.floats(0, 1000),
)
def test_a_division_is_whole_fair_and_no_more_than_wanted(demands: dict[str, int], limit: int, now: float) -> None:
    """All of the limit that is wanted is given; nobody gets more than it wants, or two less than another who wants."""
    parts = divide(demands, limit, now)

    assert sum(parts.values()) == min(limit, sum(demands.values()))
    assert all(0 <= part <= demands[name] for name, part in parts.items())
    unhappy = [part for name, part in parts.items() if part < demands[name]]
    assert max(parts.values()) - min(unhappy, default=max(parts.values())) <= 1


@pytest.mark.parametrize(("workers", "limit"), [(4, 1), (3, 8), (5, 7), (2, 1)])
def test_odd_slots_go_round(workers: int, limit: int) -> None:
    """Over a full round of turns every worker has had the same."""
    demands = {f"w{number}": 100 for number in range(workers)}
    had = dict.fromkeys(demands, 0)
    for turn in range(workers):
        for name, part in divide(demands, limit, (turn + 0.5) * TURN).items():
            had[name] += part

    assert len(set(had.values())) == 1


@given(st.lists(st.tuples(NAMES, st.integers(0, 10), st.integers(0, 10), st.integers(0, 10)), max_size=60))
def test_never_more_slots_are_held_than_there_are(steps: list[tuple[str, int, int, int]]) -> None:
    """Whatever the workers want, start and end, the slots held never exceed the limit."""
    limit = 8
    slots = Slots()
    used: dict[str, int] = {}
    held: dict[str, int] = {}
    for number, (name, start, end, wants) in enumerate(steps):
        used[name] = max(min(used.get(name, 0) + start, held.get(name, 0)) - end, 0)
        wish = Share(used=used[name], wants=wants)
        target = slots.ask(number * 0.01, name, wish, keep=wants, limit=limit)
        held[name] = wish.held
        assert used[name] <= wish.held
        assert target <= wish.held
        assert sum(held.values()) <= limit


def test_it_survives_the_store() -> None:
    """What is dumped is read back the same."""
    slots = Slots(next_start=12.5)
    slots.ask(3.25, "a", Share(used=1, wants=2, singles=1), keep=0, limit=8)

    assert Slots.load(slots.dump()) == slots
    assert math.isclose(Slots.load(slots.dump()).next_start, 12.5)

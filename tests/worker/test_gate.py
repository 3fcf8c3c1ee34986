"""The gate: who may send the next request, after what the vendor said to any worker."""

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.gate import FLOOR, PROBE_PATIENCE, Gate, Phase
from worker.grants import Ask, Grant, Hold, Limits
from worker.points import Points, Remaining, Start
from worker.slots import LEASE

LIMITS = Limits(in_flight=8)


def ask(gate: Gate, now: float, worker: str = "w", *, limits: Limits = LIMITS, **wishes: int) -> Grant:
    """Ask for one worker on one connection."""
    wish = Ask(**{"used": 0, "singles": 1, "bulk": 0, **wishes})
    return gate.ask(now, worker, "acme", wish, limits)


def close(gate: Gate, now: float, after: float | None = 5.0, **changes: Any) -> None:
    """Close a gate as a refusal of the present generation does."""
    until = None if after is None else now + after
    gate.close(now, **{"until": until, "generation": gate.generation, "ceiling": 300.0, **changes})


def reopened(at: float = 10.0, *, took: float = 0.1) -> Gate:
    """Make a gate whose probe was just answered."""
    gate = Gate()
    close(gate, at - 5, 5.0)
    ask(gate, at)
    gate.answered(at, generation=gate.generation, took=took)
    return gate


def test_an_unknown_gate_is_open() -> None:
    """Nothing known, nothing held up."""
    grant = ask(Gate(), 0.0, singles=3)

    assert (grant.held, grant.starts, grant.hold) == (3, None, None)


# Closing


def test_a_refusal_closes_it_for_every_worker_until_the_vendors_time() -> None:
    """No worker may send before, and each is told how long that is."""
    gate = Gate()
    close(gate, 10.0, 5.0)

    for worker in "abc":
        grant = ask(gate, 14.9, worker)
        assert (grant.starts, grant.hold) == ((), Hold.CLOSED)
        assert grant.wait == pytest.approx(0.1)
    assert gate.phase(14.9) is Phase.CLOSED
    assert gate.phase(15.0) is Phase.HALF_OPEN


def test_a_later_answer_never_opens_it_earlier() -> None:
    """A shorter wait after a longer one changes nothing."""
    gate = Gate()
    close(gate, 10.0, 60.0)
    close(gate, 11.0, 1.0)
    gate.answered(12.0, generation=gate.generation, took=0.1)

    assert gate.closed_for(12.0) == pytest.approx(58.0)


def test_a_vendors_word_counts_whoever_brings_it() -> None:
    """A request that was under way when the gate closed and is told a longer wait closes it for longer."""
    gate = Gate()
    close(gate, 10.0, 5.0)
    close(gate, 10.1, 30.0, generation=0)

    assert gate.closed_until == pytest.approx(40.1)
    assert gate.generation == 1


def test_our_own_guess_counts_once_for_all_that_was_in_flight() -> None:
    """Eight requests refused together without a Retry-After close the gate once, for the floor."""
    gate = Gate()
    for _ in range(8):
        close(gate, 10.0, None, generation=0)

    assert gate.closed_until == pytest.approx(10.0 + FLOOR)
    assert (gate.refusals, gate.generation) == (1, 1)


def test_a_stale_refusal_without_a_time_does_not_close_an_open_gate() -> None:
    """What a request of before the last closing guesses says nothing of now."""
    gate = reopened()
    close(gate, 10.5, None, generation=0)

    assert gate.phase(10.5) is Phase.RAMP


def test_guesses_double_with_each_refusal_in_a_row_up_to_the_ceiling() -> None:
    """5, 10, 20 … seconds, then the ceiling; an answered request begins anew."""
    gate, now, waits = Gate(), 0.0, []
    for _ in range(8):
        close(gate, now, None)
        waits.append(gate.closed_until - now)
        now = gate.closed_until

    assert waits == pytest.approx([5, 10, 20, 40, 80, 160, 300, 300])
    gate.answered(now, generation=gate.generation, took=0.1)
    close(gate, now, None)
    assert gate.closed_until - now == pytest.approx(FLOOR)


def test_no_ceiling_lowers_the_floor() -> None:
    """A backoff ceiling of a second still leaves a vendor its five."""
    gate = Gate()
    close(gate, 0.0, None, ceiling=1.0)

    assert gate.closed_until == FLOOR


def test_now_over_and_over_is_no_leave_to_hammer() -> None:
    """Retry-After: 0 is obeyed once; in a row it means more and more patience."""
    gate, now, waits = Gate(), 0.0, []
    for _ in range(6):
        close(gate, now, 0.0)
        waits.append(gate.closed_until - now)
        now = gate.closed_until

    assert waits == pytest.approx([0, 1, 2, 4, 5, 5])


# Opening


def test_one_worker_sends_one_probe() -> None:
    """At the opening a single request goes out in the whole fleet; the others wait for its answer."""
    gate = Gate()
    close(gate, 10.0, 5.0)

    grants = [ask(gate, 15.0, worker, singles=20) for worker in "abcd"]

    assert [len(grant.starts or ()) for grant in grants] == [1, 0, 0, 0]
    assert {grant.hold for grant in grants} == {Hold.PROBE}


def test_a_probe_needs_somebody_who_waits() -> None:
    """A worker without requests takes no probe from one that has some."""
    gate = Gate()
    close(gate, 10.0, 5.0)

    assert ask(gate, 15.0, "idle", singles=0).starts == ()
    assert len(ask(gate, 15.0, "busy").starts or ()) == 1


def test_a_lost_probe_is_followed_by_another() -> None:
    """A worker that dies with the probe costs seconds."""
    gate = Gate()
    close(gate, 10.0, 5.0)
    ask(gate, 15.0, "dies")

    assert ask(gate, 15.0 + PROBE_PATIENCE - 0.1, "b").starts == ()
    assert len(ask(gate, 15.0 + PROBE_PATIENCE, "b").starts or ()) == 1


def test_a_vendor_that_answers_nothing_is_probed_more_and_more_rarely() -> None:
    """Probes without an answer are 1, 2, 4 … 30 s apart."""
    gate, now, gaps = Gate(), 15.0, []
    close(gate, 10.0, 5.0)
    for _ in range(7):
        assert len(ask(gate, now).starts or ()) == 1
        gate.unanswered(now, generation=gate.generation)
        gaps.append(gate.probe_until - now)
        now = gate.probe_until

    assert gaps == pytest.approx([1, 2, 4, 8, 16, 30, 30])


def test_a_refused_probe_closes_it_again() -> None:
    """The vendor's new word counts."""
    gate = Gate()
    close(gate, 10.0, 5.0)
    ask(gate, 15.0)
    close(gate, 15.1, 7.0)

    assert gate.phase(20.0) is Phase.CLOSED
    assert gate.closed_until == pytest.approx(22.1)


def test_an_answer_to_a_request_of_before_the_closing_opens_nothing() -> None:
    """Only what was sent after the closing proves that the vendor is back."""
    gate = Gate()
    close(gate, 10.0, 5.0)
    gate.answered(16.0, generation=0, took=0.1)

    assert gate.phase(16.0) is Phase.HALF_OPEN


def test_after_the_probe_requests_in_flight_double_from_two() -> None:
    """The fleet comes back slowly: 2, 4, 8 requests in flight, each step as long as the probe took."""
    gate = reopened(10.0, took=0.2)

    allowed = [ask(gate, 10.0 + 0.2 * step + 0.01, singles=100, limits=Limits(in_flight=50)).held for step in range(6)]

    assert allowed == [2, 4, 8, 16, 32, 50]


def test_the_ramp_is_the_fleets_and_not_each_workers() -> None:
    """Two workers share the two slots of the first step."""
    gate = reopened(10.0)

    held = [ask(gate, 10.01, worker, singles=20).held for worker in "abc"]

    assert sum(held) <= 2


def test_what_is_still_in_flight_counts_against_the_limit_of_a_probe() -> None:
    """Requests of before the closing that still run keep the probe back when they fill every slot."""
    gate = Gate()
    ask(gate, 1.0, "a", singles=8)
    ask(gate, 1.0, "a", used=8, singles=0)
    close(gate, 2.0, 5.0)

    full = ask(gate, 7.0, "a", used=8, singles=1)
    room = ask(gate, 7.1, "a", used=7, singles=1)

    assert (full.starts, full.hold) == ((), Hold.SLOTS)
    assert len(room.starts or ()) == 1


def test_a_probe_that_nobody_used_is_given_back() -> None:
    """If the request it was for has gone, the next one who asks is the probe."""
    gate = Gate()
    close(gate, 10.0, 5.0)
    ask(gate, 15.0, "a")
    gate.give_back(15.1, 1)

    assert len(ask(gate, 15.1, "b").starts or ()) == 1


# An operator's hand


def test_a_pause_closes_and_a_resume_opens() -> None:
    """Pausing holds up every worker, for a time or for good; resuming begins with the ramp."""
    gate = Gate()
    gate.pause(math.inf)
    assert ask(gate, 10.0).hold is Hold.PAUSED
    assert gate.closed_for(10.0) == math.inf

    gate.resume(20.0)
    assert gate.phase(20.0) is Phase.RAMP
    assert ask(gate, 20.0).hold is None


def test_a_pause_ends_by_itself_and_with_a_ramp() -> None:
    """What was held up by a pause does not return all at once."""
    gate = Gate()
    gate.pause(100.0)

    assert gate.phase(99.9) is Phase.PAUSED
    assert gate.phase(100.01) is Phase.RAMP
    assert gate.phase(200.0) is Phase.OPEN


def test_a_pause_does_not_hide_a_vendors_closing() -> None:
    """When the pause is over, the vendor's time still counts."""
    gate = Gate()
    close(gate, 10.0, 100.0)
    gate.pause(20.0)

    assert gate.phase(50.0) is Phase.CLOSED


def test_a_resume_opens_what_a_vendor_closed() -> None:
    """An operator who knows better than an absurd Retry-After has the last word."""
    gate = Gate()
    close(gate, 10.0, 1e9)
    gate.resume(20.0)

    assert ask(gate, 20.0).hold is None


# Pace


def test_a_pace_spaces_the_fleets_starts() -> None:
    """Twenty a second are twenty a second, however many workers ask."""
    gate, limits = Gate(), Limits(in_flight=100, gap=0.05)
    at = []
    now = 1000.0
    while now < 1010.0:
        for worker in "abc":
            at += [start.at for start in ask(gate, now, worker, singles=50, limits=limits).starts or ()]
        now += 0.1
    at.sort()

    assert len(at) == pytest.approx(10 / 0.05, abs=8)
    assert min(later - earlier for earlier, later in pairwise(at)) >= 0.0499


def test_who_waits_for_the_pace_is_told_so() -> None:
    """The pace is our own courtesy, not the vendor's word."""
    gate, limits = Gate(), Limits(in_flight=8, gap=30.0)
    ask(gate, 1000.0, limits=limits)
    grant = ask(gate, 1001.0, limits=limits)

    assert (grant.starts, grant.hold) == ((), Hold.PACE)
    assert not Hold.PACE.counted
    assert grant.wait == pytest.approx(29.0, abs=0.2)


# Points


def a_gate_with(left: float, *, quota: float = 100.0) -> Gate:
    """Make a gate that knows its points."""
    points = Points(left=left, quota=quota, begun_before=1000.0, begun=1000.0, length=10.0, last_start=1000.0)
    return Gate(points=points)


def test_the_reserve_is_kept_while_single_object_commands_wait_and_only_then() -> None:
    """Bulk work may spend everything, except while a user's command waits for its turn."""
    limits = Limits(in_flight=50, reserve=0.1)

    alone = ask(a_gate_with(8.0), 1005.0, "bulk", singles=0, bulk=4, limits=limits)
    assert len(alone.starts or ()) == 4

    gate = a_gate_with(8.0)
    ask(gate, 1005.0, "user", singles=30, limits=limits)
    beside = ask(gate, 1005.0, "bulk", singles=0, bulk=4, limits=limits)
    assert (beside.starts, beside.hold) == ((), Hold.POINTS)


def test_single_object_commands_go_first() -> None:
    """Of one worker's own requests those on one object get the starts."""
    gate = a_gate_with(2.0)

    grant = ask(gate, 1005.0, singles=2, bulk=5, limits=Limits(in_flight=8, reserve=0.0))

    assert len(grant.starts or ()) >= 1


def test_spent_points_are_the_vendors_word() -> None:
    """Waiting for the next window is a deferral."""
    grant = ask(a_gate_with(0.0), 1005.0)

    assert (grant.starts, grant.hold) == ((), Hold.POINTS)
    assert Hold.POINTS.counted
    assert grant.wait == pytest.approx(5.0, abs=0.2)


def test_a_worker_alone_spends_its_part_of_the_points() -> None:
    """A worker that can't see the others counts each of its requests for all of them."""
    gate = a_gate_with(100.0)
    gate.ask(1005.0, "w", "acme", Ask(used=0, singles=8, bulk=0), Limits(in_flight=32), alone=4)

    assert gate.points is not None
    assert gate.points.left == 100 - 4 * 8


def test_a_worker_alone_goes_slower() -> None:
    """A worker that can't see the others leaves their part of the pace to them."""
    gate = Gate()
    gate.ask(1000.0, "w", "acme", Ask(used=0, singles=1, bulk=0), Limits(in_flight=8, gap=1.0), alone=4)

    assert gate.slots["acme"].next_start == pytest.approx(1004.0)


# Views


def test_what_was_learned_apart_is_kept() -> None:
    """Two views that were apart agree on the longest closing that either knows."""
    mine, theirs = Gate(), Gate()
    close(mine, 10.0, 50.0)
    theirs.pause(30.0)
    theirs.merge(mine, 11.0)

    assert theirs.closed_until == 60.0
    assert theirs.phase(31.0) is Phase.CLOSED
    assert theirs.generation == mine.generation


def test_others_are_told_of_what_they_wait_for() -> None:
    """Closing, opening, pausing, a new window and slots given back change the outlook; a look does not."""
    gate = Gate()
    ask(gate, 0.0)
    before = gate.outlook
    ask(gate, 0.1)
    assert gate.outlook == before

    close(gate, 1.0)
    assert gate.outlook != before


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ask", "close", "answered", "unanswered", "pause", "resume", "points"]),
            st.floats(0, 50),
            st.sampled_from(["a", "b", "c"]),
            st.integers(0, 20),
        ),
        max_size=50,
    )
)
def test_it_survives_the_store_and_anything_that_happens(steps: list[tuple[str, float, str, int]]) -> None:
    """
    Whatever happens, in whatever order: no start while it is closed, no more slots than allowed, at most one probe.

    And what is dumped is read back the same at every step. (A worker that is silent for longer than its lease loses its
    slots, and may come back with requests that still run: only then there can be more.)
    """
    gate, now = Gate(), 1000.0
    used: dict[str, int] = {}
    heard: dict[str, float] = {}
    lost = False
    for what, wait, worker, number in steps:
        now += wait
        lost |= any(used[name] and now - at > LEASE for name, at in heard.items())
        match what:
            case "ask":
                running = min(used.get(worker, 0), number)
                was = gate.phase(now)
                grant = ask(gate, now, worker, used=running, singles=number)
                used[worker], heard[worker] = grant.held, now
                assert grant.held >= running
                if was in {Phase.CLOSED, Phase.PAUSED}:
                    assert grant.starts == ()
                if was is Phase.HALF_OPEN:
                    assert len(grant.starts or ()) <= 1
                assert lost or sum(share.held for share in gate.slots["acme"].shares.values()) <= 8
            case "close":
                close(gate, now, None if number == 0 else float(number), generation=gate.generation - number % 2)
            case "answered":
                gate.answered(now, generation=gate.generation, took=wait)
            case "unanswered":
                gate.unanswered(now, generation=gate.generation)
            case "pause":
                gate.pause(math.inf if number == 0 else now + number)
            case "resume":
                gate.resume(now)
            case "points":
                start = gate.points.probe(now) if gate.points else Start(now)
                gate.observe(Remaining(number, start, now, now))
        assert Gate.load(gate.dump()).dump() == gate.dump()

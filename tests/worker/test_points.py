"""Points: windows learned from what answers say, and spent so that the next one is met."""

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.points import AHEAD, SCOUT_PATIENCE, Points, Remaining, Start

LATENCY = 0.02


@dataclass
class Vendor:
    """A vendor with windows that follow a clock."""

    quota: int = 50
    period: float = 2.0
    cost: int = 1
    window: int = -1
    spent: int = 0

    def ask(self, now: float) -> int | None:
        """Take the cost of a call; gives what remains, None where it is refused."""
        window = math.floor(now / self.period)
        if window != self.window:
            self.window, self.spent = window, 0
        if self.spent + self.cost > self.quota:
            return None
        self.spent += self.cost
        return self.quota - self.spent


def spend(points: Points, vendor: Vendor, begin: float, end: float, *, demand: int = 1000) -> tuple[int, int]:
    """Send one request after the other, as the points allow, from `begin` to `end`; gives how many passed, and not."""
    passed = refused = 0
    now = begin
    while now < end:
        starts = points.give(now, 1, demand=demand)
        if not starts:
            now += max(points.wait(now, demand=demand) - AHEAD / 2, 0.001)
            continue
        now = max(starts[0].at, now)
        remaining = vendor.ask(now + LATENCY / 2)
        if remaining is None:
            refused += 1
            points.refuse(now, starts[0])
            now += 1.0
        else:
            passed += 1
            now += LATENCY
            points.observe(Remaining(remaining, starts[0], now - LATENCY, now))
    return passed, refused


def begun(vendor: Vendor, at: float) -> Points:
    """Give the points after the first answer at `at`."""
    remaining = vendor.ask(at)
    assert remaining is not None
    return Points.first(Remaining(remaining, Start(at), at - LATENCY, at))


def seen(points: Points, value: float, at: float, start: Start | None = None) -> None:
    """Let an answer be seen that was sent a moment before `at`."""
    points.observe(Remaining(value, start or points.probe(at - LATENCY), at - LATENCY, at))


@pytest.mark.parametrize("period", [2.0, 10.0, 60.0])
@pytest.mark.parametrize("phase", [0.0, 0.37, 0.9])
def test_the_length_of_windows_is_learned(period: float, phase: float) -> None:
    """After some windows their length is known to a few per cent, and never taken to be shorter than it is."""
    vendor = Vendor(period=period)
    begin = 1000 * period + phase * period
    points = begun(vendor, begin)

    spend(points, vendor, begin, begin + 12 * period)

    assert points.length is not None
    assert period <= points.length <= 1.06 * period


@pytest.mark.parametrize("period", [2.0, 10.0])
def test_windows_are_spent_and_not_run_into(period: float) -> None:
    """Nearly all points are used, and hardly any call is refused."""
    vendor = Vendor(period=period)
    begin = 1000 * period + 0.1
    points = begun(vendor, begin)

    passed, refused = spend(points, vendor, begin, begin + 20 * period)

    assert passed >= 0.95 * 20 * vendor.quota
    assert refused <= 0.01 * passed


def test_what_is_left_is_gone_by_the_windows_probable_end() -> None:
    """A window that may last from 1.7 to 2.4 s is not spread over the longest: what is left at its end is lost."""
    points = Points(
        left=10,
        quota=50,
        begun_after=999.6,
        begun_before=1000.2,
        begun=1000.2,
        length=2.4,
        least=1.7,
        last_start=1001.0,
    )

    at = []
    now = 1001.0
    while points.left >= 1:
        at += [start.at for start in points.give(now, 1, demand=1000)]
        now += 0.01

    assert at[-1] == pytest.approx(999.9 + 2.05, abs=0.02)
    assert points.end is not None
    assert points.wait(at[-1], demand=1000) == pytest.approx(points.end - at[-1])


def test_a_price_is_learned() -> None:
    """Where a call takes five points, a fifth of the calls is planned."""
    vendor = Vendor(quota=250, cost=5)
    points = begun(vendor, 2000.1)

    passed, refused = spend(points, vendor, 2000.1, 2040.0)

    assert points.cost == pytest.approx(5, rel=0.15)
    assert passed >= 0.9 * 20 * 50
    assert refused <= 0.02 * passed


def test_while_more_than_half_is_left_nobody_is_held_up() -> None:
    """A burst within half of the points starts at once."""
    points = begun(Vendor(quota=100), 1000.0)

    starts = points.give(1000.0, 40, demand=1000)

    assert [start.at for start in starts] == [1000.0] * 40


def test_enough_for_all_who_wait_holds_nobody_up() -> None:
    """The last points go at once to those who wait, if they are enough for them."""
    points = begun(Vendor(quota=100), 1000.0)
    points.left = 10

    assert len(points.give(1000.0, 10, demand=10)) == 10


def test_below_half_the_rest_is_spread_over_the_window() -> None:
    """What is left goes out evenly until the window's end."""
    points = Points(left=10, quota=100, begun_after=999.9, begun_before=1000.0, begun=1000.0, length=10.0)

    at = []
    now = 1005.0
    points.last_start = now
    while points.left >= 1:
        start = points.give(now, 1, demand=1000)
        if start:
            at.append(start[0].at)
        now += 0.05

    gaps = [later - earlier for earlier, later in pairwise(at)]
    assert at[-1] == pytest.approx(1009.95, abs=0.1)
    assert max(gaps) - min(gaps) < 0.06


def test_starts_are_given_out_only_a_moment_ahead() -> None:
    """A long gap is not promised: what is seen meanwhile may change it."""
    points = Points(left=2, quota=100, begun_before=1000.0, begun=1000.0, length=60.0, last_start=1000.0)

    assert points.give(1000.0, 2, demand=1000) == []
    assert points.wait(1000.0, demand=1000) == pytest.approx(30.0)


def test_with_nothing_left_one_scout_goes_at_the_windows_end() -> None:
    """Nobody asks before the window can be over, then one does, and the others wait for its answer."""
    points = Points(left=0, quota=50, begun_before=1000.0, begun=1000.0, length=2.0, seq=50, newest=50)

    assert points.give(1000.5, 5, demand=1000) == []
    assert 1.4 < points.wait(1000.5, demand=1000) < 1.6
    assert len(points.give(1002.01, 5, demand=1000)) == 1
    assert points.give(1002.02, 5, demand=1000) == []


def test_a_scout_without_an_answer_is_followed_by_another() -> None:
    """A scout that is lost costs seconds, not the connection."""
    points = Points(left=0, quota=50, begun_before=1000.0, begun=1000.0, length=2.0)
    points.give(1002.01, 1, demand=1000)

    assert len(points.give(1002.1 + SCOUT_PATIENCE, 1, demand=1000)) == 1


def test_a_scout_that_nobody_used_is_given_back() -> None:
    """Who asked for it may have gone: the next one who asks gets it at once."""
    points = Points(left=0, quota=50, begun_before=1000.0, begun=1000.0, length=2.0)
    points.give(1002.01, 1, demand=1000)
    points.give_back(1)

    assert len(points.give(1002.02, 1, demand=1000)) == 1


def test_an_answer_out_of_order_is_no_new_window() -> None:
    """Of two answers that overtake each other, the later one with more left says nothing."""
    points = begun(Vendor(quota=100), 1000.0)
    first, second = points.give(1000.0, 2, demand=2)

    seen(points, 97, 1000.05, second)
    seen(points, 98, 1000.06, first)

    assert points.window == 0
    assert points.left == 97


def test_an_answer_with_more_than_was_known_is_a_new_window() -> None:
    """Points never come back but with a new window."""
    points = begun(Vendor(quota=100), 1000.0)
    seen(points, 20, 1000.1)
    seen(points, 99, 1000.5)

    assert points.window == 1
    assert points.left == 99


def test_a_straggler_of_an_earlier_window_changes_nothing() -> None:
    """An answer to a request that was sent before the window began is not held against it."""
    points = begun(Vendor(quota=100), 1000.0)
    straggler = points.probe(1000.05)
    seen(points, 20, 1000.1)
    seen(points, 99, 1000.5)

    seen(points, 3, 1000.6, straggler)

    assert points.left == 99


def test_what_others_spend_is_seen() -> None:
    """The vendor's number counts, not ours: whoever else uses the account."""
    points = begun(Vendor(quota=100), 1000.0)
    seen(points, 60, 1000.1)

    assert points.left == 60


def test_a_window_that_outlasts_its_length_is_longer() -> None:
    """A vendor may change its windows: an old one met after its supposed end corrects the length."""
    points = Points(left=10, quota=50, begun_before=1000.0, begun=1000.0, length=2.0, newest_value=10)

    seen(points, 9, 1003.0)

    assert points.length is not None
    assert points.length > 2.98


def test_a_vendor_that_changes_its_windows_is_followed() -> None:
    """From 2 s to 3 s windows: after a while hardly any call is refused again."""
    points = begun(Vendor(), 2000.1)
    spend(points, Vendor(), 2000.1, 2030.0)

    _, refused = spend(points, Vendor(period=3.0), 2031.0, 2061.0)

    assert refused <= 3
    assert points.length is not None
    assert points.length >= 2.95


def test_a_long_idle_time_is_not_taken_for_a_window() -> None:
    """A request a minute teaches nothing about windows of two seconds."""
    vendor = Vendor()
    points = begun(vendor, 2000.1)
    for minute in range(1, 10):
        at = 2000.1 + 60 * minute
        remaining = vendor.ask(at)
        assert remaining is not None
        seen(points, remaining, at)

    assert points.length is None
    passed, _ = spend(points, vendor, 2700.1, 2720.1)
    assert passed > 0.85 * 500


def test_kept_points_are_left_alone() -> None:
    """Who may not touch the reserve waits for the next window; who may is served from it."""
    points = Points(left=5, quota=100, begun_before=1000.0, begun=1000.0, length=10.0)

    assert points.give(1009.0, 1, demand=1000, kept=10) == []
    assert points.wait(1005.0, demand=1000, kept=10) == pytest.approx(5.0, abs=0.1)
    assert len(points.give(1009.0, 1, demand=1000)) == 1


@given(
    values=st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 100), st.integers(0, 3)), max_size=40),
    demand=st.integers(0, 10_000),
)
def test_no_vendor_can_say_anything_that_stops_the_fleet(values: list[tuple[float, float, int]], demand: int) -> None:
    """Whatever numbers come, in whatever order, the next start is never far away, and gaps are never negative."""
    now = 1000.0
    points = Points.first(Remaining(10, Start(now), now - 0.1, now))
    given: list[Start] = []
    for value, wait, pick in values:
        now += wait
        given += points.give(now, 2, demand=demand) or [points.probe(now)]
        start = given[-1 - min(pick, len(given) - 1)]
        points.observe(Remaining(value, start, now - 0.1, now))
        assert points.wait(now, demand=demand) <= max(100 * (len(values) + 1), 30)
        assert points.gap(demand=demand) >= 0

    assert Points.load(points.dump()) == points


def test_a_version_that_knows_more_can_be_read() -> None:
    """Workers of two versions share a gate while they are being replaced."""
    points = begun(Vendor(), 1000.0)

    assert Points.load({**points.dump(), "invented_later": 1}) == points

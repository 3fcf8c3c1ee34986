"""When parked commands come back."""

from hypothesis import given
from hypothesis import strategies as st

from worker.returns import HASTE, PAGE, PAGES, Returns


def test_nothing_comes_back_together() -> None:
    """A hundred commands parked at once get a hundred times, none before the wait, at the fleet's speed and more."""
    times = Returns().book(1000.3, 100, wait=5.0, rate=20.0)

    assert min(times) >= 5.0
    assert len({round(time, 4) for time in times}) > 80
    assert max(times) <= 5.0 + 100 / 20.0 / HASTE + 2 * PAGE


def test_who_is_parked_later_comes_after_those_booked_before() -> None:
    """Bookings of other workers are kept free of new ones."""
    returns = Returns()
    first = returns.book(1000.0, 300, wait=0.0, rate=10.0)
    second = Returns.load(returns.dump()).book(1000.0, 10, wait=0.0, rate=10.0)

    assert min(second) >= max(first) - PAGE


def test_what_has_come_back_makes_room() -> None:
    """Pages of the past are forgotten."""
    returns = Returns()
    returns.book(1000.0, 300, wait=0.0, rate=10.0)
    assert returns.ahead(1000.0) > 250
    assert returns.ahead(1100.0) == 0

    assert returns.book(1100.0, 1, wait=0.0, rate=10.0)[0] < PAGE


@given(
    now=st.floats(0, 1e9),
    parties=st.lists(st.tuples(st.integers(1, 400), st.floats(0, 1000), st.floats(0.01, 500)), max_size=5),
)
def test_a_return_is_never_early_and_never_beyond_the_book(now: float, parties: list[tuple[int, float, float]]) -> None:
    """However many are parked, each waits at least its wait, and not for ever."""
    returns = Returns()
    for count, wait, rate in parties:
        times = returns.book(now, count, wait=wait, rate=rate)
        assert len(times) == count
        assert all(wait <= time <= wait + (PAGES + 1) * PAGE for time in times)


def test_the_rate_is_what_the_fleet_lately_did() -> None:
    """Requests are counted over a second or so, while nothing holds the fleet up."""
    returns = Returns()
    returns.count(0.0, 0, steady=True, full=True)
    for step in range(1, 40):
        returns.count(100 + step * 0.25, 10, steady=True, full=True)

    assert 35 <= returns.rate <= 45


def test_a_time_at_a_closed_gate_tells_nothing_of_the_rate() -> None:
    """What was counted while the gate was closed does not lower the rate."""
    returns = Returns(rate=40.0, counted_since=100.0)
    returns.count(102.0, 0, steady=False, full=False)

    assert returns.rate == 40.0

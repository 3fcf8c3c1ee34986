from __future__ import annotations

from datetime import timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.backoff import VENDOR_JITTER, Backoff, vendor_wait

BACKOFF = Backoff(timedelta(seconds=1), timedelta(minutes=5))

lengths = st.timedeltas(min_value=timedelta.resolution, max_value=timedelta(days=400))
backoffs = st.tuples(lengths, lengths).map(lambda pair: Backoff(min(pair), max(pair)))
chances = st.integers().map(Random)


def test_waits_double_up_to_the_ceiling() -> None:
    """Before jitter: initial, twice that, four times, … and never past the ceiling."""
    assert [BACKOFF.base(attempt).total_seconds() for attempt in range(1, 12)] == [
        *(1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300)
    ]


@pytest.mark.parametrize("attempt", [0, -1])
def test_attempts_count_from_one(attempt: int) -> None:
    """A number below 1 is taken for the first attempt."""
    assert BACKOFF.base(attempt) == BACKOFF.base(1)


@given(backoffs, st.integers(min_value=1, max_value=10**12))
def test_no_attempt_overflows(backoff: Backoff, attempt: int) -> None:
    """However many attempts, the wait stays between initial and ceiling."""
    assert backoff.initial <= backoff.base(attempt) <= backoff.ceiling


def test_the_longest_ceiling_does_not_overflow() -> None:
    """Also a ceiling of `timedelta.max` is reached and not passed."""
    assert Backoff(timedelta.resolution, timedelta.max).base(1_000) == timedelta.max


@given(backoffs, st.integers(min_value=1, max_value=200), chances)
def test_jitter_keeps_between_half_and_all(backoff: Backoff, attempt: int, rng: Random) -> None:
    """The wait is never 0, never below half of the base, never above it."""
    base = backoff.base(attempt)
    wait = backoff.wait(attempt, rng)
    assert wait > timedelta(0)
    assert base / 2 - timedelta.resolution <= wait <= base


def test_jitter_uses_its_whole_range() -> None:
    """Waits spread from close to half up to close to the whole, so that commands don't come back together."""
    rng = Random(1)
    waits = [BACKOFF.wait(5, rng).total_seconds() for _ in range(1_000)]
    assert min(waits) < 8.1
    assert max(waits) > 15.9


@pytest.mark.parametrize(("initial", "ceiling"), [(0, 5), (-1, 5), (6, 5)])
def test_a_backoff_that_can_not_be_is_refused(initial: int, ceiling: int) -> None:
    """Initial is positive and at most the ceiling."""
    with pytest.raises(ValueError, match="0 < initial <= ceiling"):
        Backoff(timedelta(seconds=initial), timedelta(seconds=ceiling))


@given(st.timedeltas(min_value=timedelta(0)), chances)
def test_a_vendors_wait_is_never_shortened(after: timedelta, rng: Random) -> None:
    """Jitter is added: at most a tenth of the wait, at most 30 s, and no wait is too long for it."""
    wait = vendor_wait(after, rng)
    assert after <= wait <= after + min(after / 10, VENDOR_JITTER, timedelta.max - after)


def test_a_vendors_wait_spreads() -> None:
    """Commands parked for the same wait come back at different times."""
    rng = Random(1)
    waits = [vendor_wait(timedelta(minutes=10), rng).total_seconds() for _ in range(1_000)]
    assert min(waits) < 601
    assert max(waits) > 629

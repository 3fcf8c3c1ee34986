from __future__ import annotations

from datetime import timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import errors
from worker.backoff import Backoff
from worker.outcome import Defer, Discard, Retry, RetryPolicy, decide

POLICY = RetryPolicy(
    max_attempts=6,
    backoff=Backoff(timedelta(seconds=1), timedelta(minutes=5)),
    max_retry_after=timedelta(hours=1),
)


def fate(
    error: Exception, *, attempt: int = 1, deferral_run: int = 0, policy: RetryPolicy = POLICY, seed: int = 0
) -> Defer | Retry | Discard:
    """Decide a first attempt's error by the policy above, unless told otherwise."""
    return decide(error, attempt=attempt, deferral_run=deferral_run, policy=policy, rng=Random(seed))


def seconds(number: float) -> timedelta:
    """Give a duration."""
    return timedelta(seconds=number)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.RateLimited(after=seconds(60), status=429), "rate_limited"),
        (errors.RateLimited(after=seconds(60)), "rate_limited"),  # our own gate: no status
        (errors.Unavailable(after=seconds(60), status=503), "unavailable"),
        (errors.Busy(after=seconds(60), status=423), "busy"),
    ],
)
def test_a_wait_that_was_asked_for_is_a_deferral(error: Exception, reason: str) -> None:
    """A named wait is waited in full plus at most a tenth, and is no attempt."""
    decided = fate(error)
    assert isinstance(decided, Defer)
    assert decided.reason == reason
    assert seconds(60) <= decided.wait <= seconds(66)


@given(
    after=st.timedeltas(min_value=timedelta(0), max_value=POLICY.max_retry_after),
    error=st.sampled_from([errors.RateLimited, errors.Unavailable, errors.Busy]),
    attempt=st.integers(min_value=1, max_value=50),
    seed=st.integers(),
)
def test_no_wait_is_shorter_than_asked(after: timedelta, error: type[errors.Waitable], attempt: int, seed: int) -> None:
    """Whatever is drawn, at whatever attempt, a wait within the limit is deferred and never shortened."""
    decided = fate(error(after=after, status=429), attempt=attempt, seed=seed)
    assert isinstance(decided, Defer)
    assert decided.wait >= max(after, POLICY.backoff.initial)


def test_retry_after_zero_still_waits_our_own_minimum() -> None:
    """0 means "allowed now", not "hammer"."""
    decided = fate(errors.RateLimited(after=timedelta(0), status=429))
    assert isinstance(decided, Defer)
    assert seconds(1) <= decided.wait <= seconds(1.1)


@pytest.mark.parametrize("error", [errors.RateLimited, errors.Unavailable, errors.Busy])
@pytest.mark.parametrize("after", [timedelta(hours=1, seconds=1), timedelta.max])
def test_a_vendor_that_asks_too_much_fails_the_command(error: type[errors.Waitable], after: timedelta) -> None:
    """Longer than `max_retry_after`: discarded, with the value, the status and the vendor's words."""
    decided = fate(error("429: slow down", after=after, status=429, response="slow down"))
    assert isinstance(decided, Discard)
    assert decided.kind == "retry_after_too_long"
    assert decided.error.status == 429
    assert decided.error.response == "slow down"
    assert "3600 s" in decided.error.message
    assert ("3601 s" if after < timedelta.max else "longer than a timedelta") in decided.error.message
    assert "slow down" in decided.error.message


def test_a_gate_that_is_closed_for_long_fails_no_command() -> None:
    """Our own gate (an operator's pause) is no vendor: the command comes back to look within `max_retry_after`."""
    decided = fate(errors.RateLimited("The gate is closed.", after=timedelta(hours=10)))
    assert isinstance(decided, Defer)
    assert timedelta(hours=1) <= decided.wait <= timedelta(hours=1, seconds=30)


@pytest.mark.parametrize("error", [errors.RateLimited(status=429), errors.Busy(status=409)])
def test_not_now_without_a_time_waits_at_least_five_seconds(error: Exception) -> None:
    """The floor holds on the first deferral, with jitter on top."""
    waits = {decided.wait for seed in range(50) if isinstance(decided := fate(error, seed=seed), Defer)}
    assert len(waits) == 50
    assert min(waits) >= seconds(5)
    assert max(waits) <= seconds(5.5)


@pytest.mark.parametrize("error", [errors.RateLimited(status=429), errors.Busy(status=409)])
def test_not_now_without_a_time_backs_off_by_its_deferrals(error: Exception) -> None:
    """The wait grows with the deferrals in a row, not with the attempts, up to the ceiling."""
    decided = fate(error, deferral_run=6)
    assert isinstance(decided, Defer)
    assert seconds(32) <= decided.wait <= seconds(64)
    late = fate(error, deferral_run=1_000)
    assert isinstance(late, Defer)
    assert seconds(150) <= late.wait <= seconds(300)


def test_no_ceiling_lowers_the_floor() -> None:
    """A ceiling under 5 s shortens retries, not deferrals."""
    hasty = RetryPolicy(max_attempts=6, backoff=Backoff(seconds(0.01), seconds(0.1)), max_retry_after=seconds(60))
    decided = fate(errors.RateLimited(status=429), deferral_run=20, policy=hasty)
    assert isinstance(decided, Defer)
    assert decided.wait >= seconds(5)


@pytest.mark.parametrize("attempt", [6, 7, 100])
def test_deferrals_end_with_age_not_with_attempts(attempt: int) -> None:
    """A limit is no failure: attempts used up don't discard it."""
    assert isinstance(fate(errors.RateLimited(status=429), attempt=attempt, deferral_run=99), Defer)


RETRIED = [
    (errors.NotSent(), "not_sent", "unavailable"),
    (errors.Unanswered(), "unanswered", "unavailable"),
    (errors.TransportError(), "unanswered", "unavailable"),
    (errors.Unavailable(status=500), "unavailable", "unavailable"),
    (errors.DeadlineExceeded(), "deadline_exceeded", "deadline_exceeded"),
    (errors.StorageFailed(), "storage_failed", "unavailable"),
]


@pytest.mark.parametrize(("error", "reason", "kind"), RETRIED)
def test_a_failure_that_may_pass_is_retried(error: Exception, reason: str, kind: str) -> None:
    """No time named: the attempt counts, and the backoff grows with it."""
    decided = fate(error, attempt=4)
    assert isinstance(decided, Retry)
    assert (decided.reason, decided.kind) == (reason, kind)
    assert seconds(4) <= decided.wait <= seconds(8)


@pytest.mark.parametrize("status", [408, 425])
def test_a_408_or_425_is_an_attempt_also_where_it_says_when(status: int) -> None:
    """It is no limit and no outage: tried again not before the vendor's word, and not for ever."""
    error = errors.Unavailable(after=seconds(60), status=status)
    decided = fate(error)
    assert isinstance(decided, Retry)
    assert seconds(60) <= decided.wait <= seconds(66)
    assert isinstance(fate(error, attempt=6), Discard)


@pytest.mark.parametrize("status", [408, 425])
def test_a_408_or_425_that_asks_too_much_fails_the_command(status: int) -> None:
    """`max_retry_after` holds whoever asks."""
    decided = fate(errors.Unavailable(after=timedelta(hours=2), status=status))
    assert isinstance(decided, Discard)
    assert decided.kind == "retry_after_too_long"


@pytest.mark.parametrize(("error", "reason", "kind"), RETRIED)
def test_attempts_run_out(error: Exception, reason: str, kind: str) -> None:
    """The last attempt's error is the command's, as it is."""
    assert isinstance(fate(error, attempt=5), Retry)
    decided = fate(error, attempt=6)
    assert isinstance(decided, Discard)
    assert decided.error is error
    assert decided.kind == kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.Unauthorized(status=401), "unauthorized"),
        (errors.Forbidden(status=403), "forbidden"),
        (errors.NotFound(status=404), "not_found"),
        (errors.Conflict(status=409), "conflict"),
        (errors.Invalid(status=422), "invalid"),
        (errors.ContractBroken(), "contract_broken"),
        (errors.OutcomeUnknown(), "outcome_unknown"),
        (errors.RetryAfterTooLong(), "retry_after_too_long"),
        (errors.Expired(), "expired"),
        (errors.Paused(), "paused"),
        (errors.WorkerLost(), "worker_lost"),
        (errors.StorageFull(), "unavailable"),
        (errors.StorageRefused(), "forbidden"),
        (errors.BadCommand(), "bad_command"),
        (errors.NotAllowed(), "forbidden"),
    ],
)
def test_a_final_no_is_discarded_at_once(error: errors.RelayError, kind: str) -> None:
    """What no wait can mend fails on the first attempt, with the kind that the result event names."""
    decided = fate(error)
    assert isinstance(decided, Discard)
    assert decided.error is error
    assert decided.kind == kind


def test_a_bug_is_retried_three_times_then_discarded() -> None:
    """An error outside the tree is ours: tried again a few times, then `bug`, with its text and its cause."""
    error = KeyError("colour")
    for attempt in (1, 2, 3):
        assert isinstance(fate(error, attempt=attempt), Retry)
    decided = fate(error, attempt=4)
    assert isinstance(decided, Discard)
    assert decided.kind == "bug"
    assert "KeyError: 'colour'" in decided.error.message
    assert decided.error.__cause__ is error


def test_a_bug_gets_no_more_attempts_than_anything_else() -> None:
    """`max_attempts` bounds bugs too."""
    policy = RetryPolicy(max_attempts=1, backoff=POLICY.backoff, max_retry_after=POLICY.max_retry_after)
    assert isinstance(fate(ValueError("x"), policy=policy), Discard)


class Unspeakable(Exception):
    """An exception that can't be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_a_bug_without_words_is_still_decided() -> None:
    """An exception whose own text fails does not break the decision."""
    decided = fate(Unspeakable(), attempt=9)
    assert isinstance(decided, Discard)
    assert "Unspeakable" in decided.error.message


def test_of_several_errors_at_once_the_gravest_decides() -> None:
    """A group from concurrent requests is discarded if one of them is final, else waits as long as the longest."""
    limited = errors.RateLimited(after=seconds(60), status=429)
    longer = errors.RateLimited(after=seconds(90), status=429)
    gone = errors.NotFound(status=404)
    waiting = fate(ExceptionGroup("two", [errors.NotSent(), limited, ExceptionGroup("one", [longer])]))
    assert isinstance(waiting, Defer)
    assert waiting.wait >= seconds(90)
    final = fate(ExceptionGroup("two", [limited, gone]))
    assert isinstance(final, Discard)
    assert final.error is gone

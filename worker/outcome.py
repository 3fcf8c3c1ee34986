"""
What becomes of a command: Done, Defer, Retry or Discard.

Pure: an error in, its fate out. A slice states what happened (`worker.errors`); only this module says what it leads to.
Waits that the vendor or the gate asked for are deferrals and cost no attempt; failures do.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from random import Random  # noqa: TID251 - the type alone: chance is an argument
from typing import Any, Final, Literal

from worker.backoff import Backoff, vendor_wait
from worker.errors import (
    Busy,
    DeadlineExceeded,
    NotSent,
    RateLimited,
    RelayError,
    RetryAfterTooLong,
    StorageFailed,
    TransportError,
    Unavailable,
    Waitable,
)

DeferReason = Literal["rate_limited", "unavailable", "busy"]
RetryReason = Literal["not_sent", "unanswered", "unavailable", "deadline_exceeded", "storage_failed", "bug"]

DEFERRAL_FLOOR: Final = timedelta(seconds=5)
"""The shortest wait where the vendor says "not now" without saying when; no ceiling lowers it."""

BUG_RETRIES: Final = 3
"""How often an error outside the tree is tried again, if the policy's attempts last that long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How patient the worker is: `[retry]` of the settings."""

    max_attempts: int
    backoff: Backoff
    max_retry_after: timedelta


@dataclass(frozen=True, slots=True)
class Done:
    """The vendor said yes; `result` goes into the event."""

    result: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Defer:
    """Not now, because the vendor or the gate said so: park for `wait`, which is never shorter than asked."""

    wait: timedelta
    reason: DeferReason


@dataclass(frozen=True, slots=True)
class Retry:
    """The attempt failed and the next may not: park for `wait`. `kind` is what a discard would have been called."""

    wait: timedelta
    reason: RetryReason
    kind: str


@dataclass(frozen=True, slots=True)
class Discard:
    """The command has failed for good: `failed` event, then dead letter."""

    error: RelayError

    @property
    def kind(self) -> str:
        """The event's `error.kind`."""
        return self.error.kind


Outcome = Done | Defer | Retry | Discard


def decide(
    error: Exception, *, attempt: int, deferral_run: int, policy: RetryPolicy, rng: Random
) -> Defer | Retry | Discard:
    """
    Give the fate of a command whose attempt ended in `error`.

    `attempt` is the number of the attempt that failed, from 1; `deferral_run` how many deferrals in a row came before
    this one. An unanswered request that is not replayable needs no word here: its next attempt looks for what it may
    have made before it sends, and raises `OutcomeUnknown` where nothing can look.
    """
    match error:
        case Waitable():
            return _wait_or_retry(error, attempt=attempt, deferral_run=deferral_run, policy=policy, rng=rng)
        case TransportError() | DeadlineExceeded() | StorageFailed():
            return _retry_or_discard(error, _retry_reason(error), attempt=attempt, policy=policy, rng=rng)
        case RelayError():
            return Discard(error)
        case ExceptionGroup():  # from a TaskGroup: what can't be waited out decides, then the longest wait
            fates = [
                decide(one, attempt=attempt, deferral_run=deferral_run, policy=policy, rng=rng)
                for one in error.exceptions
            ]
            return max(fates, key=_weight)
        case _:
            if attempt > BUG_RETRIES or attempt >= policy.max_attempts:
                return Discard(_bug(error))
            return Retry(policy.backoff.wait(attempt, rng), "bug", RelayError.kind)


def _wait_or_retry(
    error: Waitable, *, attempt: int, deferral_run: int, policy: RetryPolicy, rng: Random
) -> Defer | Retry | Discard:
    reason: DeferReason
    match error:
        case RateLimited():
            reason = "rate_limited"
        case Busy():
            reason = "busy"
        case Unavailable(counts=True) if error.after is None or error.after <= policy.max_retry_after:
            return _retry_or_discard(error, "unavailable", attempt=attempt, policy=policy, rng=rng)
        case _:
            reason = "unavailable"
    if error.after is None:
        backoff = policy.backoff.wait(deferral_run + 1, rng)
        return Defer(max(backoff, vendor_wait(DEFERRAL_FLOOR, rng)), reason)
    after = error.after
    if after > policy.max_retry_after:
        if error.status is not None:
            return Discard(_too_long(error, after, policy.max_retry_after))
        # Our own gate asks for it (an operator's pause, say), and lets nothing through before: come back and look.
        after = policy.max_retry_after
    # 0 means "allowed now", not "hammer": our own shortest wait still applies.
    return Defer(vendor_wait(max(after, policy.backoff.initial), rng), reason)


def _retry_or_discard(
    error: RelayError, reason: RetryReason, *, attempt: int, policy: RetryPolicy, rng: Random
) -> Retry | Discard:
    if attempt >= policy.max_attempts:
        return Discard(error)
    wait = policy.backoff.wait(attempt, rng)
    if isinstance(error, Waitable) and error.after is not None:
        wait = max(wait, vendor_wait(error.after, rng))
    return Retry(wait, reason, error.kind)


def _retry_reason(error: TransportError | DeadlineExceeded | StorageFailed) -> RetryReason:
    match error:
        case DeadlineExceeded():
            return "deadline_exceeded"
        case StorageFailed():
            return "storage_failed"
        case NotSent():
            return "not_sent"
        case _:
            return "unanswered"


def _weight(fate: Defer | Retry | Discard) -> tuple[int, timedelta]:
    match fate:
        case Discard():
            return 2, timedelta(0)
        case Defer(wait=wait):
            return 1, wait
        case Retry(wait=wait):
            return 0, wait


def _too_long(error: Waitable, after: timedelta, limit: timedelta) -> RetryAfterTooLong:
    asked = "longer than a timedelta can hold" if after == timedelta.max else f"{after.total_seconds():.0f} s"
    return RetryAfterTooLong(
        f"The vendor asks to wait {asked}, retry.max_retry_after allows {limit.total_seconds():.0f} s: {error.message}",
        status=error.status,
        response=error.response,
    )


def _bug(error: Exception) -> RelayError:
    # format_exception_only also survives an exception whose own text fails.
    bug = RelayError(f"A bug in planrelay: {traceback.format_exception_only(error)[0].strip()}")
    bug.__cause__ = error
    return bug

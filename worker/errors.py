"""
What can go wrong between a command and its result, as one tree.

```
RelayError
├── TransportError                  no usable response
│   ├── NotSent                     nothing left this machine
│   └── Unanswered                  sent, then timeout or cut
├── Rejection                       the vendor, or our own gate, answered no
│   ├── RateLimited(after)          429, or the gate is closed
│   │   └── Crowded(after)          our own courtesy: requests in flight, pace
│   ├── Unavailable(after?)         5xx, 408, 425
│   ├── Busy(after?)                what a slice declares so: a locked report
│   ├── Unauthorized                401 once the token has been renewed
│   ├── Forbidden
│   ├── NotFound                    404, 410
│   ├── Conflict
│   └── Invalid                     every other 4xx
├── ContractBroken                  2xx whose body is not what the vendor documents
├── OutcomeUnknown                  an unanswered create that nothing can look up
├── DeadlineExceeded                our own patience
├── RetryAfterTooLong               the vendor asks for more than `max_retry_after`
├── Expired                         too old, or past its `expirytime`
├── Paused                          the vendor suspended the account or project
├── WorkerLost                      fifth delivery without an outcome
├── StorageError                    a file or an object could not be written or read
│   ├── StorageFull                 no room left
│   ├── StorageRefused              the worker may not, or there is no such bucket
│   └── StorageFailed               the disk or the object store failed
└── BadCommand                      the message asks for something that makes no sense
    └── NotAllowed                  the publisher may not ask for it
```

An error states a fact and carries its evidence; what becomes of the command is decided in `worker.outcome`.
The kinds are those of the result event. Anything outside this tree is a bug of ours and reported as `bug`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from datetime import timedelta

RESPONSE_EXCERPT = 2_000
"""Characters of a vendor's answer that a result event tells."""

_RESPONSE_KEPT = 4 * RESPONSE_EXCERPT
"""Characters that an error keeps: secrets are taken out before the excerpt is cut, so that no half of one stays."""


class RelayError(Exception):
    """Something planrelay knows by name went wrong."""

    kind: ClassVar[str] = "bug"

    def __init__(self, message: str | None = None, *, status: int | None = None, response: str | None = None) -> None:
        self.message = message or (type(self).__doc__ or type(self).__name__).strip().splitlines()[0]
        self.status = status
        self.response = None if response is None else response[:_RESPONSE_KEPT]
        super().__init__(self.message)


class TransportError(RelayError):
    """No usable response came from the vendor."""

    kind = "unavailable"


class NotSent(TransportError):
    """The request did not leave this machine: no connection could be made."""


class Unanswered(TransportError):
    """The request was sent, and no whole answer came back."""


class Rejection(RelayError):
    """The vendor answered no."""


class Waitable(Rejection):
    """A no for now, perhaps with the wait that the vendor asked for."""

    def __init__(
        self,
        message: str | None = None,
        *,
        after: timedelta | None = None,
        status: int | None = None,
        response: str | None = None,
    ) -> None:
        super().__init__(message, status=status, response=response)
        self.after = after


class RateLimited(Waitable):
    """The vendor's limit is reached, or the connection's gate is closed."""

    kind = "rate_limited"


class Crowded(RateLimited):
    """As many requests of the connection are in flight, or were started, as the configuration allows."""


class Unavailable(Waitable):
    """The vendor could not answer: a 5xx, 408 or 425."""

    kind = "unavailable"

    @property
    def counts(self) -> bool:
        """Whether trying again is an attempt: after all but a 5xx that says when to come back."""
        return self.after is None or self.status in {408, 425}


class Busy(Waitable):
    """The vendor is at work on this very object; its turn comes later."""

    kind = "unavailable"


class Unauthorized(Rejection):
    """The vendor refused the connection's credentials."""

    kind = "unauthorized"


class Forbidden(Rejection):
    """The connection's account may not do this."""

    kind = "forbidden"


class NotFound(Rejection):
    """The vendor has no such object."""

    kind = "not_found"


class Conflict(Rejection):
    """The request conflicts with what is there already."""

    kind = "conflict"


class Invalid(Rejection):
    """The vendor refused the request as invalid."""

    kind = "invalid"


class ContractBroken(RelayError):
    """The vendor's answer is not what its documentation describes."""

    kind = "contract_broken"


class OutcomeUnknown(RelayError):
    """The vendor never answered, and nothing can be looked up to tell whether the request took effect."""

    kind = "outcome_unknown"


class DeadlineExceeded(RelayError):
    """The command took longer than `worker.command_deadline`."""

    kind = "deadline_exceeded"


class RetryAfterTooLong(RelayError):
    """The vendor asks for a longer wait than `retry.max_retry_after`."""

    kind = "retry_after_too_long"


class Expired(RelayError):
    """The command is older than it may be."""

    kind = "expired"


class Paused(RelayError):
    """The vendor has suspended the account or project."""

    kind = "paused"


class WorkerLost(RelayError):
    """Five workers took this command and none lived to give an outcome."""

    kind = "worker_lost"


class StorageError(RelayError):
    """A file or an object could not be written or read."""

    kind = "unavailable"


class StorageFull(StorageError):
    """There is no room left where the command writes."""


class StorageRefused(StorageError):
    """The worker may not write or read there."""

    kind = "forbidden"


class StorageFailed(StorageError):
    """The disk or the object store failed."""


class BadCommand(RelayError):
    """The message asks for something that makes no sense."""

    kind = "bad_command"


class NotAllowed(BadCommand):
    """The publisher may not ask for this."""

    kind = "forbidden"


def kinds() -> list[str]:
    """Give every kind of error, as the tree has them."""
    found, left = {RelayError.kind}, [RelayError]
    while left:
        left = [each for parent in left for each in parent.__subclasses__()]
        found |= {each.kind for each in left}
    return sorted(found)

"""
What a command's end looks like to the outside: `<type>.succeeded` and `<type>.failed`, as structured CloudEvents.

Pure: no I/O, no clock. The layout of `data` is part of what other systems rely on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from worker import rfc3339, strict_json
from worker.errors import RESPONSE_EXCERPT, Invalid, RelayError
from worker.message import CLOUDEVENT, Command, Unreadable

CONTENT_TYPE: Final = CLOUDEVENT
"""The content type of every event's message."""

SOURCE: Final = "/planrelay"
"""The `source` of every event."""

UNKNOWN_TYPE: Final = "planrelay.unknown"
"""Stands for the type of a message whose own can't be read."""

RESULT_LIMIT: Final = 256 * 1024
"""Bytes of JSON that a result may have without a `destination`."""

MESSAGE_EXCERPT: Final = 2_000
"""Characters of an error's message that an event tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultEvent:
    """An event, ready to publish: routing key `type`, content type `CONTENT_TYPE`."""

    id: str
    type: str
    body: bytes = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return len(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """
    What a command took, of its whole life. Instants are aware.

    `attempts` is 1 also for a command that never started; its `started_at` is None. `run` is 1, and one more with each
    replay.
    """

    received_at: datetime
    started_at: datetime | None
    finished_at: datetime
    attempts: int = 1
    deferrals: int = 0
    http_requests: int = 0
    run: int = 1

    @property
    def duration_s(self) -> float:
        """Seconds from start to finish, 0 for a command that never started (or whose clock was put back)."""
        return round(max((self.finished_at - (self.started_at or self.finished_at)).total_seconds(), 0.0), 6)


def succeeded(command: Command, result: Mapping[str, Any], tally: Tally) -> ResultEvent:
    """
    Tell that a command is done.

    A result that JSON has no word for raises `ValueError` or `TypeError`: a bug of the slice. Whether it keeps
    `RESULT_LIMIT` is for the caller to see to (`result_size`).
    """
    return _told(command, "succeeded", {"result": result}, tally)


def failed(
    command: Command | Unreadable,
    error: RelayError,
    tally: Tally,
    *,
    redact: Callable[[str], str] = str,
    salt: str = "",
) -> ResultEvent:
    """
    Tell that a command has failed for good, with the vendor's words as far as they are kept.

    `redact` takes secrets out of text; it runs before anything is cut here, so that no half of a secret stays. `salt`
    tells apart the failures of different messages that claim one identity: the same key with other data. A message that
    is no command must be `answerable`.
    """
    said = {
        "kind": error.kind,
        "message": redact(error.message)[:MESSAGE_EXCERPT],
        "status": error.status,
        "response": None if error.response is None else redact(error.response)[:RESPONSE_EXCERPT],
    }
    return _told(command, "failed", {"error": said}, tally, salt=salt)


def result_size(result: Mapping[str, Any]) -> int:
    """Give the bytes of a result's JSON, to be held against `RESULT_LIMIT`."""
    return len(strict_json.write(result))


def event(
    *,
    id: str,
    type: str,
    subject: str,
    time: datetime,
    data: Mapping[str, Any],
    traceparent: str | None = None,
    tracestate: str | None = None,
) -> ResultEvent:
    """Build any event of ours: what results are made of, and what a run emits beside its result."""
    trace = {"traceparent": traceparent, "tracestate": tracestate}
    body = strict_json.write(
        {
            "specversion": "1.0",
            "id": id,
            "source": SOURCE,
            "type": type,
            "subject": subject,
            "time": rfc3339.write(time),
            "datacontenttype": "application/json",
            **{name: value for name, value in trace.items() if value is not None},
            "data": data,
        }
    )
    return ResultEvent(id=id, type=type, body=body)


def _told(
    command: Command | Unreadable, outcome: str, ending: Mapping[str, Any], tally: Tally, *, salt: str = ""
) -> ResultEvent:
    if command.id is None or command.source is None:
        raise ValueError("A message without id and source can't be answered: ask `answerable` first.")
    # The same command, outcome and run give the same id, so that a repeated event is known for what it is.
    identity = [command.key, outcome, str(tally.run), *([salt[:16]] if salt else [])]
    return event(
        id="-".join(identity),
        type=f"{command.type or UNKNOWN_TYPE}.{outcome}",
        subject=command.id,
        time=tally.finished_at,
        traceparent=command.traceparent,
        tracestate=command.tracestate,
        data={
            "command": {
                "id": command.id,
                "source": command.source,
                "type": command.type,
                "connection": command.connection,
            },
            "attempts": tally.attempts,
            "deferrals": tally.deferrals,
            "http_requests": tally.http_requests,
            "received_at": rfc3339.write(tally.received_at),
            "started_at": None if tally.started_at is None else rfc3339.write(tally.started_at),
            "finished_at": rfc3339.write(tally.finished_at),
            "duration_s": tally.duration_s,
            **ending,
        },
    )


def loaded(body: bytes) -> ResultEvent:
    """Take up an event again that the ledger kept."""
    attributes = json.loads(body)
    return ResultEvent(id=attributes["id"], type=attributes["type"], body=body)


def fit(result: Mapping[str, Any], *, writes: bool) -> Mapping[str, Any]:
    """
    Keep a result within an event: a write's is cut and marked `truncated`; a read's raises `Invalid`.

    A read that is larger needs a destination, and nothing is lost by asking again; a write has been done.
    """
    size = result_size(result)
    if size <= RESULT_LIMIT:
        return result
    if not writes:
        raise Invalid(
            f"The result has {size} bytes, an event carries {RESULT_LIMIT}; give `destination` to write it to a file."
        )
    kept: dict[str, Any] = {}
    room = RESULT_LIMIT - 1024
    for name, value in result.items():
        cost = result_size({name: value})
        if cost <= room:
            kept[name] = value
            room -= cost
    return {**kept, "truncated": True}

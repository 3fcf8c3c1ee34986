"""
A message as the broker gave it, what travels with its parked copies, and the copies themselves.

The body and the publisher's headers are never changed: a parked copy and a dead letter are the original with a few
headers of ours. Those are believed only on messages that a worker published itself (RabbitMQ validates the user-id;
on the embedded Valkey whoever reaches the socket is the operator).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from worker.errors import BadCommand, RelayError
from worker.events import Outgoing
from worker.topology import COMMANDS, DEAD, LADDER, LONGEST_WAIT, delayed_key

if TYPE_CHECKING:
    from datetime import timedelta

    from kombu import Message

JOURNEY: Final = "planrelay-journey"
"""The one header of a parked copy: JSON of `Journey`."""

OURS: Final = "planrelay-"
"""Prefix of every header of ours."""

_NOT_CARRIED: Final = frozenset({"cc", "bcc", "x-death", "x-delivery-count", "x-acquired-count"})
"""Headers that RabbitMQ acts on or writes itself: a copy must not carry them."""

_PROPERTIES: Final = ("correlation_id", "reply_to", "message_id", "timestamp", "type", "app_id", "priority")
"""AMQP properties that a copy keeps; a message's own TTL (`expiration`) has done its work when we have the message."""

HEADERS_LIMIT: Final = 64 * 1024
"""Bytes of a publisher's headers that a copy can carry: with ours they must fit into one frame of RabbitMQ's 128 KiB,
and a larger one would cost the worker its connection, again and again."""

RESERVED: Final = ("planrelay.", "celery_delayed_")
"""Queues that nobody may name as the place for an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Journey:
    """How far a command has come: carried from copy to copy."""

    received: datetime
    """When a worker first had it."""
    attempt: int = 1
    """The attempt that is to be made next."""
    deferrals: int = 0
    streak: int = 0
    """Deferrals in a row."""
    generation: int = 0
    """Parked copies so far, of whatever reason."""
    requests: int = 0
    run: int = 1
    started: datetime | None = None
    not_before: datetime | None = None
    exchange: str = COMMANDS
    routing_key: str = ""
    publisher: str | None = None
    """The broker user that published the command, as RabbitMQ validated it."""
    error: str = ""
    """What the last try that failed said, and `status` how it was answered."""
    status: int | None = None
    notes: Mapping[str, str] | None = None
    """What the ledger holds of the command, should it forget: steps and intents, as they are kept there."""
    unsure: bool = False
    """Whether there may have been a run of which `notes` don't tell."""

    def dump(self) -> str:
        """Write as the header's JSON."""
        return json.dumps(
            {
                name: value.isoformat() if isinstance(value, datetime) else value
                for name in self.__slots__
                if (value := getattr(self, name)) is not None
            },
            separators=(",", ":"),
        )

    @classmethod
    def load(cls, text: str) -> Journey:
        """Read the header's JSON; raises `ValueError` or `TypeError` where it is not ours."""
        try:
            found = json.loads(text)
        except RecursionError:
            raise ValueError("nested too deep to be ours") from None
        # By name, and only those: workers of two versions share the queues while they are being replaced.
        raw = {name: found[name] for name in cls.__slots__ if name in found} if isinstance(found, dict) else {}
        for name in ("received", "started", "not_before"):
            if raw.get(name) is not None:
                raw[name] = datetime.fromisoformat(raw[name])
                if raw[name].tzinfo is None:
                    raise ValueError(f"{name} has no zone")
        for name in ("attempt", "deferrals", "streak", "generation", "requests", "run"):
            if type(raw.get(name, 0)) is not int:
                raise TypeError(f"{name} is no whole number")
        if not isinstance(raw.get("status"), int | None):
            raise TypeError("status is no whole number")
        if not isinstance(raw.get("notes"), Mapping | None):
            raise TypeError("notes is no object")
        return cls(**raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One message, untouched, and its journey."""

    body: bytes
    content_type: str | None
    content_encoding: str | None
    headers: Mapping[str, Any]
    properties: Mapping[str, Any]
    journey: Journey
    queue_key: str
    """The routing key it was delivered by."""
    redelivered: bool = False
    deliveries: int = 0
    """How often the broker has taken it back before."""

    @classmethod
    def of(cls, message: Message, *, now: datetime, user: str | None, amqp: bool) -> Delivery:
        """Read a kombu message. `user`: the worker's own broker user, whose journeys are believed."""
        headers = dict(message.headers or {})
        properties = dict(message.properties or {})
        info = message.delivery_info or {}
        publisher = properties.get("user_id")
        journey = None
        if JOURNEY in headers and (not amqp or (user is not None and publisher == user)):
            try:
                journey = Journey.load(headers[JOURNEY])
            except (ValueError, TypeError):
                journey = None
        if journey is None:
            journey = Journey(
                received=now,
                exchange=str(info.get("exchange") or ""),
                routing_key=str(info.get("routing_key") or ""),
                publisher=publisher,
            )
        body = message.body
        return cls(
            body=body.encode() if isinstance(body, str) else bytes(body or b""),
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            headers=headers,
            properties=properties,
            journey=journey,
            queue_key=str(info.get("routing_key") or ""),
            redelivered=bool(info.get("redelivered")),
            deliveries=_count(headers.get("x-delivery-count")),
        )

    @property
    def reply_to(self) -> str | None:
        """Where the publisher waits for the answer, if it asked for one."""
        reply = self.properties.get("reply_to")
        return reply if isinstance(reply, str) and reply else None

    @property
    def reply_is_ours(self) -> bool:
        """Whether the answer is asked to a queue of planrelay's or Celery's own."""
        reply = self.reply_to
        return reply is not None and (reply.startswith(RESERVED) or reply.endswith(".pidbox"))

    def check_reply(self) -> None:
        """Refuse an answer to one of our own queues: it would come back as a command."""
        if self.reply_is_ours:
            raise BadCommand(f"reply_to names {self.reply_to!r}, a queue of planrelay's own; name a queue of yours.")

    def check_headers(self) -> None:
        """Refuse headers that no copy could carry."""
        size = _size(self.headers)
        if size > HEADERS_LIMIT:
            raise BadCommand(
                f"The message's headers have {size:,} bytes, over {HEADERS_LIMIT:,}; what they say belongs into data."
            )

    def moved(self, **changes: Any) -> Delivery:
        """Give this delivery with its journey changed."""
        return replace(self, journey=replace(self.journey, **changes))

    def _properties(self, user: str | None) -> dict[str, Any]:
        kept = {name: self.properties[name] for name in _PROPERTIES if self.properties.get(name) is not None}
        kept["content_type"] = self.content_type
        kept["content_encoding"] = self.content_encoding
        kept["delivery_mode"] = 2
        if user is not None:
            kept["user_id"] = user
        return kept

    def _headers(self) -> dict[str, Any]:
        carried = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in _NOT_CARRIED
            and not name.lower().startswith(OURS)
            and not name.lower().startswith("x-first-death")
            and not name.lower().startswith("x-last-death")
        }
        room = HEADERS_LIMIT
        if _size(carried) <= room:
            return carried
        kept = {}  # a dead letter of a message that was refused for it: the small ones, which say most
        for name, value in sorted(carried.items(), key=_size):
            room -= _size((name, value))
            if room < 0:
                break
            kept[name] = value
        return kept

    def parked(self, wait: timedelta, *, key: str, user: str | None) -> Outgoing:
        """
        The copy that comes back after `wait`, by RabbitMQ's delayed-delivery ladder.

        The ladder waits whole seconds; `journey.not_before` carries the instant, and what is left is waited on arrival.
        """
        seconds = int(min(wait, LONGEST_WAIT).total_seconds())
        headers = {**self._headers(), JOURNEY: self.journey.dump()}
        return Outgoing(
            exchange=LADDER if seconds >= 1 else COMMANDS,
            routing_key=delayed_key(seconds, key) if seconds >= 1 else key,
            body=self.body,
            headers=headers,
            properties=self._properties(user),
        )

    def dead(self, error: RelayError, *, attempts: int, key: str | None, user: str | None) -> Outgoing:
        """The dead letter: the original bytes, with why and since when in the headers."""
        headers = {
            **self._headers(),
            "planrelay-error-kind": error.kind,
            # Half of a surrogate pair, which a vendor's sentence may hold, is no UTF-8.
            "planrelay-error-message": error.message[:1000].encode("utf-8", "replace").decode("utf-8"),
            "planrelay-attempts": attempts,
            "planrelay-first-seen": self.journey.received.astimezone(UTC).isoformat(),
            "planrelay-original-exchange": self.journey.exchange,
            "planrelay-original-routing-key": self.journey.routing_key,
            "planrelay-run": self.journey.run,
        }
        if key is not None:
            headers["planrelay-key"] = key
        if self.journey.publisher is not None:
            headers["planrelay-publisher"] = self.journey.publisher
        return Outgoing(
            exchange="", routing_key=DEAD, body=self.body, headers=headers, properties=self._properties(user)
        )


def _size(value: Any) -> int:
    """Give the bytes of a header on the wire, roughly and never too few."""
    match value:
        case str():
            return 5 + (len(value) if value.isascii() else 3 * len(value))
        case bytes() | bytearray() | memoryview():
            return 5 + len(value)
        case Mapping():
            return 5 + sum(map(_size, value.items()))
        case list() | tuple():
            return 5 + sum(map(_size, value))
        case _:
            return 16


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0

"""
Dead letters: looked at without changing anything, put back, removed.

A worker's dead letter says in its headers what went wrong and where the command came from. One that the broker itself
made (a delivery limit, a rejected message) says it in `x-death`; and anybody may have put anything there. All of them
are read alike, as far as they can be read.

On RabbitMQ reading means to consume without acknowledging: closing the channel puts everything back in its order. What
one reader holds another would not see, so they take turns. On Valkey the list is read where it lies. A letter is
removed only after its copy is confirmed by the broker, so a replay that is cut off may put a command back twice, which
the ledger answers, and never loses one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import redis
from kombu import Connection
from kombu.transport.virtual.base import Base64

from worker.delivery import JOURNEY, Delivery, Journey
from worker.events import Outgoing, PublishFailed
from worker.ledger import Ledger, Mismatch
from worker.message import Command, Unreadable, read
from worker.topology import COMMANDS, DEAD

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from worker.telling import Publishing

QUIET: Final = 3.0
"""Seconds without a letter after which those that are still missing are somebody else's: another reader holds them."""

TURN: Final = "planrelay.dead.reader"
"""The queue that a reader of dead letters has for itself while it reads: the broker takes it away with its reader."""

TURN_PATIENCE: Final = 10.0
"""Seconds to wait for another reader to end."""

PAGE: Final = 100
"""Letters read from Valkey in one go."""

UNKNOWN: Final = "unknown"
"""The kind of a letter that nobody said anything about."""

_LADDER: Final = re.compile(r"(?:[01]\.){28}")
_BROKERS: Final = {
    "delivery_limit": ("worker_lost", "The broker gave the message up: too many deliveries ended without an outcome."),
    "rejected": ("bug", "The message was rejected without an outcome."),
    "expired": ("expired", "The message waited in its queue for longer than it was allowed to."),
    "maxlen": ("bug", "The queue was full."),
}


class Occupied(Exception):
    """Somebody else is reading the dead letters, and holds them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One dead letter; what could not be read of its command is None."""

    kind: str
    message: str
    attempts: int | None
    first_seen: datetime | None
    run: int
    """The run that it ended."""
    delivery: Delivery = field(repr=False)
    """The original bytes and headers; its journey says where the message came from."""
    command: Command | Unreadable | None = field(repr=False)
    handle: Any = field(repr=False, compare=False)
    """What its shelf knows it by."""

    @property
    def id(self) -> str | None:
        """The command's id."""
        return self.command.id if self.command is not None else None

    @property
    def type(self) -> str | None:
        """The command's type."""
        return self.command.type if self.command is not None else None

    @property
    def connection(self) -> str | None:
        """The name of the command's connection."""
        return self.command.connection if self.command is not None else None

    @property
    def source(self) -> str | None:
        """The command's source."""
        return self.command.source if self.command is not None else None

    def show(self) -> dict[str, Any]:
        """Give it as JSON values, without its body."""
        journey = self.delivery.journey
        return {
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "connection": self.connection,
            "kind": self.kind,
            "message": self.message,
            "attempts": self.attempts,
            "run": self.run,
            "first_seen": self.first_seen.isoformat() if self.first_seen else None,
            "exchange": journey.exchange,
            "routing_key": journey.routing_key,
            "publisher": journey.publisher,
            "bytes": len(self.delivery.body),
        }

    def fingerprint(self) -> bytes:
        """Give what tells it from others, whoever reads it."""
        told = (self.kind, self.message, self.attempts, self.first_seen, self.run, self.delivery.journey.routing_key)
        return hashlib.sha256(repr(told).encode() + self.delivery.body).digest()

    def copy(self, *, run: int, now: datetime, user: str | None, unsure: bool = False) -> Outgoing:
        """
        Give the message that goes back: the original, on its first journey again, as its `run`.

        `unsure`: the ledger has forgotten the command, which may have taken effect.

        It goes to where it was published: the command exchange with its own key, or straight to its queue. What came
        through somebody else's exchange goes to the command exchange, so that nobody else gets it a second time.
        """
        journey = self.delivery.journey
        fresh = Journey(
            received=now,
            run=run,
            exchange=journey.exchange,
            routing_key=journey.routing_key,
            publisher=journey.publisher,
            unsure=unsure,
        )
        if journey.exchange in {COMMANDS, ""}:
            exchange, key = journey.exchange, journey.routing_key
        else:
            exchange, key = COMMANDS, self.type or journey.routing_key
        copy = replace(self.delivery, journey=fresh).parked(timedelta(0), key=key, user=user)
        return replace(copy, exchange=exchange)


class Shelf(Protocol):
    """Where the dead letters lie, for the time of a `with` block."""

    count: int
    """Letters that lay there when the block began."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def letters(self) -> Iterator[DeadLetter]:
        """Give those that lay there when the block began, the oldest first."""
        ...

    def remove(self, letters: Sequence[DeadLetter]) -> None:
        """Take letters away for good; when this returns they are gone."""
        ...


class RabbitShelf:
    """The queue `planrelay.dead` of RabbitMQ. What is not removed goes back in its order when the block ends."""

    def __init__(self, url: str, *, quiet: float = QUIET, patience: float = TURN_PATIENCE) -> None:
        self._connection = Connection(url, connect_timeout=5)
        self._quiet = quiet
        self._patience = patience
        self.count = 0

    def __enter__(self) -> Self:
        """Wait for a turn and count what lies there; raises `Occupied` where another reader does not end."""
        self._connection.connect()
        end = time.monotonic() + self._patience
        while not self._take():
            if time.monotonic() > end:
                self._connection.release()
                raise Occupied("Somebody else is reading the dead letters")
            time.sleep(0.1)
        return self

    def _take(self) -> bool:
        """Take the turn and count what lies there; False: another reader holds some of it."""
        with contextlib.suppress(*self._connection.channel_errors):
            self._channel = self._connection.channel()
            self._channel.queue_declare(TURN, exclusive=True, auto_delete=False, durable=False)
            try:
                lying = self._channel.queue_declare(DEAD, passive=True)
            except self._connection.channel_errors:  # no worker has ever declared it
                self._channel = self._connection.channel()
                return True
            self.count = int(lying.message_count)
            return int(lying.consumer_count) == 0  # one that keeps no turns, or died and holds them for a moment
        return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError, *self._connection.connection_errors):
            self._channel.close()
        self._connection.release()

    def letters(self) -> Iterator[DeadLetter]:
        """Give those that lay there when the block began; fewer where another reader holds some."""
        if not self.count:
            return
        waiting: list[Any] = []
        self._channel.tx_select()
        # Straight from the channel: kombu's own messages come decoded and decompressed, or not at all. No prefetch
        # limit: whatever was not delivered would be overtaken by what goes back.
        self._channel.auto_decode = False
        self._channel.basic_consume(DEAD, callback=waiting.append)
        given = 0
        user = self._connection.userid or None
        while given < self.count:
            try:
                self._connection.drain_events(timeout=self._quiet)
            except TimeoutError:
                return
            while waiting and given < self.count:
                given += 1
                raw = waiting.pop(0)
                message = SimpleNamespace(
                    body=raw.body,
                    headers=raw.headers,
                    properties=raw.properties,
                    content_type=raw.properties.get("content_type"),
                    content_encoding=raw.properties.get("content_encoding"),
                    delivery_info=raw.delivery_info,
                    tag=raw.delivery_tag,
                )
                yield letter_of(message, user=user, amqp=True)

    def remove(self, letters: Sequence[DeadLetter]) -> None:
        """
        Acknowledge them in one transaction: one word to the queue, which is on its way when the commit returns.

        Acknowledged one by one they overtake a quorum queue: RabbitMQ's channel keeps back those over 32 (its soft
        limit) and forgets them as it closes, and what was removed is there again.
        """
        for letter in letters:
            self._channel.basic_ack(letter.handle.tag)
        self._channel.tx_commit()


class ValkeyShelf:
    """The list `planrelay.dead` of a Valkey, read where it lies."""

    def __init__(self, url: str) -> None:
        self._redis: Any = redis.Redis.from_url(url, socket_timeout=10)
        self._kept = 0
        self.count = 0

    def __enter__(self) -> Self:
        self.count = int(self._redis.llen(DEAD))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._redis.close()

    def letters(self) -> Iterator[DeadLetter]:
        """Give those that lay there when the block began."""
        given = self._kept = 0
        while given < self.count:
            # The oldest is the last; those that were given and kept lie behind the next page.
            page = self._redis.lrange(DEAD, -(self._kept + PAGE), -(self._kept + 1))
            if not page:
                return
            for raw in reversed(page[-(self.count - given) :]):
                given += 1
                self._kept += 1
                yield letter_of(_unwrapped(raw), user=None, amqp=False)

    def remove(self, letters: Sequence[DeadLetter]) -> None:
        """Take them out of the list."""
        for letter in letters:
            self._kept -= int(self._redis.lrem(DEAD, -1, letter.handle.raw))


def _unwrapped(raw: bytes) -> Any:
    """Read kombu's envelope as the message it holds; what is no envelope is a message that is its own body."""
    try:
        envelope = json.loads(raw.lstrip(b"0123456789"))  # how often it was delivered stands in front
        properties = envelope["properties"]
        body = envelope["body"] or ""
        decoded = Base64().decode(body) if properties.get("body_encoding") == "base64" else body.encode()
        return SimpleNamespace(
            body=decoded,
            headers=dict(envelope["headers"] or {}),
            properties=dict(properties),
            content_type=envelope.get("content-type"),
            content_encoding=envelope.get("content-encoding"),
            delivery_info=dict(properties.get("delivery_info") or {}),
            raw=raw,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return SimpleNamespace(
            body=raw, headers={}, properties={}, content_type=None, content_encoding=None, delivery_info={}, raw=raw
        )


def letter_of(message: Any, *, user: str | None, amqp: bool) -> DeadLetter:
    """
    Read a message of the dead letter queue; whatever it holds, something is given.

    What its headers say of publisher and run is believed where a worker wrote them: `user` is the workers' broker user,
    as validated by RabbitMQ; on Valkey whoever reaches the server is the operator.
    """
    epoch = datetime.fromtimestamp(0, UTC)
    delivery = Delivery.of(message, now=epoch, user=user, amqp=amqp)
    headers = delivery.headers
    trusted = not amqp or (user is not None and delivery.properties.get("user_id") == user)
    command = _command(delivery)
    journey = delivery.journey
    if "planrelay-error-kind" in headers:
        if trusted:
            journey = replace(journey, publisher=_text(headers.get("planrelay-publisher")))
        journey = replace(
            journey,
            exchange=_text(headers.get("planrelay-original-exchange")) or "",
            routing_key=_text(headers.get("planrelay-original-routing-key")) or "",
        )
        kind, said = _text(headers["planrelay-error-kind"]) or UNKNOWN, _text(headers.get("planrelay-error-message"))
        first_seen = _instant(headers.get("planrelay-first-seen"))
        attempts = _number(headers.get("planrelay-attempts"))
        run = _number(headers.get("planrelay-run")) or 1
    else:
        kind, said, exchange, routing_key = _brokers(headers)
        travelled = journey.received != epoch  # a parked copy knows better where it came from
        if not travelled:
            journey = replace(journey, exchange=exchange, routing_key=routing_key or (command and command.type) or "")
        first_seen = journey.received if travelled else None
        attempts = journey.attempt if travelled else None
        run = journey.run
    return DeadLetter(
        kind=kind,
        message=said or "Nothing is said about why it is here.",
        attempts=attempts,
        first_seen=first_seen,
        run=run,
        delivery=replace(delivery, journey=journey),
        command=command,
        handle=message,
    )


def _command(delivery: Delivery) -> Command | Unreadable | None:
    try:
        return read(
            delivery.body,
            content_type=delivery.content_type,
            content_encoding=delivery.content_encoding,
            headers={name: value for name, value in delivery.headers.items() if name != JOURNEY},
        )
    except Unreadable as error:
        return error
    except Exception:  # noqa: BLE001 - one letter that nobody can read must not hide the others
        return None


def _brokers(headers: Mapping[str, Any]) -> tuple[str, str | None, str, str]:
    """Give kind, sentence, exchange and routing key of a letter that no worker wrote: what the broker says of it."""
    deaths = headers.get("x-death")
    last = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}
    reason = _text(last.get("reason") or headers.get("x-first-death-reason"))
    kind, said = _BROKERS.get(reason or "", (UNKNOWN, f"The broker says: {reason}." if reason else None))
    exchange = _text(last.get("exchange")) if last else COMMANDS
    keys = last.get("routing-keys")
    key = _text(keys[0]) if isinstance(keys, list) and keys else None
    if exchange is None or exchange.startswith("celery_delayed_"):
        exchange = COMMANDS
    return kind, said, exchange, _LADDER.sub("", key or "", count=1)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of one letter's replay: `run` where it went back, else `problem`, one sentence."""

    letter: DeadLetter
    run: int | None = None
    problem: str | None = None


async def replay(letter: DeadLetter, ledger: Ledger, publisher: Publishing, *, now: datetime) -> Replayed:
    """
    Put a copy of a letter back to where the command came from; returns when the broker has it, then it may be removed.

    Its id and routing stay, its attempts begin anew, and its result event is a new one. A letter that can't go back is
    told as a problem. Raises `StoreAway` where the ledger can't be asked: without it nothing is put back.
    """
    run: int | Mismatch | None = None
    if isinstance(letter.command, Command):
        run = await ledger.replay(letter.command.key, letter.command.data_digest)
    if isinstance(run, Mismatch):
        return Replayed(
            letter,
            problem="another command came under the same key with other data, so it would be a conflict again; "
            "publish it with a key of its own, then drop this letter",
        )
    number = run if run is not None else letter.run + 1
    try:
        await publisher.publish(letter.copy(run=number, now=now, user=publisher.user, unsure=run is None))
    except PublishFailed as error:
        return Replayed(letter, problem=f"the broker did not take it back: {error}")
    return Replayed(letter, run=number)


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else None


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _instant(value: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)

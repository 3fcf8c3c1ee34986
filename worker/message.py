"""
Commands as they come over AMQP: CloudEvents 1.0, in three forms.

Pure: no I/O, no clock. A command comes in three forms: *structured* (the body is the whole event), *binary* (the
attributes are headers, the body is the data) and *celery* (a task message, protocol 2). All become one `Command`;
what is none of them raises `Unreadable` with as much of its sender as could be read, so that it can be answered.
The events that answer are built in `worker.result_event`.

Sources: CloudEvents 1.0.2 with its JSON format, AMQP binding and distributed tracing extension; Celery's "Message
Protocol", version 2.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

from worker import rfc3339, strict_json
from worker.errors import BadCommand

Form = Literal["structured", "binary", "celery"]

BATCH_TYPE: Final = "planrelay.batch"
MESSAGE_LIMIT: Final = 1024 * 1024
BATCH_LIMIT: Final = 16 * 1024 * 1024
CLOUDEVENT: Final = "application/cloudevents+json"
"""The content type of a structured CloudEvent."""

_PREFIX: Final = re.compile(r"(?:cloudevents[:_]|ce[-_])(?P<name>.+)", re.IGNORECASE | re.DOTALL)
"""Headers that carry attributes: AMQP 1.0's two ways, and what RabbitMQ's and other 0-9-1 publishers use."""

_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""What a CloudEvents string must not hold: control characters, halves of surrogate pairs."""

# Bytes in UTF-8. An `id` may become a correlation id and a type with `.succeeded` a routing key: AMQP short strings.
_LIMITS: Final = {"id": 255, "type": 200, "source": 1024, "connection": 255, "idempotencykey": 1024}
_TRACE_LIMITS: Final = {"traceparent": 255, "tracestate": 8192}

_JSON_NAMES: Final[Mapping[type, str]] = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "text",
    list: "an array",
    dict: "an object",
}

_ENCODINGS: Final = frozenset({"utf-8", "utf8", "us-ascii", "ascii", "binary", "8bit", "7bit", "identity"})
"""Encodings that leave the bytes as they are; `binary` is what kombu says of every body that is given as bytes."""

_FORMS: Final = f"send {CLOUDEVENT}, application/json with ce-… headers, or a Celery task message (protocol 2)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """
    A message that asks, whatever its form.

    `type`, `connection` and `data` are well-formed, no more: that they exist, are allowed and fit the type's schema is
    for the caller to check. `expiry` and `not_before` are UTC.
    """

    id: str
    source: str
    type: str
    connection: str
    data: Mapping[str, Any] = field(repr=False)
    form: Form
    idempotency_key: str | None = None
    expiry: datetime | None = None
    """Not started after this (`expirytime`, Celery's `expires`)."""
    not_before: datetime | None = None
    """Not started before this (Celery's `eta` and `countdown`)."""
    traceparent: str | None = None
    tracestate: str | None = None

    key: str = field(init=False)
    """
    The ledger key: two messages with one key are one intent.

    A hex SHA-256 over connection, type, source, and `idempotencykey` or else `id`; which of the two is part of it.
    """
    data_digest: str = field(init=False)
    """The hex SHA-256 of the data, however it was written: the same key with another digest is a conflict."""

    def __post_init__(self) -> None:
        tag, value = ("id", self.id) if self.idempotency_key is None else ("idempotencykey", self.idempotency_key)
        key = _digest(self.connection, self.type, self.source, tag, value)
        object.__setattr__(self, "key", key)  # frozen, and asked for many times
        object.__setattr__(self, "data_digest", strict_json.digest(self.data))


class Unreadable(BadCommand):
    """The message is no command; it carries what could be read of its sender."""

    def __init__(self, message: str, *, said: Mapping[str, Any], body: bytes) -> None:
        super().__init__(message)
        self.id, self.source, self.type, self.connection = (
            _readable(said.get(name), _LIMITS[name]) for name in ("id", "source", "type", "connection")
        )
        self.traceparent, self.tracestate = _trace(said)
        self.key = _digest("unreadable", self.id or "", self.source or "", hashlib.sha256(body).hexdigest())
        """Stands where a command has its key: the same bytes of the same sender have the same."""

    @property
    def answerable(self) -> bool:
        """Whether `id` and `source` could be read, so that a `failed` event can be sent."""
        return self.id is not None and self.source is not None


def read(
    body: bytes, *, content_type: str | None, content_encoding: str | None, headers: Mapping[str, Any] | None
) -> Command:
    """
    Read a message as the command it is; raises `Unreadable` naming the field, the rule and the remedy.

    Content-type parameters are ignored. `reply_to` and `correlation_id` are properties of the message, not of the
    command: they are the caller's.
    """
    media = (content_type or "").partition(";")[0].strip().lower()
    names = headers or {}
    attributes, twice = _header_attributes(names)
    if media.startswith("application/cloudevents"):
        form: Form = "structured"
        said: dict[str, Any] = {}
    elif "task" in names:
        form = "celery"
        said = {name: _decoded(names.get(name)) for name in ("id", "traceparent", "tracestate")}
        said |= {"type": _decoded(names["task"]), "source": "celery"}
    elif attributes.keys() & {"specversion", "id", "source", "type"}:
        form, said = "binary", attributes
    else:
        form, said = "structured", {}
    message = _Message(form=form, said=said, body=body)
    message.check_envelope(media, content_encoding)
    match form:
        case "structured":
            return _read_structured(message)
        case "binary":
            if twice is not None:
                raise message.refuse(twice, "is given twice, differently", "use one prefix for attribute headers")
            return _read_binary(message)
        case "celery":
            return _read_celery(message, names)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Message:
    """A message on its way to becoming a command: what it says of itself, true or not."""

    form: Form
    said: dict[str, Any]
    """CloudEvents attributes by name, `data` included, unchecked."""
    body: bytes

    def refuse(self, name: str, rule: str, remedy: str) -> Unreadable:
        """Say what is wrong: what it is called here, the rule it breaks, the remedy."""
        said = self.said or (_glimpse(self.body) if self.form == "structured" else {})
        return Unreadable(f"{name} {rule}; {remedy}.", said=said, body=self.body)

    def check_envelope(self, media: str, encoding: str | None) -> None:
        allowed = {CLOUDEVENT, "application/json"} if self.form == "structured" else {"application/json"}
        if media not in allowed:
            given = f"is {media[:100]!r}" if media else "is missing"
            raise self.refuse("content_type", given, _FORMS if self.form == "structured" else "send application/json")
        if (encoding or "utf-8").strip().lower() not in _ENCODINGS:
            raise self.refuse(
                "content_encoding", f"is {str(encoding)[:100]!r}", "send UTF-8, not compressed, and say utf-8"
            )
        self.check_size(BATCH_LIMIT if self.form == "structured" else self.limit)

    @property
    def limit(self) -> int:
        return BATCH_LIMIT if self.said.get("type") == BATCH_TYPE else MESSAGE_LIMIT

    def check_size(self, limit: int) -> None:
        if len(self.body) > limit:
            raise self.refuse(
                "body",
                f"is {len(self.body):,} bytes long, over {limit:,}",
                f"split it; only {BATCH_TYPE} may have {BATCH_LIMIT:,} bytes, and rows may come from a rows_url",
            )

    def decode(self) -> Any:
        try:
            return strict_json.read(self.body)
        except strict_json.BadJSON as error:
            raise self.refuse("body", str(error), "send one JSON value in UTF-8") from None

    def text(self, name: str, *, called: str | None = None) -> str:
        """Give a required attribute; `called` is its name in this form of message, where that differs."""
        value = self.said.get(name)
        if value is None:
            raise self.refuse(called or name, "is missing", "every command needs it")
        limit = _LIMITS[name]
        found = _readable(value, limit)
        if found is None:
            remedy = f"send a text of 1 to {limit} bytes without control characters"
            raise self.refuse(called or name, _why_unreadable(value, limit), remedy)
        return found

    def instant(self, name: str, value: Any) -> datetime | None:
        match value:
            case None:
                return None
            case str() if (moment := rfc3339.read(value)) is not None:
                return moment
            case datetime() if (moment := _utc(value)) is not None:
                return moment
            case _:
                raise self.refuse(name, "is no instant of RFC 3339", "send one like 2026-11-22T12:00:00Z")

    def command(self, *, expiry: datetime | None, not_before: datetime | None = None) -> Command:
        """Check every attribute; the first that is wrong is named."""
        data = self.said.get("data", {})
        traceparent, tracestate = _trace(self.said)
        command = Command(
            id=self.text("id"),
            source=self.text("source"),
            type=self.text("type"),
            connection=self.text("connection"),
            idempotency_key=None if self.said.get("idempotencykey") is None else self.text("idempotencykey"),
            data=data,
            form=self.form,
            expiry=expiry,
            not_before=not_before,
            traceparent=traceparent,
            tracestate=tracestate,
        )
        if not isinstance(data, dict):
            raise self.refuse(
                "data", f"is {_json_name(data)}", "send an object with the type's fields, {} where it has none"
            )
        return command


def _read_structured(message: _Message) -> Command:
    event = message.decode()
    if isinstance(event, list):
        raise message.refuse("body", "is an array", f"send one event a message; {BATCH_TYPE} carries many commands")
    if not isinstance(event, dict):
        raise message.refuse("body", f"is {_json_name(event)}", _FORMS)
    if "specversion" not in event and "task" in event:
        message.said.update(id=event.get("id"), type=event["task"], source="celery")
        raise message.refuse("body", "is a Celery message of protocol 1", "send protocol 2 (task_protocol = 2)")
    message.said.update(event)
    message.check_size(message.limit)
    return _read_event(message)


def _read_binary(message: _Message) -> Command:
    if message.body:
        message.said["data"] = message.decode()
    return _read_event(message)


def _read_event(message: _Message) -> Command:
    said = message.said
    if said.get("specversion") != "1.0":
        rule = "is missing" if said.get("specversion") is None else 'is not "1.0"'
        raise message.refuse("specversion", rule, 'send CloudEvents 1.0: specversion is the text "1.0"')
    if "data_base64" in said:
        raise message.refuse("data_base64", "is binary, and a command's data is an object", "send data as JSON")
    content = said.get("datacontenttype")
    if content is not None and not (isinstance(content, str) and _is_json(content)):
        raise message.refuse("datacontenttype", "is not JSON", "send application/json, or leave it out")
    return message.command(expiry=message.instant("expirytime", said.get("expirytime")))


def _read_celery(message: _Message, headers: Mapping[str, Any]) -> Command:
    message.text("type", called="task")
    message.text("id")
    if headers.get("compression"):
        raise message.refuse("compression", "is set", "send the body as it is (no task_compression)")
    _check_celery_headers(message, headers)
    body = message.decode()
    if not (isinstance(body, list) and len(body) == 3):
        raise message.refuse("body", "is not [args, kwargs, embed]", "send a task message of Celery's protocol 2")
    args, kwargs, embed = body
    if not isinstance(kwargs, dict):
        raise message.refuse("kwargs", f"is {_json_name(kwargs)}", 'send {"connection": …, "data": {…}}')
    known = ("connection", "data", "idempotencykey")
    message.said.update({name: kwargs[name] for name in known if name in kwargs})
    if args:
        raise message.refuse("args", "is not empty", 'name the arguments: kwargs={"connection": …, "data": {…}}')
    for name in kwargs:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "the command's own fields go into data"
            raise message.refuse(
                f"kwargs.{name[:100]}", "is not known", f"the arguments are {', '.join(known)}; {hint}"
            )
    if embed is not None and not isinstance(embed, dict):
        raise message.refuse("embed", f"is {_json_name(embed)}", "send a task message of Celery's protocol 2")
    for name in ("callbacks", "errbacks", "chain", "chord"):
        if (embed or {}).get(name):
            raise message.refuse(f"embed.{name}", "is not carried on", "act on the result event instead")
    return message.command(
        expiry=_celery_instant(message, "expires", headers), not_before=_celery_instant(message, "eta", headers)
    )


def _check_celery_headers(message: _Message, headers: Mapping[str, Any]) -> None:
    """Refuse what ends a stock worker's process: Celery 5.7 unpacks and counts these without looking."""
    limits = headers.get("timelimit")
    if limits is not None and not (
        isinstance(limits, list | tuple) and len(limits) == 2 and all(_is_number(one) or one is None for one in limits)
    ):
        raise message.refuse("timelimit", "is not a pair", "send [hard, soft] in seconds or null, or leave it out")
    retries = headers.get("retries")
    if retries is not None and not (_is_number(retries) and retries >= 0):
        raise message.refuse("retries", "is not a count", "send 0, or leave it out")


def _celery_instant(message: _Message, name: str, headers: Mapping[str, Any]) -> datetime | None:
    """Read `eta` or `expires`, which Celery writes in any form of ISO 8601; without a zone it is UTC."""
    value = headers.get(name)
    if isinstance(value, str):
        with contextlib.suppress(ValueError):  # then it stays the text that is refused
            value = datetime.fromisoformat(value)
    return message.instant(name, value)


def _utc(moment: datetime) -> datetime | None:
    """Give a client's datetime in UTC, which some leave unsaid; None where its zone leads out of the calendar."""
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        return None


def _header_attributes(headers: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Give the attributes that headers carry, and the name of one that two prefixes give different values."""
    found: dict[str, Any] = {}
    twice = None
    for header, given in headers.items():
        match = _PREFIX.fullmatch(header)
        name = match["name"].lower() if match else "data"
        if name == "data":  # which is the body, never a header
            continue
        value = _decoded(given)
        if found.setdefault(name, value) != value:
            twice = name
    return found, twice


def _decoded(value: Any) -> Any:
    """Give a header's text, which some clients send as bytes; anything else as it is."""
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value


def _digest(*parts: str) -> str:
    """Hash parts so that no two lists of parts are hashed alike: each is preceded by its length."""
    encoded = [part.encode("utf-8") for part in parts]
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in encoded)).hexdigest()


def _glimpse(body: bytes) -> dict[str, Any]:
    """Give what a message that is no command may say of its sender all the same: good enough to answer, not to obey."""
    try:
        said = json.loads(body) if len(body) <= BATCH_LIMIT else None
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _readable(value: Any, limit: int) -> str | None:
    if not isinstance(value, str) or not value or _CONTROL.search(value) or len(value.encode("utf-8")) > limit:
        return None
    return value


def _why_unreadable(value: Any, limit: int) -> str:
    match value:
        case "":
            return "is empty"
        case str() if _CONTROL.search(value):
            return "holds a control character"
        case str():
            return f"is longer than {limit} bytes"
        case _:
            return f"is {_json_name(value)}, not text"


def _trace(said: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Give the trace context, best effort: it never decides whether a command is one (W3C: ignore what is invalid)."""
    parent = _readable(said.get("traceparent"), _TRACE_LIMITS["traceparent"])
    state = _readable(said.get("tracestate"), _TRACE_LIMITS["tracestate"])
    return parent, state if parent is not None else None


def _is_json(content_type: str) -> bool:
    media = content_type.partition(";")[0].strip().lower()
    return media == "application/json" or media.endswith("+json")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _json_name(value: Any) -> str:
    return _JSON_NAMES.get(type(value), f"a {type(value).__name__}")

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from worker.message import BATCH_LIMIT, CLOUDEVENT, MESSAGE_LIMIT, Command, Unreadable, read

EVENT: Mapping[str, Any] = {
    "specversion": "1.0",
    "id": "42",
    "source": "/crm",
    "type": "planpoint.unit.update",
    "connection": "tower",
    "data": {"id": "u1", "changes": {"price": 5}},
}
ATTRIBUTES = {name: value for name, value in EVENT.items() if name != "data"}
KWARGS: Mapping[str, Any] = {"connection": "tower", "data": {"id": "u1"}}


def structured(event: object, content_type: str | None = CLOUDEVENT, **other: Any) -> Command:
    """Read a structured message; bytes are taken as they are."""
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    return read(body, **{"content_type": content_type, "content_encoding": None, "headers": {}, **other})


def binary(
    attributes: Mapping[str, Any],
    data: object = None,
    *,
    prefix: str = "ce-",
    content_type: str | None = "application/json",
) -> Command:
    """Read a binary message; data None is an empty body."""
    body = b"" if data is None else data if isinstance(data, bytes) else json.dumps(data).encode()
    headers = {prefix + name: value for name, value in attributes.items()}
    return read(body, content_type=content_type, content_encoding=None, headers=headers)


def celery(body: object = None, *, content_type: str = "application/json", **headers: Any) -> Command:
    """Read a task message; a header that is given as `...` is left out."""
    given = {"lang": "py", "task": "planpoint.unit.read", "id": "t-1", **headers}
    text = body if isinstance(body, bytes) else json.dumps([[], KWARGS, {}] if body is None else body).encode()
    return read(
        text,
        content_type=content_type,
        content_encoding="utf-8",
        headers={name: value for name, value in given.items() if value is not ...},
    )


# --- The three forms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type",
    [
        *(
            "application/cloudevents+json",
            "application/cloudevents+json; charset=utf-8",
            "Application/CloudEvents+JSON",
        ),
        *("application/json", "application/json;charset=UTF-8", " application/json "),
    ],
)
def test_a_structured_event_is_a_command(content_type: str) -> None:
    """The body is the whole event; content-type parameters and case don't matter."""
    command = structured(EVENT, content_type)
    assert (command.id, command.source, command.type) == ("42", "/crm", "planpoint.unit.update")
    assert (command.connection, command.form) == ("tower", "structured")
    assert command.data == {"id": "u1", "changes": {"price": 5}}
    assert (command.idempotency_key, command.expiry, command.not_before) == (None, None, None)


@pytest.mark.parametrize("prefix", ["cloudEvents:", "cloudEvents_", "ce-", "ce_", "cloudevents:", "CE-"])
def test_a_binary_event_is_a_command(prefix: str) -> None:
    """Attributes are headers under any of four prefixes, the body is the data."""
    command = binary(ATTRIBUTES, EVENT["data"], prefix=prefix)
    assert command.form == "binary"
    assert (command.id, command.source, command.connection) == ("42", "/crm", "tower")
    assert command.data == EVENT["data"]


def test_header_values_may_be_bytes() -> None:
    """Some clients send header text as bytes."""
    command = binary({name: str(value).encode() for name, value in ATTRIBUTES.items()}, {"id": "u1"})
    assert command.id == "42"


def test_one_attribute_under_two_prefixes_is_one() -> None:
    """A bridge that repeats an attribute does no harm if both say the same."""
    headers = {f"ce-{name}": value for name, value in ATTRIBUTES.items()} | {"cloudEvents:id": b"42"}
    assert read(b"{}", content_type="application/json", content_encoding=None, headers=headers).id == "42"


def test_an_attribute_that_contradicts_itself_is_refused() -> None:
    """Two prefixes, two values: nobody can tell which is meant."""
    headers = {f"ce-{name}": value for name, value in ATTRIBUTES.items()} | {"cloudEvents:source": "/other"}
    with pytest.raises(Unreadable, match="source is given twice"):
        read(b"{}", content_type="application/json", content_encoding=None, headers=headers)


def test_a_task_message_is_a_command() -> None:
    """Celery's protocol 2: the task is the type, its id the id, the arguments connection and data."""
    command = celery()
    assert command.form == "celery"
    assert (command.id, command.source, command.type) == ("t-1", "celery", "planpoint.unit.read")
    assert (command.connection, command.data) == ("tower", {"id": "u1"})


def test_what_celery_itself_sends_is_a_command() -> None:
    """A message as `send_task` makes it, with countdown, expires and an idempotency key, is read whole."""
    app = Celery(broker="memory://", set_as_current=False)
    eta = datetime(2026, 11, 22, 12, 0, 5, tzinfo=UTC)
    message = app.amqp.as_task_v2(
        "t-1",
        "planpoint.unit.read",
        kwargs={**KWARGS, "idempotencykey": "k"},
        eta=eta,
        expires=eta + timedelta(hours=1),
        origin="test",
    )
    command = read(
        json.dumps(message.body).encode(),
        content_type="application/json",
        content_encoding="utf-8",
        headers=message.headers,
    )
    assert (command.id, command.type, command.idempotency_key) == ("t-1", "planpoint.unit.read", "k")
    assert (command.not_before, command.expiry) == (eta, eta + timedelta(hours=1))


def test_attributes_nobody_asked_for_are_ignored() -> None:
    """CloudEvents allows any extension, `time`, `subject` and `dataschema` among them."""
    assert structured({**EVENT, "time": "yesterday", "subject": 5, "myextension": [1]}).id == "42"


def test_data_may_be_left_out() -> None:
    """A command without fields needs no data, in every form."""
    assert structured(ATTRIBUTES).data == {}
    assert binary(ATTRIBUTES).data == {}
    assert celery([[], {"connection": "tower"}, None]).data == {}


# --- Attributes -----------------------------------------------------------------------------------------------------


def test_optional_attributes_are_read() -> None:
    """Idempotency key, expiry and trace context come along."""
    command = structured(
        {
            **EVENT,
            "idempotencykey": "order-7",
            "expirytime": "2026-11-22T13:00:00+01:00",
            "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "tracestate": "a=b",
        }
    )
    assert command.idempotency_key == "order-7"
    assert command.expiry == datetime(2026, 11, 22, 12, tzinfo=UTC)
    assert command.traceparent == "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert command.tracestate == "a=b"


def test_an_expiry_may_be_an_amqp_timestamp() -> None:
    """In binary form clients may send instants in AMQP's own type, which is UTC."""
    moment = datetime(2026, 11, 22, 12, tzinfo=UTC)
    assert binary({**ATTRIBUTES, "expirytime": moment}).expiry == moment
    assert binary({**ATTRIBUTES, "expirytime": moment.replace(tzinfo=None)}).expiry == moment


@pytest.mark.parametrize("name", ["id", "source", "type", "connection"])
def test_required_attributes_are_required(name: str) -> None:
    """Without it, in either CloudEvents form, the message is no command, and the error names it."""
    for form in (structured, binary):
        with pytest.raises(Unreadable, match=f"^{name} is missing"):
            form({key: value for key, value in EVENT.items() if key not in {name, "data"}})
    with pytest.raises(Unreadable, match=f"^{name} is missing"):
        structured({**EVENT, name: None})


@pytest.mark.parametrize("name", ["id", "source", "type", "connection", "idempotencykey"])
@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("", "is empty"),
        (5, "is a number, not text"),
        (True, "is a boolean, not text"),
        (["a"], "is an array, not text"),
        ({"a": 1}, "is an object, not text"),
        ("a\nb", "holds a control character"),
        ("a\x00", "holds a control character"),
        ("a\u0085", "holds a control character"),
        ("a" * 1025, "is longer than"),
        ("\u20ac" * 400, "is longer than"),
    ],
)
def test_an_attribute_is_short_printable_text(name: str, value: object, rule: str) -> None:
    """CloudEvents strings are not empty here, hold no control characters, and are bounded."""
    with pytest.raises(Unreadable, match=f"^{name} {rule}"):
        structured({**EVENT, name: value})


def test_an_id_fits_an_amqp_short_string() -> None:
    """An id may become a correlation id, and a type with its ending a routing key: 255 bytes."""
    assert structured({**EVENT, "id": "i" * 255, "type": "t" * 200, "source": "s" * 1024}).id == "i" * 255
    for name, length in (("id", 256), ("type", 201)):
        with pytest.raises(Unreadable, match=f"{name} is longer"):
            structured({**EVENT, name: "x" * length})


@pytest.mark.parametrize("value", [1.0, 1, "1", "1.0.2", "0.3", "v1.0", "", ["1.0"]])
def test_specversion_is_exactly_the_text_1_0(value: object) -> None:
    """Any other version may mean something else."""
    with pytest.raises(Unreadable, match=r'specversion is not "1\.0"'):
        structured({**EVENT, "specversion": value})


def test_specversion_is_required() -> None:
    """JSON without it is no CloudEvent."""
    with pytest.raises(Unreadable, match="specversion is missing"):
        structured({name: value for name, value in EVENT.items() if name != "specversion"}, "application/json")


@pytest.mark.parametrize("value", ["tomorrow", "2026-11-22", "2026-11-22T12:00:00", 1_800_000_000, True, ["x"]])
def test_an_expiry_is_an_instant(value: object) -> None:
    """RFC 3339, with its zone."""
    with pytest.raises(Unreadable, match="expirytime is no instant"):
        structured({**EVENT, "expirytime": value})


@pytest.mark.parametrize("value", ["a\nb", "x" * 256, 5, None, ""])
def test_a_bad_trace_context_is_dropped(value: object) -> None:
    """Tracing never decides whether a command is one; a state without its parent means nothing."""
    command = structured({**EVENT, "traceparent": value, "tracestate": "a=b"})
    assert (command.traceparent, command.tracestate) == (None, None)


@pytest.mark.parametrize(
    ("data", "name"), [(None, "null"), ([1], "an array"), ("{}", "text"), (5, "a number"), (False, "a boolean")]
)
def test_data_is_an_object(data: object, name: str) -> None:
    """Anything else has no fields."""
    with pytest.raises(Unreadable, match=f"data is {name}; send an object"):
        structured({**EVENT, "data": data})
    with pytest.raises(Unreadable, match=f"data is {name}; send an object"):
        binary(ATTRIBUTES, json.dumps(data).encode())


def test_binary_data_is_refused() -> None:
    """`data_base64` is not JSON."""
    with pytest.raises(Unreadable, match="data_base64 is binary"):
        structured({**ATTRIBUTES, "data_base64": "e30="})


@pytest.mark.parametrize("value", ["text/xml", "application/octet-stream", 5, ""])
def test_data_of_another_content_type_is_refused(value: object) -> None:
    """What says it is no JSON is not read as JSON."""
    with pytest.raises(Unreadable, match="datacontenttype is not JSON"):
        structured({**EVENT, "datacontenttype": value})


@pytest.mark.parametrize("value", ["application/json", "application/json; charset=utf-8", "application/vnd.acme+json"])
def test_data_of_a_json_content_type_is_read(value: str) -> None:
    """`application/json` and any `+json`."""
    assert structured({**EVENT, "datacontenttype": value}).id == "42"


# --- Envelope -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "application/cloudevents-batch+json", "application/cloudevents+avro", "application/xml"],
)
def test_another_content_type_is_refused(content_type: str | None) -> None:
    """The error names the content type and the three forms."""
    with pytest.raises(Unreadable, match=r"content_type is .*; send application/cloudevents"):
        structured(EVENT, content_type)


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-python-serialize"])
def test_a_binary_event_of_another_content_type_is_refused(content_type: str | None) -> None:
    """Its attributes can be read all the same, so its sender can be answered."""
    with pytest.raises(Unreadable, match=r"content_type is .*; send application/json") as caught:
        binary(ATTRIBUTES, {}, content_type=content_type)
    assert (caught.value.id, caught.value.source) == ("42", "/crm")


@pytest.mark.parametrize("encoding", [None, "", "utf-8", "UTF-8", "utf8", "binary", "us-ascii", "8bit", "identity"])
def test_utf_8_is_the_encoding(encoding: str | None) -> None:
    """Said or unsaid; `binary` is what kombu says of a body that is given as bytes."""
    assert structured(EVENT, content_encoding=encoding).id == "42"


@pytest.mark.parametrize("encoding", ["gzip", "base64", "utf-16", "latin-1"])
def test_another_encoding_is_refused(encoding: str) -> None:
    """Compressed bodies are not opened."""
    with pytest.raises(Unreadable, match=f"content_encoding is '{encoding}'"):
        structured(EVENT, content_encoding=encoding)


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (b"", "body is not JSON"),
        (b"hello", "body is not JSON"),
        (b'{"id": "1", "id": "2"}', "body gives the key 'id' twice"),
        (b'{"data": NaN}', "body holds NaN"),
        (b"[" * 200_000, "body is nested deeper"),
        (b'{"id": "\xff"}', "body is not UTF-8"),
        (b"5", "body is a number"),
        (b"[]", "body is an array; send one event a message"),
        (b'{"task": "x", "id": "1", "args": [], "kwargs": {}}', "protocol 1"),
    ],
)
def test_a_body_that_is_no_event_is_refused(body: bytes, rule: str) -> None:
    """What is no JSON, or no object, says what it is instead."""
    with pytest.raises(Unreadable, match=rule):
        structured(body, "application/json")


def _padded(size: int, **changes: Any) -> bytes:
    event = {**EVENT, **changes, "data": {"x": ""}}
    return json.dumps({**event, "data": {"x": "x" * (size - len(json.dumps(event)))}}).encode()


def test_a_message_may_have_a_mebibyte() -> None:
    """The limit is the body's, and it may be reached."""
    assert structured(_padded(MESSAGE_LIMIT)).id == "42"
    with pytest.raises(Unreadable, match=r"body is 1,048,577 bytes long, over 1,048,576") as caught:
        structured(_padded(MESSAGE_LIMIT + 1))
    assert caught.value.answerable


def test_a_batch_may_have_sixteen() -> None:
    """One message carries up to 10,000 commands."""
    assert structured(_padded(BATCH_LIMIT, type="planrelay.batch")).type == "planrelay.batch"
    attributes = {**ATTRIBUTES, "type": "planrelay.batch"}
    assert binary(attributes, {"x": "x" * MESSAGE_LIMIT}).type == "planrelay.batch"
    assert celery([[], {**KWARGS, "data": {"x": "x" * MESSAGE_LIMIT}}, {}], task="planrelay.batch").id == "t-1"


def test_nothing_over_the_largest_limit_is_opened() -> None:
    """A body over 16 MiB is not even parsed."""
    with pytest.raises(Unreadable, match=r"over 16,777,216") as caught:
        structured(_padded(BATCH_LIMIT + 1, type="planrelay.batch"))
    assert not caught.value.answerable


def test_the_limit_holds_in_every_form() -> None:
    """Binary and Celery messages are measured before they are parsed."""
    with pytest.raises(Unreadable, match="over 1,048,576"):
        binary(ATTRIBUTES, b"[" * (MESSAGE_LIMIT + 1))
    with pytest.raises(Unreadable, match="over 1,048,576"):
        celery(b"[" * (MESSAGE_LIMIT + 1))


# --- Celery ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "rule"),
    [
        ({"id": ...}, "^id is missing"),
        ({"id": None}, "^id is missing"),
        ({"id": 5}, "^id is a number, not text"),
        ({"task": ["planpoint.unit.read"]}, "^task is an array, not text"),
        ({"task": ""}, "^task is empty"),
        ({"task": None}, "^task is missing"),
        ({"timelimit": 5}, "^timelimit is not a pair"),
        ({"timelimit": [5]}, "^timelimit is not a pair"),
        ({"timelimit": ["5", None]}, "^timelimit is not a pair"),
        ({"timelimit": {"hard": 5}}, "^timelimit is not a pair"),
        ({"retries": "many"}, "^retries is not a count"),
        ({"retries": -1}, "^retries is not a count"),
        ({"eta": "soon"}, "^eta is no instant"),
        ({"eta": 5}, "^eta is no instant"),
        ({"expires": "never"}, "^expires is no instant"),
        ({"expires": 3600}, "^expires is no instant"),
        ({"eta": "0001-01-01T00:00:00+14:00"}, "^eta is no instant"),
        ({"compression": "application/x-gzip"}, "^compression is set"),
    ],
)
def test_a_malformed_task_message_is_refused(headers: dict[str, Any], rule: str) -> None:
    """What crashes or confuses a stock worker is an error that names the header."""
    with pytest.raises(Unreadable, match=rule):
        celery(**headers)


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ([[], {}], "body is not"),
        ([[], KWARGS, {}, {}], "body is not"),
        ({"args": [], "kwargs": KWARGS}, "body is not"),
        (b"null", "body is not"),
        ([["tower"], KWARGS, {}], "args is not empty"),
        ([5, KWARGS, {}], "args is not empty"),
        ([[], [], {}], "kwargs is an array"),
        ([[], None, {}], "kwargs is null"),
        ([[], {}, {}], "connection is missing"),
        ([[], {**KWARGS, "dta": {}}, {}], "kwargs.dta is not known; .* did you mean data"),
        ([[], {**KWARGS, "id": "u1"}, {}], "kwargs.id is not known; .* go into data"),
        ([[], {**KWARGS, "data": []}, {}], "data is an array"),
        ([[], {**KWARGS, "idempotencykey": 5}, {}], "idempotencykey is a number"),
        ([[], KWARGS, []], "embed is an array"),
        ([[], KWARGS, {"chain": [{"task": "x"}]}], "embed.chain is not carried on"),
        ([[], KWARGS, {"callbacks": [{"task": "x"}]}], "embed.callbacks is not carried on"),
        ([[], KWARGS, {"errbacks": [{"task": "x"}]}], "embed.errbacks is not carried on"),
        ([[], KWARGS, {"chord": {"task": "x"}}], "embed.chord is not carried on"),
    ],
)
def test_a_malformed_task_body_is_refused(body: object, rule: str) -> None:
    """Arguments are named, known, and nothing that asks for more is silently dropped."""
    with pytest.raises(Unreadable, match=rule):
        celery(body)


@pytest.mark.parametrize(
    "content_type", ["application/x-python-serialize", "application/x-yaml", "application/x-msgpack"]
)
def test_only_json_tasks_are_read(content_type: str) -> None:
    """A pickle is never opened; its sender is answered."""
    with pytest.raises(Unreadable, match=r"content_type is .*; send application/json") as caught:
        celery(b"\x80\x04.", content_type=content_type)
    assert caught.value.answerable
    assert caught.value.type == "planpoint.unit.read"


@pytest.mark.parametrize("name", ["eta", "expires"])
@pytest.mark.parametrize(
    "value", ["2026-11-22T12:00:00+00:00", "2026-11-22T13:00:00+01:00", "2026-11-22T12:00:00", "2026-11-22T12:00:00Z"]
)
def test_eta_and_expires_are_honoured(name: str, value: str) -> None:
    """Any ISO 8601 that Celery's clients write; without a zone it is UTC."""
    command = celery(**{name: value})
    found = command.not_before if name == "eta" else command.expiry
    assert found == datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_ordinary_headers_of_celery_do_no_harm() -> None:
    """What clients send along is left alone."""
    command = celery(
        timelimit=[None, 30], retries=0, eta=None, expires=None, root_id="t-1", argsrepr="()", group=None, shadow=None
    )
    assert command.id == "t-1"


def test_trace_headers_of_a_task_are_carried() -> None:
    """OpenTelemetry writes them beside Celery's own."""
    assert celery(traceparent="00-a-b-01", tracestate="x=y").tracestate == "x=y"


# --- Who it was -----------------------------------------------------------------------------------------------------


def test_an_unreadable_message_carries_its_sender() -> None:
    """Everything that could be read is there for the answer."""
    with pytest.raises(Unreadable) as caught:
        structured({**EVENT, "data": [], "traceparent": "00-a-b-01"})
    error = caught.value
    assert error.kind == "bad_command"
    assert (error.id, error.source, error.type, error.connection) == ("42", "/crm", "planpoint.unit.update", "tower")
    assert error.traceparent == "00-a-b-01"
    assert error.answerable


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (json.dumps(EVENT).encode(), None),
        (json.dumps(EVENT).encode(), "text/plain"),
        (json.dumps(EVENT).encode(), "application/cloudevents-batch+json"),
        (json.dumps(EVENT).encode("utf-16"), CLOUDEVENT),
        (json.dumps({**EVENT, "more": math.nan}).encode(), CLOUDEVENT),
        (json.dumps({**EVENT, "more": "\ud800"}).encode(), CLOUDEVENT),
        (json.dumps(EVENT)[:-1].encode() + b', "data": {}}', CLOUDEVENT),
    ],
)
def test_a_body_that_is_not_obeyed_may_still_say_who_sent_it(body: bytes, content_type: str | None) -> None:
    """A forgotten content type, a NaN, a key given twice: refused, and whoever waits for the answer gets it."""
    with pytest.raises(Unreadable) as caught:
        read(body, content_type=content_type, content_encoding="utf-8", headers=None)
    assert (caught.value.id, caught.value.source, caught.value.type) == ("42", "/crm", "planpoint.unit.update")


def test_a_task_of_protocol_1_is_answered() -> None:
    """Its id and task are in the body."""
    body = json.dumps({"task": "planpoint.unit.read", "id": "t-1", "args": [], "kwargs": {}}).encode()
    with pytest.raises(Unreadable, match="protocol 1") as caught:
        read(body, content_type="application/json", content_encoding="utf-8", headers=None)
    assert (caught.value.id, caught.value.source, caught.value.type) == ("t-1", "celery", "planpoint.unit.read")


@pytest.mark.parametrize("name", ["id", "source"])
@pytest.mark.parametrize("value", [None, "", 5, "x" * 2000, "a\rb"])
def test_a_message_without_id_or_source_can_not_be_answered(name: str, value: object) -> None:
    """What is no legal attribute is not used in an answer either."""
    with pytest.raises(Unreadable) as caught:
        structured({**EVENT, name: value})
    assert getattr(caught.value, name) is None
    assert not caught.value.answerable


def test_a_task_message_is_answerable_before_its_body_is_read() -> None:
    """The headers say who it was, however broken the body."""
    with pytest.raises(Unreadable) as caught:
        celery(b"\x00")
    assert (caught.value.id, caught.value.source, caught.value.type) == ("t-1", "celery", "planpoint.unit.read")


def test_the_same_unreadable_message_has_the_same_key() -> None:
    """A redelivery is recognised; a corrected message under the same id is another."""

    def key(event: object) -> str:
        with pytest.raises(Unreadable) as caught:
            structured(event)
        return caught.value.key

    assert key({**EVENT, "data": 1}) == key({**EVENT, "data": 1})
    assert key({**EVENT, "data": 1}) != key({**EVENT, "data": 2})
    assert key({**EVENT, "data": 1}) != structured(EVENT).key


# --- What makes two messages one ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["id", "source", "type", "connection"])
def test_another_attribute_makes_another_key(name: str) -> None:
    """Connection, type, source and id: each of them counts."""
    assert structured({**EVENT, name: "other"}).key != structured(EVENT).key


def test_data_and_form_are_not_part_of_the_key() -> None:
    """The same key with other data must be found as a conflict, not run as another command."""
    one = structured(EVENT)
    other = binary(ATTRIBUTES, {"id": "u2"})
    assert one.key == other.key
    assert one.data_digest != other.data_digest


def test_an_idempotency_key_stands_for_the_id() -> None:
    """With it, the id is free to differ; and a key is never mistaken for an id of the same text."""
    keyed = {**EVENT, "idempotencykey": "42"}
    assert structured({**keyed, "id": "1"}).key == structured({**keyed, "id": "2"}).key
    assert structured(keyed).key != structured(EVENT).key


def test_the_boundary_between_attributes_counts() -> None:
    """Moving a character from one attribute to the next gives another key."""
    assert structured({**EVENT, "connection": "ab", "type": "c"}).key != (
        structured({**EVENT, "connection": "a", "type": "bc"}).key
    )


def test_the_key_is_a_stable_digest() -> None:
    """Ledgers outlive releases: the key of a known command never changes."""
    assert structured(EVENT).key == "a3a277168e12c9a125e9b8e9203b3d642403f956fb50ba84bc93bcda75049b63"


def test_the_writing_of_data_does_not_matter() -> None:
    """Spaces, the order of keys, `1` and `1.0`: the same data."""
    one = structured(b'{"specversion":"1.0","id":"1","source":"s","type":"t","connection":"c","data":{"a":1,"b":2}}')
    two = structured(
        b'{"data": {"b": 2.0, "a": 1}, "specversion":"1.0","id":"1","source":"s","type":"t","connection":"c"}'
    )
    assert one.data_digest == two.data_digest


def test_a_command_does_not_print_its_data() -> None:
    """Data may be personal, and a repr ends up in logs."""
    assert "price" not in repr(structured(EVENT))


# --- Anything at all ------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
header_values = json_values | st.binary(max_size=20) | st.datetimes() | st.datetimes(timezones=st.just(timezone.max))
names = st.sampled_from(
    [
        *("task", "id", "eta", "expires", "timelimit", "retries", "compression", "traceparent"),
        *("ce-specversion", "ce-id", "ce-source", "ce-type", "ce_connection", "cloudEvents:expirytime", "ce-data"),
    ]
)


@given(
    body=st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()),
    content_type=st.none() | st.sampled_from([CLOUDEVENT, "application/json", "text/plain"]) | st.text(max_size=20),
    content_encoding=st.none() | st.text(max_size=10),
    headers=st.none() | st.dictionaries(names | st.text(max_size=10), header_values, max_size=8),
)
def test_no_message_makes_it_raise_anything_else(
    body: bytes, content_type: str | None, content_encoding: str | None, headers: dict[str, Any] | None
) -> None:
    """Whatever is in the queue, it is a command or unreadable; nothing else ends a worker."""
    with contextlib.suppress(Unreadable):
        read(body, content_type=content_type, content_encoding=content_encoding, headers=headers)


@given(changes=st.dictionaries(st.sampled_from([*EVENT, "idempotencykey", "expirytime"]), json_values, max_size=3))
def test_a_nearly_right_event_is_read_or_refused(changes: dict[str, Any]) -> None:
    """Any value in any attribute: what is read is well-formed."""
    try:
        command = structured({**EVENT, **changes})
    except Unreadable:
        return
    assert all([command.id, command.source, command.type, command.connection])
    assert isinstance(command.data, dict)
    assert len(command.key) == len(command.data_digest) == 64


@given(
    args=json_values, kwargs=json_values, embed=json_values, headers=st.dictionaries(names, header_values, max_size=4)
)
def test_a_nearly_right_task_is_read_or_refused(
    args: object, kwargs: object, embed: object, headers: dict[str, Any]
) -> None:
    """Any three items for a body, any headers."""
    with contextlib.suppress(Unreadable):
        celery([args, kwargs, embed], **headers)

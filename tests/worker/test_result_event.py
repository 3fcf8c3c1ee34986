from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from worker import result_event
from worker.errors import BadCommand, NotFound, RateLimited, RelayError
from worker.message import Command, Unreadable
from worker.result_event import ResultEvent, Tally, failed, result_size, succeeded

RECEIVED = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
COMMAND = Command(
    id="42",
    source="/crm",
    type="planpoint.unit.read",
    connection="tower",
    data={"id": "u1"},
    form="structured",
    traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    tracestate="a=b",
)
TALLY = Tally(
    received_at=RECEIVED,
    started_at=RECEIVED + timedelta(seconds=1),
    finished_at=RECEIVED + timedelta(seconds=1.21),
    attempts=2,
    deferrals=3,
    http_requests=7,
)


def told(event: ResultEvent) -> dict[str, Any]:
    """Decode an event's body."""
    body: dict[str, Any] = json.loads(event.body)
    return body


def error_of(error: RelayError, **options: Any) -> dict[str, Any]:
    """Give what the failed event tells of an error."""
    said: dict[str, Any] = told(failed(COMMAND, error, TALLY, **options))["data"]["error"]
    return said


def unreadable(**said: Any) -> Unreadable:
    """Make the error of a message that says so much of itself."""
    return Unreadable("data is missing; send it.", said=said, body=b"{}")


def test_a_success_tells_the_result_and_what_it_took() -> None:
    """The layout of a succeeded event, whole."""
    event = succeeded(COMMAND, {"unit": {"id": "u1"}}, TALLY)
    assert told(event) == {
        "specversion": "1.0",
        "id": f"{COMMAND.key}-succeeded-1",
        "source": "/planrelay",
        "type": "planpoint.unit.read.succeeded",
        "subject": "42",
        "time": "2026-11-22T12:00:01.210000Z",
        "datacontenttype": "application/json",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "tracestate": "a=b",
        "data": {
            "command": {"id": "42", "source": "/crm", "type": "planpoint.unit.read", "connection": "tower"},
            "attempts": 2,
            "deferrals": 3,
            "http_requests": 7,
            "received_at": "2026-11-22T12:00:00.000000Z",
            "started_at": "2026-11-22T12:00:01.000000Z",
            "finished_at": "2026-11-22T12:00:01.210000Z",
            "duration_s": 0.21,
            "result": {"unit": {"id": "u1"}},
        },
    }


def test_a_failure_tells_the_error_instead() -> None:
    """Kind, message, status and the vendor's words stand where the result would."""
    event = failed(COMMAND, NotFound("No such unit.", status=404, response="nope"), TALLY)
    data = told(event)["data"]
    assert event.type == "planpoint.unit.read.failed"
    assert "result" not in data
    assert data["error"] == {"kind": "not_found", "message": "No such unit.", "status": 404, "response": "nope"}


def test_what_an_error_does_not_have_is_null() -> None:
    """Every failed event has the same keys."""
    assert error_of(BadCommand("No.")) == {
        "kind": "bad_command",
        "message": "No.",
        "status": None,
        "response": None,
    }


def test_an_event_repeated_has_the_same_id() -> None:
    """The id follows from the command's key, the outcome and the run, not from when it is told."""
    later = Tally(received_at=RECEIVED, started_at=None, finished_at=RECEIVED + timedelta(hours=1))
    assert succeeded(COMMAND, {}, TALLY).id == succeeded(COMMAND, {"other": 1}, later).id


def test_a_replay_another_outcome_and_a_salt_have_other_ids() -> None:
    """Each of them is another event."""
    replay = Tally(received_at=RECEIVED, started_at=None, finished_at=RECEIVED, run=2)
    ids = {
        succeeded(COMMAND, {}, TALLY).id,
        succeeded(COMMAND, {}, replay).id,
        failed(COMMAND, NotFound(), TALLY).id,
        failed(COMMAND, NotFound(), replay).id,
        failed(COMMAND, NotFound(), TALLY, salt="a" * 64).id,
        failed(COMMAND, NotFound(), TALLY, salt="b" * 64).id,
    }
    assert len(ids) == 6
    assert max(map(len, ids)) < 255  # an AMQP message id is a short string


def test_a_command_that_never_started_took_no_time() -> None:
    """Its start is null and its duration 0."""
    never = Tally(received_at=RECEIVED, started_at=None, finished_at=RECEIVED + timedelta(days=1))
    data = told(failed(COMMAND, NotFound(), never))["data"]
    assert (data["attempts"], data["started_at"], data["duration_s"]) == (1, None, 0.0)


def test_trace_context_is_left_out_where_there_is_none() -> None:
    """CloudEvents knows no null attributes."""
    plain = Command(id="1", source="s", type="t", connection="c", data={}, form="celery")
    assert not {"traceparent", "tracestate"} & told(succeeded(plain, {}, TALLY)).keys()


def test_a_long_answer_is_cut() -> None:
    """The vendor's words are told up to 2,000 characters, and so is the message."""
    said = error_of(RateLimited("m" * 5_000, status=429, response="r" * 5_000))
    assert said["message"] == "m" * 2_000
    assert said["response"] == "r" * 2_000


def test_secrets_are_removed_before_anything_is_cut() -> None:
    """No half of a secret stays at the edge."""
    error = RelayError("x" * 1_997 + "hunter2", response="hunter2")
    said = error_of(error, redact=lambda text: text.replace("hunter2", "***"))
    assert said["message"] == "x" * 1_997 + "***"
    assert said["response"] == "***"


def test_a_message_that_is_no_command_is_answered() -> None:
    """Its sender gets a failed event under the type it named."""
    error = unreadable(id="42", source="/crm", type="planpoint.unit.read", connection="tower")
    event = failed(error, error, TALLY)
    assert event.type == "planpoint.unit.read.failed"
    assert told(event)["subject"] == "42"
    assert told(event)["data"]["error"]["kind"] == "bad_command"


def test_a_message_without_a_type_is_answered_as_unknown() -> None:
    """The answer needs a type; what the message lacks is null in it."""
    error = unreadable(id="42", source="/crm", type=["x"])
    event = failed(error, error, TALLY)
    assert event.type == "planrelay.unknown.failed"
    assert told(event)["data"]["command"] == {"id": "42", "source": "/crm", "type": None, "connection": None}


def test_a_message_without_id_is_not_answered() -> None:
    """There is nobody to answer: the caller must have asked."""
    error = unreadable(source="/crm")
    with pytest.raises(ValueError, match="answerable"):
        failed(error, error, TALLY)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), RECEIVED, b"bytes"])
def test_a_result_that_json_can_not_say_is_a_bug(value: object) -> None:
    """It raises, rather than tell something that no reader takes."""
    with pytest.raises((ValueError, TypeError)):
        succeeded(COMMAND, {"value": value}, TALLY)


def test_odd_text_from_a_vendor_is_told() -> None:
    """Half of a surrogate pair does not keep a result from its reader."""
    assert told(succeeded(COMMAND, {"name": "\ud800"}, TALLY))["data"]["result"] == {"name": "\ud800"}


def test_a_results_size_is_that_of_its_json() -> None:
    """In bytes, as it will be told."""
    assert result_size({"name": "Zürich"}) == len('{"name":"Zürich"}'.encode())
    event = succeeded(COMMAND, {"name": "Zürich"}, TALLY)
    assert event.size == len(event.body)


def test_an_extra_event_is_one_of_ours() -> None:
    """What a run emits beside its result has the same envelope and the id it is given."""
    event = result_event.event(
        id="plan-1", type="planpoint.plan.held", subject="42", time=RECEIVED, data={"a": 1}, traceparent="00-a-b-01"
    )
    assert told(event) == {
        "specversion": "1.0",
        "id": "plan-1",
        "source": "/planrelay",
        "type": "planpoint.plan.held",
        "subject": "42",
        "time": "2026-11-22T12:00:00.000000Z",
        "datacontenttype": "application/json",
        "traceparent": "00-a-b-01",
        "data": {"a": 1},
    }


def test_an_event_does_not_print_its_body() -> None:
    """A body may be personal, and a repr ends up in logs."""
    assert "Zürich" not in repr(succeeded(COMMAND, {"name": "Zürich"}, TALLY))

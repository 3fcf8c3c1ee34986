"""One message, end to end: published by another system, made into calls, answered with an event, on both brokers."""

from __future__ import annotations

import itertools
import json
import time
from typing import TYPE_CHECKING, Any

import kombu
import pytest

from tests.fleet import command, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox import SandboxThread
    from tests.fleet import Fleet


def unit_of(sandbox: SandboxThread) -> str:
    """Make a unit at the vendor."""
    return sandbox.seed("planpoint", "units", count=1)[0]


def floor_of(sandbox: SandboxThread) -> str:
    """Make a floor at the vendor."""
    return sandbox.seed("planpoint", "floors", count=1)[0]


def test_a_structured_event_becomes_a_call_and_a_result_event(
    make_fleet: Callable[..., Fleet], broker: str | None, sandbox: SandboxThread
) -> None:
    """A structured CloudEvent is answered with `<type>.succeeded`, all figures in place."""
    fleet = make_fleet(broker)
    fleet.start()
    unit = unit_of(sandbox)
    sent = fleet.send(
        "planpoint.unit.read", "tower", {"id": unit}, traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    )
    event = fleet.wait(sent)
    assert event["type"] == "planpoint.unit.read.succeeded"
    assert event["source"] == "/planrelay"
    assert event["subject"] == sent
    assert event["traceparent"].startswith("00-aaaa")
    data = event["data"]
    assert data["command"] == {"id": sent, "source": "/test", "type": "planpoint.unit.read", "connection": "tower"}
    assert (data["attempts"], data["deferrals"], data["http_requests"]) == (1, 0, 1)
    assert data["result"]["id"] == unit
    assert data["received_at"] <= data["started_at"] <= data["finished_at"]


def test_the_three_forms_are_one_command(
    make_fleet: Callable[..., Fleet], broker: str | None, sandbox: SandboxThread
) -> None:
    """Binary and Celery messages are read like structured ones."""
    fleet = make_fleet(broker)
    fleet.start()
    unit = unit_of(sandbox)
    data = {"id": unit}
    for number, prefix in enumerate(("ce-", "ce_", "cloudEvents:", "cloudEvents_")):
        attributes = {
            "specversion": "1.0",
            "id": f"b{number}",
            "source": "/b",
            "type": "planpoint.unit.read",
            "connection": "tower",
        }
        fleet.publish(
            json.dumps(data).encode(),
            routing_key="planpoint.unit.read",
            content_type="application/json; charset=utf-8",
            headers={prefix + name: value for name, value in attributes.items()},
        )
    fleet.publish(
        json.dumps([[], {"connection": "tower", "data": data}, {}]).encode(),
        routing_key="planpoint.unit.read",
        content_type="application/json",
        headers={"task": "planpoint.unit.read", "id": "c1", "lang": "py"},
    )
    for sent in ("b0", "b1", "b2", "b3", "c1"):
        assert fleet.wait(sent)["data"]["result"]["id"] == unit


def test_the_answer_also_goes_to_reply_to(
    make_fleet: Callable[..., Fleet], broker: str | None, sandbox: SandboxThread
) -> None:
    """A command with `reply_to` is answered there too, with its correlation id."""
    fleet = make_fleet(broker)
    fleet.start()
    with fleet.connection() as connection:
        queue = kombu.Queue("test-replies", kombu.Exchange("", type="direct"), durable=False, auto_delete=True)
        queue = kombu.Queue("test-replies", kombu.Exchange("", type="direct"), routing_key="test-replies", expires=60)
        bound = queue(connection.channel())
        bound.declare()
        fleet.publish(
            json.dumps(command("planpoint.unit.read", "tower", {"id": unit_of(sandbox)}, id="r1")).encode(),
            routing_key="planpoint.unit.read",
            reply_to="test-replies",
            correlation_id="corr-7",
        )
        reply = eventually(lambda: bound.get(no_ack=True), what="a reply")
        assert reply.properties["correlation_id"] == "corr-7"
        assert json.loads(reply.body)["id"] == fleet.wait("r1")["id"]
        bound.delete()


def test_a_repeated_command_is_answered_and_not_run_again(
    make_fleet: Callable[..., Fleet], broker: str | None, sandbox: SandboxThread
) -> None:
    """The same key again: the same event, and no second call."""
    fleet = make_fleet(broker)
    fleet.start()
    create = command("planpoint.unit.create", "tower", {"floor_id": floor_of(sandbox), "name": "A-1"})
    fleet.send_all([create])
    first = fleet.wait(create["id"])
    assert first["type"].endswith(".succeeded"), first
    calls = sandbox.journal.count(method="POST", operation="unit.create")
    fleet.send_all([create])
    eventually(lambda: len(fleet.events(create["id"])) == 2, what="the event again")
    assert fleet.events(create["id"])[1] == first
    assert sandbox.journal.count(method="POST", operation="unit.create") == calls == 1


def test_the_same_key_with_other_data_is_a_conflict(
    make_fleet: Callable[..., Fleet], broker: str | None, sandbox: SandboxThread
) -> None:
    """An idempotency key that comes with other data fails as `conflict`, and what was done stands."""
    fleet = make_fleet(broker)
    fleet.start()
    unit = unit_of(sandbox)
    first = fleet.send("planpoint.unit.update", "tower", {"id": unit, "changes": {"price": 1}}, idempotencykey="k")
    assert fleet.wait(first)["type"].endswith(".succeeded")
    other = fleet.send("planpoint.unit.update", "tower", {"id": unit, "changes": {"price": 2}}, idempotencykey="k")
    assert fleet.wait(other)["data"]["error"]["kind"] == "conflict"
    assert sandbox.state("planpoint", "units")[0]["price"] == 1


def test_a_failed_command_is_told_and_dead_lettered(
    make_fleet: Callable[..., Fleet], broker: str | None, sandbox: SandboxThread
) -> None:
    """404 ends as `not_found`: a failed event, and a dead letter with the original bytes."""
    fleet = make_fleet(broker)
    fleet.start()
    body = json.dumps(command("planpoint.unit.read", "tower", {"id": "f" * 24}, id="gone")).encode()
    fleet.publish(body, routing_key="planpoint.unit.read")
    event = fleet.wait("gone")
    assert event["type"] == "planpoint.unit.read.failed"
    assert event["data"]["error"]["kind"] == "not_found"
    assert event["data"]["error"]["status"] == 404
    letters = eventually(fleet.dead, what="the dead letter")
    assert len(letters) == 1
    raw = letters[0].body
    assert (raw.encode() if isinstance(raw, str) else bytes(raw)) == body
    assert letters[0].headers["planrelay-error-kind"] == "not_found"
    assert letters[0].headers["planrelay-attempts"] == 1
    assert letters[0].headers["planrelay-original-routing-key"] == "planpoint.unit.read"


@pytest.mark.parametrize("after", [3])
def test_a_429_waits_what_the_vendor_asks(
    make_fleet: Callable[..., Fleet], broker: str | None, sandbox: SandboxThread, after: int
) -> None:
    """After 429 with `Retry-After: 3` the second request comes after 3.0 s to 3.6 s; the attempt still counts 1."""
    fleet = make_fleet(broker)
    fleet.start()
    unit = unit_of(sandbox)
    sandbox.faults.add("status", status=429, headers={"Retry-After": str(after)}, operation="unit.read", times=1)
    event = fleet.wait(fleet.send("planpoint.unit.read", "tower", {"id": unit}), within=30)
    assert (event["data"]["attempts"], event["data"]["deferrals"]) == (1, 1)
    first, second = sandbox.journal.entries(operation="unit.read")
    assert after <= second.arrived - (first.answered or 0) <= after + 0.6


def test_the_sixth_deferral_in_a_row_waits_like_the_first(
    make_fleet: Callable[..., Fleet], broker: str | None, sandbox: SandboxThread
) -> None:
    """Six 429s in a row: each wait is kept, the command is delivered once a time, and its attempt still counts 1."""
    fleet = make_fleet(broker, retry={"inline_wait": "0s"})
    (worker,) = fleet.start()
    unit = unit_of(sandbox)
    sandbox.faults.add("status", status=429, headers={"Retry-After": "1"}, operation="unit.read", times=6)
    event = fleet.wait(fleet.send("planpoint.unit.read", "tower", {"id": unit}), within=40)
    assert (event["data"]["attempts"], event["data"]["deferrals"]) == (1, 6)
    entries = sandbox.journal.entries(operation="unit.read")
    assert len(entries) == event["data"]["http_requests"] == 7
    waits = [later.arrived - (earlier.answered or 0) for earlier, later in itertools.pairwise(entries)]
    assert all(1 <= wait <= 1.6 for wait in waits), waits
    log = worker.log.read_text()
    assert log.count('"command.deferred"') == 6
    assert "command.passed_over" not in log  # a copy that the ladder doubled would be


def test_a_wait_under_a_second_and_a_missing_ladder_lose_nothing(
    make_fleet: Callable[..., Fleet], amqp_url: str, sandbox: SandboxThread
) -> None:
    """The worker declares the whole ladder at its start; a wait that the ladder can't hold is kept all the same."""
    fleet = make_fleet(amqp_url, retry={"inline_wait": "0s", "backoff_initial": "300ms", "backoff_ceiling": "300ms"})
    with fleet.connection() as connection, connection.channel() as channel:
        for level in range(28):
            channel.queue_delete(f"celery_delayed_{level}")
            channel.exchange_delete(f"celery_delayed_{level}")
    fleet.start()
    unit = unit_of(sandbox)
    sandbox.faults.add("status", status=503, operation="unit.read", times=2)
    event = fleet.wait(fleet.send("planpoint.unit.read", "tower", {"id": unit}))
    assert (event["data"]["attempts"], event["data"]["deferrals"]) == (3, 0)
    sandbox.faults.add("status", status=429, headers={"Retry-After": "2"}, operation="unit.read", times=1)
    event = fleet.wait(fleet.send("planpoint.unit.read", "tower", {"id": unit}))
    assert (event["data"]["attempts"], event["data"]["deferrals"]) == (1, 1)


def test_a_routing_key_that_leads_nowhere_is_answered(
    make_fleet: Callable[..., Fleet], amqp_url: str, sandbox: SandboxThread
) -> None:
    """What no queue takes falls through to `planrelay.unrouted`: answered and dead-lettered, naming the right key."""
    fleet = make_fleet(amqp_url)
    fleet.start()
    wrong = command("planpoint.unit.read", "tower", {"id": unit_of(sandbox)})
    fleet.publish(json.dumps(wrong).encode(), routing_key="units.read")
    event = fleet.wait(wrong["id"])
    assert event["data"]["error"]["kind"] == "bad_command"
    assert "'planpoint.unit.read'" in event["data"]["error"]["message"]
    (letter,) = eventually(fleet.dead, what="the dead letter")
    assert letter.headers["planrelay-original-routing-key"] == "units.read"
    assert sandbox.journal.count() == 0


def test_an_unpublishable_wait_is_held_by_nobody(
    make_fleet: Callable[..., Fleet], broker: str | None, sandbox: SandboxThread
) -> None:
    """With `Retry-After: 120` the command is neither in the worker nor unacknowledged: nobody holds it."""
    fleet = make_fleet(broker)
    (worker,) = fleet.start()
    unit = unit_of(sandbox)
    sandbox.faults.add("status", status=429, headers={"Retry-After": "120"}, operation="unit.read", times=1)
    fleet.send("planpoint.unit.read", "tower", {"id": unit})
    eventually(lambda: sandbox.journal.count(operation="unit.read") == 1)
    eventually(lambda: "command.deferred" in worker.log.read_text(), what="the log line of the deferral")
    time.sleep(0.5)
    began = time.monotonic()
    assert worker.terminate() == 0
    assert time.monotonic() - began < 5
    assert fleet.depth("planrelay.planpoint") == 0
    assert sandbox.journal.count(operation="unit.read") == 1


def bad_messages() -> dict[str, dict[str, Any]]:
    """Everything that is no command, and that stock Celery 5.7 dies of or loses in part."""
    good = command("planpoint.unit.read", "tower", {"id": "a" * 24})
    celery_body = json.dumps([[], {"connection": "tower", "data": {}}, {}]).encode()
    celery = {"task": "planpoint.unit.read", "id": "x", "lang": "py"}
    as_json = "application/json"
    return {
        "not JSON": {"body": b"{nope"},
        "wrong specversion": {"body": json.dumps({**good, "specversion": "0.3"}).encode()},
        "unknown type": {"body": json.dumps({**good, "type": "planpoint.unit.raed"}).encode()},
        "invalid data": {"body": json.dumps({**good, "data": {"nr": 1}}).encode()},
        "unknown connection": {"body": json.dumps({**good, "connection": "nowhere"}).encode()},
        "2 MiB": {"body": json.dumps({**good, "data": {"id": "x" * 2 * 1024 * 1024}}).encode()},
        "no id": {"body": celery_body, "content_type": as_json, "headers": {"task": "planpoint.unit.read"}},
        "two items": {"body": b"[[], {}]", "content_type": as_json, "headers": celery},
        "scalar timelimit": {"body": celery_body, "content_type": as_json, "headers": {**celery, "timelimit": 5}},
        "list as task": {"body": celery_body, "content_type": as_json, "headers": {**celery, "task": ["a"]}},
        "pickle": {"body": b"\x80\x04N.", "content_type": "application/x-python-serialize", "headers": celery},
        "no content type": {"body": b"hello", "content_type": None},
        "empty": {"body": b"", "content_type": as_json},
    }


def test_what_is_no_command_is_dead_lettered_with_a_reason(
    make_fleet: Callable[..., Fleet], broker: str | None, sandbox: SandboxThread
) -> None:
    """Bad input ends in `planrelay.dead`, bytes untouched, with a kind and a sentence; the worker goes on."""
    fleet = make_fleet(broker)
    (worker,) = fleet.start()
    messages = list(bad_messages().values())
    bodies = [message.pop("body") for message in messages]
    for body, message in zip(bodies, messages, strict=True):
        fleet.publish(body, routing_key="planpoint.unit.read", **message)
    letters: list[Any] = []

    def all_there() -> bool:
        letters.extend(fleet.dead())
        return len(letters) >= len(bodies)

    eventually(all_there, what=f"{len(bodies)} dead letters")
    found = sorted(
        letter.body.encode() if isinstance(letter.body, str) else bytes(letter.body or b"") for letter in letters
    )
    assert found == sorted(bodies)
    for letter in letters:
        assert letter.headers["planrelay-error-kind"] == "bad_command"
        assert len(letter.headers["planrelay-error-message"]) > 20
    sent = fleet.send("planpoint.unit.read", "tower", {"id": unit_of(sandbox)})
    assert fleet.wait(sent)["type"].endswith("succeeded")
    assert worker.process.poll() is None


@pytest.mark.parametrize("fault", ["status", "reset"])
def test_a_create_that_took_effect_and_was_not_answered_is_found(
    make_fleet: Callable[..., Fleet], broker: str | None, sandbox: SandboxThread, fault: str
) -> None:
    """A 5xx or a reset after the effect: one object, one event, found by its natural key."""
    fleet = make_fleet(broker)
    fleet.start()
    if fault == "status":
        sandbox.faults.add("status", status=503, operation="unit.create", after_effect=True, times=1)
    else:
        sandbox.faults.add("reset", operation="unit.create", after_effect=True, times=1)
    sent = fleet.send("planpoint.unit.create", "tower", {"floor_id": floor_of(sandbox), "name": "B-2"})
    event = fleet.wait(sent, within=60)
    assert event["type"].endswith("succeeded"), event
    assert event["data"]["result"]["how"] == "found"
    assert event["data"]["attempts"] == 2
    assert sandbox.count("planpoint", "units") == 1
    assert sandbox.journal.count(method="POST", operation="unit.create") == 1
    first = sandbox.journal.entries(operation="unit.create")[0]
    look = next(e for e in sandbox.journal.entries(method="GET") if e.arrived > first.arrived)
    assert look.arrived - first.arrived >= 2 + 5  # the request timeout and its margin


def test_a_worker_that_is_killed_between_effect_and_ack_makes_no_second_object(
    make_fleet: Callable[..., Fleet], broker: str | None, sandbox: SandboxThread
) -> None:
    """SIGKILL while the create is being answered: another worker finds the object within 30 s."""
    fleet = make_fleet(broker)
    (worker,) = fleet.start()
    sandbox.faults.add("delay", operation="unit.create", after_effect=True, delay="1s", times=1)
    sent = fleet.send("planpoint.unit.create", "tower", {"floor_id": floor_of(sandbox), "name": "C-3"})
    eventually(lambda: sandbox.count("planpoint", "units") == 1, what="the effect")
    worker.kill()
    fleet.start()
    event = fleet.wait(sent, within=60)
    assert event["data"]["result"]["how"] == "found"
    assert sandbox.count("planpoint", "units") == 1
    assert len({each["id"] for each in fleet.events(sent)}) == 1


def test_sigterm_with_a_hundred_in_flight_loses_and_repeats_nothing(
    make_fleet: Callable[..., Fleet], broker: str | None, sandbox: SandboxThread
) -> None:
    """Warm stop: what is in flight ends or is given back; the next worker does the rest."""
    fleet = make_fleet(broker, connections={})
    sandbox.configure("planpoint", latency="1s")
    floor = floor_of(sandbox)
    (worker,) = fleet.start()
    commands = [command("planpoint.unit.create", "tower", {"floor_id": floor, "name": f"D-{n}"}) for n in range(100)]
    fleet.send_all(commands)
    eventually(lambda: sandbox.journal.in_flight() >= 30, what="calls in flight")
    assert worker.terminate() == 0
    fleet.start()
    sandbox.configure("planpoint", latency="0s")
    for each in commands:
        assert fleet.wait(each["id"], within=60)["type"].endswith("succeeded")
    assert sandbox.count("planpoint", "units") == 100
    assert sandbox.duplicates() == []

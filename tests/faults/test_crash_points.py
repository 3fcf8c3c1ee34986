"""
A worker that dies between any two steps of a command's end: effect, ledger, publish, ack.

Each test kills a real worker by SIGKILL the moment it is about to do the next step: a proxy sees the step's bytes on
their way to the broker or the store, kills the process, and lets none of them through. Then a second worker goes on.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.faults.proxy import AMQP_ACK, Proxy
from tests.fleet import command, eventually
from worker import embedded, ledger, topology

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sandbox import SandboxThread
    from tests.fleet import Fleet


class Stage:
    """A fleet whose ways to broker and store lead through proxies."""

    def __init__(self, make: Callable[..., Fleet], home: Path, amqp: str | None) -> None:
        self.socket = unquote(urlsplit(embedded.ensure(home / "store")).path)
        self.store = Proxy(self.socket)
        self.amqp = amqp is not None
        state = f"redis://127.0.0.1:{self.store.port}/0"
        if amqp is None:
            self.broker = Proxy(self.socket)
            url = f"redis://127.0.0.1:{self.broker.port}/0"
            self.fleet = make(broker={"url": url}, state={"url": state})
        else:
            parts = urlsplit(amqp)
            self.broker = Proxy((parts.hostname or "127.0.0.1", parts.port or 5672))
            url = f"amqp://{parts.username}:{parts.password}@127.0.0.1:{self.broker.port}{parts.path}"
            self.fleet = make(url, state={"url": state})

    def kill_at(self, step: str, *, skip: int = 0) -> None:
        """Arm the trap: the first worker dies when it begins `step`."""
        (worker,) = self.fleet.workers
        place, pattern = self._place(step)
        place.trap(pattern, worker.kill, skip=skip)

    def _place(self, step: str) -> tuple[Proxy, bytes]:
        match step:
            case "keep step" | "keep intent":
                return self.store, ledger.WRITE.sha.encode()
            case "keep outcome":
                return self.store, ledger.FINISH.sha.encode()
            case "note generation":
                return self.store, ledger.PARK.sha.encode()
            case "note told":
                return self.store, ledger.TOLD.sha.encode()
            case "publish event":
                return self.broker, b"planrelay.events" if not self.amqp else b"\x10planrelay.events"
            case "publish dead letter":
                return self.broker, b"planrelay-error-kind"
            case "publish parked":
                return (self.broker, b"\x11celery_delayed_27") if self.amqp else (self.broker, b"planrelay-journey")
            case "ack":
                return (self.broker, AMQP_ACK) if self.amqp else (self.broker, b"\r\nHDEL\r\n")
        raise AssertionError(step)


@pytest.fixture
def stage(make_fleet: Callable[..., Fleet], tmp_path: Path, broker: str | None) -> Iterator[Stage]:
    """Give a stage on each broker."""
    made = Stage(make_fleet, tmp_path, broker)
    with made.store, made.broker:
        yield made
        made.fleet.__exit__()
    embedded.stop(tmp_path / "store")


def after_the_crash(stage: Stage, sent: str) -> dict[str, Any]:
    """Let a second worker take over; gives the event that it ends with."""
    eventually(lambda: stage.store.sprung.is_set() or stage.broker.sprung.is_set(), what="the crash")
    stage.fleet.start()
    return stage.fleet.wait(sent, within=60)


@pytest.mark.parametrize("step", ["keep step", "keep outcome", "publish event", "ack"])
def test_a_create_whose_worker_dies_makes_one_object(stage: Stage, sandbox: SandboxThread, step: str) -> None:
    """Between effect, ledger, publish and ack: one object, one event id, one attempt."""
    stage.fleet.start()
    floor = sandbox.seed("planpoint", "floors", count=1)[0]
    stage.kill_at(step, skip=1 if step == "keep step" else 0)  # the first write is the intent
    sent = stage.fleet.send("planpoint.unit.create", "tower", {"floor_id": floor, "name": "X"})
    event = after_the_crash(stage, sent)
    assert event["type"] == "planpoint.unit.create.succeeded", event
    assert event["data"]["attempts"] == 1
    assert sandbox.count("planpoint", "units") == 1
    assert sandbox.journal.count(operation="unit.create", method="POST") == 1
    assert len({each["id"] for each in stage.fleet.events(sent)}) == 1


@pytest.mark.parametrize("step", ["publish parked", "note generation", "ack"])
def test_a_deferral_whose_worker_dies_is_carried_out_once(stage: Stage, sandbox: SandboxThread, step: str) -> None:
    """Between the 429 and the ack of its parked copy: the update is done, and its attempt still counts one."""
    stage.fleet.start()
    unit = sandbox.seed("planpoint", "units", count=1)[0]
    sandbox.faults.add("status", status=429, headers={"Retry-After": "3"}, operation="unit.update", times=1)
    stage.kill_at(step)
    sent = stage.fleet.send("planpoint.unit.update", "tower", {"id": unit, "changes": {"price": 7}})
    event = after_the_crash(stage, sent)
    assert event["type"] == "planpoint.unit.update.succeeded", event
    assert event["data"]["attempts"] == 1
    assert sandbox.state("planpoint", "units")[0]["price"] == 7
    assert len({each["id"] for each in stage.fleet.events(sent)}) == 1


@pytest.mark.parametrize("step", ["keep outcome", "publish event", "publish dead letter", "note told", "ack"])
def test_a_failure_whose_worker_dies_is_told_and_dead_lettered(stage: Stage, sandbox: SandboxThread, step: str) -> None:
    """Between the 404 and the ack: the failed event has one id, and the dead letter is there."""
    stage.fleet.start()
    stage.kill_at(step)
    body = command("planpoint.unit.read", "tower", {"id": "f" * 24})
    stage.fleet.publish(json.dumps(body).encode(), routing_key=body["type"])
    event = after_the_crash(stage, body["id"])
    assert event["data"]["error"]["kind"] == "not_found"
    assert len({each["id"] for each in stage.fleet.events(body["id"])}) == 1
    letters = eventually(stage.fleet.dead, what="the dead letter")
    assert {letter.headers["planrelay-error-kind"] for letter in letters} == {"not_found"}
    eventually(lambda: stage.fleet.depth(topology.work_queue("planpoint")) == 0, what="an empty queue")

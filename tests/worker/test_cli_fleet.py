"""The command line against real brokers, workers and stand-ins."""

from __future__ import annotations

import asyncio
import json
import select
import signal
import subprocess
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import kombu
import pytest
import redis

from tests.command_line import CommandLine, sentences
from tests.fleet import command, eventually
from worker import topology
from worker.plans import Plan, Plans, PlanState
from worker.store import Store, connect

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox import SandboxThread
    from tests.fleet import Fleet

CANARY = "canary-4f1a-in-no-output"
NIGHTLY = """
[[schedules]]
name = "nightly"
cron = "0 2 * * *"
type = "planpoint.project.mine"
connection = "tower"
"""


@pytest.fixture
def fleet(make_fleet: Callable[..., Fleet], broker: str | None) -> Fleet:
    """Give a broker with our topology, and no worker yet."""
    fleet = make_fleet(broker)
    fleet.config.write_text(fleet.config.read_text() + NIGHTLY)
    return fleet


@pytest.fixture
def planrelay(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Give the command line with the fleet's configuration."""
    return CommandLine(fleet.config, monkeypatch, capsys)


def unit_of(sandbox: SandboxThread) -> str:
    """Make a unit at the vendor."""
    return sandbox.seed("planpoint", "units", count=1)[0]


class TestSending:
    """`planrelay send`."""

    def test_a_command_that_succeeds_prints_its_event(
        self, fleet: Fleet, planrelay: CommandLine, sandbox: SandboxThread
    ) -> None:
        """`--wait` prints the result event as JSON and ends with 0."""
        fleet.start()
        data = json.dumps({"id": unit_of(sandbox)})
        said = planrelay("send", "planpoint.unit.read", "--connection", "tower", "--data", data, "--id", "c1", "--wait")
        assert said.status == 0
        assert said.json["type"] == "planpoint.unit.read.succeeded"
        assert said.json["subject"] == "c1"

    def test_a_command_that_fails_ends_with_1(self, fleet: Fleet, planrelay: CommandLine) -> None:
        """The failed event is printed, too."""
        fleet.start()
        said = planrelay(
            "send",
            "planpoint.unit.read",
            "--connection",
            "tower",
            "--data",
            '{"id": "0123456789abcdef01234567"}',
            "--wait",
        )
        assert said.status == 1
        assert said.json["data"]["error"]["kind"] == "not_found"

    def test_an_answer_that_does_not_come_ends_with_3(self, fleet: Fleet, planrelay: CommandLine) -> None:
        """Without a worker nobody answers: one sentence says how to find out why, nothing is on standard output."""
        said = planrelay("send", "planpoint.project.mine", "--connection", "tower", "--id", "c1", "--wait", "0.2")
        assert said.status == 3
        assert said.out == ""
        (sentence,) = sentences(said.err)
        assert "`planrelay show c1`" in sentence

    def test_without_wait_the_id_is_all_that_is_printed(self, fleet: Fleet, planrelay: CommandLine) -> None:
        """The command lies in its queue when the id is printed."""
        said = planrelay("send", "planpoint.project.mine", "--connection", "tower")
        assert said.status == 0
        assert fleet.depth(topology.work_queue("planpoint")) == 1
        assert planrelay("send", "planpoint.project.mine", "--connection", "tower", "--id", "mine").out == "mine\n"


def test_events_are_printed_one_json_a_line_until_sigint(
    fleet: Fleet, planrelay: CommandLine, sandbox: SandboxThread
) -> None:
    """Only those that fit are printed, each at once; SIGINT ends it with 0 and nothing on standard error."""
    fleet.start()
    heard: list[str] = []
    with planrelay.start("events", "--type", "planpoint.*") as listening:
        assert listening.stdout is not None
        unit = unit_of(sandbox)

        def answered() -> bool:
            fleet.wait(fleet.send("planpoint.unit.read", "tower", {"id": unit}))
            fleet.wait(fleet.send("barometerit.entity.read", "tower", {"bn": "1"}))  # fails: not for `planpoint.*`
            return bool(select_readable(listening))

        eventually(answered, within=40)
        heard.append(listening.stdout.readline())
        listening.send_signal(signal.SIGINT)
        rest, err = listening.communicate(timeout=20)
    heard += [line for line in rest.splitlines() if line]
    assert listening.returncode == 0
    assert err == ""
    assert {json.loads(line)["type"] for line in heard} == {"planpoint.unit.read.succeeded"}


def select_readable(process: subprocess.Popen[str]) -> list[Any]:
    """Say whether a process has printed anything."""
    assert process.stdout is not None
    return select.select([process.stdout], [], [], 0.5)[0]


class TestStatus:
    """`planrelay status`."""

    def test_it_shows_queues_workers_gates_and_dead_letters(self, fleet: Fleet, planrelay: CommandLine) -> None:
        """All that is asked for is there, with figures."""
        fleet.start()
        fleet.publish(b"not JSON", routing_key="planpoint.x")
        eventually(lambda: fleet.depth(topology.DEAD) == 1)
        said = planrelay("status", "--json")
        assert said.status == 0, said.err
        status = said.json
        assert {each["queue"] for each in status["queues"]} >= {"planrelay.planpoint", "planrelay.batch"}
        assert status["dead"] == 1
        (worker,) = status["workers"]
        assert worker["worker"] == "w0@test"
        assert worker["commands"] == 0
        assert status["in_flight"] == 0
        assert status["parked"]["count"] == 0
        gates = {name: each for each in status["gates"] for name in each["connections"]}
        assert gates["tower"]["phase"] == "open"
        assert "planrelay dead list" in planrelay("status").out

    def test_without_a_worker_it_says_so(self, fleet: Fleet, planrelay: CommandLine) -> None:
        """Nothing is running, and the remedy is named."""
        fleet.send("planpoint.project.mine", "tower", {})
        said = planrelay("status")
        assert said.status == 0
        assert "planrelay worker" in said.out
        assert "planrelay.planpoint" in said.out


class TestShowing:
    """`planrelay show`, asked why a command is not running."""

    def test_a_command_that_is_done(self, fleet: Fleet, planrelay: CommandLine, sandbox: SandboxThread) -> None:
        """State, figures and result."""
        fleet.start()
        id_ = fleet.send("planpoint.unit.read", "tower", {"id": unit_of(sandbox)})
        fleet.wait(id_)
        (shown,) = planrelay("show", id_, "--json").json["commands"]
        assert shown["state"] == "done"
        assert shown["attempts"] == 1
        assert shown["result"]["name"].startswith("Unit")
        assert "done" in planrelay("show", id_).out

    def test_a_command_that_waits_for_its_vendor(
        self, fleet: Fleet, planrelay: CommandLine, sandbox: SandboxThread
    ) -> None:
        """Parked until when, where the wait came from, and how its gate stands."""
        fleet.start()
        sandbox.faults.add("status", status=429, headers={"Retry-After": "120"}, vendor="planpoint")
        id_ = fleet.send("planpoint.unit.read", "tower", {"id": unit_of(sandbox)})
        parked = eventually(lambda: [each for each in _shown(planrelay, id_) if each["state"] == "parked"])[0]
        assert parked["reason"] == "rate_limited"
        wait = datetime.fromisoformat(parked["parked_until"]) - datetime.now(UTC)
        assert 100 < wait.total_seconds() < 140
        assert "Its gate is closed" in parked["why"]
        assert "429" in parked["last_error"]
        status = planrelay("status", "--json").json
        assert {"rabbitmq": status["parked"]["count"] >= 1, "valkey": status["parked"]["count"] == 1}[status["broker"]]
        gate = next(each for each in status["gates"] if each["connections"] == ["tower"])
        assert 60 < gate["closed_for_s"] <= 140

    def test_a_command_that_was_refused_is_found_among_the_dead_letters(
        self, fleet: Fleet, planrelay: CommandLine
    ) -> None:
        """What never ran is in no ledger, and `show` says why and what to do all the same."""
        fleet.start()
        id_ = fleet.send("planpoint.unit.read", "tower", {"idd": "1"})
        fleet.wait(id_)
        eventually(lambda: fleet.depth(topology.DEAD) == 1)
        said = planrelay("show", id_)
        assert said.status == 0
        assert "bad_command" in said.out
        assert f"planrelay dead replay {id_}" in said.out

    def test_what_the_ledger_knows_is_shown_while_the_broker_is_away(
        self, fleet: Fleet, planrelay: CommandLine, monkeypatch: pytest.MonkeyPatch, free_port: int
    ) -> None:
        """A command that died says why; that its dead letter can't be looked at is said beside it."""
        fleet.start()
        id_ = fleet.send("planpoint.unit.read", "tower", {"id": "0123456789abcdef01234567"})
        fleet.wait(id_)
        monkeypatch.setenv("PLANRELAY_STATE__URL", fleet.state)
        monkeypatch.setenv("PLANRELAY_BROKER__URL", f"amqp://127.0.0.1:{free_port}//")
        said = planrelay("show", id_, "--json")
        assert said.status == 1
        assert said.json["commands"][0]["error"]["kind"] == "not_found"
        assert said.json["dead_letters"] is None
        (sentence,) = sentences(said.err)
        assert "dead letters" in sentence

    def test_a_command_that_no_worker_has_taken(self, fleet: Fleet, planrelay: CommandLine) -> None:
        """It may wait in its queue; one that is nowhere is said to be nowhere."""
        id_ = fleet.send("planpoint.project.mine", "tower", {})
        said = planrelay("show", id_)
        assert said.status == 1
        (sentence,) = sentences(said.err)
        assert "planrelay.planpoint" in sentence
        assert "planrelay worker" in sentence


def _shown(planrelay: CommandLine, id_: str) -> list[dict[str, Any]]:
    said = planrelay("show", id_, "--json")
    shown: list[dict[str, Any]] = said.json["commands"]
    return shown


def test_a_paused_connection_sends_nothing_until_it_is_resumed(
    fleet: Fleet, planrelay: CommandLine, sandbox: SandboxThread
) -> None:
    """`pause` closes the gate for the whole fleet, `resume` opens it; what waited goes on."""
    fleet.start()
    unit = unit_of(sandbox)
    assert planrelay("pause", "tower", "--json").json["closed_for_s"] == "paused"
    id_ = fleet.send("planpoint.unit.read", "tower", {"id": unit})
    eventually(lambda: [each for each in _shown(planrelay, id_) if each["state"] in {"parked", "running"}])
    assert sandbox.journal.count(vendor="planpoint") == 0
    assert planrelay("resume", "tower").status == 0
    fleet.wait(fleet.send("planpoint.unit.read", "tower", {"id": unit}))


def test_check_connect_tries_everything_once(fleet: Fleet, planrelay: CommandLine, sandbox: SandboxThread) -> None:
    """Broker, topology, state store and each connection's credentials: one line each."""
    said = planrelay("check", "--connect", "--json")
    assert said.status == 0, said.out
    whats = [each["what"] for each in said.json]
    assert whats[-5:-3] == ["topology", "state store"]
    assert {each["what"] for each in said.json} >= {"broker", "credentials tower", "credentials acme-bit"}
    assert sandbox.journal.count(vendor="planpoint") == 1
    sandbox.configure("planpoint", token="another")
    wrong = planrelay("check", "--connect")
    assert wrong.status == 1
    (failed,) = [line for line in wrong.out.splitlines() if line.startswith("FAIL")]
    assert "credentials tower" in failed
    assert "sandbox-token" not in wrong.out + wrong.err


def test_check_connect_says_what_differs_on_the_broker(
    fleet: Fleet, planrelay: CommandLine, broker: str | None
) -> None:
    """A queue that is missing, and on RabbitMQ one with other arguments, are named; nothing is declared by asking."""
    if broker is None:
        with redis.Redis.from_url(fleet.state) as server:
            server.hdel("planrelay:queues", topology.BATCH)
    with fleet.connection() as connection, connection.channel() as channel:
        if broker is not None:
            channel.queue_delete(topology.BATCH)
            queue = topology.work_queue("planpoint")
            channel.queue_delete(queue)
            channel.queue_declare(
                queue, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum", "x-delivery-limit": 3}
            )
    said = planrelay("check", "--connect")
    assert said.status == 1
    failed = [line for line in said.out.splitlines() if line.startswith("FAIL")]
    assert any("planrelay.batch is missing" in line for line in failed)
    assert len(failed) == (2 if broker is not None else 1)
    with fleet.connection() as connection, pytest.raises(connection.channel_errors):
        connection.channel().queue_declare(topology.BATCH, passive=True)


def test_check_connect_finds_nothing_wrong_with_a_broker_that_no_worker_has_seen(
    make_fleet: Callable[..., Fleet], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the first worker there is no topology: one line says so, and the check passes."""
    fleet = make_fleet()
    with redis.Redis.from_url(fleet.state) as server:
        server.delete("planrelay:queues")
    said = CommandLine(fleet.config, monkeypatch, capsys)("check", "--connect")
    assert said.status == 0, said.out
    assert [line for line in said.out.splitlines() if "topology" in line] == [
        "ok    topology: is not there yet: the first worker declares it"
    ]


class TestPlans:
    """`planrelay plan`."""

    @pytest.fixture
    async def held(self, fleet: Fleet) -> Plan:
        """Keep a plan that tripped a brake."""
        store = Store(connect(fleet.state))
        plan = await Plans(store).keep(
            Plan(
                id="0123456789ab",
                type="planpoint.units.sync",
                connection="tower",
                data={"project_id": "0123456789abcdef01234567", "key": "name", "rows": [{"name": "A"}]},
                created_at=datetime(2026, 11, 22, tzinfo=UTC),
                summary={"update": 2},
                reasons=("More than half would change.",),
                state=PlanState.HELD,
            ),
            [{"unit": "A", "price": [1, 2]}, {"unit": "B", "price": [1, 3]}],
        )
        await store.close()
        return plan

    async def test_a_held_plan_is_listed_shown_and_approved(
        self, held: Plan, fleet: Fleet, planrelay: CommandLine
    ) -> None:
        """Approving keeps who and when, and publishes the plan's own command: the same one, however often."""
        listed = await _aside(planrelay, "plan", "list", "--state", "held", "--json")
        assert [each["id"] for each in listed.json] == [held.id]
        shown = await _aside(planrelay, "plan", "show", held.id, "--json")
        assert shown.json["items"] == [{"unit": "A", "price": [1, 2]}, {"unit": "B", "price": [1, 3]}]
        assert "More than half" in (await _aside(planrelay, "plan", "show", held.id, "--limit", "1")).out
        for _ in range(2):
            approved = await _aside(planrelay, "plan", "approve", held.id, "--by", "ada", "--json")
            assert approved.status == 0, approved.err
            assert (approved.json["state"], approved.json["decided_by"]) == ("approved", "ada")
        published = _taken(fleet, topology.work_queue("planpoint"))
        assert [each["id"] for each in published] == [f"plan-{held.id}"] * 2
        assert published[0]["source"] == "/planrelay/plan"
        assert published[0]["data"]["mode"] == "apply"

    async def test_a_rejected_plan_can_not_be_approved(self, held: Plan, planrelay: CommandLine) -> None:
        """The decision stands; changing it is an error in one sentence, and so is a plan that is not there."""
        assert (await _aside(planrelay, "plan", "reject", held.id)).status == 0
        said = await _aside(planrelay, "plan", "approve", held.id)
        assert said.status == 2
        assert "rejected" in said.err
        assert (await _aside(planrelay, "plan", "show", "nowhere")).status == 2


async def _aside(planrelay: CommandLine, *words: str) -> Any:
    """Run a command in a thread: it has a loop of its own."""
    return await asyncio.to_thread(planrelay, *words)


def _taken(fleet: Fleet, queue: str) -> list[dict[str, Any]]:
    """Take what waits in a queue."""
    found = []
    with fleet.connection() as connection, connection.channel() as channel:
        bound = kombu.Queue(queue, no_declare=True)(channel)
        while (message := bound.get(no_ack=True)) is not None:
            found.append(json.loads(message.body))
    return found


def test_a_schedule_is_listed_and_run_by_hand(fleet: Fleet, planrelay: CommandLine) -> None:
    """`schedule list` says when it comes next; `schedule run` publishes its command now, under an id of its own."""
    (listed,) = planrelay("schedule", "list", "--json").json
    assert listed["name"] == "nightly"
    assert datetime.fromisoformat(listed["next"]) > datetime.now(UTC)
    assert listed["last_run"] is None
    first = planrelay("schedule", "run", "nightly").out.strip()
    second = planrelay("schedule", "run", "nightly", "--json").json["id"]
    published = _taken(fleet, topology.work_queue("planpoint"))
    assert [each["id"] for each in published] == [first, second]
    assert first != second
    assert {each["source"] for each in published} == {"/planrelay/schedule/nightly"}
    assert "nightly" in planrelay("schedule", "list").out


class TestWorking:
    """`planrelay worker` as a process."""

    def test_a_worker_ends_with_0_after_sigterm(
        self, fleet: Fleet, planrelay: CommandLine, sandbox: SandboxThread
    ) -> None:
        """It answers commands of its queues, under its name, and logs JSON alone; SIGTERM is a warm stop."""
        with planrelay.start("worker", "--queues", "planpoint", "--hostname", "solo@%h") as worker:
            fleet.wait(fleet.send("planpoint.unit.read", "tower", {"id": unit_of(sandbox)}), within=40)
            untaken = fleet.send("barometerit.search", "acme-bit", {"search_string": "x"})
            (described,) = eventually(lambda: planrelay("status", "--json").json["workers"])
            assert described["worker"].startswith("solo@")
            began = time.monotonic()
            worker.send_signal(signal.SIGTERM)
            _, log = worker.communicate(timeout=30)
        assert worker.returncode == 0, log
        assert [line for line in log.splitlines() if not line.startswith("{")] == []  # Python's warnings included
        assert [json.loads(line)["event"] for line in log.splitlines()]
        assert time.monotonic() - began < 15
        assert not fleet.events(untaken)
        assert fleet.depth(topology.work_queue("barometerit")) == 1


def test_no_configured_secret_is_printed(
    make_fleet: Callable[..., Fleet],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sandbox: SandboxThread,
) -> None:
    """A secret that came back in a vendor's answer or in a command's own data is in no output of any command."""
    fleet = make_fleet(
        None,
        connections={
            "leaky": {"system": "planpoint", "base_url": sandbox.base_url("planpoint"), "token": CANARY},
        },
    )
    planrelay = CommandLine(fleet.config, monkeypatch, capsys)
    fleet.start()
    id_ = fleet.send("planpoint.unit.read", "leaky", {"id": "0123456789abcdef01234567"})
    assert fleet.wait(id_)["data"]["error"]["kind"] == "unauthorized"
    wrong = command("planpoint.unit.read", "leaky", {CANARY: CANARY})
    fleet.send_all([wrong])
    fleet.wait(wrong["id"])
    eventually(lambda: fleet.depth(topology.DEAD) == 2)
    for words in (
        ("status",),
        ("check", "--connect"),
        ("show", id_),
        ("show", wrong["id"]),
        ("dead", "list"),
        ("dead", "show", "--all"),
        ("dead", "replay", "--all", "--dry-run"),
        ("operations",),
    ):
        for more in ((), ("--json",)):
            said = planrelay(*words, *more)
            assert said.out
            assert CANARY not in said.out + said.err, (*words, *more)

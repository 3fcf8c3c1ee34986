"""Dead letters on both brokers: read without changing them, put back, removed."""

from __future__ import annotations

import itertools
import json
import threading
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import kombu
import pytest

from tests.command_line import CommandLine
from tests.fleet import command, eventually
from worker import topology
from worker.cli.dead import open_shelf
from worker.dead_letters import Occupied, RabbitShelf, letter_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox import SandboxThread
    from tests.fleet import Fleet

OURS = {
    "planrelay-error-kind": "not_found",
    "planrelay-error-message": "There is no such unit.",
    "planrelay-attempts": 1,
    "planrelay-first-seen": "2026-11-22T03:00:00+00:00",
    "planrelay-original-exchange": "planrelay.commands",
    "planrelay-original-routing-key": "planpoint.unit.read",
    "planrelay-run": 1,
}


@pytest.fixture
def fleet(make_fleet: Callable[..., Fleet], broker: str | None) -> Fleet:
    """Give a broker with our topology, and no worker yet."""
    return make_fleet(broker)


@pytest.fixture
def planrelay(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Give the command line with the fleet's configuration."""
    return CommandLine(fleet.config, monkeypatch, capsys)


def bury(fleet: Fleet, body: bytes, **headers: Any) -> None:
    """Put a message among the dead letters as a worker does."""
    said = {name.replace("_", "-"): value for name, value in headers.items()}
    user = {"user_id": "guest"} if fleet.amqp else {}
    fleet.publish(body, exchange="", routing_key=topology.DEAD, headers={**OURS, **said}, **user)


def bury_commands(fleet: Fleet, count: int) -> list[str]:
    """Put several commands among the dead letters, in the order of their ids."""
    ids = [f"c{n}" for n in range(count)]
    for id_ in ids:
        bury(fleet, json.dumps(command("planpoint.unit.read", "tower", {"id": "0" * 24}, id=id_)).encode())
    eventually(lambda: fleet.depth(topology.DEAD) == count)
    return ids


def lying(fleet: Fleet) -> list[str | None]:
    """Give the ids of the dead letters in their order, as a fresh reader finds them."""
    with open_shelf(fleet.settings) as shelf:
        return [letter.id for letter in shelf.letters()]


def test_reading_changes_neither_order_nor_content(fleet: Fleet) -> None:
    """However often dead letters are read, whole or in part, they lie as before, byte for byte."""
    bodies = [
        json.dumps(command("planpoint.unit.read", "tower", {"id": "0" * 24}, id=f"c{n}")).encode() for n in range(7)
    ]
    bodies.insert(3, b"\x00\xff not JSON \xfe")
    for body in bodies:
        bury(fleet, body)
    eventually(lambda: fleet.depth(topology.DEAD) == len(bodies))
    for part in (None, 3, 1, None):
        with open_shelf(fleet.settings) as shelf:
            found = [letter.delivery.body for letter in itertools.islice(shelf.letters(), part)]
        assert found == bodies[:part]
        eventually(lambda: fleet.depth(topology.DEAD) == len(bodies))
    taken = fleet.dead()
    assert [letter.body if isinstance(letter.body, bytes) else letter.body.encode() for letter in taken] == bodies
    assert all(OURS.items() <= letter.headers.items() for letter in taken)


def test_what_is_removed_is_gone_and_the_others_keep_their_order(fleet: Fleet) -> None:
    """Removing letters in the middle of reading leaves the rest as it lay."""
    bury_commands(fleet, 9)
    with open_shelf(fleet.settings) as shelf:
        for letter in shelf.letters():
            if letter.id in {"c0", "c4", "c5", "c8"}:
                shelf.remove([letter])
    eventually(lambda: fleet.depth(topology.DEAD) == 5)
    assert lying(fleet) == ["c1", "c2", "c3", "c6", "c7"]


def test_letters_that_come_while_one_reads_are_not_given(fleet: Fleet) -> None:
    """A reader gets what lay there when it began: what it puts back and what dies again is no endless work."""
    bury_commands(fleet, 3)
    seen = []
    with open_shelf(fleet.settings) as shelf:
        for letter in shelf.letters():
            seen.append(letter.id)
            bury(fleet, letter.delivery.body)
            shelf.remove([letter])
    assert seen == ["c0", "c1", "c2"]
    eventually(lambda: fleet.depth(topology.DEAD) == 3)


def test_more_letters_than_a_page_come_in_their_order(fleet: Fleet) -> None:
    """Hundreds are read in order, also while every other one is removed."""
    with fleet.connection() as connection:
        producer = kombu.Producer(connection.channel())
        for n in range(250):
            producer.publish(
                json.dumps(command("planpoint.unit.read", "tower", {}, id=f"c{n}")).encode(),
                exchange="",
                routing_key=topology.DEAD,
                content_type="application/cloudevents+json",
                content_encoding="utf-8",
                headers=OURS,
                delivery_mode=2,
            )
    eventually(lambda: fleet.depth(topology.DEAD) == 250)
    odd = []
    with open_shelf(fleet.settings) as shelf:
        for n, letter in enumerate(shelf.letters()):
            assert letter.id == f"c{n}"
            if n % 2:
                odd.append(letter)
        shelf.remove(odd)
    eventually(lambda: fleet.depth(topology.DEAD) == 125)
    assert lying(fleet) == [f"c{n}" for n in range(0, 250, 2)]


def test_hundreds_that_are_dropped_are_gone(fleet: Fleet, planrelay: CommandLine) -> None:
    """Each letter that `dead drop` says it removed is removed, however many at once."""
    with fleet.connection() as connection:
        producer = kombu.Producer(connection.channel())
        for n in range(500):
            producer.publish(b"{}", exchange="", routing_key=topology.DEAD, headers={"n": n}, content_encoding="utf-8")
    eventually(lambda: fleet.depth(topology.DEAD) == 500)
    assert len(planrelay("dead", "drop", "--all", "--json").json["removed"]) == 500
    assert fleet.depth(topology.DEAD) == 0
    assert lying(fleet) == []


def test_two_operators_take_turns(amqp_url: str, make_fleet: Callable[..., Fleet]) -> None:
    """RabbitMQ shows nobody what another reader holds: the second waits, and is told where it has to."""
    fleet = make_fleet(amqp_url)
    ids = bury_commands(fleet, 3)
    with RabbitShelf(amqp_url) as first:
        assert next(first.letters()).id == ids[0]
        with pytest.raises(Occupied), RabbitShelf(amqp_url, patience=0.2):
            pass
        reading = threading.Thread(target=lambda: seen.extend(lying(fleet)), daemon=True)
        seen: list[str | None] = []
        reading.start()
    reading.join(20)
    assert seen == ids


def test_nobody_has_declared_the_queue_yet(make_fleet: Callable[..., Fleet], broker: str | None) -> None:
    """Where no worker has ever run there are no dead letters, and that is no error."""
    fleet = make_fleet(broker)
    with fleet.connection() as connection, connection.channel() as channel:
        channel.queue_delete(topology.DEAD)
    assert lying(fleet) == []


@pytest.mark.parametrize(
    ("body", "headers", "content_type"),
    [
        (b"", {}, None),
        (b"\xff\xfe", {"planrelay-error-kind": 7, "planrelay-attempts": "many"}, "application/json"),
        (b"[]", {"planrelay-error-kind": "bug", "planrelay-first-seen": "yesterday"}, "text/plain"),
        (b"{}", {"x-death": "who knows", "planrelay-journey": "{"}, "application/cloudevents+json"),
        (b"eJw=", {"compression": "zlib"}, "application/json"),
    ],
)
def test_a_letter_that_nobody_can_read_hides_no_other(
    fleet: Fleet, planrelay: CommandLine, body: bytes, headers: dict[str, Any], content_type: str | None
) -> None:
    """Whatever lies among the dead letters is listed, with its bytes, and so are those before and after it."""
    bury_commands(fleet, 1)
    fleet.publish(body, exchange="", routing_key=topology.DEAD, content_type=content_type, headers=headers)
    bury(fleet, json.dumps(command("planpoint.unit.read", "tower", {}, id="last")).encode())
    eventually(lambda: fleet.depth(topology.DEAD) == 3)
    listed = planrelay("dead", "list", "--json")
    assert listed.status == 0
    assert [each["id"] for each in listed.json] == ["c0", None, "last"]
    shown = planrelay("dead", "show", "--all", "--json")
    assert shown.json[1]["body"] == body.decode("utf-8", "backslashreplace")
    assert planrelay("dead", "list").status == 0


def test_a_command_that_failed_is_replayed_and_succeeds(
    fleet: Fleet, planrelay: CommandLine, sandbox: SandboxThread
) -> None:
    """Once the cause is gone, a replay runs the command anew: same id, attempts from 1, a result event of its own."""
    fleet.start()
    unit = "00000000000000000000abcd"
    id_ = fleet.send("planpoint.unit.read", "tower", {"id": unit})
    failed = fleet.wait(id_)
    assert failed["data"]["error"]["kind"] == "not_found"
    eventually(lambda: fleet.depth(topology.DEAD) == 1)
    sandbox.seed("planpoint", "units", objects=[{"_id": unit, "name": "Found"}])
    dry = planrelay("dead", "replay", id_, "--dry-run", "--json")
    assert [each["id"] for each in dry.json["would_go_back"]] == [id_]
    assert fleet.depth(topology.DEAD) == 1
    replayed = planrelay("dead", "replay", id_, "--json")
    assert replayed.status == 0, replayed.err
    assert [(each["id"], each["run"]) for each in replayed.json["went_back"]] == [(id_, 2)]
    succeeded = eventually(lambda: [each for each in fleet.events(id_) if each["type"].endswith(".succeeded")])[0]
    assert succeeded["id"] != failed["id"]
    assert succeeded["data"]["attempts"] == 1
    assert succeeded["data"]["result"]["name"] == "Found"
    assert fleet.depth(topology.DEAD) == 0


def test_a_replay_that_is_cut_off_before_the_letter_is_removed_does_no_harm(
    fleet: Fleet, planrelay: CommandLine, sandbox: SandboxThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A letter that was put back and not removed is put back once more: one run, one outcome, one object."""
    fleet.start()
    data = {"floor_id": "00000000000000000000abcd", "name": "Once"}
    id_ = fleet.send("planpoint.unit.create", "tower", data)
    assert fleet.wait(id_)["type"].endswith(".failed")
    eventually(lambda: fleet.depth(topology.DEAD) == 1)
    (project,) = sandbox.seed("planpoint", "projects", 1)
    sandbox.seed("planpoint", "floors", objects=[{"_id": data["floor_id"], "project": project}])
    (letter,) = _copies(fleet)
    assert planrelay("dead", "replay", id_).status == 0
    bury(fleet, letter.body, **{name: value for name, value in letter.headers.items() if name in OURS})
    eventually(lambda: fleet.depth(topology.DEAD) == 1)
    assert planrelay("dead", "replay", id_).status == 0
    eventually(lambda: any(each["type"].endswith(".succeeded") for each in fleet.events(id_)))
    after = fleet.send("planpoint.project.mine", "tower", {})
    fleet.wait(after)  # by then the second copy, too, has been taken
    assert len({each["id"] for each in fleet.events(id_) if each["type"].endswith(".succeeded")}) == 1
    assert sandbox.count("planpoint", "units") == 1


def _copies(fleet: Fleet) -> list[Any]:
    with open_shelf(fleet.settings) as shelf:
        return [SimpleNamespace(body=each.delivery.body, headers=each.delivery.headers) for each in shelf.letters()]


def test_bad_commands_are_replayed_too_and_come_back_once_each(fleet: Fleet, planrelay: CommandLine) -> None:
    """What was no command goes back as it was; where nothing has changed it dies again, as the next run."""
    fleet.start()
    fleet.publish(b"not JSON", routing_key="planpoint.unit.read")
    wrong = fleet.send("planpoint.unit.read", "tower", {"idd": "1"})
    eventually(lambda: fleet.depth(topology.DEAD) == 2)
    first = fleet.wait(wrong)
    assert planrelay("dead", "replay", "--all").status == 0
    eventually(lambda: len(fleet.events(wrong)) == 2 and fleet.depth(topology.DEAD) == 2)
    assert {each["type"] for each in fleet.events(wrong)} == {"planpoint.unit.read.failed"}
    assert len({each["id"] for each in fleet.events(wrong)}) == 2, "a replay's event is one of its own"
    listed = planrelay("dead", "list", "--json").json
    assert [(each["kind"], each["run"]) for each in listed] == [("bad_command", 2)] * 2
    assert {each["exchange"] for each in listed} == {"planrelay.commands"}
    assert {each["routing_key"] for each in listed} == {"planpoint.unit.read"}
    assert first["data"]["error"]["kind"] == "bad_command"


def test_a_command_that_the_broker_gave_up_is_replayed(
    fleet: Fleet, planrelay: CommandLine, sandbox: SandboxThread
) -> None:
    """A message that the broker itself made a dead letter says so, and runs when it is put back."""
    (unit,) = sandbox.seed("planpoint", "units", 1)
    id_ = fleet.send("planpoint.unit.read", "tower", {"id": unit})
    give_up(fleet, topology.work_queue("planpoint"))
    eventually(lambda: fleet.depth(topology.DEAD) == 1)
    (listed,) = planrelay("dead", "list", "--json").json
    assert listed["id"] == id_
    assert listed["kind"] == ("worker_lost" if fleet.amqp else "bug")
    assert (listed["exchange"], listed["routing_key"]) == ("planrelay.commands", "planpoint.unit.read")
    fleet.start()
    assert planrelay("dead", "replay", id_).status == 0
    assert fleet.wait(id_)["type"] == "planpoint.unit.read.succeeded"


def give_up(fleet: Fleet, queue: str) -> None:
    """Make the broker give a message up: too many deliveries on RabbitMQ, a rejection on Valkey."""
    with fleet.connection() as connection:
        channel = connection.channel()
        bound = kombu.Queue(queue, no_declare=True)(channel)
        while not fleet.depth(topology.DEAD):
            message = bound.get()
            if message is None:  # on its way
                continue
            if fleet.amqp:
                message.requeue()
            else:
                message.reject()


def test_a_conflict_is_not_replayed_over_the_command_it_conflicts_with(fleet: Fleet, planrelay: CommandLine) -> None:
    """The same key with other data stays dead, says why, and the first command's failure stands."""
    fleet.start()
    first = fleet.send("planpoint.unit.read", "tower", {"id": "0" * 23 + "1"}, id="same")
    failed = fleet.wait(first)
    eventually(lambda: fleet.depth(topology.DEAD) == 1)
    fleet.send("planpoint.unit.read", "tower", {"id": "0" * 23 + "2"}, id="same")
    eventually(lambda: fleet.depth(topology.DEAD) == 2)
    assert planrelay("dead", "drop", "same", "--type", "*.create").status == 1, "nothing of that type"
    with open_shelf(fleet.settings) as shelf:
        conflict = next(letter for letter in shelf.letters() if letter.kind == "conflict")
    replayed = planrelay("dead", "replay", "same", "--json")
    assert replayed.status == 1
    assert "key of its own" in replayed.json["problems"][0]["problem"]
    assert [each["kind"] for each in replayed.json["problems"]] == ["conflict"]
    eventually(lambda: len({each["id"] for each in fleet.events("same")}) >= 3)  # failed, conflict, failed again
    assert failed["id"] in {each["id"] for each in fleet.events("same")}
    assert conflict.id == "same"


def test_letters_are_chosen_by_id_and_by_type(fleet: Fleet, planrelay: CommandLine) -> None:
    """Ids, --type and --all choose; a command that changes something must be told which."""
    bury_commands(fleet, 3)
    bury(fleet, json.dumps(command("barometerit.entity.read", "acme-bit", {"bn": "1"}, id="bit")).encode())
    eventually(lambda: fleet.depth(topology.DEAD) == 4)
    assert [each["id"] for each in planrelay("dead", "list", "c1", "--json").json] == ["c1"]
    assert [each["id"] for each in planrelay("dead", "list", "--type", "barometerit.*", "--json").json] == ["bit"]
    assert planrelay("dead", "drop").status == 2
    assert planrelay("dead", "drop", "c1", "--all").status == 2
    assert planrelay("dead", "show", "nobody").status == 1
    dropped = planrelay("dead", "drop", "--type", "planpoint.*", "--json")
    assert [each["id"] for each in dropped.json["removed"]] == ["c0", "c1", "c2"]
    eventually(lambda: fleet.depth(topology.DEAD) == 1)
    assert lying(fleet) == ["bit"]


def test_what_a_stranger_says_of_publisher_and_run_is_not_believed() -> None:
    """Only headers of a worker's own user say who published a command: a replay lends nobody another's name."""
    body = json.dumps(command("planpoint.unit.read", "tower", {}, id="1")).encode()

    def letter(user: str | None) -> Any:
        properties = {"user_id": user} if user else {}
        message = SimpleNamespace(
            body=body,
            headers={**OURS, "planrelay-publisher": "crm"},
            properties=properties,
            content_type="application/cloudevents+json",
            content_encoding="utf-8",
            delivery_info={},
        )
        return letter_of(message, user="relay", amqp=True).copy(
            run=2, now=datetime(2026, 1, 1, tzinfo=UTC), user="relay"
        )

    journeys = {user: json.loads(letter(user).headers["planrelay-journey"]) for user in ("relay", "mallory", None)}
    assert journeys["relay"]["publisher"] == "crm"
    assert journeys["mallory"]["publisher"] == "mallory"
    assert "publisher" not in journeys[None]

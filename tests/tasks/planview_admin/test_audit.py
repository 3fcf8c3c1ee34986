"""Audit histories: read to their end, each record once, nothing lost at the seam, also over crashes."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tasks.planview_admin.tasks
from config.connections import Override
from tasks.planview_admin.audit import Seam, instant, mark
from tests.tasks.bench import Bench
from tests.tasks.planview_admin.conftest import BEGAN, Customer
from worker.artifacts import Artifacts
from worker.errors import BadCommand, ContractBroken, Unanswered
from worker.rest import Request, Response
from worker.run import Postpone

CUSTOMER = "planview_admin.customer.audit"
USER = "planview_admin.user.audit"


class Listening(Bench):
    """A bench that keeps the events of its runs."""

    def __init__(self, **connection: Any) -> None:
        super().__init__(tasks.planview_admin.tasks, **connection)
        self.events: list[tuple[str, str, dict[str, Any]]] = []

    async def emit(self, run: Any, type: str, data: Any, id: str) -> None:
        """Keep an event."""
        self.events.append((type, id, json.loads(json.dumps(data))))


@pytest.fixture
def bench() -> Listening:
    """Give a bench that listens."""
    return Listening()


def ids(result: dict[str, Any]) -> list[str]:
    """Give the ids of the records of a result."""
    return [record["id"] for record in result["rows"]]


async def test_records_are_as_received(bench: Bench, customer: Customer) -> None:
    """Nothing is published of them, so nothing is renamed or left out."""
    customer.record(60)

    result = await bench.do(CUSTOMER, {})

    assert result["rows"] == customer.records
    assert result["complete"]


async def test_a_users_history_is_theirs_alone(bench: Bench, customer: Customer) -> None:
    """The path names the user."""
    customer.record(3)
    customer.records[1]["userId"] = "u2"

    assert ids(await bench.do(USER, {"id": "u2"})) == ["r2"]
    assert bench.paths() == ["GET /public/v1/user/u2/audit"]


async def test_since_holds_where_the_vendor_ignores_it(bench: Bench, customer: Customer) -> None:
    """The parameter is assumed: what is older is left out here too."""
    customer.record(5)

    result = await bench.do(CUSTOMER, {"since": (BEGAN + timedelta(minutes=4)).isoformat()})

    assert ids(result) == ["r4", "r5"]
    assert bench.sent[0].query["since"] == "2026-05-01T00:04:00Z"


async def test_the_second_run_has_what_the_first_had_not(bench: Bench, customer: Customer) -> None:
    """Incremental by instant: asked from a while before the last one, and what is known is left out."""
    customer.record(5)
    first = await bench.do(CUSTOMER, {"only_new": True, "overlap": 60})
    customer.record(2)
    second = await bench.do(CUSTOMER, {"only_new": True, "overlap": 60})
    third = await bench.do(CUSTOMER, {"only_new": True, "overlap": 60})

    assert (ids(first), ids(second), ids(third)) == ([f"r{n}" for n in range(1, 6)], ["r6", "r7"], [])
    assert bench.sent[1].query["since"] == "2026-05-01T00:04:00Z"


async def test_records_of_one_instant_are_neither_lost_nor_doubled(bench: Bench, customer: Customer) -> None:
    """A record that shares the last instant and comes after the reading is in the next one."""
    customer.record(3)
    await bench.do(CUSTOMER, {"only_new": True})
    customer.records.append({**customer.records[-1], "id": "twin"})

    assert ids(await bench.do(CUSTOMER, {"only_new": True})) == ["twin"]


async def test_a_record_that_turns_up_late_is_found(bench: Bench, customer: Customer) -> None:
    """Within `overlap` of the last instant; the others are not given again."""
    customer.record(5)
    await bench.do(CUSTOMER, {"only_new": True, "overlap": 180})
    customer.records.insert(2, {**customer.records[2], "id": "late"})

    assert ids(await bench.do(CUSTOMER, {"only_new": True, "overlap": 180})) == ["late"]


async def test_records_without_an_id_are_told_apart_by_content(bench: Bench, customer: Customer) -> None:
    """The order of keys makes no difference, another value does."""
    customer.record(2)
    for record in customer.records:
        record.pop("id")
    await bench.do(CUSTOMER, {"only_new": True})
    customer.records[0] = dict(reversed(customer.records[0].items()))
    customer.records[1] = {**customer.records[1], "event": "Other"}

    result = await bench.do(CUSTOMER, {"only_new": True})

    assert [record["event"] for record in result["rows"]] == ["Other"]


@pytest.mark.parametrize("newest_first", [True, False])
async def test_a_limit_leaves_the_rest_for_the_next_run(bench: Bench, customer: Customer, newest_first: bool) -> None:
    """In whatever order records come: run by run all of them, none twice."""
    customer.record(7)
    if newest_first:
        customer.records.reverse()

    runs = [await bench.do(CUSTOMER, {"only_new": True, "limit": 3, "overlap": 60}) for _ in range(4)]

    assert [run["complete"] for run in runs] == [False, False, True, True]
    assert sorted(id for run in runs for id in ids(run)) == [f"r{n}" for n in range(1, 8)]


async def test_schedules_have_their_own_seam(bench: Bench, customer: Customer) -> None:
    """What one schedule exported is still new to another."""
    customer.record(2)

    for schedule in ("nightly", "weekly"):
        source = f"/planrelay/schedule/{schedule}"
        assert len(ids(await bench.do(CUSTOMER, {"only_new": True}, source=source))) == 2
        assert ids(await bench.do(CUSTOMER, {"only_new": True}, source=source)) == []


async def test_a_redelivery_writes_the_same_records_again(bench: Bench, customer: Customer, tmp_path: Path) -> None:
    """After a crash between the file and the event, the file is whole, not empty."""
    bench.artifacts = Artifacts(("./",), cwd=tmp_path)
    customer.record(3)
    data = {"destination": f"{tmp_path.as_uri()}/audit.jsonl"}

    await bench.do(CUSTOMER, data, key="k")
    await bench.do(CUSTOMER, data, key="k")

    lines = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["r1", "r2", "r3"]
    assert (await bench.do(CUSTOMER, data, key="next"))["rows"] == 0


async def test_records_go_out_as_events(bench: Listening, customer: Customer) -> None:
    """One each, with the record as received; repeated, none."""
    customer.record(3)

    first = await bench.do(CUSTOMER, {"as_events": True})
    second = await bench.do(CUSTOMER, {"as_events": True})

    assert (first["events"], second["events"]) == (3, 0)
    assert {type for type, _, _ in bench.events} == {"planview_admin.audit.recorded"}
    assert [data["record"] for _, _, data in bench.events] == customer.records
    assert bench.events[0][2] == {"connection": "bench", "history": "customer", "record": customer.records[0]}
    assert len({id for _, id, _ in bench.events}) == 3


@pytest.mark.parametrize("how", ["drain", "cut"])
async def test_events_that_were_cut_off_go_on(bench: Listening, customer: Customer, how: str) -> None:
    """A run that ends between two pages: the next one publishes the rest, and counts them all."""
    customer.record(170)
    left = [2]

    def app(request: Request) -> Response:
        left[0] -= 1
        if left[0] < 0 and how == "cut":
            raise Unanswered("cut")
        bench.draining = left[0] < 1 and how == "drain"
        return customer(request)

    bench.wire = app
    with pytest.raises(Postpone):
        await bench.do(CUSTOMER, {"as_events": True}, key="k")
    bench.wire, bench.draining = customer, False

    result = await bench.do(CUSTOMER, {"as_events": True}, key="k")

    assert result["events"] == 170
    assert [data["record"]["id"] for _, _, data in bench.events] == [f"r{n}" for n in range(1, 171)]


async def test_events_that_are_repeated_can_be_recognised(bench: Listening, customer: Customer) -> None:
    """The same record has the same event id, from whichever run."""
    customer.record(2)

    await bench.do(CUSTOMER, {"as_events": True, "only_new": False})
    await bench.do(CUSTOMER, {"as_events": True, "only_new": False})

    assert [id for _, id, _ in bench.events[:2]] == [id for _, id, _ in bench.events[2:]]


async def test_records_without_an_instant_are_no_history(bench: Bench, customer: Customer) -> None:
    """Under a wrong key nobody can tell what is new: the error names the setting."""
    customer.record(2)
    for record in customer.records:
        record["when"] = record.pop("timestamp")

    with pytest.raises(ContractBroken, match=r"fields\.timestamp"):
        await bench.do(CUSTOMER, {"only_new": True})


async def test_a_tenants_own_keys_are_obeyed(customer: Customer) -> None:
    """`fields` of the operation: the keys of instant and id, and the name of the parameter."""
    names = {"timestamp": "when", "id": "uid", "since": "from"}
    bench = Listening(operations={"customer.audit": Override(fields=names)})
    bench.wire = customer
    customer.record(2)
    for number, record in enumerate(customer.records):
        record |= {"when": 1_777_593_600 + number, "uid": number, "id": "same"}

    result = await bench.do(CUSTOMER, {"only_new": True, "since": "2026-05-01T00:00:01Z"})

    assert [record["uid"] for record in result["rows"]] == [1]
    assert bench.sent[0].query["from"] == "2026-05-01T00:00:01Z"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"as_events": True, "destination": "a.jsonl"}, "either destination or as_events"),
        ({"since": "2026-05-01T00:00:00"}, "timezone"),
        ({"overlap": -1}, "overlap"),
    ],
)
async def test_bad_data_is_refused_by_field(bench: Bench, data: dict[str, Any], says: str) -> None:
    """What can't be meant is refused before anything is read."""
    with pytest.raises(BadCommand, match=says):
        await bench.do(CUSTOMER, data)
    assert bench.sent == []


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("2026-05-01T02:00:00+02:00", BEGAN),
        ("2026-05-01T00:00:00.000Z", BEGAN),
        ("2026-05-01T00:00:00.000+0000", BEGAN),
        ("2026-05-01T00:00:00", BEGAN),
        (BEGAN.timestamp(), BEGAN),
        (int(BEGAN.timestamp() * 1000), BEGAN),
        ("yesterday", None),
        (True, None),
        (None, None),
        (1e300, None),
    ],
)
def test_instants_are_read_in_the_usual_forms(value: Any, read: datetime | None) -> None:
    """ISO 8601, seconds and milliseconds; anything else is none."""
    assert instant(value) == read


@given(
    instants=st.lists(st.integers(0, 20), max_size=30),
    cuts=st.lists(st.integers(0, 30), max_size=5),
    limits=st.lists(st.sampled_from([None, 1, 3]), min_size=6, max_size=6),
)
def test_any_readings_give_every_record_once(instants: list[int], cuts: list[int], limits: list[int | None]) -> None:
    """Records that come at any time, in any order within the overlap, read with or without a limit: every one once."""
    records = [(mark({"id": number}), datetime(2026, 5, 1, 0, at, tzinfo=UTC)) for number, at in enumerate(instants)]
    overlap = timedelta(minutes=30)  # as late as a record here may turn up
    state: dict[str, Any] = {}
    given_out: list[str] = []
    for end, limit in zip([*sorted(cuts), *([len(records)] * 40)], [*limits, *([None] * 40)], strict=False):
        seam = Seam.of(json.loads(json.dumps(state)), overlap)
        new = [(one, at) for one, at in records[:end] if seam.is_new(one, at)]
        for one, at in new[:limit]:
            seam.take(one, at)
            given_out.append(one)
        state = seam.state(complete=limit is None or len(new) <= limit)

    assert sorted(given_out) == sorted(one for one, _ in records)

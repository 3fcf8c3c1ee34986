"""Leads: each exported once, and personal data nowhere but in the rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tasks.bench import Bench, answer
from tests.tasks.planpoint.conftest import PROJECT, ident
from worker.artifacts import Artifacts
from worker.errors import BadCommand, Paused, RelayError

LEADS = "planpoint.lead.list"
PERSON = {"name": "Ada Lovelace", "email": "ada@example.com", "phone": "+441234567", "message": "Is it free?"}


@pytest.fixture
def leads(bench: Bench, tmp_path: Path) -> list[dict[str, Any]]:
    """Give the leads that the vendor has, three at first."""
    leads = [{"_id": ident(n), **PERSON} for n in (1, 2, 3)]
    bench.artifacts = Artifacts(("./",), cwd=tmp_path)
    bench.wire = lambda request: answer(leads)
    return leads


def exported(tmp_path: Path, name: str) -> list[str]:
    """Give the ids in a file of leads."""
    return [json.loads(line)["id"] for line in (tmp_path / name).read_text().splitlines()]


async def test_without_a_destination_all_leads_come_each_time(bench: Bench, leads: Any) -> None:
    """Rows in our names; nothing is remembered."""
    for _ in range(2):
        listed = await bench.do(LEADS, {"project_id": PROJECT})
        assert listed["count"] == 3
        assert listed["rows"][0] == {"id": ident(1), **PERSON}
    assert bench.memory == {}


async def test_an_export_has_each_lead_once(bench: Bench, leads: Any, tmp_path: Path) -> None:
    """The next export has what came since, also where the vendor's order changed."""
    first = await bench.do(LEADS, {"project_id": PROJECT, "destination": "1.jsonl"})
    leads.insert(0, {"_id": ident(4), **PERSON})
    second = await bench.do(LEADS, {"project_id": PROJECT, "destination": "2.jsonl"})
    third = await bench.do(LEADS, {"project_id": PROJECT, "destination": "3.jsonl"})

    assert exported(tmp_path, "1.jsonl") == [ident(1), ident(2), ident(3)]
    assert exported(tmp_path, "2.jsonl") == [ident(4)]
    assert exported(tmp_path, "3.jsonl") == []
    assert [export["rows"] for export in (first, second, third)] == [3, 1, 0]
    assert [export["known_before"] for export in (first, second, third)] == [0, 3, 4]


async def test_what_a_limit_left_out_comes_next_time(bench: Bench, leads: Any, tmp_path: Path) -> None:
    """A limited export is not complete, and nothing is lost by it."""
    first = await bench.do(LEADS, {"project_id": PROJECT, "destination": "1.jsonl", "limit": 2})
    second = await bench.do(LEADS, {"project_id": PROJECT, "destination": "2.jsonl", "limit": 2})

    assert (first["complete"], second["complete"]) == (False, True)
    assert exported(tmp_path, "1.jsonl") + exported(tmp_path, "2.jsonl") == [ident(1), ident(2), ident(3)]


async def test_a_repeated_run_writes_the_same_leads_again(bench: Bench, leads: Any, tmp_path: Path) -> None:
    """Killed after the file and before its outcome: the redelivery writes that file again, not an empty one."""
    data = {"project_id": PROJECT, "destination": "1.jsonl"}
    await bench.do(LEADS, data, key="k")
    leads.append({"_id": ident(4), **PERSON})
    await bench.do(LEADS, data, key="k")

    assert exported(tmp_path, "1.jsonl") == [ident(1), ident(2), ident(3)]
    await bench.do(LEADS, {"project_id": PROJECT, "destination": "2.jsonl"})
    assert exported(tmp_path, "2.jsonl") == [ident(4)]


async def test_an_export_that_ends_late_forgets_no_other(bench: Bench, leads: Any, tmp_path: Path) -> None:
    """Cut off before its outcome, overtaken, run again: what the later export had is still known."""
    data = {"project_id": PROJECT, "destination": "1.jsonl"}
    await bench.do(LEADS, data, key="k")
    leads.append({"_id": ident(4), **PERSON})
    await bench.do(LEADS, {"project_id": PROJECT, "destination": "2.jsonl"})

    await bench.do(LEADS, data, key="k")

    last = await bench.do(LEADS, {"project_id": PROJECT, "destination": "3.jsonl"})
    assert (last["rows"], last["known_before"]) == (0, 4)


async def test_leads_that_are_not_all_listed_are_said_so(bench: Bench, leads: Any) -> None:
    """`{records, count}` with another count: not complete, with a warning, also where only new ones are asked for."""
    bench.wire = lambda request: answer({"records": leads, "count": 9})
    for only_new in (False, True):
        result = await bench.do(LEADS, {"project_id": PROJECT, "only_new": only_new})
        assert result["complete"] is False
        assert result["warnings"] == ["Planpoint counts 9 and lists 3; it documents no way to get the rest."]


async def test_each_schedule_and_project_has_its_own_export(bench: Bench, leads: Any, tmp_path: Path) -> None:
    """What one schedule has exported is still new to another."""
    for source in ("/planrelay/schedule/crm", "/planrelay/schedule/mail", "/by/hand"):
        result = await bench.do(LEADS, {"project_id": PROJECT, "destination": "1.jsonl"}, source=source)
        assert result["rows"] == 3
    other = await bench.do(LEADS, {"project_id": ident(0xB2), "destination": "1.jsonl"}, source="/by/hand")
    assert other["rows"] == 3


async def test_only_new_is_what_the_command_says(bench: Bench, leads: Any, tmp_path: Path) -> None:
    """`only_new` overrules the rule, both ways."""
    for _ in range(2):
        full = await bench.do(LEADS, {"project_id": PROJECT, "destination": "1.jsonl", "only_new": False})
        assert full["rows"] == 3
    counts = [(await bench.do(LEADS, {"project_id": PROJECT, "only_new": True}))["count"] for _ in range(2)]
    assert counts == [3, 0]


async def test_leads_without_ids_are_told_apart_by_what_they_say(bench: Bench, leads: Any, tmp_path: Path) -> None:
    """No page promises a lead's `_id`."""
    leads[:] = [{**PERSON, "createdAt": "2026-05-01"}, {**PERSON, "createdAt": "2026-05-02"}]

    first = await bench.do(LEADS, {"project_id": PROJECT, "destination": "1.jsonl"})
    second = await bench.do(LEADS, {"project_id": PROJECT, "destination": "2.jsonl"})

    assert (first["rows"], second["rows"]) == (2, 0)


async def test_what_is_remembered_holds_no_personal_data(bench: Bench, leads: Any) -> None:
    """The state store knows digests, not people."""
    leads.append(PERSON)
    await bench.do(LEADS, {"project_id": PROJECT, "destination": "1.jsonl"}, key="k")

    kept = json.dumps([bench.memory, bench.ledger.steps])
    assert not any(value in kept for value in PERSON.values())


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (json.dumps([{"_id": "1", **PERSON}])[:-5].encode(), 200),
        ([PERSON, "no object"], 200),
        ({"leads": [PERSON]}, 200),
        ({"message": f"cannot show {PERSON['email']} to you"}, 403),
        ({"message": f"no lead of {PERSON['email']}"}, 404),
        (f"Internal error near {PERSON['email']}".encode(), 500),
        ({"message": PERSON["email"]}, 429),
    ],
)
async def test_no_error_tells_personal_data(bench: Bench, body: Any, status: int) -> None:
    """Whatever goes wrong with leads, the vendor's own words stay out of the error."""
    bench.wire = lambda request: answer(body, status)

    with pytest.raises(RelayError) as raised:
        await bench.do(LEADS, {"project_id": PROJECT})

    told = f"{raised.value} {raised.value.message} {raised.value.response} {raised.value.__cause__}"
    assert not any(value in told for value in PERSON.values())
    assert raised.value.status == status


async def test_a_pause_is_still_a_pause(bench: Bench) -> None:
    """Leaving the words out does not change what an error is."""
    bench.wire = lambda request: answer({"message": "x", "paused": True}, 403)

    with pytest.raises(Paused):
        await bench.do(LEADS, {"project_id": PROJECT})


@pytest.mark.parametrize("destination", ["../out.jsonl", "/etc/out.csv", "leads.txt", "ftp://host/x.csv"])
async def test_a_destination_that_cannot_be_is_refused_before_anything_is_asked(
    bench: Bench, leads: Any, destination: str
) -> None:
    """Nothing is sent for a list that has nowhere to go."""
    with pytest.raises(BadCommand, match="destination"):
        await bench.do(LEADS, {"project_id": PROJECT, "destination": destination})

    assert bench.sent == []

"""What commands may say: entity codes, BNs, days, and which fields belong together."""

from typing import Any

import pytest

import tasks.barometerit.tasks
from tasks.barometerit.wire import ENTITY_CODES
from tests.tasks.barometerit.conftest import Tenant
from tests.tasks.bench import Bench
from worker.errors import BadCommand

OPERATIONS = Bench(tasks.barometerit.tasks).operations
BN = "041800002496"


def refused(type: str, data: dict[str, Any]) -> str:
    """Give what a command's data are refused with."""
    with pytest.raises(BadCommand) as raised:
        OPERATIONS[f"barometerit.{type}"].validate(data)
    return raised.value.message


def test_there_are_22_entity_codes() -> None:
    """All that Getting Started lists; applications have none."""
    assert len(ENTITY_CODES) == 22
    assert "APP" not in ENTITY_CODES
    for code in ENTITY_CODES:
        OPERATIONS["barometerit.entity.list"].validate({"type": code})


@pytest.mark.parametrize(("said", "meant"), [("sys", "SYS"), ("systems", "SYS"), ("ORGS", "ORG"), ("report", "ADQ")])
def test_another_entity_code_names_the_rule_and_the_nearest(said: str, meant: str) -> None:
    """A code that is none is refused with all that there are, and the one that was meant."""
    message = refused("entity.list", {"type": said})
    assert message.startswith("data.type: ")
    assert "ACT, AST" in message
    assert f"did you mean {meant}?" in message


async def test_a_bn_of_another_shape_is_a_warning(tenant: Tenant) -> None:
    """It is sent as it is; the result warns."""
    bn = tenant.put(entityDiscriminator="SYS", name="Billing", bn="bit-1")

    result = await tenant.do("entity.read", {"bn": bn})

    assert result["name"] == "Billing"
    assert "bn 'bit-1'" in result["warnings"][0]


async def test_every_bn_in_a_command_is_looked_at(tenant: Tenant) -> None:
    """Also those in lists and in what is nested."""
    data = OPERATIONS["barometerit.association.update"].validate(
        {"source_bn": BN, "added_assocs": [{"target_bn": "x"}], "removed_assocs": [{"target_bn": "y"}]}
    )
    assert list(data.odd_bns()) == ["target_bn 'x'", "target_bn 'y'"]  # type: ignore[attr-defined] # Data has it
    data = OPERATIONS["barometerit.entity.fields.update"].validate({"bn": BN, "fields": {"z": 1}})
    assert list(data.odd_bns()) == ["fields 'z'"]  # type: ignore[attr-defined] # Data has it


@pytest.mark.parametrize("day", ["20.5.2026", "2026-05", "2026-05-20T10:00:00Z", "2026-13-01", 1747699200, True])
def test_days_are_written_as_the_vendor_writes_them(day: Any) -> None:
    """yyyy-mm-dd, a day that exists, and no timestamp."""
    assert "updated_from" in refused("entity.list", {"type": "SYS", "updated_from": day})


@pytest.mark.parametrize(
    ("type", "data", "said"),
    [
        ("entity.create", {"type": "SYS", "properties": {"description": "x"}}, "needs name"),
        ("entity.create", {"type": "SYS", "properties": {"name": "x", "bn": BN}}, "the vendor's to give"),
        (
            "entity.create",
            {"type": "SYS", "properties": {"name": "x"}, "match_on": ["domain"]},
            "match_on names domain",
        ),
        ("entity.update", {"bn": BN, "properties": {}}, "properties"),
        ("entity.update_many", {"bns": [], "properties": {"a": 1}}, "bns"),
        ("fieldset.create", {"name": "x", "match_on": ["name"]}, "match_on needs type"),
        ("association.update", {"source_bn": BN}, "added_assocs, removed_assocs or both"),
        ("proposal.list", {}, "entity_bn or entity_type"),
        ("proposal.list", {"entity_bn": BN, "entity_type": "SYS"}, "one of them"),
        ("report.export", {"report_bn": BN, "destination": "x.csv", "format": "xlsx"}, "format"),
        ("report.export", {"report_bn": BN}, "data.destination is required"),
        ("entity.list", {"type": "SYS", "destination": "x.txt"}, "must end in .jsonl, .ndjson or .csv"),
        ("entity.list", {"type": "SYS", "only_changed": True, "updated_to": "2026-05-20"}, "without updated_to"),
        ("entity.list", {"type": "SYS", "page": 2}, "is not a field of barometerit.entity.list"),
        ("field.create", {"name": "x", "data_type": "NUMBER"}, "data_type"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_field(type: str, data: dict[str, Any], said: str) -> None:
    """Field, rule and remedy in one sentence."""
    assert said in refused(type, data)


def test_every_command_has_a_promise_a_source_and_a_schema() -> None:
    """What `planrelay operations` and `planrelay schema` show."""
    assert len(OPERATIONS) == 32
    for type, operation in OPERATIONS.items():
        assert operation.promise.endswith((".", "gives `saved` and `proposed`.")), type
        assert "Source:" in (operation.body.__doc__ or ""), type
        assert operation.data.model_json_schema()["type"] == "object"
        assert operation.uses, type

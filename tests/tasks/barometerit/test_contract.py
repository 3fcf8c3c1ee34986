"""
Client and stand-in against the pages: every request the one sends and every answer the other gives.

The client and the sandbox know nothing of each other; the facts are a third reading of the same pages.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import tasks.barometerit.tasks
from tasks.barometerit import endpoints
from tests.tasks.barometerit.conftest import Exchange, Tenant
from tests.tasks.barometerit.facts import FACTS
from tests.tasks.bench import Bench
from worker.errors import Forbidden, Invalid, NotFound, Unauthorized
from worker.rest import Endpoint

ENDPOINTS = {one.name: one for one in vars(endpoints).values() if isinstance(one, Endpoint)}
OPERATIONS = Bench(tasks.barometerit.tasks).operations
Data = dict[str, Any]


@dataclass
class Things:
    """One of everything at the vendor."""

    system: str
    other: str
    tag: str
    field: str
    fieldset: str
    report: str
    asset: str


@pytest.fixture
async def things(tenant: Tenant) -> Things:
    """Put one of everything there."""
    system = tenant.put(
        entityDiscriminator="SYS", name="Billing", links=[{"name": "Wiki", "url": "https://example.com"}]
    )
    (other,) = tenant.seed("entities", type="SYS")
    (tag,) = tenant.seed("entities", type="TAG")
    (field,) = tenant.seed("fields")
    (fieldset,) = tenant.sandbox.seed("barometerit", "fieldsets", objects=[{"fields": [field]}], type="SYS")
    (report,) = tenant.seed("reports", rows=10)
    asset = (await tenant.do("report.generate", {"report_bn": report}))["asset_bn"]
    tenant.home.joinpath("out").mkdir(exist_ok=True)
    tenant.file("there.csv").write_text("A,B\n1,2\n")
    tenant.exchanges.clear()
    return Things(system, other, tag, field, fieldset, report, asset)


COMMANDS: dict[str, Callable[[Things], Data]] = {
    "entity.list": lambda at: {
        "type": "SYS",
        "updated_from": "2020-01-01",
        "created_to": "2099-01-01",
        "filter": {"search_string": "i"},
        "operable_filter": {"params": [], "joining_operator": "OR", "search_string": "l"},
        "fieldsets": True,
    },
    "entity.read": lambda at: {"bn": at.system},
    "entity.create": lambda at: {"type": "PHY", "properties": {"name": "New", "domain": "Finance", "type": "Cloud"}},
    "entity.update": lambda at: {"bn": at.system, "properties": {"description": "x", "lifecycle_state": "Planned"}},
    "entity.update_many": lambda at: {"bns": [at.system, at.other], "properties": {"description": "y"}},
    "entity.delete": lambda at: {"bn": at.other},
    "entity.fields.read": lambda at: {"bn": at.system},
    "entity.fields.update": lambda at: {"bn": at.system, "fields": {at.field: "seven"}},
    "entity.links": lambda at: {"bn": at.system},
    "entity.tags": lambda at: {"bn": at.system},
    "entity_properties.read": lambda at: {"type": "SYS"},
    "search": lambda at: {"search_string": "Billing", "entity_types": ["SYS"]},
    "filter.build": lambda at: {"params": [{"ZZ0F00000000": []}], "search_string": "a b"},
    "operable_filter.build": lambda at: {
        "params": [{"key_bn": "ZZ0F00000000", "operator": "EQUALS", "value_bn": "ZZ0M00000000"}]
    },
    "field.list": lambda at: {},
    "field.read": lambda at: {"bn": at.field},
    "field.create": lambda at: {
        "name": "Cost",
        "data_type": "TEXT",
        "display_type": "SINGLE_SELECT",
        "choices": [{"display_value": "High", "stored_value": "H"}],
    },
    "field.update": lambda at: {"bn": at.field, "help_text": "In euro."},
    "field.delete": lambda at: {"bn": at.field},
    "fieldset.list": lambda at: {"type": "SYS"},
    "fieldset.read": lambda at: {"bn": at.fieldset},
    "fieldset.create": lambda at: {"name": "Money", "fields": [at.field], "type": "SYS"},
    "fieldset.update": lambda at: {"bn": at.fieldset, "expanded": True},
    "fieldset.delete": lambda at: {"bn": at.fieldset},
    "association.update": lambda at: {"source_bn": at.system, "added_assocs": [{"target_bn": at.tag}]},
    "association.list": lambda at: {"source_bn": at.system, "target_entity_type": "TAG"},
    "proposal.list": lambda at: {"entity_type": "SYS", "type": "ALL", "conflicts": True},
    "report.generate": lambda at: {"report_bn": at.report},
    "report.size": lambda at: {"asset_bn": at.asset},
    "report.download": lambda at: {"asset_bn": at.asset, "destination": "out/{asset_bn}.csv"},
    "report.export": lambda at: {
        "report_bn": at.report,
        "destination": "out/{report_bn}-{date}.csv",
        "upload_as": "Capacity {date}",
        "delete_asset": True,
    },
    "document.upload": lambda at: {"name": "There", "path": "out/there.csv"},
}
"""Data for every command type: what a person might send."""


def test_every_command_and_every_operation_has_its_facts() -> None:
    """No command type without data here, no endpoint without a fact, no fact without an endpoint."""
    assert {type.removeprefix("barometerit.") for type in OPERATIONS} == COMMANDS.keys()
    assert FACTS.keys() == ENDPOINTS.keys()


@pytest.mark.parametrize("name", FACTS)
def test_endpoints_are_as_documented(name: str) -> None:
    """Method and path of each endpoint, and whether any page shows them."""
    endpoint, fact = ENDPOINTS[name], FACTS[name]
    path = re.sub(r"\{(\w+)\}", lambda found: "SYS" if found[1] == "type" else "0" * 12, endpoint.path)

    assert endpoint.method == fact.method
    assert re.fullmatch(fact.path, path)
    assert (endpoint.evidence == "assumed") == fact.assumed


@pytest.mark.parametrize("type", COMMANDS)
async def test_what_goes_over_the_wire_is_documented(tenant: Tenant, things: Things, type: str) -> None:
    """Every request of every command, and every answer to it, is valid against the facts; the command succeeds."""
    result = await tenant.do(type, COMMANDS[type](things))

    assert "warnings" not in result
    assert tenant.exchanges
    for exchange in tenant.exchanges:
        check(exchange)


async def test_every_operation_is_used(tenant: Tenant, things: Things) -> None:
    """The commands together use every endpoint: none is left unchecked."""
    last = ("entity.delete", "fieldset.delete", "field.delete")
    for type in [*(type for type in COMMANDS if type not in last), *last]:
        await tenant.do(type, COMMANDS[type](things))

    assert {exchange.endpoint.name for exchange in tenant.exchanges} == FACTS.keys()


async def test_a_command_uses_what_it_declares(tenant: Tenant, things: Things) -> None:
    """`planrelay operations` lists every endpoint that a command may call."""
    last = ("entity.delete", "fieldset.delete", "field.delete")
    for type in [*(type for type in COMMANDS if type not in last), *last]:
        tenant.exchanges.clear()
        await tenant.do(type, COMMANDS[type](things))
        declared = {endpoint.name for endpoint in OPERATIONS[f"barometerit.{type}"].uses}
        assert {exchange.endpoint.name for exchange in tenant.exchanges} <= declared


def check(exchange: Exchange) -> None:
    """Hold one exchange against the facts."""
    fact, parts = FACTS[exchange.endpoint.name], exchange.parts
    names = fact.asks.replace("[", "").replace("]", "").split()
    asked = set(parts.get("query") or ())
    assert asked <= set(names)
    assert asked >= set(names) - set(re.findall(r"\[(\w+)\]", fact.asks))
    headers = parts.get("headers") or {}
    assert headers.get("Accept", "application/json;charset=UTF-8").startswith(fact.accepts)
    if exchange.endpoint.method in {"POST", "PUT"}:
        assert headers["Content-Type"].startswith(fact.sends)
    if fact.takes is None:
        assert parts.get("json") is None
    else:
        valid(fact.takes, parts["json"])
    if fact.answers is not None:
        assert exchange.response is not None
        valid(fact.answers, exchange.response.json())


def valid(schema: Any, value: Any) -> None:
    """Fail with every way in which a value is not as documented."""
    problems = [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(value)]
    assert not problems, problems


@pytest.mark.parametrize(
    ("switches", "error", "status"),
    [({"password": "another"}, Unauthorized, 401), ({"editor": False}, Forbidden, 403)],
)
async def test_refusals_have_their_kind(
    tenant: Tenant, things: Things, switches: Data, error: type[Exception], status: int
) -> None:
    """A wrong password and a missing Editor role are told apart."""
    tenant.configure(**switches)
    with pytest.raises(error) as raised:
        await tenant.do("field.update", {"bn": things.field, "name": "x"})
    assert raised.value.status == status  # type: ignore[attr-defined] # every error of the tree has it


async def test_what_is_not_there_is_not_found(tenant: Tenant) -> None:
    """404 is `not_found`."""
    with pytest.raises(NotFound):
        await tenant.do("entity.read", {"bn": "041800009999"})


async def test_what_the_vendor_refuses_is_invalid(tenant: Tenant, things: Things) -> None:
    """400 is `invalid`, with the vendor's own words."""
    with pytest.raises(Invalid, match="lifecycleState must be one of"):
        await tenant.do("entity.update", {"bn": things.system, "properties": {"lifecycle_state": "Never"}})

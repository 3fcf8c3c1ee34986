"""
Client and stand-in against the pages: every request the one sends and every answer the other gives, both generations.

The client and the sandbox know nothing of each other; the facts are a third reading of the same pages.
"""

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from jsonschema import Draft202012Validator

import tasks.planpoint.tasks
from sandbox import Sandbox
from tasks.planpoint import client
from tests.tasks.bench import Bench
from tests.tasks.planpoint.facts import ERROR, FACTS, Fact
from worker.errors import Invalid, NotFound, Paused, Unauthorized
from worker.plans import Plans
from worker.rest import Endpoint, Headers, Request, Response

GENERATIONS = ["A", "B"]
ENDPOINTS = {one.name: one for one in vars(client).values() if isinstance(one, Endpoint)}


@dataclass
class Tenant:
    """One tenant of the sandbox: what is in it, and every exchange with it."""

    sandbox: Sandbox
    generation: str
    session: aiohttp.ClientSession
    project: str = ""
    floor: str = ""
    units: list[str] = field(default_factory=list)
    group: str = ""
    token: str = "sandbox-token"
    exchanges: list[tuple[Request, Response]] = field(default_factory=list)

    def seed(self) -> None:
        """Put one of everything there."""
        put = self.sandbox.seed
        (self.project,) = put("planpoint", "projects", 1, namespace="acme", host_name="acme.example")
        (self.floor,) = put("planpoint", "floors", 1, project=self.project)
        self.units = put("planpoint", "units", 5, floor=self.floor)
        (self.group,) = put("planpoint", "groups", 1, namespace="acme", host_name="acme.example")
        put("planpoint", "enterprises", 1, namespace="acme", host_name="acme.example")
        put("planpoint", "leads", 3, project=self.project)

    async def wire(self, request: Request) -> Response:
        """Send one request as the gateway would."""
        authorization = self.token if self.generation == "A" else f"Bearer {self.token}"
        async with self.session.request(
            request.method,
            self.sandbox.base_url("planpoint") + request.path,
            params={name: str(value) for name, value in request.query.items()},
            json=request.json,
            headers={"Authorization": authorization, "Accept": "application/json"},
        ) as answer:
            headers = Headers([(name, value) for name, value in answer.headers.items()])
            response = Response(status=answer.status, headers=headers, body=await answer.read())
        self.exchanges.append((request, response))
        return response


@pytest.fixture(params=GENERATIONS)
async def tenant(request: pytest.FixtureRequest) -> AsyncIterator[Tenant]:
    """Give a tenant of either generation, with one of everything."""
    async with Sandbox() as sandbox, aiohttp.ClientSession() as session:
        sandbox.configure("planpoint", generation=request.param)
        tenant = Tenant(sandbox, request.param, session)
        tenant.seed()
        yield tenant


@pytest.fixture
def bench(tenant: Tenant, plans: Plans) -> Bench:
    """Give a bench on that tenant."""
    bench = Bench(tasks.planpoint.tasks)
    bench.wire = tenant.wire
    bench.plans = plans
    return bench


Data = dict[str, Any]
FOUND = {"namespace": "acme", "host_name": "acme.example"}
COMMANDS: dict[str, Callable[[Tenant], Data]] = {
    "planpoint.project.find": lambda tenant: FOUND,
    "planpoint.project.mine": lambda tenant: {},
    "planpoint.project.read": lambda tenant: {"id": tenant.project},
    "planpoint.project.create": lambda tenant: {"name": "New", "namespace": "acme", "properties": {"hideSold": True}},
    "planpoint.project.update": lambda tenant: {"id": tenant.project, "changes": {"show_prices": False}},
    "planpoint.project.delete": lambda tenant: {"id": tenant.project},
    "planpoint.group.find": lambda tenant: FOUND,
    "planpoint.group.list": lambda tenant: {},
    "planpoint.group.read": lambda tenant: {"id": tenant.group},
    "planpoint.group.create": lambda tenant: {"name": "New group", "host_name": "new.example", "type": "residential"},
    "planpoint.group.update": lambda tenant: {"id": tenant.group, "changes": {"name": "Other"}},
    "planpoint.enterprise.find": lambda tenant: FOUND,
    "planpoint.floor.list": lambda tenant: {"project_id": tenant.project},
    "planpoint.floor.read": lambda tenant: {"id": tenant.floor},
    "planpoint.floor.create": lambda tenant: {
        "project_id": tenant.project,
        "name": "Roof",
        "position": 9,
        "alternative_paths": ["M0"],
    },
    "planpoint.floor.update": lambda tenant: {"id": tenant.floor, "changes": {"position": 2}},
    "planpoint.unit.list": lambda tenant: {"project_id": tenant.project},
    "planpoint.unit.read": lambda tenant: {"id": tenant.units[0]},
    "planpoint.unit.create": lambda tenant: {"floor_id": tenant.floor, "name": "New", "status": "Sold", "price": 5},
    "planpoint.unit.update": lambda tenant: {"id": tenant.units[0], "changes": {"status": "OnHold", "sqft": 80}},
    "planpoint.unit.update_many": lambda tenant: {"ids": tenant.units, "changes": {"status": "Leased", "price": 7}},
    "planpoint.unit.delete": lambda tenant: {"id": tenant.units[0]},
    "planpoint.units.sync": lambda tenant: {
        "project_id": tenant.project,
        "rows": [{"unit_number": "000001", "price": 1, "status": "Sold"}, {"unit_number": "000002", "bed": 9}],
        "key": "unit_number",
        "mode": "apply",
        "max_changed": 1,
    },
    "planpoint.lead.list": lambda tenant: {"project_id": tenant.project},
}
"""Data for every command type: what a person might send."""


def test_every_command_and_every_operation_has_its_facts(plans: Plans) -> None:
    """No command type without data here, no endpoint without a fact, no fact without an endpoint."""
    assert COMMANDS.keys() == Bench(tasks.planpoint.tasks).operations.keys()
    assert FACTS.keys() == ENDPOINTS.keys()


@pytest.mark.parametrize("name", FACTS)
def test_endpoints_are_as_documented(name: str) -> None:
    """Method and path of each endpoint."""
    endpoint, fact = ENDPOINTS[name], FACTS[name]

    assert endpoint.method == fact.method
    assert re.fullmatch(fact.path, endpoint.path.replace("{id}", "a" * 24))


@pytest.mark.parametrize("type", COMMANDS)
async def test_what_goes_over_the_wire_is_documented(bench: Bench, tenant: Tenant, type: str) -> None:
    """Every request of every command, and every answer to it, is valid against the facts; the command succeeds."""
    result = await bench.do(type, COMMANDS[type](tenant))

    assert "warnings" not in result
    assert tenant.exchanges
    for request, response in tenant.exchanges:
        check(FACTS[request.endpoint.name], request, response, tenant.generation)


async def test_every_operation_is_used(bench: Bench, tenant: Tenant) -> None:
    """The commands together use every endpoint: none is left unchecked."""
    last = ("planpoint.unit.delete", "planpoint.project.delete")
    for type in [*(type for type in COMMANDS if type not in last), *last]:
        await bench.do(type, COMMANDS[type](tenant))

    assert {request.endpoint.name for request, _ in tenant.exchanges} == FACTS.keys()


def check(fact: Fact, request: Request, response: Response, generation: str) -> None:
    """Hold one exchange against the facts."""
    assert re.fullmatch(fact.path, request.path), request.path
    assert set(request.query) == set(fact.asks)
    if fact.takes is None:
        assert request.json is None
    else:
        valid(fact.takes, request.json)
    assert response.status == (fact.created if generation == "B" else 200)
    valid(fact.b if generation == "B" else fact.a, json.loads(response.body))


def valid(schema: Any, value: Any) -> None:
    """Fail with every way in which a value is not as documented."""
    problems = [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(value)]
    assert not problems, problems


Provoke = Callable[[Bench, Tenant], Awaitable[Any]]


async def _wrong_token(bench: Bench, tenant: Tenant) -> None:
    tenant.token = "wrong"
    await bench.do("planpoint.unit.read", {"id": tenant.units[0]})


async def _missing_unit(bench: Bench, tenant: Tenant) -> None:
    await bench.do("planpoint.unit.read", {"id": "f" * 24})


async def _bad_body(bench: Bench, tenant: Tenant) -> None:
    await bench.do("planpoint.unit.update", {"id": tenant.units[0], "changes": {"status": 7}})


async def _paused(bench: Bench, tenant: Tenant) -> None:
    tenant.sandbox.configure("planpoint", paused={"value": True, "reason": "unpaid"})
    await bench.do("planpoint.unit.read", {"id": tenant.units[0]})


@pytest.mark.parametrize(
    ("provoke", "error", "status"),
    [
        (_wrong_token, Unauthorized, 401),
        (_missing_unit, NotFound, 404),
        (_bad_body, Invalid, 400),
        (_paused, Paused, 403),
    ],
)
async def test_errors_are_as_documented(
    bench: Bench, tenant: Tenant, provoke: Provoke, error: type[Exception], status: int
) -> None:
    """A refusal is `{message, paused?}` with its documented status, and the error tree's own kind here."""
    with pytest.raises(error):
        await provoke(bench, tenant)

    _, response = tenant.exchanges[-1]
    assert response.status == status
    valid(ERROR, json.loads(response.body))


async def test_both_generations_give_the_same_unit(plans: Plans) -> None:
    """One unit, read from either generation: the same result, whatever its fields are called there."""
    results = []
    for generation in GENERATIONS:
        async with Sandbox() as sandbox, aiohttp.ClientSession() as session:
            sandbox.configure("planpoint", generation=generation)
            tenant = Tenant(sandbox, generation, session)
            tenant.seed()
            bench = Bench(tasks.planpoint.tasks)
            bench.wire = tenant.wire
            unit = await bench.do("planpoint.unit.read", {"id": tenant.units[0]})
            results.append({**unit, "bed": int(unit["bed"]), "bath": int(unit["bath"])})

    assert results[0] == results[1]
    assert results[0].keys() >= {"id", "floor", "name", "unit_number", "status", "price", "bed", "bath", "sqft"}

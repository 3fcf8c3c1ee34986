"""Planview Admin's commands through the real gateway to the sandbox: every command, pages, faults, the token."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import tasks.planview_admin.tasks
from config.connections import Connection
from config.settings import Retry, Settings
from sandbox import Sandbox
from tasks.planview_admin import SYSTEM, client
from tests.tasks.bench import Bench
from worker.errors import ContractBroken, RelayError, Unauthorized
from worker.gateway import Gateway, Wire
from worker.plans import Plans
from worker.rest import Endpoint
from worker.run import Postpone
from worker.telemetry import Metrics

PATIENT = Settings(
    retry=Retry(
        backoff_initial=timedelta(milliseconds=5),
        backoff_ceiling=timedelta(milliseconds=20),
        inline_wait=timedelta(milliseconds=50),
        max_retry_after=timedelta(minutes=1),
        max_age=timedelta(hours=1),
    )
)
RECONCILE = "planview_admin.users.reconcile"


class Tenant:
    """A customer of the sandbox and a bench that reaches it as a worker does."""

    def __init__(self, sandbox: Sandbox, plans: Plans, **connection: Any) -> None:
        self.sandbox = sandbox
        signs_in = {"client_id": "sandbox-client", "client_secret": "sandbox-secret", **connection}
        self.connection = Connection(
            name="admin", system="planview_admin", base_url=sandbox.base_url("planview_admin"), **signs_in
        )
        self.wire = Wire(
            settings=PATIENT,
            systems={"planview_admin": SYSTEM},
            redis=None,
            worker_id="worker",
            observer=Metrics(),
            clock=lambda: datetime.now(UTC),
            rng=random.Random(5),
        )
        self.bench = Bench(tasks.planview_admin.tasks)
        self.bench.connection = self.connection
        self.bench.plans = plans
        self.bench.make_gateway = lambda: Gateway(self.wire, self.connection)

    async def reconcile(self, rows: list[dict[str, Any]], key: str, **more: Any) -> dict[str, Any]:
        """Reconcile, redelivered until it has its outcome, after the wait that the vendor asked for."""
        for _ in range(200):
            try:
                return await self.bench.do(RECONCILE, {"roster": rows, "mode": "apply", **more}, key=key)
            except Postpone:
                continue
            except RelayError as error:
                after: timedelta | None = getattr(error, "after", None)
                await asyncio.sleep(after.total_seconds() if after else 0)  # where a worker would park it
        raise AssertionError("200 redeliveries were not enough")

    def users(self) -> dict[str, dict[str, Any]]:
        """Give the users that the sandbox has, by their address."""
        return {user["email"]: user for user in self.sandbox.state("planview_admin", "users")}


@pytest.fixture
async def tenant(plans: Plans) -> AsyncIterator[Tenant]:
    """Give a tenant."""
    async with Sandbox() as sandbox:
        tenant = Tenant(sandbox, plans)
        yield tenant
        await tenant.wire.close()


COMMANDS: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "planview_admin.user.search": lambda user, product: {"status": "Active"},
    "planview_admin.user.read": lambda user, product: {"id": user},
    "planview_admin.user.create": lambda user, product: {"email": "n@x.y", "first_name": "N", "last_name": "N"},
    "planview_admin.user.update": lambda user, product: {"id": user, "changes": {"first_name": "Eda"}},
    "planview_admin.user.deactivate": lambda user, product: {"id": user},
    "planview_admin.user.reactivate": lambda user, product: {"id": user},
    "planview_admin.user.provision": lambda user, product: {
        "email": "p@x.y",
        "first_name": "P",
        "last_name": "P",
        "products": ["Product Teams"],
    },
    RECONCILE: lambda user, product: {"roster": [{"id": user, "last_name": "New"}], "mode": "apply"},
    "planview_admin.user.audit": lambda user, product: {"id": user},
    "planview_admin.customer.audit": lambda user, product: {},
    "planview_admin.product.list": lambda user, product: {},
    "planview_admin.product.users": lambda user, product: {"product_id": product},
    "planview_admin.user.delete": lambda user, product: {"id": user},
}
"""Data for every command type, in an order in which all of them make sense."""


async def test_every_command_succeeds_and_every_operation_is_used(tenant: Tenant) -> None:
    """All types of the contract against the stand-in, which reads the page for itself; no warning, no 4xx."""
    (product,) = tenant.sandbox.seed("planview_admin", "products", objects=[{"name": "Product Teams"}])
    (user, *_) = tenant.sandbox.seed("planview_admin", "users", 3)
    used = {endpoint.name for one in tenant.bench.operations.values() for endpoint in one.uses}

    assert COMMANDS.keys() == tenant.bench.operations.keys()
    assert used == {one.name for one in vars(client).values() if isinstance(one, Endpoint)}
    for type, data in COMMANDS.items():
        assert "warnings" not in await tenant.bench.do(type, data(user, product)), type

    assert all(entry.status is not None and entry.status < 300 for entry in tenant.sandbox.journal.entries())
    asked = {(entry.method, entry.operation) for entry in tenant.sandbox.journal.entries()}
    assert {operation for _, operation in asked} == {
        *("token.create", "user.list", "user.create", "user.read", "user.update", "user.delete"),
        *("user.audit", "customer.audit", "product.list", "product.users"),
    }


def test_only_what_the_page_says_counts_as_known() -> None:
    """Everything but the list of users is marked as assumed."""
    endpoints = [one for one in vars(client).values() if isinstance(one, Endpoint)]

    assert {one.name for one in endpoints if one.evidence != "assumed"} == {"user.list"}
    assert {one.name for one in endpoints if not one.replayable} == {"user.create"}


@pytest.mark.parametrize("bug", ["zero", "missing", "repeat"])
async def test_pages_that_never_end_are_an_error(tenant: Tenant, bug: str) -> None:
    """`itemsPerPage` 0 or missing, or the first page for ever: `ContractBroken` after two calls at most."""
    tenant.sandbox.seed("planview_admin", "users", 300)
    tenant.sandbox.configure("planview_admin", page_bug=bug)

    with pytest.raises(ContractBroken):
        await tenant.bench.do("planview_admin.user.search", {})
    assert tenant.sandbox.journal.count(operation="user.list") <= 2


async def test_a_smaller_page_than_asked_for_is_obeyed(tenant: Tenant) -> None:
    """The vendor's largest page holds; the next begins where its answer says."""
    tenant.sandbox.seed("planview_admin", "users", 95)
    tenant.sandbox.configure("planview_admin", page_max=20)

    assert (await tenant.bench.do("planview_admin.user.search", {}))["count"] == 95
    assert tenant.sandbox.journal.count(operation="user.list") == 5


async def test_a_token_that_dies_under_200_calls_is_renewed_once(tenant: Tenant) -> None:
    """One renewal for all, and no command fails."""
    ids = tenant.sandbox.seed("planview_admin", "users", 200)
    await tenant.bench.do("planview_admin.user.read", {"id": ids[0]})
    tenant.sandbox.configure("planview_admin", latency="20ms")
    tenant.sandbox.invalidate_tokens("planview_admin")
    tenant.connection = tenant.bench.connection = tenant.connection.model_copy(update={"max_in_flight": 200})

    users = await asyncio.gather(*(tenant.bench.do("planview_admin.user.read", {"id": id}) for id in ids))

    assert [user["id"] for user in users] == ids
    assert tenant.sandbox.journal.count(operation="token.create") == 2


async def test_refused_credentials_are_tried_once(plans: Plans) -> None:
    """20 commands at once: each is `unauthorized`, the vendor is asked for a token once."""
    async with Sandbox() as sandbox:
        tenant = Tenant(sandbox, plans, client_secret="wrong")
        ends = await asyncio.gather(
            *(tenant.bench.do("planview_admin.product.list", {}) for _ in range(20)), return_exceptions=True
        )
        await tenant.wire.close()

        assert {type(end) for end in ends} == {Unauthorized}
        assert sandbox.journal.counts(by="operation") == {"token.create": 1}
        assert "wrong" not in json.dumps([str(end) for end in ends])


@pytest.mark.parametrize("seed", range(3))
async def test_faults_in_the_middle_leave_the_directory_as_planned(tenant: Tenant, seed: int) -> None:
    """
    429s, 500s, resets before and after the effect, truncated and malformed bodies: everybody ends as the roster has it,
    nobody is made twice, and no write took effect twice.
    """
    sandbox = tenant.sandbox
    sandbox.seed("planview_admin", "users", 260)
    before = tenant.users()
    rows: list[dict[str, Any]] = [{"email": email} for email in list(before)[3:]]
    for row in rows[:40]:
        row["first_name"] = "Eda"
    rows += [{"email": f"new{n}@example.com", "first_name": "New", "last_name": f"No{n}"} for n in range(20)]
    add = sandbox.faults.add
    add("status", vendor="planview_admin", status=429, headers={"Retry-After": "0"}, probability=0.05, seed=seed)
    add("status", vendor="planview_admin", status=500, probability=0.05, seed=seed + 10)
    add("status", vendor="planview_admin", status=500, after_effect=True, probability=0.05, seed=seed + 20)
    add("reset", vendor="planview_admin", probability=0.04, seed=seed + 30)
    add("reset", vendor="planview_admin", after_effect=True, probability=0.04, seed=seed + 40)
    add("truncate", vendor="planview_admin", probability=0.04, seed=seed + 50)
    add("malformed", vendor="planview_admin", method="PATCH", probability=0.05, seed=seed + 60)

    result = await tenant.reconcile(rows, "k", deactivate_missing=True)

    assert (result["state"], result["summary"]["not_applied"]) == ("applied", 0)
    after = tenant.users()
    assert {email for email, user in after.items() if user["status"] == "Inactive"} == set(list(before)[:3])
    assert [after[row["email"]]["firstName"] for row in rows[:40]] == ["Eda"] * 40
    assert len(after) == 280
    assert sandbox.duplicates() == []
    effects = [tuple(effect) for entry in sandbox.journal.entries() for effect in entry.effects if effect[1] == "users"]
    assert len(effects) == len(set(effects)) == 63

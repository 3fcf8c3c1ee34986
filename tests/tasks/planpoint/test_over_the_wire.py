"""Planpoint's commands through the real gateway to the sandbox: large sheets, faults in the middle, sign-in."""

import json
import random
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest

import tasks.planpoint.tasks
from config.connections import Connection
from config.settings import Retry, Settings
from sandbox import Sandbox
from tasks.planpoint import SYSTEM
from tests.tasks.bench import Bench
from worker.errors import Paused, RelayError, Unauthorized
from worker.gateway import Gateway, Wire
from worker.plans import Plans
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


class Tenant:
    """A project of the sandbox and a bench that reaches it as a worker does."""

    def __init__(self, sandbox: Sandbox, plans: Plans, generation: str, **connection: Any) -> None:
        sandbox.configure("planpoint", generation=generation)
        self.sandbox = sandbox
        signs_in = connection or {"token": "sandbox-token", "auth": "bearer" if generation == "B" else "raw"}
        self.connection = Connection(
            name="tower", system="planpoint", base_url=sandbox.base_url("planpoint"), **signs_in
        )
        self.wire = Wire(
            settings=PATIENT,
            systems={"planpoint": SYSTEM},
            redis=None,
            worker_id="worker",
            observer=Metrics(),
            clock=lambda: datetime.now(UTC),
            rng=random.Random(5),
        )
        self.bench = Bench(tasks.planpoint.tasks)
        self.bench.connection = self.connection
        self.bench.plans = plans
        self.bench.make_gateway = lambda: Gateway(self.wire, self.connection, bulk=True)
        (self.project,) = sandbox.seed("planpoint", "projects", 1)
        (self.floor,) = sandbox.seed("planpoint", "floors", 1, project=self.project)

    async def sync(self, rows: list[dict[str, Any]], key: str, **more: Any) -> dict[str, Any]:
        """Sync, redelivered until it has its outcome."""
        data = {"project_id": self.project, "rows": rows, "key": "unit_number", "mode": "apply", **more}
        for _ in range(60):
            try:
                return await self.bench.do("planpoint.units.sync", data, key=key)
            except (Postpone, RelayError):
                continue
        raise AssertionError("60 redeliveries were not enough")

    def shown(self) -> dict[str, tuple[Any, Any]]:
        """Give the price and the status of each unit that the sandbox has, by its number."""
        units = self.sandbox.state("planpoint", "units")
        return {unit["unitNumber"]: (unit["price"], unit["status"]) for unit in units}


@pytest.fixture(params=["B", "A"])
async def tenant(request: pytest.FixtureRequest, plans: Plans) -> AsyncIterator[Tenant]:
    """Give a tenant of either generation."""
    async with Sandbox() as sandbox:
        tenant = Tenant(sandbox, plans, request.param)
        yield tenant
        await tenant.wire.close()


async def test_a_large_project_costs_a_read_its_distinct_patches_and_a_read(tenant: Tenant) -> None:
    """
    5,000 units, a sheet that changes 10 % in twenty ways: 22 calls, under ten seconds of our own time (the sandbox's
    is in it here); repeated, one read and no write.
    """
    tenant.sandbox.seed("planpoint", "units", 5_000, floor=tenant.floor)
    rows = [{"unit_number": f"{n:06}", "price": n % 20 + 1} for n in range(1, 501)]
    rows += [{"unit_number": f"{n:06}"} for n in range(501, 5_001)]
    began = time.process_time()

    first = await tenant.sync(rows, "first")

    assert time.process_time() - began < 10
    assert first["summary"]["applied"] == 500
    assert "warnings" not in first
    calls = tenant.sandbox.journal.counts(by="operation")
    assert calls == {"unit.list": 2, "unit.update_many": 20}

    again = await tenant.sync(rows, "again")

    assert again["summary"]["changed"] == 0
    assert tenant.sandbox.journal.counts(by="operation") == {"unit.list": 3, "unit.update_many": 20}


@pytest.mark.parametrize("seed", range(3))
async def test_faults_in_the_middle_leave_the_project_as_planned(tenant: Tenant, seed: int) -> None:
    """500s, resets before and after the effect, truncated and malformed bodies: every unit ends as the sheet has it."""
    tenant.sandbox.seed("planpoint", "units", 300, floor=tenant.floor)
    before = tenant.shown()
    rows = [{"unit_number": f"{n:06}", "price": n % 30, "status": "OnHold"} for n in range(1, 121)]
    faults = tenant.sandbox.faults
    faults.add("status", vendor="planpoint", status=500, probability=0.1, seed=seed)
    faults.add("status", vendor="planpoint", status=500, after_effect=True, probability=0.05, seed=seed + 10)
    faults.add("reset", vendor="planpoint", probability=0.05, seed=seed + 20)
    faults.add("reset", vendor="planpoint", after_effect=True, probability=0.05, seed=seed + 30)
    faults.add("truncate", vendor="planpoint", probability=0.05, seed=seed + 40)
    faults.add("malformed", vendor="planpoint", method="PATCH", probability=0.05, seed=seed + 50)

    result = await tenant.sync(rows, "k", max_changed=1)

    assert result["state"] == "applied"
    assert result["summary"]["applied"] == 120
    wanted = {row["unit_number"]: (row["price"], "OnHold") for row in rows}
    assert tenant.shown() == before | wanted
    assert tenant.sandbox.count("planpoint", "units") == 300
    assert tenant.sandbox.duplicates() == []


async def test_a_smaller_largest_batch_than_ours_is_lived_with(tenant: Tenant) -> None:
    """A vendor that refuses more than ten ids: all units are written all the same, singly."""
    tenant.sandbox.configure("planpoint", batch_max=10)
    tenant.sandbox.seed("planpoint", "units", 30, floor=tenant.floor)

    result = await tenant.sync([{"unit_number": f"{n:06}", "price": 1} for n in range(1, 31)], "k", max_changed=1)

    assert result["summary"]["applied"] == 30
    assert {price for price, _ in tenant.shown().values()} == {1}


async def test_a_paused_project_ends_the_command(tenant: Tenant) -> None:
    """A pause in the middle is final, and says why."""
    tenant.sandbox.seed("planpoint", "units", 5, floor=tenant.floor)
    tenant.sandbox.configure("planpoint", paused={"value": True, "reason": "unpaid invoice"})

    with pytest.raises(RelayError, match="unpaid invoice") as raised:
        await tenant.bench.do("planpoint.unit.list", {"project_id": tenant.project})

    assert raised.value.kind == "paused"
    assert tenant.sandbox.journal.count(operation="unit.list") == 1


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_pause_is_not_asked_again_whatever_its_status(tenant: Tenant, status: int) -> None:
    """A status that is otherwise waited out: sent once, and a create is not looked for."""
    body = {"message": "suspended", "paused": True}
    tenant.sandbox.faults.add("status", vendor="planpoint", status=status, body=body, headers={"Retry-After": "0"})

    for type, data in (("group.list", {}), ("group.create", {"name": "North"})):
        with pytest.raises(Paused, match="suspended"):
            await tenant.bench.do(f"planpoint.{type}", data)

    assert tenant.sandbox.journal.counts(by="operation") == {"group.list": 2}


async def test_a_create_that_is_cut_off_makes_one_unit(tenant: Tenant) -> None:
    """Reset after the effect: the redelivery finds the unit, also beside an old one of the same name."""
    tenant.sandbox.seed("planpoint", "units", objects=[{"name": "101"}], floor=tenant.floor)
    tenant.sandbox.faults.add("reset", operation="unit.create", after_effect=True, times=1)
    data = {"floor_id": tenant.floor, "name": "101", "status": "Sold", "price": 5}

    with pytest.raises(RelayError):
        await tenant.bench.do("planpoint.unit.create", data, key="k")
    made = await tenant.bench.do("planpoint.unit.create", data, key="k")

    assert (made["how"], made["status"], made["price"]) == ("found", "Sold", 5)
    assert tenant.sandbox.count("planpoint", "units") == 2


@pytest.mark.parametrize("generation", ["A", "B"])
async def test_signing_in_with_a_password_is_renewed_and_tells_no_secrets(plans: Plans, generation: str) -> None:
    """A login gives the token; when it is refused one new login follows; nothing of the answer's secrets comes out."""
    async with Sandbox() as sandbox:
        style = "bearer" if generation == "B" else "raw"
        who = {"username": "relay@example.com", "password": "sandbox-password", "auth": style}
        tenant = Tenant(sandbox, plans, generation, **who)
        (unit,) = sandbox.seed("planpoint", "units", 1, floor=tenant.floor)
        first = await tenant.bench.do("planpoint.unit.read", {"id": unit})
        sandbox.invalidate_tokens("planpoint")
        second = await tenant.bench.do("planpoint.unit.read", {"id": unit})
        project = await tenant.bench.do("planpoint.project.read", {"id": tenant.project})
        await tenant.wire.close()

        assert first == second
        assert sandbox.journal.count(operation="user.login") == 2
        assert not any(word in json.dumps([first, project]) for word in ("reset-token", "cus_sandbox"))


@pytest.mark.parametrize("fault", ["malformed", "truncate", "short"])
async def test_a_login_that_cannot_be_read_tells_no_secrets(
    plans: Plans, fault: Literal["malformed", "truncate", "short"]
) -> None:
    """A broken answer to a login, secrets and all, stays out of the error."""
    async with Sandbox() as sandbox:
        who = {"username": "relay@example.com", "password": "sandbox-password", "auth": "raw"}
        tenant = Tenant(sandbox, plans, "A", **who)
        sandbox.faults.add(fault, operation="user.login", fraction=0.9)

        with pytest.raises(RelayError) as raised:
            await tenant.bench.do("planpoint.project.mine", {})
        await tenant.wire.close()

    told = f"{raised.value.message} {raised.value.response}"
    assert "sandbox-reset-token" not in told
    assert "cus_sandbox" not in told


async def test_a_wrong_token_is_unauthorized(plans: Plans) -> None:
    """A token that the vendor refuses ends the command, after one look."""
    async with Sandbox() as sandbox:
        tenant = Tenant(sandbox, plans, "B", token="wrong")
        with pytest.raises(Unauthorized):
            await tenant.bench.do("planpoint.project.mine", {})
        await tenant.wire.close()

        assert sandbox.journal.count() == 1

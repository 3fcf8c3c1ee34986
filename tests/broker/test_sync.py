"""A price list and a project, kept equal by real workers while everything goes wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.fleet import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox import SandboxThread
    from tests.fleet import Fleet


def test_a_sync_whose_worker_is_killed_among_faults_ends_as_planned(
    make_fleet: Callable[..., Fleet], amqp_url: str, sandbox: SandboxThread
) -> None:
    """500s, resets, broken bodies, and a worker killed in the middle: each unit as the sheet has it, none twice."""
    fleet = make_fleet(amqp_url)
    (project,) = sandbox.seed("planpoint", "projects", 1)
    (floor,) = sandbox.seed("planpoint", "floors", 1, project=project)
    sandbox.seed("planpoint", "units", 200, floor=floor)
    faults = sandbox.faults
    faults.add("delay", operation="unit.update_many", delay="100ms")
    faults.add("status", vendor="planpoint", status=500, probability=0.1, seed=1)
    faults.add("status", vendor="planpoint", status=500, after_effect=True, probability=0.05, seed=2)
    faults.add("reset", vendor="planpoint", after_effect=True, probability=0.05, seed=3)
    faults.add("truncate", vendor="planpoint", probability=0.05, seed=4)
    faults.add("malformed", vendor="planpoint", method="PATCH", probability=0.05, seed=5)
    rows = [{"unit_number": f"{n:06}", "price": n % 40, "status": "OnHold"} for n in range(1, 151)]
    (worker,) = fleet.start()
    before = {unit["unitNumber"]: unit["price"] for unit in sandbox.state("planpoint", "units")}

    sent = fleet.send(
        "planpoint.units.sync",
        "tower",
        {"project_id": project, "rows": rows, "key": "unit_number", "mode": "apply", "max_changed": 1},
    )
    eventually(lambda: sandbox.journal.count(operation="unit.update_many") >= 12, what="a dozen batches")
    worker.kill()
    fleet.start()
    result = fleet.wait(sent, within=60)["data"]["result"]

    assert (result["state"], result["summary"]["applied"]) == ("applied", 150)
    after = {unit["unitNumber"]: unit["price"] for unit in sandbox.state("planpoint", "units")}
    assert after == before | {row["unit_number"]: row["price"] for row in rows}
    assert sandbox.count("planpoint", "units") == 200

"""
Commands that plan, wait for a decision where a brake was tripped, and apply.

What such commands have in common: a plan is kept before anything is written, an approved one is found by the id that
`planrelay plan approve` puts into the data, and a result tells the plan and what came of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from worker.errors import BadCommand
from worker.plans import Plan, PlanState, plan_id

if TYPE_CHECKING:
    from worker.command import CommandData
    from worker.run import Run

SHOWN: Final = 200
"""Rows of a plan that a result shows; all are in the plan and in its `destination`."""

SHOWN_BYTES: Final = 100_000
"""About as many bytes of them: a result is for an event, which carries 256 KiB."""

Item = dict[str, Any]


async def keep(
    run: Run,
    data: CommandData,
    items: Iterable[Mapping[str, Any]],
    *,
    summary: Mapping[str, Any],
    reasons: tuple[str, ...],
    held: bool,
) -> Plan:
    """Keep the plan of this command, in place of one that an earlier run of it made."""
    plan = Plan(
        id=plan_id(run.digest),
        type=run.command.type,
        connection=run.connection.name,
        data=data.model_dump(mode="json", exclude_defaults=True, exclude={"plan_id"}),
        created_at=run.now(),
        summary=summary,
        reasons=reasons,
        state=PlanState.HELD if held else PlanState.PLANNED,
    )
    return await run.plans.keep(plan, items)


async def approved(run: Run, id: str, what: str, **scope: Any) -> Plan:
    """
    Give the approved plan that this command is to apply.

    `what` names what the plan must be of ("this project"), `scope` the fields of its data that say so. Raises
    `BadCommand` for any other plan.
    """
    plan = await run.plans.load(id)
    mine = (run.command.type, run.connection.name, scope)
    if (plan.type, plan.connection, {name: plan.data.get(name) for name in scope}) != mine:
        raise BadCommand(f"data.plan_id: plan {id} is not of {what}.")
    if plan.state is not PlanState.APPROVED:
        raise BadCommand(f"data.plan_id: plan {id} is {plan.state}; approve it with `planrelay plan approve {id}`.")
    return plan


def refuse_rejected(plan: Plan) -> None:
    """Raise `BadCommand` where somebody has rejected the plan while it was being applied: the rest is not written."""
    if plan.state is PlanState.REJECTED:
        raise BadCommand(f"Plan {plan.id} was rejected by {plan.decided_by}: nothing more of it is written.")


async def told(
    run: Run,
    plan: Plan,
    state: str,
    *,
    destination: str | None,
    warnings: Sequence[str] = (),
    counts: Mapping[str, int] | None = None,
    left: Sequence[Item] = (),
) -> dict[str, Any]:
    """
    Give the result of a run: `state`, the plan's id, summary (with `counts`), reasons and rows, and what was `left`.

    The rows go to `destination` where there is one, else as many into the result as an event bears.
    """
    result: dict[str, Any] = {"state": state, "plan_id": plan.id, "summary": {**plan.summary, **(counts or {})}}
    if plan.reasons:
        result["reasons"] = list(plan.reasons)
    if state == "held":
        result["approve"] = f"planrelay plan approve {plan.id}"
    if destination is not None:
        result["plan"] = await run.rows(run.plans.items(plan.id), destination=destination)
    else:
        rows = [item async for item in _first(run.plans.items(plan.id))]
        result["plan"] = {"rows": rows, "count": len(rows), "complete": len(rows) == plan.items}
    if left:
        result["not_applied"] = list(left[:SHOWN])
    if warnings:
        result["warnings"] = list(warnings)
    return result


async def _first(items: AsyncIterator[Item]) -> AsyncIterator[Item]:
    size = count = 0
    async for item in items:
        size += len(str(item))
        count += 1
        if count > SHOWN or size > SHOWN_BYTES:
            return
        yield item

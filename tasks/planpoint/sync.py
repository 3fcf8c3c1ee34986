"""
`units.sync`: a sheet and a project, a plan of what differs, and the plan applied.

The plan is made once per command and kept (`worker.plans`) before anything is written. Where it trips a brake it is
held; the command that `planrelay plan approve` publishes then brings its `plan_id`, and applies that very plan if the
project is still as it was shown, else holds a new one. A run that was cut off goes on with its plan: it reads the
project, and writes what is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tasks.planpoint import models
from tasks.planpoint.diff import Difference, Item, difference, moved_on
from tasks.planpoint.patches import Written, as_wanted, write
from tasks.planpoint.sheet import Reader, Reading
from tasks.planpoint.spelling import learn
from worker import planned
from worker.rows import inline_sheet, read_sheet

if TYPE_CHECKING:
    from tasks.planpoint.client import Listed, Object, Planpoint
    from worker.command import Result
    from worker.plans import Plan
    from worker.run import Run

NOT_LISTED: Final = "the project does not list it any more"

SHOWN: Final = 20
"""Columns that a warning names."""


@dataclass(slots=True)
class Sync:
    """One run of `units.sync`."""

    run: Run
    planpoint: Planpoint
    data: models.UnitsSync
    listed: Listed | None = None
    """The project's units as last read."""
    destination: str | None = None
    """Where the plan's rows go, its template filled."""
    notes: list[str] = field(default_factory=list)
    """What is to be said of the sheet's columns."""

    async def result(self) -> Result:
        """Plan, and apply as far as the mode and the brakes allow."""
        run, data = self.run, self.data
        if data.destination is not None:
            self.destination = await run.destination(data.destination, project_id=data.project_id)
            run.artifacts.check(self.destination)
        if data.rows_url is not None:
            run.artifacts.check(data.rows_url, field="rows_url")
        async with run.exclusive(f"units.sync:{data.project_id}"):
            made = await run.step("plan", self._plan)
            plan = await run.plans.load(made["id"])
            if data.mode == "plan" or made["held"]:
                return await self._told(plan, "held" if made["held"] else "planned", made["warnings"])
            planned.refuse_rejected(plan)
            return await self._applied(plan, made["warnings"])

    # Planning

    async def _plan(self) -> dict[str, Any]:
        """Make the plan and keep it, or take the approved one; gives what a later run needs to know of it."""
        units = (await self._read()).rows
        if self.data.plan_id is None:
            return await self._keep(await self._difference(units), ())
        approved = await planned.approved(self.run, self.data.plan_id, "this project", project_id=self.data.project_id)
        items = [item async for item in self.run.plans.items(approved.id) if item["action"] == "update"]
        by_id = {unit["id"]: unit for unit in units}
        moved = [item for item in items if moved_on(item, by_id.get(item["id"]))]
        if not moved:
            return {"id": approved.id, "held": False, "warnings": self._warnings(approved.summary)}
        some = ", ".join(str(item["key"]) for item in moved[:5])
        reason = f"{len(moved)} units have changed since plan {approved.id} was made ({some})."
        return await self._keep(await self._difference(units), (reason,))

    async def _difference(self, units: list[Object]) -> Difference:
        data = self.data
        reader = Reader(data, self.planpoint.unit, units)
        sheet = inline_sheet(data.rows) if data.rows is not None else await self._sheet()
        reader.head(sheet.heading)
        async for row in sheet:
            reader.read(row)
        reading = reader.finish()
        self.notes = _notes(reading)
        return await asyncio.to_thread(difference, reading, units, data)

    async def _sheet(self) -> Any:
        assert self.data.rows_url is not None  # noqa: S101 - the model has seen to it
        return await read_sheet(self.run.artifacts, self.data.rows_url)

    async def _keep(self, found: Difference, reasons: tuple[str, ...]) -> dict[str, Any]:
        reasons += found.reasons
        held = self.data.mode == "apply" and bool(reasons) and found.summary["changed"] > 0
        plan = await planned.keep(self.run, self.data, found.items, summary=found.summary, reasons=reasons, held=held)
        return {"id": plan.id, "held": held, "warnings": self._warnings(found.summary)}

    def _warnings(self, summary: Mapping[str, Any]) -> list[str]:
        warnings = [*([] if self.listed is None else self.listed.warnings), *self.notes]
        if summary["invalid"]:
            warnings.append(
                f"{summary['invalid']} rows of the sheet can't be used: the plan has their lines and reasons."
            )
        if summary["unknown"]:
            warnings.append(f"{summary['unknown']} rows of the sheet are of no unit of this project: see the plan.")
        return warnings

    # Applying

    async def _applied(self, plan: Plan, warnings: list[str]) -> Result:
        items = [item async for item in self.run.plans.items(plan.id) if item["action"] == "update"]
        listed = self.listed or await self._read()
        units: Mapping[str, Object] = {unit["id"]: unit for unit in listed.rows}
        overtaken = [item for item in items if moved_on(item, units.get(item["id"]))]
        alone = {item["id"] for item in overtaken}
        wanted = {item["id"]: _after(item) for item in items if item["id"] not in alone}
        pending = {id: fields for id, fields in wanted.items() if not as_wanted(units.get(id), fields)}
        written = Written(units)
        if pending:
            spelling = await learn(self.run, self.planpoint.unit, listed.spelling)
            size = self.data.batch_size
            written = await write(self.run, self.planpoint, units, pending, spelling, self._reread, size=size)
        state = "quarantined" if written.stopped else "applied"
        if not written.stopped:
            await self.run.plans.applied(plan.id)
        left = [_left(item, written) for item in items if item["id"] in written.left]
        left += [_overtaken(item, units) for item in overtaken]
        counts = {"applied": len(items) - len(left), "not_applied": len(left)}
        warnings = list(
            dict.fromkeys([*warnings, *self._warnings(plan.summary)])
        )  # also of the list that was read back
        if left:
            warnings.append(f"{len(left)} of {len(items)} units are not as planned: see not_applied.")
        return await self._told(plan, state, warnings, counts=counts, left=left)

    async def _read(self) -> Listed:
        self.listed = await self.planpoint.list_units(self.data.project_id)
        return self.listed

    async def _reread(self) -> Mapping[str, Object]:
        return {unit["id"]: unit for unit in (await self._read()).rows}

    async def _told(
        self,
        plan: Plan,
        state: str,
        warnings: list[str],
        *,
        counts: Mapping[str, int] | None = None,
        left: Sequence[Item] = (),
    ) -> Result:
        return await planned.told(
            self.run, plan, state, destination=self.destination, warnings=warnings, counts=counts, left=left
        )


def _after(item: Item) -> dict[str, Any]:
    return {name: change["after"] for name, change in item["changes"].items()}


def _left(item: Item, written: Written) -> Item:
    unit = written.units.get(item["id"])
    reason = written.left[item["id"]] or (NOT_LISTED if unit is None else "it shows otherwise")
    return {"id": item["id"], "key": item["key"], "reason": reason}


def _overtaken(item: Item, units: Mapping[str, Object]) -> Item:
    reason = "changed by somebody else meanwhile" if item["id"] in units else NOT_LISTED
    return {"id": item["id"], "key": item["key"], "reason": reason}


def _notes(reading: Reading) -> list[str]:
    notes = []
    if reading.ignored:
        columns = _some(reading.ignored)
        notes.append(f"Columns that are no field of a unit, or none that a sheet changes, were left alone: {columns}.")
    if reading.absent:
        notes.append(f"No row has these columns, which data.columns names: {_some(reading.absent)}.")
    if reading.unseen:
        notes.append(f"No unit has these fields yet, which data.columns names: {_some(reading.unseen)}.")
    return notes


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more

"""`unit.update_many`: units of any projects, read, written where they differ, read back and compared."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tasks.planpoint.client import reference
from tasks.planpoint.patches import as_wanted, write
from tasks.planpoint.spelling import learn
from worker.errors import NotFound

if TYPE_CHECKING:
    from tasks.planpoint import models
    from tasks.planpoint.client import Object, Planpoint
    from worker.command import Result
    from worker.run import Run

STRANGERS: Final = 20
"""Ids in a row that are no unit, after which the rest is not asked for one by one."""


@dataclass(slots=True)
class _Read:
    """Units by id, the projects whose lists have them, and those that no list has."""

    units: dict[str, Object] = field(default_factory=dict)
    projects: set[str] = field(default_factory=set)
    unlisted: list[str] = field(default_factory=list)
    spelling: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


async def update_many(run: Run, planpoint: Planpoint, data: models.UnitUpdateMany) -> Result:
    """Do what `unit.update_many` promises."""
    ids = list(dict.fromkeys(id.lower() for id in data.ids))
    changes = planpoint.unit.ours(data.changes)
    read = await _read(run, planpoint, ids)
    pending = {id: changes for id in ids if id in read.units and not as_wanted(read.units[id], changes)}
    left: dict[str, str] = {}
    result: dict[str, Any] = {"count": len(ids)}
    if pending:
        spelling = await learn(run, planpoint.unit, read.spelling)

        async def reread() -> Mapping[str, Object]:
            return await _reread(run, planpoint, read, pending)

        written = await write(run, planpoint, read.units, pending, spelling, reread, size=data.batch_size)
        left = written.left
        if written.stopped:
            result["state"] = "quarantined"
    result["updated"] = len(pending) - len(left)
    result["unchanged"] = len(ids) - len(read.missing) - len(pending)
    warnings = []
    if read.missing:
        result["missing"] = read.missing
        warnings.append(f"{len(read.missing)} of {len(ids)} ids are no unit.")
    if left:
        result["not_updated"] = [{"id": id, "reason": reason or "it shows otherwise"} for id, reason in left.items()]
        warnings.append(f"{len(left)} of {len(ids)} units don't show what was asked.")
    return {**result, "warnings": warnings} if warnings else result


async def project_of(run: Run, planpoint: Planpoint, floor_id: str) -> str:
    """Give the project of a floor, which never changes: asked once per connection."""
    project = await run.recall(f"floor:{floor_id}")
    if not isinstance(project, str):
        project = await planpoint.project_of(floor_id)
        await run.remember(f"floor:{floor_id}", project)
    return project


async def _read(run: Run, planpoint: Planpoint, ids: Sequence[str]) -> _Read:
    """Read these units by their projects' lists: three calls a project, however many units."""
    read = _Read()
    for id in ids:
        if id in read.units:
            continue
        if len(read.missing) >= STRANGERS and not read.units:
            raise NotFound(f"None of the first {STRANGERS} ids is a unit: are they ids of something else?")
        await run.breathe()
        try:
            unit, spelling = await planpoint.read_unit(id)
        except NotFound:
            read.missing.append(id)
            continue
        floor = reference(unit.get("floor"))
        project = None if floor is None else await project_of(run, planpoint, floor)
        if project is not None and project not in read.projects:
            listed = await planpoint.list_units(project)
            read.projects.add(project)
            read.units |= {other["id"].lower(): other for other in listed.rows}
            spelling = listed.spelling
        if id not in read.units:  # it names no floor, or the vendor lists fewer than there are
            read.units[id] = unit
            read.unlisted.append(id)
        read.spelling = {**spelling, **read.spelling}
    if not read.units:
        raise NotFound(f"None of the {len(ids)} ids is a unit.")
    return read


async def _reread(run: Run, planpoint: Planpoint, read: _Read, ids: Collection[str]) -> dict[str, Object]:
    units: dict[str, Object] = {}
    for project in sorted(read.projects):
        units |= {unit["id"].lower(): unit for unit in (await planpoint.list_units(project)).rows}
    for id in read.unlisted:
        if id in ids:
            await run.breathe()
            with contextlib.suppress(NotFound):
                units[id], _ = await planpoint.read_unit(id)
    return units

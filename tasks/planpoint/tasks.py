"""One coroutine per command type of Planpoint (contract §9). The vendor on one page: `tasks.planpoint`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tasks.planpoint import client, models
from tasks.planpoint.client import Planpoint
from tasks.planpoint.spelling import settled, spelling_for
from worker.command import Result, command
from worker.natural_key import make_once, same

if TYPE_CHECKING:
    from tasks.planpoint.client import Listed, Object
    from worker.run import Run
    from worker.vocabulary import Spelling


# --- Projects ---------------------------------------------------------------------------------------------------------


@command("planpoint.project.find", data=models.Found, uses=(client.PROJECT_FIND,))
async def project_find(run: Run, data: models.Found) -> Result:
    """
    List the projects of a namespace that a host has access to, with floors and units.

    Prices are numbers in the project's own currency, areas in its `area_unit`. Source: planpoint.txt, "Fetch Projects".
    """
    return await _rows(run, data, await Planpoint(run.gateway).find_projects(data.namespace, data.host_name))


# --- Units ------------------------------------------------------------------------------------------------------------


@command("planpoint.unit.list", data=models.OfProject, uses=(client.UNIT_LIST,))
async def unit_list(run: Run, data: models.OfProject) -> Result:
    """
    List the units of a project.

    `complete` is false, with a warning, where the vendor counts others than it lists. Source: api/openapi.yaml.
    """
    return await _rows(run, data, await Planpoint(run.gateway).list_units(data.project_id), project_id=data.project_id)


@command("planpoint.unit.read", data=models.One, uses=(client.UNIT_READ,))
async def unit_read(run: Run, data: models.One) -> Result:
    """Read one unit. Source: api/openapi.yaml."""
    unit, _ = await Planpoint(run.gateway).read_unit(data.id)
    return unit


@command(
    "planpoint.unit.create",
    data=models.UnitCreate,
    uses=(client.UNIT_CREATE, client.UNIT_LIST, client.FLOOR_READ, client.UNIT_UPDATE),
)
async def unit_create(run: Run, data: models.UnitCreate) -> Result:
    """
    Create a unit on a floor, at most once in effect: found again by floor and name, or by `match_on` in its project.

    Gives the unit and `how`: `created`, `found` (made by a send that was interrupted) or `adopted` (there before; only
    with `match_on`, and left as it is). Fields that the create does not take over are set by an update. Raises
    `Conflict` where `match_on` fits several. Source: api/openapi.yaml, which documents the floor alone;
    viewerdocs, endpoint/units/post.
    """
    planpoint = Planpoint(run.gateway)
    fields = planpoint.unit.ours(data.fields("floor_id", "project_id"))
    seen: dict[str, str] = {}

    async def look() -> list[Object]:
        project = data.project_id or await _project_of(run, planpoint, data.floor_id)
        listed = await planpoint.list_units(project)
        seen.update(listed.spelling)
        return listed.rows

    async def sample() -> Spelling:
        return seen

    async def send() -> Object:
        return await planpoint.create_unit(data.floor_id, fields, await spelling_for(run, planpoint, fields, sample))

    made = await make_once(
        run,
        noun="unit",
        wanted={**fields, "floor": data.floor_id},
        match_on=models.match_on(data, planpoint.unit, floor_id="floor", project_id=None),
        default=("floor", "name"),
        look=look,
        send=send,
    )
    left = {name: value for name, value in fields.items() if not same(made.get(name), value)}
    if made["how"] == "adopted" or not left:
        return made
    return {**await _update(run, planpoint, made["id"], left), "how": made["how"]}


@command("planpoint.unit.update", data=models.Update, uses=(client.UNIT_UPDATE, client.UNIT_READ))
async def unit_update(run: Run, data: models.Update) -> Result:
    """
    Set some fields of a unit, under the names that this tenant's units have; gives the unit as it is then.

    `warnings` names fields that the answer shows otherwise than asked. Source: api/openapi.yaml; viewerdocs,
    endpoint/units/id/patch.
    """
    return await _update(run, Planpoint(run.gateway), data.id, data.changes)


# --- What they share --------------------------------------------------------------------------------------------------


async def _update(run: Run, planpoint: Planpoint, id: str, changes: Mapping[str, Any]) -> Result:
    changes = planpoint.unit.ours(changes)

    async def sample() -> Spelling:
        return (await planpoint.read_unit(id))[1]

    spelling = await spelling_for(run, planpoint, changes, sample)
    answer = await planpoint.update_unit(id, changes, spelling)
    return _with_warnings(*await settled(run, planpoint, changes, spelling, answer))


async def _project_of(run: Run, planpoint: Planpoint, floor_id: str) -> str:
    """Give the project of a floor, which never changes: asked once per connection."""
    project = await run.recall(f"floor:{floor_id}")
    if not isinstance(project, str):
        project = await planpoint.project_of(floor_id)
        await run.remember(f"floor:{floor_id}", project)
    return project


async def _rows(run: Run, data: models.Listing, listed: Listed, **ids: str) -> Result:
    destination = await run.destination(data.destination, **ids) if data.destination else None
    result = await run.rows(
        listed.stream(), destination=destination, limit=data.limit, complete=lambda: listed.complete
    )
    return _with_warnings(result, listed.warnings)


def _with_warnings(result: dict[str, Any], warnings: list[str]) -> Result:
    return {**result, "warnings": warnings} if warnings else result

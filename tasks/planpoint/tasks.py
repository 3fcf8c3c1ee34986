"""
One coroutine per command type of Planpoint; the vendor on one page: `tasks.planpoint`.

All two dozen stand here, so that the file can be read as the list of what Planpoint is asked for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from tasks.planpoint import client, models
from tasks.planpoint.client import Listed, Planpoint
from tasks.planpoint.leads import Export, memory
from tasks.planpoint.many import project_of, update_many
from tasks.planpoint.spelling import differing, settled, spelling_for
from tasks.planpoint.sync import Sync
from worker.command import Result, command
from worker.data import Creation, Listing, match_on, with_warnings
from worker.natural_key import Candidates, delete_once, make_once, same

if TYPE_CHECKING:
    from tasks.planpoint.client import Object
    from worker.run import Run
    from worker.vocabulary import Spelling, Vocabulary


# --- Projects ---------------------------------------------------------------------------------------------------------


@command("planpoint.project.find", data=models.Found, uses=(client.PROJECT_FIND,))
async def project_find(run: Run, data: models.Found) -> Result:
    """
    List the projects of a namespace that a host has access to, with floors and units.

    Prices are numbers in the project's own currency, areas in its `area_unit`. Source: planpoint.txt, "Fetch Projects".
    """
    look = partial(Planpoint(run.gateway).find_projects, data.namespace, data.host_name)
    return await _rows(run, data, look)


@command("planpoint.project.mine", data=models.Mine, uses=(client.PROJECT_MINE,))
async def project_mine(run: Run, data: models.Mine) -> Result:
    """List the account's projects, in short. Source: api/openapi.yaml."""
    return await _rows(run, data, Planpoint(run.gateway).list_projects)


@command("planpoint.project.read", data=models.ProjectRead, uses=(client.PROJECT_READ,))
async def project_read(run: Run, data: models.ProjectRead) -> Result:
    """
    Read one project, whole: with floors, units, commercial spaces and collections.

    Prices are numbers in the project's own currency, areas in its `area_unit`. Source: api/openapi.yaml.
    """
    planpoint = Planpoint(run.gateway)
    if data.destination is None:
        return await planpoint.read_project(data.id)

    async def look() -> Listed:
        return Listed([await planpoint.read_project(data.id)], 1, {})

    return await _rows(run, Listing(destination=data.destination), look, project_id=data.id)


@command(
    "planpoint.project.create",
    data=models.ProjectCreate,
    uses=(client.PROJECT_CREATE, client.PROJECT_MINE, client.PROJECT_READ),
)
async def project_create(run: Run, data: models.ProjectCreate) -> Result:
    """
    Create a project, at most once in effect: found again by namespace and name, or by `match_on`.

    Gives the project and `how` (see `unit.create`). Source: viewerdocs, endpoint/projects/post.
    """
    planpoint = Planpoint(run.gateway)
    made = await _made(
        run, data, models.PROJECT, ("namespace", "name"), planpoint.list_projects, planpoint.create_project
    )
    if made["how"] != "created":  # the list shows projects in short
        made = {**await planpoint.read_project(made["id"]), "how": made["how"]}
    return made


@command("planpoint.project.update", data=models.Update, uses=(client.PROJECT_UPDATE,))
async def project_update(run: Run, data: models.Update) -> Result:
    """
    Set some fields of a project; gives the project as it is then.

    `warnings` names fields that the answer shows otherwise than asked. Source: api/openapi.yaml.
    """
    changes = models.PROJECT.ours(data.changes)
    return _answered(await Planpoint(run.gateway).update_project(data.id, changes), changes)


@command("planpoint.project.delete", data=models.One, uses=(client.PROJECT_DELETE, client.PROJECT_READ))
async def project_delete(run: Run, data: models.One) -> Result:
    """
    Delete a project, with all that is in it; one that is not there is `not_found`.

    Source: planpoint.txt speaks of deleting projects; method and path are assumed.
    """
    planpoint = Planpoint(run.gateway)

    async def seen() -> Object:
        return await planpoint.read_project(data.id)

    return await delete_once(run, data.id, seen, partial(planpoint.delete_project, data.id))


# --- Groups and enterprises -------------------------------------------------------------------------------------------


@command("planpoint.group.find", data=models.Found, uses=(client.GROUP_FIND,))
async def group_find(run: Run, data: models.Found) -> Result:
    """List the groups of a namespace that a host has access to. Source: planpoint.txt, "Fetch Groups"."""
    look = partial(Planpoint(run.gateway).find_groups, data.namespace, data.host_name)
    return await _rows(run, data, look)


@command("planpoint.group.list", data=models.Mine, uses=(client.GROUP_LIST,))
async def group_list(run: Run, data: models.Mine) -> Result:
    """List the account's groups; `projects` holds ids or short projects. Source: api/openapi.yaml."""
    return await _rows(run, data, Planpoint(run.gateway).list_groups)


@command("planpoint.group.read", data=models.One, uses=(client.GROUP_READ,))
async def group_read(run: Run, data: models.One) -> Result:
    """Read one group. Source: api/openapi.yaml."""
    return await Planpoint(run.gateway).read_group(data.id)


@command("planpoint.group.create", data=models.GroupCreate, uses=(client.GROUP_CREATE, client.GROUP_LIST))
async def group_create(run: Run, data: models.GroupCreate) -> Result:
    """
    Create a group, at most once in effect: found again by name, or by `match_on`.

    Gives the group and `how` (see `unit.create`). Source: api/openapi.yaml.
    """
    planpoint = Planpoint(run.gateway)
    return await _made(run, data, models.GROUP, ("name",), planpoint.list_groups, planpoint.create_group)


@command("planpoint.group.update", data=models.Update, uses=(client.GROUP_UPDATE,))
async def group_update(run: Run, data: models.Update) -> Result:
    """
    Set some fields of a group; gives the group as it is then.

    `warnings` names fields that the answer shows otherwise than asked. Source: api/openapi.yaml.
    """
    changes = models.GROUP.ours(data.changes)
    return _answered(await Planpoint(run.gateway).update_group(data.id, changes), changes)


@command("planpoint.enterprise.find", data=models.Found, uses=(client.ENTERPRISE_FIND,))
async def enterprise_find(run: Run, data: models.Found) -> Result:
    """
    List the enterprises of a namespace that a host has access to.

    No page shows their shape: rows are as they come. Source: planpoint.txt, "Fetch Enterprises".
    """
    look = partial(Planpoint(run.gateway).find_enterprises, data.namespace, data.host_name)
    return await _rows(run, data, look)


# --- Floors -----------------------------------------------------------------------------------------------------------


@command("planpoint.floor.list", data=models.OfProject, uses=(client.FLOOR_LIST,))
async def floor_list(run: Run, data: models.OfProject) -> Result:
    """List the floors of a project. Source: api/openapi.yaml."""
    look = partial(Planpoint(run.gateway).list_floors, data.project_id)
    return await _rows(run, data, look, project_id=data.project_id)


@command("planpoint.floor.read", data=models.One, uses=(client.FLOOR_READ,))
async def floor_read(run: Run, data: models.One) -> Result:
    """Read one floor. Source: api/openapi.yaml; viewerdocs, endpoint/floors/id/get."""
    return await Planpoint(run.gateway).read_floor(data.id)


@command("planpoint.floor.create", data=models.FloorCreate, uses=(client.FLOOR_CREATE, client.FLOOR_LIST))
async def floor_create(run: Run, data: models.FloorCreate) -> Result:
    """
    Create a floor in a project, at most once in effect: found again by name there, or by `match_on` there.

    Gives the floor and `how` (see `unit.create`). Source: api/openapi.yaml.
    """
    planpoint = Planpoint(run.gateway)
    look = partial(planpoint.list_floors, data.project_id)
    send = partial(planpoint.create_floor, data.project_id)
    return await _made(run, data, models.FLOOR, ("project", "name"), look, send, project_id="project")


@command("planpoint.floor.update", data=models.Update, uses=(client.FLOOR_UPDATE,))
async def floor_update(run: Run, data: models.Update) -> Result:
    """
    Set some fields of a floor; gives the floor as it is then.

    `warnings` names fields that the answer shows otherwise than asked. Source: api/openapi.yaml.
    """
    changes = models.FLOOR.ours(data.changes)
    return _answered(await Planpoint(run.gateway).update_floor(data.id, changes), changes)


# --- Units ------------------------------------------------------------------------------------------------------------


@command("planpoint.unit.list", data=models.OfProject, uses=(client.UNIT_LIST,))
async def unit_list(run: Run, data: models.OfProject) -> Result:
    """
    List the units of a project.

    `complete` is false, with a warning, where the vendor counts others than it lists. Source: api/openapi.yaml.
    """
    look = partial(Planpoint(run.gateway).list_units, data.project_id)
    return await _rows(run, data, look, project_id=data.project_id)


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
    seen: dict[str, str] = {}

    async def look() -> Listed:
        listed = await planpoint.list_units(data.project_id or await project_of(run, planpoint, data.floor_id))
        seen.update(listed.spelling)
        return listed

    async def sample() -> Spelling:
        return seen

    async def send(fields: Mapping[str, Any]) -> Object:
        return await planpoint.create_unit(data.floor_id, fields, await spelling_for(run, planpoint, fields, sample))

    default = ("floor", "name")
    made = await _made(run, data, planpoint.unit, default, look, send, floor_id="floor", project_id=None)
    asked = planpoint.unit.ours(data.fields("floor_id", "project_id"))
    left = {name: value for name, value in asked.items() if not same(made.get(name), value)}
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


@command(
    "planpoint.unit.update_many",
    data=models.UnitUpdateMany,
    uses=(client.UNIT_UPDATE_MANY, client.UNIT_UPDATE, client.UNIT_LIST, client.UNIT_READ, client.FLOOR_READ),
    bulk=True,
)
async def unit_update_many(run: Run, data: models.UnitUpdateMany) -> Result:
    """
    Set the same fields of many units: read, written in batches where they differ, read back and compared.

    Gives `updated` (written now), `unchanged` (were so), `missing` (ids that are no unit), `not_updated` with reasons.
    Raises `NotFound` where none of the ids is a unit. Source: api/openapi.yaml, which names no largest batch.
    """
    return await update_many(run, Planpoint(run.gateway), data)


@command("planpoint.unit.delete", data=models.One, uses=(client.UNIT_DELETE, client.UNIT_READ))
async def unit_delete(run: Run, data: models.One) -> Result:
    """Delete a unit; one that is not there is `not_found`. Source: api/openapi.yaml."""
    planpoint = Planpoint(run.gateway)

    async def seen() -> Object:
        return (await planpoint.read_unit(data.id))[0]

    return await delete_once(run, data.id, seen, partial(planpoint.delete_unit, data.id))


@command(
    "planpoint.units.sync",
    data=models.UnitsSync,
    uses=(client.UNIT_LIST, client.UNIT_UPDATE_MANY, client.UNIT_UPDATE),
    bulk=True,
)
async def units_sync(run: Run, data: models.UnitsSync) -> Result:
    """
    Make a project's units as a sheet has them: plan the differences, apply them unless a brake holds the plan.

    `state` is `planned`, `held` (until `planrelay plan approve`), `applied`, or `quarantined` where the run stopped
    itself because too much was refused. Prices are plain numbers in the project's own currency. Units that the sheet
    does not have, columns that are no field and empty cells are left alone. Source: api/openapi.yaml.
    """
    return await Sync(run, Planpoint(run.gateway), data).result()


# --- Leads ------------------------------------------------------------------------------------------------------------


@command("planpoint.lead.list", data=models.LeadList, uses=(client.LEAD_LIST,))
async def lead_list(run: Run, data: models.LeadList) -> Result:
    """
    List the leads of a project: all, or those that earlier exports did not have.

    With `only_new` (the rule where there is a `destination`) each lead is exported once per project and schedule. Leads
    are personal data: they are in the rows, and never in a log or an error. Source: api/openapi.yaml; viewerdocs,
    endpoint/leads/get.
    """
    look = partial(Planpoint(run.gateway).list_leads, data.project_id)
    only_new = data.destination is not None if data.only_new is None else data.only_new
    if not only_new:
        return await _rows(run, data, look, project_id=data.project_id)
    all_: Listed | None = None
    export: Export | None = None

    async def new() -> Listed:
        nonlocal all_, export
        all_ = await look()
        export = await Export.begin(run, data.project_id, all_.rows, data.limit)
        return Listed(export.leads, len(export.leads), {})

    async with run.exclusive(memory(run, data.project_id)):
        result = await _rows(run, data, new, project_id=data.project_id)
        assert all_ is not None and export is not None  # noqa: S101, PT018 - the rows were asked for
        await export.end()
    told = {**result, "complete": export.complete and all_.complete, "known_before": export.known_before}
    return with_warnings(told, all_.warnings)


# --- What they share --------------------------------------------------------------------------------------------------


async def _made(
    run: Run,
    data: Creation,
    vocabulary: Vocabulary,
    default: tuple[str, ...],
    look: Callable[[], Awaitable[Listed]],
    send: Callable[[Mapping[str, Any]], Awaitable[Object]],
    **references: str | None,
) -> Object:
    """Make what a command asks for; `references` gives the vendor's field for each id that the command refers by."""
    fields = vocabulary.ours(data.fields(*references))
    owners = {name: getattr(data, reference) for reference, name in references.items() if name is not None}

    async def candidates() -> Candidates:
        listed = await look()
        return Candidates(listed.rows, listed.complete)

    return await make_once(
        run,
        noun=data.noun(),
        wanted={**fields, **owners},
        match_on=match_on(data, vocabulary, **references),
        default=default,
        look=candidates,
        send=lambda: send(fields),
    )


async def _update(run: Run, planpoint: Planpoint, id: str, changes: Mapping[str, Any]) -> Result:
    changes = planpoint.unit.ours(changes)

    async def sample() -> Spelling:
        return (await planpoint.read_unit(id))[1]

    spelling = await spelling_for(run, planpoint, changes, sample)
    answer = await planpoint.update_unit(id, changes, spelling)
    return with_warnings(*await settled(run, planpoint, changes, spelling, answer))


def _answered(one: Object, asked: Mapping[str, Any]) -> Result:
    return with_warnings(one, differing(one, asked))


async def _rows(run: Run, data: Listing, look: Callable[[], Awaitable[Listed]], **ids: str) -> Result:
    """List what `look` gives; it is asked once the destination is known to be one."""
    listed: Listed | None = None

    async def rows() -> AsyncIterator[Object]:
        nonlocal listed
        listed = await look()
        for row in listed.rows:
            yield row

    destination = await run.destination(data.destination, **ids) if data.destination else None
    result = await run.rows(
        rows(), destination=destination, limit=data.limit, complete=lambda: listed is None or listed.complete
    )
    return with_warnings(result, listed.warnings if listed else [])

"""One coroutine per command type of barometerIT (contract §9). The vendor on one page: `tasks.barometerit`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any

from tasks.barometerit import client, creations, documents, models, reports, writes
from tasks.barometerit.client import Barometerit, in_query
from tasks.barometerit.pages import Pages
from worker.command import Operation, Result
from worker.command import command as declared
from worker.natural_key import natural_key

if TYPE_CHECKING:
    from tasks.barometerit.client import Object, Page
    from worker.rest import Endpoint
    from worker.run import Run

Body = Callable[["Run", Any], Awaitable[Result]]


def command(
    type: str, *, data: type[models.Data], uses: tuple[Endpoint, ...], bulk: bool = False
) -> Callable[[Body], Operation]:
    """Declare a command of barometerIT: its result warns of BNs that look like none (see `models.BN_SHAPE`)."""

    def declare(body: Body) -> Operation:
        @wraps(body)
        async def warning(run: Run, data: models.Data) -> Result:
            result = await body(run, data)
            odd = list(data.odd_bns())[:20]
            if not odd:
                return result
            said = f"No Barometer Number looks so (12 digits and capitals), sent as given: {', '.join(odd)}."
            return {**result, "warnings": [*result.get("warnings", []), said]}

        return declared(f"barometerit.{type}", data=data, uses=uses, bulk=bulk)(warning)

    return declare


# --- Entities ---------------------------------------------------------------------------------------------------------


@command(
    "entity.list",
    data=models.EntityList,
    uses=(client.ENTITY_LIST, client.FILTER_BUILD, client.OPERABLE_FILTER_BUILD),
)
async def entity_list(run: Run, data: models.EntityList) -> Result:
    """
    List the entities of a type, all pages, or those that filters and days let through.

    Timestamps are as the vendor writes them (2016-05-20T20:04:39.074+0000). `complete` is false, with a warning, where
    barometerIT counts more than came. Source: Entity_Service.
    """
    barometerit = Barometerit(run.gateway)
    destination = await _destination(run, data)
    query = await _query(barometerit, data)

    async def fetch(first: int, count: int) -> Page:
        return await barometerit.list_entities(query, first, count)

    filtered = query.keys() - {"type", "fieldsets"}
    return await _paged(run, data, Pages(fetch, size=data.page_size, filtered=bool(filtered)), destination)


@command("entity.read", data=models.One, uses=(client.ENTITY_READ,))
async def entity_read(run: Run, data: models.One) -> Result:
    """Read one entity. Source: named in Entity_Service; the path is assumed."""
    return await Barometerit(run.gateway).read_entity(data.bn)


@command(
    "entity.create",
    data=models.EntityCreate,
    uses=(client.ENTITY_CREATE, client.ENTITY_LIST, client.ENTITY_READ, client.SEARCH),
)
async def entity_create(run: Run, data: models.EntityCreate) -> Result:
    """
    Create an entity, at most once in effect: found again by type and name, or by `match_on`.

    Gives the entity, `how` (`created`, `found`: made by a send that was interrupted, `adopted`: there before, only with
    `match_on`, and left as it is), and `saved` and `proposed`. Raises `Conflict` where `match_on` fits several.
    Source: named in Entity_Service and 2Getting_Started; path and body are assumed.
    """
    barometerit = Barometerit(run.gateway)
    properties = barometerit.entity.ours(data.properties)
    wanted = {**properties, "entity_discriminator": data.type}
    match_on = None
    look = creations.made_lately(run, barometerit, data.type)
    if data.match_on is not None:
        match_on = [
            "entity_discriminator" if name == "type" else barometerit.entity.name(name) for name in data.match_on
        ]
        look = creations.searched(barometerit, data.type, natural_key(wanted, match_on, ()))
    made = await creations.make(
        run,
        noun="entity",
        wanted=wanted,
        match_on=match_on,
        default=("entity_discriminator", "name"),
        look=look,
        send=lambda: barometerit.create_entity(data.type, properties),
    )
    if "bn" not in made or "name" in made:
        return made
    told = {name: made[name] for name in ("how", "saved", "proposed")}
    return {**await barometerit.read_entity(made["bn"]), **told}


@command(
    "entity.update",
    data=models.EntityUpdate,
    uses=(client.ENTITY_UPDATE, client.ENTITY_READ, client.PROPOSAL_LIST),
)
async def entity_update(run: Run, data: models.EntityUpdate) -> Result:
    """
    Set some basic fields of an entity; gives `saved` and `proposed`.

    barometerIT replaces all basic fields, so the entity is read first and what does not change is sent as well; other
    commands of the fleet wait meanwhile. Source: named in Entity_Service; path and body are assumed.
    """
    barometerit = Barometerit(run.gateway)
    changes = barometerit.entity.ours(data.properties)

    async def seen() -> Object:
        return await barometerit.read_entity(data.bn)

    async with run.exclusive(f"entity:{data.bn}"):
        fields = writes.merged(await seen(), changes, models.SERVER_KEPT)
        written = await barometerit.update_entity(data.bn, fields)
    return await writes.outcome(barometerit, data.bn, changes, written, seen)


# --- Reports and documents --------------------------------------------------------------------------------------------

_UPLOADS = (client.DOCUMENT_UPLOAD, client.ENTITY_LIST)


@command(
    "report.export",
    data=models.ReportExport,
    uses=(client.REPORT_GENERATE, client.REPORT_DOWNLOAD, client.REPORT_SIZE, *_UPLOADS),
)
async def report_export(run: Run, data: models.ReportExport) -> Result:
    """
    Bring a report home: generate a snapshot, wait for it, fetch and verify it, save it under its final name at once.

    Gives `asset_bn`, `destination`, `bytes`, `sha256`, and for CSV `rows` (without the heading) and `columns`; the same
    stands in a manifest beside the file. A report generates one snapshot at a time in the whole fleet. `delete_asset`
    removes the snapshot once the file is verified; `upload_as` makes a document of the file. Source: barometerit.txt,
    "Reporting Service"; Reporting_Service.
    """
    barometerit = Barometerit(run.gateway)
    known = {"report_bn": data.report_bn}
    _check_names(run, data, **known, asset_bn="0" * 12)
    format = data.format or reports.format_of(run.artifacts.check(data.destination)) or "csv"
    patience = timedelta(seconds=data.ready_within)
    asset = await reports.generate(run, barometerit, data.report_bn, format, patience)
    known["asset_bn"] = asset.bn
    result = await _saved(run, barometerit, data, asset, known)
    if data.upload_as is not None:
        name = await _filled(run, "upload_as", data.upload_as, known)
        saved = run.artifacts.check(result["destination"])
        result["document"] = await documents.upload(run, barometerit, name, saved)
    return result


# --- What they share --------------------------------------------------------------------------------------------------


async def _saved(
    run: Run, barometerit: Barometerit, data: models.Saving, asset: reports.Asset, ids: Mapping[str, str]
) -> dict[str, Any]:
    """Fetch a snapshot to where the command wants it, once; then remove it there if asked."""
    place = run.artifacts.check(await run.destination(data.destination, **ids))
    result: dict[str, Any] = await run.step("saved", reports.Fetch(run, barometerit, asset, place, data).saved)
    if data.delete_asset:
        warning = await reports.remove(run, barometerit, asset.bn)
        result = {**result, "asset_deleted": warning is None, **({"warnings": [warning]} if warning else {})}
    return dict(result)


def _check_names(run: Run, data: models.ReportExport, **ids: str) -> None:
    """Fill destination and document name for a trial: what can't be filled is refused before anything is sent."""
    for template in (data.destination, data.upload_as):
        if template is not None:
            run.artifacts.fill(template, now=run.now(), tz=run.zone, **ids)


async def _filled(run: Run, step: str, template: str, ids: Mapping[str, str]) -> str:
    async def fill() -> str:
        return run.artifacts.fill(template, now=run.now(), tz=run.zone, **ids)

    filled: str = await run.step(step, fill)
    return filled


async def _query(barometerit: Barometerit, data: models.EntityList) -> dict[str, str]:
    """Give a list's query: days as the vendor has them, filters built where they are not yet."""
    query = {"type": data.type}
    days = {
        "updateDateStartDate": data.updated_from,
        "updateDateEndDate": data.updated_to,
        "createDateStartDate": data.created_from,
        "createDateEndDate": data.created_to,
    }
    query |= {name: day.isoformat() for name, day in days.items() if day is not None}
    if (filter := data.filter) is not None:
        built = filter if isinstance(filter, str) else await barometerit.build_filter(filter)
        query["filter"] = in_query(built)
    if (operable := data.operable_filter) is not None:
        built = operable if isinstance(operable, str) else await barometerit.build_operable_filter(operable)
        query["operableFilter"] = in_query(built)
    if data.fieldsets:
        query["fieldsets"] = "true"
    return query


async def _destination(run: Run, data: models.Listing, **ids: str) -> str | None:
    """Give where a list's rows go, once it is known to be such a place: before anything is asked."""
    if data.destination is None:
        return None
    destination = await run.destination(data.destination, **ids)
    run.artifacts.check(destination)
    return destination


async def _paged(run: Run, data: models.Listing, pages: Pages, destination: str | None) -> Result:
    result = await run.rows(aiter(pages), destination=destination, limit=data.limit, complete=lambda: pages.complete)
    return {**result, "warnings": pages.warnings} if pages.warnings else result

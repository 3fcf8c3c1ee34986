"""
One coroutine per command type of barometerIT (contract §9). The vendor on one page: `tasks.barometerit`.

Long because there are 32 of them; what each does is in the modules beside this one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from tasks.barometerit import creations, documents, endpoints, lists, models, reports, snapshots, wire, writes
from tasks.barometerit.client import Barometerit
from tasks.barometerit.downloads import format_of
from tasks.barometerit.many import UpdateMany
from worker.command import Operation, Result
from worker.command import command as declared
from worker.data import match_on, with_warnings
from worker.natural_key import Candidates, natural_key

if TYPE_CHECKING:
    from tasks.barometerit.client import Object, Written
    from worker.rest import Endpoint
    from worker.run import Run
    from worker.vocabulary import Vocabulary

Body = Callable[["Run", Any], Awaitable[Result]]


def command(
    type: str, *, data: type[models.Data], uses: tuple[Endpoint, ...], bulk: bool = False
) -> Callable[[Body], Operation]:
    """Declare a command of barometerIT: its result warns of BNs that look like none (see `wire.BN_SHAPE`)."""

    def declare(body: Body) -> Operation:
        @wraps(body)
        async def warning(run: Run, data: models.Data) -> Result:
            result = await body(run, data)
            odd = list(data.odd_bns())[:20]
            said = [f"No Barometer Number looks so (12 digits and capitals), sent as given: {', '.join(odd)}."]
            return with_warnings(result, [*result.get("warnings", []), *said]) if odd else result

        return declared(f"barometerit.{type}", data=data, uses=uses, bulk=bulk)(warning)

    return declare


# --- Entities ---------------------------------------------------------------------------------------------------------


@command(
    "entity.list",
    data=models.EntityList,
    uses=(endpoints.ENTITY_LIST, endpoints.FILTER_BUILD, endpoints.OPERABLE_FILTER_BUILD),
)
async def entity_list(run: Run, data: models.EntityList) -> Result:
    """
    List the entities of a type, all pages, or those that filters and days let through.

    `complete` is false, with a warning, where barometerIT counts more than came. An incremental export tells `since`
    (the first day asked for) and `dropped` (rows that the last one had). Timestamps are as the vendor writes them
    (2016-05-20T20:04:39.074+0000). Source: Entity_Service.
    """
    return await lists.entities(run, Barometerit(run.gateway), data)


@command("entity.read", data=models.One, uses=(endpoints.ENTITY_READ,))
async def entity_read(run: Run, data: models.One) -> Result:
    """Read one entity. Source: named in Entity_Service; the path is assumed."""
    return await Barometerit(run.gateway).read_entity(data.bn)


@command(
    "entity.create",
    data=models.EntityCreate,
    uses=(endpoints.ENTITY_CREATE, endpoints.ENTITY_LIST, endpoints.ENTITY_READ, endpoints.SEARCH),
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
    key = match_on(data, barometerit.entity, type="entity_discriminator")
    if key is None:
        look = creations.made_lately(run, barometerit, data.type)
    else:
        look = creations.searched(run, barometerit, data.type, natural_key(wanted, key, ()))
    made = await creations.make(
        run,
        noun="object",
        wanted=wanted,
        match_on=key,
        default=("entity_discriminator", "name"),
        look=look,
        send=partial(barometerit.create_entity, data.type, properties),
    )
    return await _whole(made, barometerit.read_entity)


@command(
    "entity.update",
    data=models.EntityUpdate,
    uses=(endpoints.ENTITY_UPDATE, endpoints.ENTITY_READ, endpoints.PROPOSAL_LIST),
)
async def entity_update(run: Run, data: models.EntityUpdate) -> Result:
    """
    Set some basic fields of an entity; gives `saved` and `proposed`.

    barometerIT replaces all basic fields, so the entity is read first and what does not change is sent as well; other
    commands of the fleet wait meanwhile. Source: named in Entity_Service; path and body are assumed.
    """
    barometerit = Barometerit(run.gateway)
    changes = barometerit.entity.ours(data.properties)
    seen = partial(barometerit.read_entity, data.bn)
    async with run.exclusive(f"entity:{data.bn}"):
        fields = writes.merged(await seen(), changes, wire.SERVER_KEPT)
        written = await barometerit.update_entity(data.bn, fields)
    return await writes.outcome(barometerit, data.bn, changes, written, seen)


@command(
    "entity.update_many",
    data=models.EntityUpdateMany,
    uses=(endpoints.ENTITY_UPDATE_MANY, endpoints.ENTITY_READ, endpoints.PROPOSAL_LIST),
    bulk=True,
)
async def entity_update_many(run: Run, data: models.EntityUpdateMany) -> Result:
    """
    Set the same basic fields of many entities, in batches; gives what came of each.

    `outcomes` says for each BN `saved`, `proposed`, `missing` (there is no such entity), `not_saved` (accepted, and it
    shows otherwise), `unconfirmed` (accepted, and it does not show at all or can't be read) or `refused`; `reasons` has
    why. Source: named in Entity_Service; path and body are assumed.
    """
    barometerit = Barometerit(run.gateway)
    return await UpdateMany(run, barometerit, barometerit.entity.ours(data.properties)).result(data)


@command(
    "entity.delete", data=models.One, uses=(endpoints.ENTITY_DELETE, endpoints.ENTITY_READ, endpoints.PROPOSAL_LIST)
)
async def entity_delete(run: Run, data: models.One) -> Result:
    """
    Delete an entity; one that is not there is `not_found`. `deleted` is false where that waits as a proposal.

    It is null where the delete was accepted and nobody can read whether the entity is gone. Source: named in
    Entity_Service; the path is assumed.
    """
    barometerit = Barometerit(run.gateway)
    return await writes.delete(run, barometerit, data.bn, barometerit.read_entity, barometerit.delete_entity)


@command("entity.fields.read", data=models.RowsOfOne, uses=(endpoints.ENTITY_FIELDS_READ,))
async def entity_fields_read(run: Run, data: models.RowsOfOne) -> Result:
    """List an entity's custom fields with their values. Source: named in Entity_Service; the path is assumed."""
    return await lists.whole(run, data, partial(Barometerit(run.gateway).read_values, data.bn), bn=data.bn)


@command(
    "entity.fields.update",
    data=models.EntityFieldsUpdate,
    uses=(endpoints.ENTITY_FIELDS_UPDATE, endpoints.ENTITY_FIELDS_READ, endpoints.PROPOSAL_LIST),
)
async def entity_fields_update(run: Run, data: models.EntityFieldsUpdate) -> Result:
    """
    Set custom field values of an entity, by the fields' BNs; gives `saved` and `proposed`.

    Source: named in Entity_Service; path and body are assumed.
    """
    barometerit = Barometerit(run.gateway)

    async def seen() -> Object:
        return {str(field.get("bn")): field.get("value") for field in await barometerit.read_values(data.bn)}

    written = await barometerit.update_values(data.bn, data.fields)
    return await writes.outcome(barometerit, data.bn, data.fields, written, seen)


@command("entity.links", data=models.RowsOfOne, uses=(endpoints.ENTITY_LINKS,))
async def entity_links(run: Run, data: models.RowsOfOne) -> Result:
    """List an entity's links. Source: named in Entity_Service; the path is assumed."""
    return await lists.whole(run, data, partial(Barometerit(run.gateway).list_links, data.bn), bn=data.bn)


@command("entity.tags", data=models.RowsOfOne, uses=(endpoints.ENTITY_TAGS,))
async def entity_tags(run: Run, data: models.RowsOfOne) -> Result:
    """List an entity's tags. Source: named in Entity_Service; the path is assumed."""
    return await lists.whole(run, data, partial(Barometerit(run.gateway).list_tags, data.bn), bn=data.bn)


@command("entity_properties.read", data=models.OfType, uses=(endpoints.ENTITY_PROPERTIES_READ,))
async def entity_properties_read(run: Run, data: models.OfType) -> Result:
    """
    List the basic properties of a type of entity: their filter BNs, and the values that are allowed.

    Source: 2Getting_Started, Filter_Service.
    """
    return await lists.whole(run, data, partial(Barometerit(run.gateway).list_properties, data.type))


@command("search", data=models.Search, uses=(endpoints.SEARCH,))
async def search(run: Run, data: models.Search) -> Result:
    """
    Search for entities by a text; gives `count`, `top_hit` and `matches` by type.

    Source: Search_Service.
    """
    return await Barometerit(run.gateway).search(data.search_string, data.max_results, data.entity_types)


# --- Filters ----------------------------------------------------------------------------------------------------------


@command("filter.build", data=models.FilterSpec, uses=(endpoints.FILTER_BUILD,))
async def filter_build(run: Run, data: models.FilterSpec) -> Result:
    """
    Build a filter string, to be given as `filter` to `entity.list`.

    Filter BNs and value BNs are those that `entity_properties.read` lists. Source: Filter_Service.
    """
    return {"filter": await Barometerit(run.gateway).build_filter(data)}


@command("operable_filter.build", data=models.OperableFilterSpec, uses=(endpoints.OPERABLE_FILTER_BUILD,))
async def operable_filter_build(run: Run, data: models.OperableFilterSpec) -> Result:
    """
    Build a filter string with operators, to be given as `operable_filter` to `entity.list`.

    Source: Filter_Service.
    """
    return {"operable_filter": await Barometerit(run.gateway).build_operable_filter(data)}


# --- Fields and fieldsets ---------------------------------------------------------------------------------------------


@command("field.list", data=models.Listing, uses=(endpoints.FIELD_LIST,))
async def field_list(run: Run, data: models.Listing) -> Result:
    """List all custom fields, in short. Source: Field_Services."""
    return await lists.whole(run, data, Barometerit(run.gateway).list_fields)


@command("field.read", data=models.One, uses=(endpoints.FIELD_READ,))
async def field_read(run: Run, data: models.One) -> Result:
    """Read one custom field, with its choices. Source: Field_Services."""
    return await Barometerit(run.gateway).read_field(data.bn)


@command(
    "field.create", data=models.FieldCreate, uses=(endpoints.FIELD_CREATE, endpoints.FIELD_LIST, endpoints.FIELD_READ)
)
async def field_create(run: Run, data: models.FieldCreate) -> Result:
    """
    Create a custom field, at most once in effect: found again by name, or by `match_on`.

    Gives the field and `how` (see `entity.create`). Source: Field_Services.
    """
    barometerit = Barometerit(run.gateway)
    made = await _made(run, "field", data, wire.FIELD, barometerit.list_fields, barometerit.create_field)
    return await _whole(made, barometerit.read_field)


@command("field.update", data=models.FieldUpdate, uses=(endpoints.FIELD_UPDATE, endpoints.FIELD_READ))
async def field_update(run: Run, data: models.FieldUpdate) -> Result:
    """
    Set some settings of a custom field, which is read first and put whole; gives `saved`.

    Source: barometerit.txt, "Field Services"; method and path are assumed.
    """
    barometerit = Barometerit(run.gateway)
    return await _updated(
        run, barometerit, data, barometerit.read_field, barometerit.update_field, {"bn", "sort_val", "value"}
    )


@command("field.delete", data=models.One, uses=(endpoints.FIELD_DELETE, endpoints.FIELD_READ))
async def field_delete(run: Run, data: models.One) -> Result:
    """
    Delete a custom field, with its values; one that is not there is `not_found`.

    `deleted` is null where the delete was accepted and nobody can read whether it is gone. Source:
    barometerit.txt, "Field Services"; the path is assumed.
    """
    barometerit = Barometerit(run.gateway)
    return await writes.delete(
        run, barometerit, data.bn, barometerit.read_field, barometerit.delete_field, proposable=False
    )


@command("fieldset.list", data=models.OfType, uses=(endpoints.FIELDSET_LIST,))
async def fieldset_list(run: Run, data: models.OfType) -> Result:
    """List the fieldsets of a type of entity. Source: named in Entity_Service; the path is assumed."""
    return await lists.whole(run, data, partial(Barometerit(run.gateway).list_fieldsets, data.type))


@command("fieldset.read", data=models.One, uses=(endpoints.FIELDSET_READ,))
async def fieldset_read(run: Run, data: models.One) -> Result:
    """Read one fieldset, with its fields in full. Source: Fieldset_Service."""
    return await Barometerit(run.gateway).read_fieldset(data.bn)


@command(
    "fieldset.create",
    data=models.FieldsetCreate,
    uses=(endpoints.FIELDSET_CREATE, endpoints.FIELDSET_LIST, endpoints.FIELDSET_READ),
)
async def fieldset_create(run: Run, data: models.FieldsetCreate) -> Result:
    """
    Create a fieldset of fields, given by their BNs; at most once in effect where `type` is given.

    Gives the fieldset and `how` (see `entity.create`). Found again by name among its type's, or by `match_on` there;
    without `type`, one that was interrupted ends as `outcome_unknown`. Source: Fieldset_Service.
    """
    barometerit = Barometerit(run.gateway)
    look = None if data.type is None else partial(barometerit.list_fieldsets, data.type)
    made = await _made(run, "fieldset", data, wire.FIELDSET, look, barometerit.create_fieldset)
    return await _whole(made, barometerit.read_fieldset)


@command("fieldset.update", data=models.FieldsetUpdate, uses=(endpoints.FIELDSET_UPDATE, endpoints.FIELDSET_READ))
async def fieldset_update(run: Run, data: models.FieldsetUpdate) -> Result:
    """Set some settings of a fieldset, which is read first and put whole; gives `saved`. Source: Fieldset_Service."""
    barometerit = Barometerit(run.gateway)

    async def read(bn: str) -> Object:
        fieldset = await barometerit.read_fieldset(bn)
        return {**fieldset, "fields": [one["bn"] for one in fieldset.get("fields") or [] if one.get("bn")]}

    return await _updated(run, barometerit, data, read, barometerit.update_fieldset, {"bn"})


@command("fieldset.delete", data=models.One, uses=(endpoints.FIELDSET_DELETE, endpoints.FIELDSET_READ))
async def fieldset_delete(run: Run, data: models.One) -> Result:
    """
    Delete a fieldset; its fields stay. One that is not there is `not_found`.

    `deleted` is null where the delete was accepted and nobody can read whether it is gone. Source:
    barometerit.txt, "Fieldset Services"; the path is assumed.
    """
    barometerit = Barometerit(run.gateway)
    return await writes.delete(
        run, barometerit, data.bn, barometerit.read_fieldset, barometerit.delete_fieldset, proposable=False
    )


# --- Associations and proposals ---------------------------------------------------------------------------------------


@command(
    "association.update", data=models.AssociationUpdate, uses=(endpoints.ASSOCIATION_UPDATE, endpoints.PROPOSAL_LIST)
)
async def association_update(run: Run, data: models.AssociationUpdate) -> Result:
    """
    Add and remove associations of an entity; gives `saved` and `proposed`.

    Source: Association_Service.
    """
    barometerit = Barometerit(run.gateway)
    written = await barometerit.update_associations(data.model_dump(mode="json"))
    return await writes.associated(barometerit, data.source_bn, written)


@command("association.list", data=models.AssociationList, uses=(endpoints.ASSOCIATION_LIST,))
async def association_list(run: Run, data: models.AssociationList) -> Result:
    """List what an entity is associated with, of one type, all pages. Source: Association_Service."""
    query = {"sourceBn": data.source_bn, "targetEntityType": data.target_entity_type}
    if data.relationship_type is not None:
        query["relationshipType"] = data.relationship_type
    barometerit = Barometerit(run.gateway)
    ask = partial(barometerit.ask_associations, query)
    # A person may be associated twice, as owner and as user: what `bn` such a row has, no page says.
    return await lists.paged(run, data, ask, barometerit.read_associations, by_bn=False)


@command("proposal.list", data=models.ProposalList, uses=(endpoints.PROPOSAL_LIST,))
async def proposal_list(run: Run, data: models.ProposalList) -> Result:
    """
    List proposals of an entity or a type of entity, all pages: those this account may resolve (`MINE`), or `ALL`.

    Source: Proposal_Service.
    """
    of = {"entityBn": data.entity_bn, "entityType": data.entity_type}
    query = {name: value for name, value in of.items() if value is not None} | {"type": data.type}
    if data.conflicts:
        query["conflicts"] = "true"
    barometerit = Barometerit(run.gateway)
    return await lists.paged(run, data, partial(barometerit.ask_proposals, query), barometerit.read_proposals)


# --- Reports and documents --------------------------------------------------------------------------------------------


@command("report.generate", data=models.ReportGenerate, uses=(endpoints.REPORT_GENERATE,))
async def report_generate(run: Run, data: models.ReportGenerate) -> Result:
    """
    Start a snapshot of a report; gives its `asset_bn`, which may not be ready yet. Waits while the report is locked.

    Source: Reporting_Service.
    """
    asset = await snapshots.generate(run, Barometerit(run.gateway), data.report_bn, data.format, timedelta(0))
    return {"report_bn": data.report_bn, "asset_bn": asset.bn, "format": asset.told or data.format}


@command("report.size", data=models.ReportAsset, uses=(endpoints.REPORT_SIZE,))
async def report_size(run: Run, data: models.ReportAsset) -> Result:
    """Give a snapshot's `size` in bytes. Source: barometerit.txt, "Reporting Service"; the path is assumed."""
    return {"asset_bn": data.asset_bn, "size": await Barometerit(run.gateway).report_size(data.asset_bn)}


@command("report.download", data=models.ReportDownload, uses=(endpoints.REPORT_DOWNLOAD, endpoints.REPORT_SIZE))
async def report_download(run: Run, data: models.ReportDownload) -> Result:
    """
    Fetch a snapshot, verify it, and save it under its final name at once; gives what `report.export` gives.

    Source: barometerit.txt, "Reporting Service"; Reporting_Service.
    """
    reports.check_names(run, data.destination, asset_bn=data.asset_bn)
    asset = await snapshots.awaited(run, data.asset_bn, data.format, timedelta(seconds=data.ready_within))
    return await reports.save(run, Barometerit(run.gateway), data, asset, asset_bn=data.asset_bn)


@command(
    "report.export",
    data=models.ReportExport,
    uses=(
        endpoints.REPORT_GENERATE,
        endpoints.REPORT_DOWNLOAD,
        endpoints.REPORT_SIZE,
        endpoints.DOCUMENT_UPLOAD,
        endpoints.ENTITY_LIST,
    ),
)
async def report_export(run: Run, data: models.ReportExport) -> Result:
    """
    Bring a report home: generate a snapshot, wait for it, fetch and verify it, save it under its final name at once.

    Gives `asset_bn`, `destination`, `bytes`, `sha256`, and for CSV `rows` (without the heading) and `columns`; the same
    stands in a manifest beside the file. A report generates one snapshot at a time in the whole fleet. `delete_asset`
    removes the snapshot once the file is verified; `upload_as` makes a document of the file: where that fails, so does
    the command, and the error says where the file is. Source: barometerit.txt, "Reporting Service"; Reporting_Service.
    """
    barometerit = Barometerit(run.gateway)
    reports.check_names(run, data.destination, data.upload_as, report_bn=data.report_bn, asset_bn="0" * 12)
    format = data.format or format_of(run.artifacts.check(data.destination)) or "csv"
    patience = timedelta(seconds=data.ready_within)
    asset = await snapshots.generate(run, barometerit, data.report_bn, format, patience)
    ids = {"report_bn": data.report_bn, "asset_bn": asset.bn}
    result = await reports.save(run, barometerit, data, asset, **ids)
    if data.upload_as is None:
        return result
    name = await reports.filled(run, "upload_as", data.upload_as, ids)
    return {**result, "document": await reports.uploaded(run, barometerit, name, result["destination"])}


@command("document.upload", data=models.DocumentUpload, uses=(endpoints.DOCUMENT_UPLOAD, endpoints.ENTITY_LIST))
async def document_upload(run: Run, data: models.DocumentUpload) -> Result:
    """
    Make a document (an entity of type AST) of a file under `[artifacts].allowed`, at most once in effect.

    Gives `bn`, `bytes` and `how` (see `entity.create`). Source: barometerit.txt, "Reporting Service"; path and form are
    assumed.
    """
    source = run.artifacts.check(data.path, field="path")
    return await documents.upload(run, Barometerit(run.gateway), data.name, source)


# --- What they share --------------------------------------------------------------------------------------------------


async def _made(
    run: Run,
    noun: str,
    data: models.Creation,
    vocabulary: Vocabulary,
    look: Callable[[], Awaitable[list[Object]]] | None,
    send: Callable[[Mapping[str, Any]], Awaitable[Written]],
) -> Object:
    """Make what is found again by its name; without `look` nobody can find it."""
    wanted = data.fields()

    async def candidates() -> Candidates:
        return Candidates([] if look is None else await look())

    return await creations.make(
        run,
        noun=noun,
        wanted=wanted,
        match_on=match_on(data, vocabulary),
        default=("name",) if look is not None else (),
        look=candidates,
        send=partial(send, wanted),
    )


async def _whole(made: Object, read: Callable[[str], Awaitable[Object]]) -> Result:
    """Give an object that was made as it is then, where the answer (or the list that it was found in) has less."""
    if "bn" not in made or (made["how"] == "created" and "name" in made):
        return made
    told = {name: made[name] for name in ("how", "saved", "proposed")}
    try:
        return {**await read(made["bn"]), **told}
    except writes.UNREADABLE as error:
        # It is made, whatever became of reading it: several of these paths are assumed.
        return {**made, "warnings": [f"It is there and could not be read: {error.message}"]}


async def _updated(
    run: Run,
    barometerit: Barometerit,
    data: models.FieldUpdate | models.FieldsetUpdate,
    read: Callable[[str], Awaitable[Object]],
    put: Callable[[str, Mapping[str, Any]], Awaitable[Written]],
    kept_by_server: set[str],
) -> Result:
    """Read, put whole, and see what came of it; other commands of the fleet wait meanwhile."""
    changes = data.model_dump(mode="json", exclude_none=True, exclude={"bn"})
    async with run.exclusive(f"settings:{data.bn}"):
        written = await put(data.bn, writes.merged(await read(data.bn), changes, frozenset(kept_by_server)))
    return await writes.outcome(barometerit, data.bn, changes, written, partial(read, data.bn), proposable=False)

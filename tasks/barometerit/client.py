"""
Typed calls on a connection's gateway: requests out, objects in our names back.

Every method raises the error tree. `fields` of the connection, and of one operation, put an operator's names in the
place of the documented or assumed ones, in requests and in answers.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_plus

from tasks.barometerit import endpoints, wire
from tasks.barometerit.wire import BN_SHAPE, MEDIA_TYPES, Format
from worker.errors import Busy, ContractBroken
from worker.rest import Encoded, Headers, Response
from worker.strict_json import read_vendors

if TYPE_CHECKING:
    from datetime import timedelta

    from tasks.barometerit import models
    from worker.gateway import Gateway
    from worker.rest import Body, Endpoint
    from worker.transport import Download
    from worker.vocabulary import Vocabulary

_READY: Final = re.compile(r"(?:[A-Za-z0-9._~!*'()+:,/@$=?-]|%[0-9A-Fa-f]{2})+")
"""What is ready for a URL's query as it is (RFC 3986, 3.4; without & and ;, which end a value)."""

JSON_TYPE: Final = "application/json;charset=UTF-8"  # barometerit.txt, "Content Type"

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list; `unfiltered` is how many there are without filters, where the vendor tells."""

    rows: list[Object]
    unfiltered: int | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """
    What an answer to a write says: which objects are saved, which changes wait as proposals, and the object itself.

    `told` is False where it says neither: what came of the write is to be read then.
    """

    saved: tuple[str, ...] = ()
    proposed: tuple[str, ...] = ()
    transaction_ids: tuple[str, ...] = ()
    object: Object | None = None

    @property
    def told(self) -> bool:
        """Whether it says what was saved or proposed."""
        return bool(self.saved or self.proposed)


class Barometerit:
    """barometerIT through one connection."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.entity = self.named(wire.ENTITY, endpoints.ENTITY_UPDATE)
        """The vocabulary of entities, with the names that the operator has settled."""

    # Entities

    async def ask_entities(self, query: Mapping[str, str], first: int, count: int) -> Response:
        """Ask for a page of the entities of a type (BIT-ENT: `first` counts from 0)."""
        return await self._page(endpoints.ENTITY_LIST, query, first, count)

    def read_entities(self, body: bytes) -> Page:
        """Read such a page."""
        response = _response(body)
        said = response.object()
        # Spelled as documented, or as one would.
        unfiltered = _count(said.get("unfilterdCount", said.get("unfilteredCount")))
        rows = self._read_rows(said.get("entities"), response, endpoints.ENTITY_LIST, wire.ENTITY)
        if not all(isinstance(row.get("bn"), str) for row in rows):
            raise _broken("each entity has a bn, a text", response)
        return Page(rows, unfiltered)

    async def read_entity(self, bn: str) -> Object:
        """Give one entity."""
        return self._object(
            await self._send(endpoints.ENTITY_READ, path={"bn": bn}), endpoints.ENTITY_READ, wire.ENTITY
        )

    async def create_entity(self, type: str, properties: Mapping[str, Any]) -> Written:
        """Make an entity."""
        fields = {"entity_discriminator": type, **properties}
        return await self._write(endpoints.ENTITY_CREATE, wire.ENTITY, fields)

    async def update_entity(self, bn: str, fields: Mapping[str, Any]) -> Written:
        """Replace the basic fields of an entity: all of them, what is left out becomes empty."""
        return await self._write(endpoints.ENTITY_UPDATE, wire.ENTITY, fields, bn=bn)

    async def update_entities(self, bns: Sequence[str], properties: Mapping[str, Any]) -> Written:
        """Set the same basic fields of several entities."""
        fields = {
            "bns": list(bns),
            "properties": self.named(wire.ENTITY, endpoints.ENTITY_UPDATE_MANY).write(properties),
        }
        return await self._write(endpoints.ENTITY_UPDATE_MANY, wire.MANY, fields)

    async def delete_entity(self, bn: str) -> Written:
        """Delete an entity."""
        return await self._delete(endpoints.ENTITY_DELETE, bn)

    async def read_values(self, bn: str) -> list[Object]:
        """Give an entity's custom fields, each with its `value`."""
        return await self._list(endpoints.ENTITY_FIELDS_READ, wire.FIELD, path={"bn": bn})

    async def update_values(self, bn: str, values: Mapping[str, Any]) -> Written:
        """Set custom field values of an entity, by the fields' BNs."""
        vocabulary = self.named(wire.FIELD_VALUE, endpoints.ENTITY_FIELDS_UPDATE)
        body = [vocabulary.write({"bn": field, "value": value}) for field, value in values.items()]
        response = await self._send(endpoints.ENTITY_FIELDS_UPDATE, path={"bn": bn}, json=body)
        return self._written(response, endpoints.ENTITY_FIELDS_UPDATE, wire.FIELD)

    async def list_links(self, bn: str) -> list[Object]:
        """Give an entity's links."""
        return await self._list(endpoints.ENTITY_LINKS, wire.LINK, path={"bn": bn})

    async def list_tags(self, bn: str) -> list[Object]:
        """Give an entity's tags."""
        return await self._list(endpoints.ENTITY_TAGS, wire.TAG, path={"bn": bn})

    async def list_properties(self, type: str) -> list[Object]:
        """Give the basic properties of a type of entity, with filter BNs and allowed values."""
        return await self._list(endpoints.ENTITY_PROPERTIES_READ, wire.PROPERTY, path={"type": type})

    # Fields and fieldsets

    async def list_fields(self) -> list[Object]:
        """Give all custom fields, in short."""
        return await self._list(endpoints.FIELD_LIST, wire.FIELD)

    async def read_field(self, bn: str) -> Object:
        """Give one custom field, whole."""
        return self._object(await self._send(endpoints.FIELD_READ, path={"bn": bn}), endpoints.FIELD_READ, wire.FIELD)

    async def create_field(self, fields: Mapping[str, Any]) -> Written:
        """Make a custom field."""
        return await self._write(endpoints.FIELD_CREATE, wire.FIELD, _with_choices(fields))

    async def update_field(self, bn: str, fields: Mapping[str, Any]) -> Written:
        """Put a custom field's settings."""
        return await self._write(endpoints.FIELD_UPDATE, wire.FIELD, _with_choices(fields), bn=bn)

    async def delete_field(self, bn: str) -> Written:
        """Delete a custom field."""
        return await self._delete(endpoints.FIELD_DELETE, bn)

    async def list_fieldsets(self, type: str) -> list[Object]:
        """Give the fieldsets of a type of entity."""
        return await self._list(endpoints.FIELDSET_LIST, wire.FIELDSET, query={"type": type})

    async def read_fieldset(self, bn: str) -> Object:
        """Give one fieldset, with its fields in full."""
        return self._object(
            await self._send(endpoints.FIELDSET_READ, path={"bn": bn}), endpoints.FIELDSET_READ, wire.FIELDSET
        )

    async def create_fieldset(self, fields: Mapping[str, Any]) -> Written:
        """Make a fieldset."""
        return await self._write(endpoints.FIELDSET_CREATE, wire.FIELDSET, fields)

    async def update_fieldset(self, bn: str, fields: Mapping[str, Any]) -> Written:
        """Put a fieldset's settings."""
        return await self._write(endpoints.FIELDSET_UPDATE, wire.FIELDSET, fields, bn=bn)

    async def delete_fieldset(self, bn: str) -> Written:
        """Delete a fieldset."""
        return await self._delete(endpoints.FIELDSET_DELETE, bn)

    # Filters and search

    async def build_filter(self, spec: models.FilterSpec) -> str:
        """Give the string that `filter` of a list takes."""
        body = self.named(wire.FILTER, endpoints.FILTER_BUILD).write(spec.model_dump(mode="json", exclude_none=True))
        return await self._text(endpoints.FILTER_BUILD, body)

    async def build_operable_filter(self, spec: models.OperableFilterSpec) -> str:
        """Give the string that `operableFilter` of a list takes."""
        said = spec.model_dump(mode="json", exclude_none=True)
        param = self.named(wire.OPERABLE_PARAM, endpoints.OPERABLE_FILTER_BUILD)
        said["params"] = [param.write(one) for one in said["params"]]
        return await self._text(
            endpoints.OPERABLE_FILTER_BUILD,
            self.named(wire.OPERABLE_FILTER, endpoints.OPERABLE_FILTER_BUILD).write(said),
        )

    async def search(self, text: str, max_results: int, types: Sequence[str]) -> Object:
        """Search for entities."""
        asked = {"search_string": text, "max_results": max_results, "entity_types": list(types)}
        response = await self._send(endpoints.SEARCH, json=self.named(wire.SEARCH, endpoints.SEARCH).write(asked))
        return self._object(response, endpoints.SEARCH, wire.SEARCH)

    # Associations and proposals

    async def update_associations(self, said: Mapping[str, Any]) -> Written:
        """Add and remove associations of one entity."""
        associated = self.named(wire.ASSOCIATED, endpoints.ASSOCIATION_UPDATE)
        lists = {name: [associated.write(one) for one in said[name]] for name in ("added_assocs", "removed_assocs")}
        return await self._write(endpoints.ASSOCIATION_UPDATE, wire.ASSOCIATION, {**said, **lists})

    async def ask_associations(self, query: Mapping[str, str], first: int, count: int) -> Response:
        """Ask for a page of an entity's associations."""
        return await self._page(endpoints.ASSOCIATION_LIST, query, first, count)

    def read_associations(self, body: bytes) -> Page:
        """Read such a page."""
        response = _response(body)
        return Page(self._read_rows(response.json(), response, endpoints.ASSOCIATION_LIST, wire.ASSOCIATED))

    async def ask_proposals(self, query: Mapping[str, str], first: int, count: int) -> Response:
        """Ask for a page of proposals."""
        return await self._page(endpoints.PROPOSAL_LIST, query, first, count)

    def read_proposals(self, body: bytes) -> Page:
        """Read such a page."""
        response = _response(body)
        return Page(self._read_rows(response.json(), response, endpoints.PROPOSAL_LIST, wire.PROPOSAL))

    # Reports and documents

    async def generate_report(self, report_bn: str, format: Format, patience: timedelta) -> Object:
        """Start a snapshot of a report; its format is the Content-Type (BIT-REP). Raises `Busy` while it is locked."""
        headers = {"Content-Type": f"{MEDIA_TYPES[format]};charset=UTF-8"}
        response = await self._gateway.send(
            endpoints.REPORT_GENERATE, path={"report_bn": report_bn}, headers=headers, timeout=patience
        )
        snapshot = self.named(wire.SNAPSHOT, endpoints.REPORT_GENERATE).read(response.object())
        if isinstance(snapshot.get("asset_bn"), dict):  # as `updatedByBn` is, in BIT-ENT
            snapshot["asset_bn"] = snapshot["asset_bn"].get("bn")
        if not isinstance(snapshot.get("asset_bn"), str) or not snapshot["asset_bn"]:
            raise _broken("a snapshot has an assetBn, a text", response)
        return snapshot

    async def report_size(self, asset_bn: str, *, once: bool = False) -> int:
        """
        Give a snapshot's bytes: a bare number, or an object's `size`. Raises `Busy` where it is not ready.

        `once`: a failure is not worth another attempt.
        """
        endpoint = replace(endpoints.REPORT_SIZE, replayable=False) if once else endpoints.REPORT_SIZE
        response = await self._send(endpoint, path={"asset_bn": asset_bn})
        if response.status in {202, 204} or not response.body:
            raise Busy("The snapshot is not ready yet.", after=response.after, status=response.status)
        said = response.json()
        if isinstance(said, dict):
            said = self.named(wire.SIZE, endpoints.REPORT_SIZE).read(said).get("size")
        size = _count(said)
        if size is None:
            raise _broken("a size is a number of bytes", response)
        return size

    @contextlib.asynccontextmanager
    async def download(
        self, asset_bn: str, *, headers: Mapping[str, str] | None = None, delete: bool = False
    ) -> AsyncIterator[Download]:
        """Read a snapshot as it comes (BIT-REP: `Accept: */*`); `delete` removes it as it is read."""
        # As it is: a compressed answer's Content-Length and ranges would not be those of the file.
        wanted = {"Accept": "*/*", "Accept-Encoding": "identity", **(headers or {})}
        query = {"deleteAsset": "true"} if delete else {}
        async with self._gateway.stream(
            endpoints.REPORT_DOWNLOAD, path={"asset_bn": asset_bn}, query=query, headers=wanted
        ) as download:
            yield download

    async def upload_document(self, body: Body, headers: Mapping[str, str], patience: timedelta) -> Written:
        """Make a document of a form that holds a file."""
        response = await self._gateway.send(endpoints.DOCUMENT_UPLOAD, body=body, headers=headers, timeout=patience)
        return self._written(response, endpoints.DOCUMENT_UPLOAD, wire.ENTITY)

    # What the calls have in common

    def named(self, vocabulary: Vocabulary, endpoint: Endpoint) -> Vocabulary:
        """Give a vocabulary with the operator's names: the connection's, and above them the operation's."""
        connection = self._gateway.connection
        override = connection.operations.get(endpoint.name)
        names = {**connection.fields, **(override.fields if override is not None else {})}
        if not names:
            return vocabulary
        theirs = {ours: (name,) for ours, name in names.items()}
        return replace(vocabulary, names={**vocabulary.names, **theirs})

    async def _send(self, endpoint: Endpoint, **parts: Any) -> Response:
        headers = {"Content-Type": JSON_TYPE} if "json" in parts else {}
        return await self._gateway.send(endpoint, headers=headers, **parts)

    async def _write(
        self, endpoint: Endpoint, vocabulary: Vocabulary, fields: Mapping[str, Any], **path: str
    ) -> Written:
        body = self.named(vocabulary, endpoint).write(fields)
        return self._written(await self._send(endpoint, path=path, json=body), endpoint, vocabulary)

    async def _delete(self, endpoint: Endpoint, bn: str) -> Written:
        return self._written(await self._send(endpoint, path={"bn": bn}), endpoint, wire.ENTITY)

    async def _text(self, endpoint: Endpoint, body: Any) -> str:
        """Send JSON and give the answer's text, without quotes if it came as a JSON string."""
        headers = {"Content-Type": JSON_TYPE, "Accept": "text/plain;charset=UTF-8, application/json;q=0.9"}
        response = await self._gateway.send(endpoint, json=body, headers=headers)
        text = response.text.strip()
        if text.startswith('"'):
            with contextlib.suppress(ValueError):
                text = str(read_vendors(text))
        if not text.startswith("{") and not _READY.fullmatch(text):
            raise _broken("a filter is URL-encoded JSON", response)
        return text

    async def _list(self, endpoint: Endpoint, vocabulary: Vocabulary, **parts: Any) -> list[Object]:
        response = await self._send(endpoint, **parts)
        return self._read_rows(response.json(), response, endpoint, vocabulary)

    async def _page(self, endpoint: Endpoint, query: Mapping[str, str], first: int, count: int) -> Response:
        return await self._send(endpoint, query={**query, "first": str(first), "count": str(count)})

    def _read_rows(self, said: Any, response: Response, endpoint: Endpoint, vocabulary: Vocabulary) -> list[Object]:
        """Read the objects of a list: a bare array, or an object that holds one."""
        if isinstance(said, dict):
            lists = [value for value in said.values() if isinstance(value, list)]
            said = lists[0] if len(lists) == 1 else None
        if not isinstance(said, list) or not all(isinstance(one, dict) for one in said):
            raise _broken("a list of objects is documented", response)
        named = self.named(vocabulary, endpoint)
        return [named.read(one) for one in said]

    def _object(self, response: Response, endpoint: Endpoint, vocabulary: Vocabulary) -> Object:
        return self.named(vocabulary, endpoint).read(response.object())

    def _written(self, response: Response, endpoint: Endpoint, vocabulary: Vocabulary) -> Written:
        """Understand what a write is answered with: the three lists (BIT-ASSOC), the object, its BN, or nothing."""
        text = response.text.strip()
        try:
            said = read_vendors(text) if text else None
        except ValueError:
            said = text
        if isinstance(said, str):
            return Written(saved=(said,)) if BN_SHAPE.fullmatch(said) else Written()
        if not isinstance(said, dict):
            return Written()
        envelope = self.named(wire.ENVELOPE, endpoint).read(said)
        lists = {name: envelope[name] for name in wire.ENVELOPE.names if isinstance(envelope.get(name), list)}
        if lists:
            saved, proposed, transactions = (tuple(map(_bn, lists.get(name, ()))) for name in wire.ENVELOPE.names)
            return Written(saved, proposed, transactions)
        return Written(object=self.named(vocabulary, endpoint).read(said))


def in_query(filter: str) -> str:
    """
    Give a filter string as a query's value.

    It comes encoded already, ready for the URL (BIT-FILT), and goes there byte for byte; plain JSON is encoded.
    """
    if _READY.fullmatch(filter):
        return Encoded(filter)
    return filter if filter.startswith("{") else unquote_plus(filter)


def _count(said: Any) -> int | None:
    """Give a number of things, also where it comes as a text or as 250.0; None for anything else."""
    if isinstance(said, str) and said.isascii() and said.isdigit() and len(said) < 20:
        return int(said)
    if isinstance(said, bool) or not isinstance(said, int | float) or said < 0 or said != int(said):
        return None
    return int(said)


def _bn(said: Any) -> str:
    """Give a BN of a list of BNs, or of objects that have one, as `updatedByBn` is (BIT-ENT)."""
    return str(said["bn"]) if isinstance(said, dict) and said.get("bn") else str(said)


def _with_choices(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give a custom field's settings with its choices under the vendor's names."""
    if fields.get("choices") is None:
        return fields
    return {**fields, "choices": [wire.CHOICE.write(choice) for choice in fields["choices"]]}


def _response(body: bytes) -> Response:
    """Give a page as the answer that it was: what was kept of a list is its pages' bodies."""
    return Response(status=200, headers=Headers({}), body=body)


def _broken(documented: str, response: Response) -> ContractBroken:
    return ContractBroken(
        f"barometerIT answered {response.status} with another body than documented: {documented}.",
        status=response.status,
        response=response.text,
    )

"""
Typed calls on a connection's gateway: requests out, objects in our words back.

Every method raises the error tree. Lists are read page by page (`tasks.planview_admin.pages`), and go on where they
were when a run was cut short (`worker.sweep`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from tasks.planview_admin.pages import Pages
from tasks.planview_admin.spelling import INACTIVE, PRODUCT, RECORD, Spelling, reference
from worker.errors import ContractBroken, Invalid
from worker.natural_key import fold
from worker.rest import Endpoint, Evidence, vendor_message
from worker.sweep import sweep

if TYPE_CHECKING:
    from config.connections import Override
    from worker.rest import Response
    from worker.run import Run
    from worker.vocabulary import Vocabulary


def _call(
    name: str,
    call: str,
    source: str = "PVA-USERS: the user interface can; path assumed",
    *,
    evidence: Evidence = "assumed",
    replayable: bool = True,
) -> Endpoint:
    method, _, path = call.partition(" ")
    return Endpoint(name=name, method=method, path=path, evidence=evidence, source=source, replayable=replayable)


# Setting the same values twice is harmless, and so is deleting what is gone; making somebody twice is not.
USER_LIST: Final = _call(
    "user.list",
    "GET /public/v1/user",
    'planview_admin.txt, "Working with Paged Responses"; search parameters assumed',
    evidence="seed",
)
USER_READ: Final = _call("user.read", "GET /public/v1/user/{id}")
USER_CREATE: Final = _call("user.create", "POST /public/v1/user", replayable=False)
USER_UPDATE: Final = _call("user.update", "PATCH /public/v1/user/{id}")
# The same call as an update, with a name of its own: a tenant may have another for it.
USER_DEACTIVATE: Final = _call("user.deactivate", "PATCH /public/v1/user/{id}")
USER_REACTIVATE: Final = _call("user.reactivate", "PATCH /public/v1/user/{id}")
USER_DELETE: Final = _call("user.delete", "DELETE /public/v1/user/{id}")
USER_AUDIT: Final = _call(
    "user.audit", "GET /public/v1/user/{id}/audit", 'planview_admin.txt, "Retrieving user audit history"; path assumed'
)
CUSTOMER_AUDIT: Final = _call(
    "customer.audit",
    "GET /public/v1/customer/audit",
    'planview_admin.txt, "Retrieving customer audit history"; path assumed',
)
PRODUCT_LIST: Final = _call(
    "product.list", "GET /public/v1/product", 'planview_admin.txt, "Retrieving assigned products"; path assumed'
)
PRODUCT_USERS: Final = _call(
    "product.users",
    "GET /public/v1/product/{id}/user",
    'planview_admin.txt, "Retrieving users provisioned to products"; path assumed',
)

User = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Swept:
    """A list as it is read: rows in pages, and what to say of them afterwards."""

    pages: AsyncGenerator[list[User], None]
    paging: Pages

    async def rows(self) -> AsyncIterator[User]:
        """Give the rows one by one."""
        async for page in self.pages:
            for row in page:
                yield row

    @property
    def warnings(self) -> list[str]:
        """Say so where rows moved between pages: others may have been missed."""
        if not self.paging.moved:
            return []
        return [f"{self.paging.moved} rows came twice: the data moved while they were read, and others may be missing."]


class Admin:
    """Planview Admin through one connection. `name` of a list: what tells it from others that the command reads."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._gateway = run.gateway
        self._operations = run.gateway.connection.operations
        self._spellings: dict[str, Spelling] = {}
        self.spelling = Spelling.of(run.gateway.connection.fields)
        """How users are spelled where no operation has its own way."""

    # Users

    def search(
        self,
        fields: Mapping[str, str],
        filters: Mapping[str, str] | None = None,
        *,
        page_size: int,
        name: str = "users",
    ) -> Swept:
        """List users that have these fields; `filters` are query parameters as they are."""
        query = {**_texts(self._spelled(USER_LIST).write(fields)), **(filters or {})}
        return self._users(name, USER_LIST, query, page_size, wanted=fields)

    async def read_user(self, id: str) -> User:
        """Give one user."""
        return self._user(await self._gateway.send(USER_READ, path={"id": id}), USER_READ)

    async def create_user(self, fields: Mapping[str, Any]) -> User:
        """Make a user."""
        body = self._spelled(USER_CREATE).write(fields)
        return self._user(await self._gateway.send(USER_CREATE, json=body), USER_CREATE)

    async def update_user(self, id: str, changes: Mapping[str, Any], endpoint: Endpoint = USER_UPDATE) -> User:
        """Set some fields of a user; gives the user as it is then."""
        body = self._spelled(endpoint).write(changes)
        if self._replaces(endpoint):
            body = {**await self._whole(id), **body}
        response = await self._gateway.send(endpoint, path={"id": id}, json=body)
        try:
            return self._user(response, endpoint)
        except ContractBroken:  # no body, an echo of the changes, a message: it was done all the same
            return await self.read_user(id)

    async def write_user(self, id: str, changes: Mapping[str, Any], *, once: bool) -> User:
        """
        Set some fields of a user, a status among them perhaps.

        Where this tenant has operations of their own for deactivating and reactivating, a status goes there. `once`:
        nothing is ever sent twice by itself, as the caller looks before it does.
        """
        update = _once(USER_UPDATE) if once else USER_UPDATE
        status = USER_DEACTIVATE if changes.get("status") == INACTIVE else USER_REACTIVATE
        if "status" not in changes or status.name not in self._operations:
            return await self.update_user(id, changes, update)
        others = {name: value for name, value in changes.items() if name != "status"}
        if others:
            await self.update_user(id, others, update)
        return await self.update_user(id, {"status": changes["status"]}, _once(status) if once else status)

    async def delete_user(self, id: str) -> str:
        """Delete a user; gives what the vendor says."""
        return vendor_message((await self._gateway.send(USER_DELETE, path={"id": id})).text)

    # Products, and the audit history

    def products(self, *, page_size: int, name: str = "products") -> Swept:
        """List the product environments that are assigned to the customer."""
        names = PRODUCT.configured(_fields(self._operations, PRODUCT_LIST.name))
        key = names.names["id"][0]
        paging = Pages(lambda row: reference(row.get(key)) or str(row))

        async def products() -> AsyncGenerator[list[User], None]:
            async for page in self._sweep(name, paging, PRODUCT_LIST, {}, page_size):
                yield [{**read, "id": reference(read.get("id"))} for read in map(names.read, page)]

        return Swept(products(), paging)

    def product_users(self, id: str, *, page_size: int) -> Swept:
        """List who is provisioned to a product environment."""
        return self._users("users", PRODUCT_USERS, {}, page_size, path={"id": id})

    def records(
        self,
        endpoint: Endpoint,
        key: Callable[[User], str],
        *,
        since: str | None,
        page_size: int,
        path: Mapping[str, str] | None = None,
    ) -> Swept:
        """List audit records as received, from an instant on as far as the vendor obeys; `key` tells them apart."""
        paging = Pages(key)
        query = {} if since is None else self.record_names(endpoint).write({"since": since})
        return Swept(self._sweep("records", paging, endpoint, query, page_size, path), paging)

    def record_names(self, endpoint: Endpoint) -> Vocabulary:
        """Give the keys of the audit records that an operation lists, and its parameter `since`."""
        return RECORD.configured(_fields(self._operations, endpoint.name))

    # What they have in common

    def _replaces(self, endpoint: Endpoint) -> bool:
        """Whether this tenant's update takes a whole user (`method = "PUT"`), not the changes alone."""
        override = self._operations.get(endpoint.name)
        return override is not None and override.method == "PUT"

    async def _whole(self, id: str) -> User:
        """Give a user as the vendor has it, without what nobody sets."""
        response = await self._gateway.send(USER_READ, path={"id": id})
        set_by_others = self._spelled(USER_READ).write({"last_login": None})
        return {name: value for name, value in response.object().items() if name not in set_by_others}

    def _spelled(self, endpoint: Endpoint) -> Spelling:
        """Give how one operation spells users."""
        spelling = self._spellings.get(endpoint.name)
        if spelling is None:
            fields = {**self._gateway.connection.fields, **_fields(self._operations, endpoint.name)}
            spelling = self._spellings[endpoint.name] = Spelling.of(fields)
        return spelling

    def _user(self, response: Response, endpoint: Endpoint) -> User:
        return _read(self._spelled(endpoint), response.object())

    def _users(
        self,
        name: str,
        endpoint: Endpoint,
        query: Mapping[str, str],
        page_size: int,
        *,
        wanted: Mapping[str, str] | None = None,
        path: Mapping[str, str] | None = None,
    ) -> Swept:
        spelling = self._spelled(endpoint)
        key = spelling.names.names["id"][0]
        paging = Pages(lambda row: reference(row.get(key)))

        async def users() -> AsyncGenerator[list[User], None]:
            async for page in self._sweep(name, paging, endpoint, query, page_size, path):
                read = [_read(spelling, row) for row in page]
                yield [user for user in read if _has(user, wanted)] if wanted else read

        return Swept(users(), paging)

    def _sweep(
        self,
        name: str,
        paging: Pages,
        endpoint: Endpoint,
        query: Mapping[str, str],
        page_size: int,
        path: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[list[User], None]:
        return sweep(self._run, name, paging, Fetch(self._run, endpoint, query, page_size, path))


class Fetch:
    """Asks for the page at an index; `count` is left out where the vendor refuses ours."""

    def __init__(
        self,
        run: Run,
        endpoint: Endpoint,
        query: Mapping[str, str],
        page_size: int,
        path: Mapping[str, str] | None = None,
    ) -> None:
        self._gateway = run.gateway
        self._endpoint = endpoint
        self._query = query
        self._path = path
        self._count: dict[str, str] = {"count": str(page_size)}

    async def __call__(self, start: int) -> Response:
        """Ask for one page."""
        query = {**self._query, "startIndex": str(start)}
        try:
            return await self._gateway.send(self._endpoint, path=self._path, query={**query, **self._count})
        except Invalid as error:
            # "Each endpoint specifies its default and maximum values", and nobody knows them: so the default.
            if error.status != 400 or not self._count:
                raise
            response = await self._gateway.send(self._endpoint, path=self._path, query=query)
            self._count = {}
            return response


def _once(endpoint: Endpoint) -> Endpoint:
    return replace(endpoint, replayable=False)


def _read(spelling: Spelling, row: Mapping[str, Any]) -> User:
    user = spelling.read(row)
    if not isinstance(user["id"], str) or not user["id"]:
        key = spelling.names.names["id"][0]
        raise ContractBroken(
            f"Planview Admin gave a user without {key!r}; if ids have another key, set the connection's fields.id.",
            response=str(row),
        )
    return user


def _fields(operations: Mapping[str, Override], name: str) -> Mapping[str, str]:
    override = operations.get(name)
    return {} if override is None else override.fields


def _texts(fields: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in fields.items()}


def _has(user: User, wanted: Mapping[str, str]) -> bool:
    for name, value in wanted.items():
        held = user.get(name)
        if isinstance(held, list):
            if value not in held:
                return False
        elif fold(str(held)) != fold(value):
            return False
    return True

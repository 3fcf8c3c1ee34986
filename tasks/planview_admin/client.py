"""
Typed calls on a connection's gateway: requests out, objects in our words back.

Every method raises the error tree. Lists are read page by page (`tasks.planview_admin.pages`), and go on where they
were when a run was cut short (`worker.sweep`).
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tasks.planview_admin.pages import Pages
from tasks.planview_admin.spelling import Spelling
from worker.errors import ContractBroken, Invalid
from worker.rest import Endpoint, Evidence
from worker.sweep import sweep

if TYPE_CHECKING:
    from worker.rest import Response
    from worker.run import Run


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

User = dict[str, Any]


@dataclass(slots=True)
class Swept:
    """A list as it is read: rows in pages, and what to say of them afterwards."""

    pages: AsyncGenerator[list[User], None]
    paging: Pages
    wanted: Mapping[str, str] = field(default_factory=dict)

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
    """Planview Admin through one connection."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._gateway = run.gateway
        self.spelling = Spelling.of(run.gateway.connection)

    # Users

    def search(
        self,
        fields: Mapping[str, str],
        filters: Mapping[str, str] | None = None,
        *,
        page_size: int,
        name: str = "users",
    ) -> Swept:
        """List users that have these fields; `filters` are query parameters as they are. `name`: of this list."""
        query = {**_texts(self.spelling.write(fields)), **(filters or {})}
        return self._list(name, USER_LIST, query, page_size, wanted=fields)

    async def read_user(self, id: str) -> User:
        """Give one user."""
        return self._user(await self._gateway.send(USER_READ, path={"id": id}))

    async def create_user(self, fields: Mapping[str, Any]) -> User:
        """Make a user."""
        return self._user(await self._gateway.send(USER_CREATE, json=self.spelling.write(fields)))

    async def update_user(self, id: str, changes: Mapping[str, Any]) -> User:
        """Set some fields of a user; gives the user as it is then."""
        body = self.spelling.write(changes)
        if self._replaces(USER_UPDATE):
            body = {**await self._whole(id), **body}
        response = await self._gateway.send(USER_UPDATE, path={"id": id}, json=body)
        return self._user(response) if response.body.strip() else await self.read_user(id)

    # What they have in common

    def _replaces(self, endpoint: Endpoint) -> bool:
        """Whether this tenant's update takes a whole user (`method = "PUT"`), not the changes alone."""
        override = self._gateway.connection.operations.get(endpoint.name)
        return override is not None and override.method == "PUT"

    async def _whole(self, id: str) -> User:
        """Give a user as the vendor has it, without what nobody sets."""
        response = await self._gateway.send(USER_READ, path={"id": id})
        set_by_others = self.spelling.write({"last_login": None})
        return {name: value for name, value in response.object().items() if name not in set_by_others}

    def _user(self, response: Response) -> User:
        return self._checked(self.spelling.read(response.object()), response.text)

    def _checked(self, user: User, text: str) -> User:
        if not isinstance(user.get("id"), str) or not user["id"]:
            key = self.spelling.names.names["id"][0]
            raise ContractBroken(
                f"Planview Admin gave a user without {key!r}; if ids have another key there, set fields.id of the "
                "connection.",
                response=text,
            )
        return user

    def _list(
        self, name: str, endpoint: Endpoint, query: Mapping[str, str], page_size: int, *, wanted: Mapping[str, str]
    ) -> Swept:
        key = self.spelling.names.names["id"][0]
        paging = Pages(lambda row: row.get(key))

        async def users() -> AsyncGenerator[list[User], None]:
            async for page in sweep(self._run, name, paging, Fetch(self._run, endpoint, query, page_size)):
                read = [self._checked(self.spelling.read(row), json.dumps(row)) for row in page]
                yield [user for user in read if _has(user, wanted)]

        return Swept(users(), paging, wanted)


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


def _texts(fields: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in fields.items()}


def _has(user: User, wanted: Mapping[str, str]) -> bool:
    for name, value in wanted.items():
        held = user.get(name)
        if isinstance(held, list):
            if value not in held:
                return False
        elif str(held).casefold() != value.casefold():
            return False
    return True

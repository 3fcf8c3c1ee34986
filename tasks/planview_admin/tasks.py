"""One coroutine per command type of Planview Admin (contract §9). The vendor on one page: `tasks.planview_admin`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.planview_admin import client, models
from tasks.planview_admin.client import Admin, Swept
from worker.command import Result, command
from worker.data import match_on, with_warnings
from worker.natural_key import Candidates, make_once

if TYPE_CHECKING:
    from tasks.planview_admin.client import User
    from worker.run import Run

# --- Users ------------------------------------------------------------------------------------------------------------


@command("planview_admin.user.search", data=models.UserSearch, uses=(client.USER_LIST,), bulk=True)
async def user_search(run: Run, data: models.UserSearch) -> Result:
    """
    List users: all, or those that have what is asked for.

    `complete` says whether these are all; a warning says so where rows moved while they were read. Source:
    planview_admin.txt, "Paging"; the search parameters are assumed.
    """
    query = {} if data.query is None else {"query": data.query}
    size = data.page_size if data.limit is None else min(data.page_size, data.limit + 1)
    found = Admin(run).search(data.fields(), {**query, **data.filters}, page_size=size)
    return await _rows(run, data, found)


@command("planview_admin.user.read", data=models.One, uses=(client.USER_READ,))
async def user_read(run: Run, data: models.One) -> Result:
    """Read one user. The path is assumed."""
    return await Admin(run).read_user(data.id)


@command("planview_admin.user.create", data=models.UserCreate, uses=(client.USER_CREATE, client.USER_LIST))
async def user_create(run: Run, data: models.UserCreate) -> Result:
    """
    Create a user, at most once in effect: found again by username, else by email, or by `match_on`.

    Gives the user and `how`: `created`, `found` (made by a send that was interrupted) or `adopted` (there before; only
    with `match_on`, and left as it is). Raises `Conflict` where `match_on` fits several. Everything here is assumed.
    """
    admin = Admin(run)
    fields = admin.spelling.names.ours(data.fields())
    key = match_on(data, admin.spelling.names) or (["username"] if fields.get("username") else ["email"])

    async def look() -> Candidates:
        asked = {name: str(fields[name]) for name in key if isinstance(fields.get(name), str)}
        found = admin.search(asked, page_size=models.PAGE_SIZE, name="look")
        return Candidates([user async for user in found.rows()])

    async def send() -> User:
        return await admin.create_user(fields)

    return await make_once(
        run,
        noun="user",
        wanted=fields,
        match_on=match_on(data, admin.spelling.names),
        default=key,
        look=look,
        send=send,
    )


@command("planview_admin.user.update", data=models.UserUpdate, uses=(client.USER_UPDATE, client.USER_READ))
async def user_update(run: Run, data: models.UserUpdate) -> Result:
    """Set some fields of a user; gives the user as it is then. Everything here is assumed."""
    admin = Admin(run)
    return await admin.update_user(data.id, admin.spelling.names.ours(data.changes))


# --- What they share --------------------------------------------------------------------------------------------------


async def _rows(run: Run, data: models.Paged, found: Swept, **ids: str) -> Result:
    destination = await run.destination(data.destination, **ids) if data.destination else None
    result = await run.rows(found.rows(), destination=destination, limit=data.limit)
    return with_warnings(result, found.warnings)

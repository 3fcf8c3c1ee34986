"""One coroutine per command type of Planview Admin (contract §9). The vendor on one page: `tasks.planview_admin`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from tasks.planview_admin import client, models
from tasks.planview_admin.audit import History
from tasks.planview_admin.client import Admin, Swept
from tasks.planview_admin.provision import Provision
from tasks.planview_admin.reconcile import Reconcile
from tasks.planview_admin.spelling import ACTIVE, INACTIVE, doubts
from worker.command import Result, command
from worker.data import match_on, with_warnings
from worker.natural_key import Candidates, delete_once, folded, make_once

if TYPE_CHECKING:
    from worker.rest import Endpoint
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

    return await make_once(
        run,
        noun="user",
        wanted=fields,
        match_on=match_on(data, admin.spelling.names),
        default=key,
        look=look,
        send=partial(admin.create_user, fields),
        alike=folded,
    )


@command("planview_admin.user.update", data=models.UserUpdate, uses=(client.USER_UPDATE, client.USER_READ))
async def user_update(run: Run, data: models.UserUpdate) -> Result:
    """
    Set some fields of a user; gives the user as it is then.

    `warnings` names fields that the answer shows otherwise than asked. Everything here is assumed.
    """
    return await _changed(run, data.id, data.changes, client.USER_UPDATE)


@command("planview_admin.user.deactivate", data=models.One, uses=(client.USER_DEACTIVATE, client.USER_READ))
async def user_deactivate(run: Run, data: models.One) -> Result:
    """Deactivate a user, who stays in the directory; gives the user as it is then. Everything here is assumed."""
    return await _changed(run, data.id, {"status": INACTIVE}, client.USER_DEACTIVATE)


@command("planview_admin.user.reactivate", data=models.One, uses=(client.USER_REACTIVATE, client.USER_READ))
async def user_reactivate(run: Run, data: models.One) -> Result:
    """Reactivate a user; gives the user as it is then. Everything here is assumed."""
    return await _changed(run, data.id, {"status": ACTIVE}, client.USER_REACTIVATE)


@command("planview_admin.user.delete", data=models.One, uses=(client.USER_DELETE, client.USER_READ))
async def user_delete(run: Run, data: models.One) -> Result:
    """Delete a user for good; one that is not there is `not_found`. Method and path are assumed."""
    admin = Admin(run)
    return await delete_once(run, data.id, partial(admin.read_user, data.id), partial(admin.delete_user, data.id))


@command(
    "planview_admin.user.provision",
    data=models.UserProvision,
    uses=(
        *(client.USER_LIST, client.USER_READ, client.USER_CREATE, client.USER_UPDATE),
        *(client.USER_DEACTIVATE, client.USER_REACTIVATE, client.PRODUCT_LIST),
    ),
)
async def user_provision(run: Run, data: models.UserProvision) -> Result:
    """
    Make one person so: create, or change only what differs; repeated, it does nothing.

    `state` is `created`, `updated` or `unchanged`; `changes` gives `before` and `after` of each field. Whoever is meant
    is found by id, else by username, else by an email that only one user has: `Conflict` where several have it.
    Products are ids or names of product environments. Everything but the search's path is assumed.
    """
    return await Provision(run, Admin(run), data).result()


@command(
    "planview_admin.users.reconcile",
    data=models.UsersReconcile,
    uses=(
        *(client.USER_LIST, client.USER_READ, client.USER_CREATE, client.USER_UPDATE),
        *(client.USER_DEACTIVATE, client.USER_REACTIVATE, client.PRODUCT_LIST),
    ),
    bulk=True,
)
async def users_reconcile(run: Run, data: models.UsersReconcile) -> Result:
    """
    Make a directory as a roster has it: plan the differences, apply them unless a brake holds the plan.

    `state` is `planned`, `held` (until `planrelay plan approve`), `applied`, or `quarantined` where the run stopped
    itself because too much was refused. Users are deactivated, never deleted; those that the roster does not have only
    with `deactivate_missing`. Administrators, `protected_users` and the worker's own account are never touched. The
    search's path is the vendor's, everything else is assumed.
    """
    return await Reconcile(run, Admin(run), data).result()


# --- Audit history ----------------------------------------------------------------------------------------------------


@command("planview_admin.user.audit", data=models.UserAudit, uses=(client.USER_AUDIT,), bulk=True)
async def user_audit(run: Run, data: models.UserAudit) -> Result:
    """
    Read the audit history of one user: all, or what earlier runs did not have.

    Records are as received. As events they are `planview_admin.audit.recorded`, one each, with an `id` that a repeated
    one shares. Source: planview_admin.txt names it; path, parameters and keys are assumed.
    """
    return await History(run, Admin(run), data, client.USER_AUDIT, f"user:{data.id}", {"id": data.id}).result()


@command("planview_admin.customer.audit", data=models.Audit, uses=(client.CUSTOMER_AUDIT,), bulk=True)
async def customer_audit(run: Run, data: models.Audit) -> Result:
    """
    Read the audit history of the customer: all, or what earlier runs did not have (see `user.audit`).

    Source: planview_admin.txt names it; path, parameters and keys are assumed.
    """
    return await History(run, Admin(run), data, client.CUSTOMER_AUDIT, "customer").result()


# --- Products ---------------------------------------------------------------------------------------------------------


@command("planview_admin.product.list", data=models.Paged, uses=(client.PRODUCT_LIST,))
async def product_list(run: Run, data: models.Paged) -> Result:
    """List the product environments assigned to the customer. Source: planview_admin.txt names it; path assumed."""
    return await _rows(run, data, Admin(run).products(page_size=data.page_size))


@command("planview_admin.product.users", data=models.ProductUsers, uses=(client.PRODUCT_USERS,), bulk=True)
async def product_users(run: Run, data: models.ProductUsers) -> Result:
    """List who is provisioned to a product environment. Source: planview_admin.txt names it; path assumed."""
    found = Admin(run).product_users(data.product_id, page_size=data.page_size)
    return await _rows(run, data, found, product_id=data.product_id)


# --- What they share --------------------------------------------------------------------------------------------------


async def _changed(run: Run, id: str, changes: Mapping[str, Any], endpoint: Endpoint) -> Result:
    admin = Admin(run)
    asked = admin.spelling.names.ours(changes)
    user = await admin.update_user(id, asked, endpoint)
    return with_warnings(user, doubts(user, asked))


async def _rows(run: Run, data: models.Paged, found: Swept, **ids: str) -> Result:
    destination = await run.destination(data.destination, **ids) if data.destination else None
    result = await run.rows(found.rows(), destination=destination, limit=data.limit)
    return with_warnings(result, found.warnings)

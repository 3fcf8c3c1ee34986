"""
`user.provision`: one person made so, created or changed as far as needed.

Who is meant is found anew in each run, so that a command that comes again changes only what still differs. What it had
to change is written down before it does, so that its result tells the same after a crash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.planview_admin import models
from tasks.planview_admin.diff import Ambiguous, Directory, changed
from tasks.planview_admin.products import Environments
from tasks.planview_admin.spelling import doubts
from worker.data import with_warnings
from worker.errors import Conflict, Invalid
from worker.natural_key import fold

if TYPE_CHECKING:
    from tasks.planview_admin.client import Admin, User
    from worker.command import Result
    from worker.run import Run


@dataclass(slots=True)
class Provision:
    """One run of `user.provision`."""

    run: Run
    admin: Admin
    data: models.UserProvision
    user: User | None = None
    """The person as last read, in this very run."""

    async def result(self) -> Result:
        """Make it so."""
        data = self.data
        wanted = self.admin.spelling.names.ours(data.fields())
        async with self.run.exclusive(f"user:{_digest(data)}"):
            if data.id is not None:
                self.user = await self.admin.read_user(data.id)
            elif not data.active:
                await self._find()
            else:
                made = await self.run.once("create", lambda: self._create(wanted), self._find, adopt=True)
                if self.user is None:  # an earlier run had got so far
                    self.user = await self.admin.read_user(made.value["id"])
                return await self._made_so(self.user, wanted, created=made.how != "adopted")
            if self.user is None:  # and nobody new is made inactive
                return {"state": "unchanged", "changes": {}, "user": None}
            return await self._made_so(self.user, wanted, created=False)

    async def _find(self) -> dict[str, Any] | None:
        """Find the person by username, else by email: an address of several people names none of them."""
        data = self.data
        person = {"username": data.username, "email": data.email}
        for name in ("username", "email"):
            if not person[name]:
                continue
            listed = self.admin.search({name: str(person[name])}, page_size=models.PAGE_SIZE, name=f"find.{name}")
            try:
                found = Directory([user async for user in listed.rows()]).find(None, person)
            except Ambiguous as ambiguous:
                raise Conflict(f"{ambiguous}: give the id, or a username that tells them apart.") from None
            if found is not None:
                self.user = dict(found)
                return {"id": found["id"]}
        return None

    async def _create(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        lacking = [name for name in ("first_name", "last_name") if not wanted.get(name)]
        if lacking:
            raise Invalid(f"There is no such user, and a new one needs {' and '.join(lacking)}: give them.")
        self.user = await self.admin.create_user(await self._with_products(wanted, ()))
        return {"id": self.user["id"]}

    async def _made_so(self, user: User, wanted: Mapping[str, Any], *, created: bool) -> Result:
        fields = await self._with_products(wanted, user.get("products") or ())
        left = changed(user, fields, active=self.data.active)

        async def keep() -> dict[str, Any]:
            return {name: {"before": None, "after": value} for name, value in fields.items()} if created else left

        changes: dict[str, Any] = await self.run.step("changes", keep)
        if left:
            fields = {name: change["after"] for name, change in left.items()}
            user = await self.admin.write_user(user["id"], fields, once=False)
        asked = {name: change["after"] for name, change in changes.items()}
        state = "created" if created else "updated" if changes else "unchanged"
        return with_warnings({"state": state, "changes": changes, "user": user}, doubts(user, asked))

    async def _with_products(self, wanted: Mapping[str, Any], has: Any) -> dict[str, Any]:
        """Add the product environments that the person is to have, if something is said of them."""
        data = self.data
        said = data.products if data.products is not None else (*data.add_products, *data.remove_products)
        if data.products is None and not said:
            return dict(wanted)
        known = await Environments.known(self.admin, said, has, page_size=models.PAGE_SIZE)
        if data.products is None:
            removed = {known.id(one) for one in data.remove_products}
            said = (*(one for one in has if one not in removed), *map(known.id, data.add_products))
        return {**wanted, "products": list(dict.fromkeys(map(known.id, said)))}


def _digest(data: models.UserProvision) -> str:
    """Tell persons apart without naming them: two commands for one person take turns."""
    return hashlib.sha256((data.id or fold(data.username or data.email)).encode()).hexdigest()[:16]

"""
`users.reconcile`: a roster and a directory, a plan of what differs, and the plan applied.

The plan is made once per command and kept (`worker.plans`) before anything is written. Where it trips a brake it is
held; the command that `planrelay plan approve` publishes then brings its `plan_id`, and applies that very plan if those
whom it touches are still as they were shown, else holds a new one. Offset pages skip rows while a directory changes, so
nobody loses access by one reading alone: a plan with removals is made from a second one, and only where both agree; an
approved plan is held against a reading of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from sys import intern
from typing import TYPE_CHECKING, Any, Final

from tasks.planview_admin.brakes import WRITES, Difference, Item, Rules
from tasks.planview_admin.diff import Ambiguous, Directory, difference
from tasks.planview_admin.products import Environments
from tasks.planview_admin.protection import Protection
from tasks.planview_admin.roster import Reader, Reading, Wish
from tasks.planview_admin.spelling import alike
from tasks.planview_admin.writes import Numbered, Writing
from worker import planned
from worker.errors import BadCommand, ContractBroken
from worker.rows import BadRow, Row, inline_sheet, read_sheet

if TYPE_CHECKING:
    from tasks.planview_admin import models
    from tasks.planview_admin.client import Admin, User
    from worker.command import Result
    from worker.plans import Plan
    from worker.run import Run

FRESH: Final = timedelta(hours=1)
"""How long a plan that is being applied is taken to fit: after a longer pause the directory is read again first."""

TABLE: Final = 50
"""Lines of the table that a result shows."""

_LOOKED_AT: Final = frozenset({"id", "email", "username", "first_name", "last_name", "role", "status", "products"})
_REPEATED: Final = frozenset({"role", "status"})
_LAST_RUN: Final = "users.reconcile"
_LAST_USERS: Final = "directory.users"


@dataclass(slots=True)
class Reconcile:
    """One run of `users.reconcile`."""

    run: Run
    admin: Admin
    data: models.UsersReconcile
    destination: str | None = None
    """Where the plan's rows go, its template filled."""
    warnings: list[str] = field(default_factory=list)

    async def result(self) -> Result:
        """Plan, and apply as far as the mode and the brakes allow."""
        run, data = self.run, self.data
        if data.destination is not None:
            self.destination = await run.destination(data.destination)
            run.artifacts.check(self.destination)
        if data.roster_url is not None:
            run.artifacts.check(data.roster_url, field="roster_url")
        async with run.exclusive("users.reconcile", customer=True):
            resumed = run.kept("plan") is not None
            made = await run.step("plan", self._plan)
            self.warnings = list(made["warnings"])
            plan = await run.plans.load(made["id"])
            if data.mode == "plan" or made["held"]:
                return await self._told(plan, "held" if made["held"] else "planned")
            planned.refuse_rejected(plan)
            items = await self._writes(plan)
            overtaken = await self._overtaken(items, datetime.fromisoformat(made["at"])) if resumed else set()
            await run.remember(_LAST_RUN, run.digest)
            return await self._applied(plan, items, overtaken, made["rows"])

    # Planning

    async def _plan(self) -> dict[str, Any]:
        """Make the plan and keep it, or take the approved one; gives what a later run needs to know of it."""
        if self.data.plan_id is None:
            return await self._keep(*await self._difference(), ())
        approved = await planned.approved(
            self.run,
            self.data.plan_id,
            "this roster",
            roster=self._dumped("roster"),
            roster_url=self._dumped("roster_url"),
        )
        moved = await self._moved(await self._writes(approved), "check")
        if moved:
            some = ", ".join([item["who"] for _, item in moved][:5])
            reason = f"{len(moved)} users have changed since plan {approved.id} was made ({some})."
            return await self._keep(*await self._difference(), (reason,))
        return self._made(approved, held=False, rows=approved.summary["rows"])

    def _dumped(self, name: str) -> Any:
        return self.data.model_dump(mode="json", include={name}, exclude_defaults=True).get(name)

    async def _difference(self) -> tuple[Difference, Reading]:
        reading = await self._roster()
        rules = Rules(
            protection=self._protection(),
            deactivate_missing=self.data.deactivate_missing,
            max_removals=self.data.max_removals,
            max_removal_share=self.data.max_removal_share,
            last_rows=await self.run.recall(self._last_rows),
            last_users=await self.run.recall(_LAST_USERS),
        )
        fields = {name for wish in reading.wishes for name in wish.fields}
        users = await self._directory("first", fields)
        reading = await self._with_products(reading, users)
        found = await asyncio.to_thread(difference, reading, users, rules)
        del users
        if found.removals and not found.reasons and self.data.mode == "apply":
            again = await self._directory("second", fields)
            found = await asyncio.to_thread(difference, reading, again, rules, found.removals)
        return found, reading

    async def _roster(self) -> Reading:
        data = self.data
        sheet: AsyncIterable[Row | BadRow]
        if data.roster is not None:
            sheet = inline_sheet(data.roster)
        else:
            assert data.roster_url is not None  # noqa: S101 - the model has seen to it
            sheet = await read_sheet(self.run.artifacts, data.roster_url, field="roster_url")
        reader = Reader(self.admin.spelling, data.columns)
        async for row in sheet:
            reader.read(row)
        reading = reader.finish()
        if not reading.wishes:
            some = "; ".join(f"line {one['line']}: {one['reason']}" for one in reading.problems[:3])
            raise BadCommand(
                "The roster has no row that can be used, and an empty roster never means that everybody has left"
                + (f" ({some})." if some else ".")
            )
        return reading

    async def _directory(self, name: str, fields: Iterable[str]) -> list[User]:
        """Read the whole directory, of each user only what a plan looks at: `fields`, and what tells users apart."""
        wanted = _LOOKED_AT.union(fields)
        listed = self.admin.search({}, page_size=self.data.page_size, name=f"sweep.{name}")
        users: list[User] = []
        async for page in listed.pages:
            users += [_slim(user, wanted) for user in page]
            self.run.progress(len(users))
        if users and not any(user.get("email") or user.get("username") for user in users):
            raise ContractBroken(
                "No user shows an email or a username, so no row could be matched: set the connection's fields.email "
                "and fields.username to the vendor's keys."
            )
        self.warnings += listed.warnings
        return users

    async def _with_products(self, reading: Reading, users: Sequence[User]) -> Reading:
        """Give the roster with the ids of product environments in the place of their names."""
        said = {one for wish in reading.wishes for one in wish.fields.get("products", ())}
        if not said:
            return reading
        in_use = {one for user in users for one in user.get("products") or () if isinstance(one, str)}
        known = await Environments.known(self.admin, said, in_use, page_size=self.data.page_size)
        wishes: list[Wish] = []
        for wish in reading.wishes:
            try:
                products = wish.fields.get("products")
                if products is not None:
                    ids = tuple(dict.fromkeys(map(known.id, products)))
                    wish = Wish(wish.line, wish.id, {**wish.fields, "products": ids})  # noqa: PLW2901 - the same, with ids
                wishes.append(wish)
            except BadCommand as error:
                reading.problems.append({"line": wish.line, "reason": error.message})
        reading.wishes = wishes
        return reading

    def _protection(self) -> Protection:
        connection = self.run.connection
        return Protection(
            [*connection.protected_users, *self.data.protected_users], own=(connection.client_id, connection.username)
        )

    async def _keep(self, found: Difference, reading: Reading, reasons: tuple[str, ...]) -> dict[str, Any]:
        reasons += found.reasons
        held = self.data.mode == "apply" and bool(reasons) and found.writes > 0
        plan = await planned.keep(self.run, self.data, found.items, summary=found.summary, reasons=reasons, held=held)
        if reading.ignored:
            self.warnings.append(f"Columns that are no field of a user were left alone: {', '.join(reading.ignored)}.")
        return self._made(plan, held=held, rows=reading.rows)

    def _made(self, plan: Plan, *, held: bool, rows: int) -> dict[str, Any]:
        at = self.run.now().isoformat()
        return {"id": plan.id, "held": held, "rows": rows, "at": at, "warnings": self.warnings}

    # Applying

    async def _applied(self, plan: Plan, items: list[Numbered], overtaken: set[int], rows: int) -> Result:
        written = await Writing(self.run, self.admin, [one for one in items if one[0] not in overtaken]).write()
        if not written.stopped:
            await self.run.plans.applied(plan.id)
            await self.run.remember(self._last_rows, rows)
        left = written.left | dict.fromkeys(overtaken, "changed by somebody else meanwhile")
        if not written.stopped:
            made = sum(item["action"] == "create" and number not in left for number, item in items)
            await self.run.remember(_LAST_USERS, plan.summary["users"] + made)
        counts = {"applied": written.done, "not_applied": len(left)}
        if left:
            self.warnings.append(f"{len(left)} of {len(items)} users are not as planned: see not_applied.")
        told = [
            {"action": item["action"], "who": item["who"], "id": item.get("id"), "reason": left[number]}
            for number, item in items
            if number in left
        ]
        return await self._told(plan, "quarantined" if written.stopped else "applied", counts=counts, left=told)

    async def _writes(self, plan: Plan) -> list[Numbered]:
        number, items = 0, []
        async for item in self.run.plans.items(plan.id):
            if item["action"] in WRITES:
                items.append((number, item))
            number += 1
        return items

    async def _overtaken(self, items: Sequence[Numbered], planned_at: datetime) -> set[int]:
        """
        Give the items, not done yet, whose users were changed by somebody else since the plan was made.

        Looked at anew where the plan is no longer fresh, or another reconcile ran while this one was parked.
        """
        hours = (self.run.now() - planned_at) // FRESH
        last = await self.run.recall(_LAST_RUN)
        since = f"{hours}.{last}" if last not in {None, self.run.digest} else str(hours)
        if since == "0" or all(self.run.kept(f"once:user:{number}") for number, _ in items):
            return set()

        async def look() -> list[int]:
            moved = await self._moved(items, f"check.{since}")
            return [number for number, _ in moved if not self.run.kept(f"once:user:{number}")]

        return set(await self.run.step(f"overtaken:{since}", look))

    async def _moved(self, items: Sequence[Numbered], name: str) -> list[Numbered]:
        """Read the directory and give the items whose users are neither as they were planned for nor as planned."""
        directory = Directory(await self._directory(name, {name for _, item in items for name in item["changes"]}))
        protection = self._protection()
        begun = self.run.unresolved  # writes of this command that may have taken effect
        return [one for one in items if moved_on(one[1], directory, protection, begun=f"user:{one[0]}" in begun)]

    # Telling

    @property
    def _last_rows(self) -> str:
        """Where the size of this roster is remembered: of the same file, also after an approval."""
        name = hashlib.sha256((self.data.roster_url or "").encode()).hexdigest()[:12]
        return f"roster.rows:{name}"

    async def _told(self, plan: Plan, state: str, **more: Any) -> Result:
        told = await planned.told(self.run, plan, state, destination=self.destination, warnings=self.warnings, **more)
        told["table"] = await self._table(plan)
        return told

    async def _table(self, plan: Plan) -> str:
        """Give the first lines of the plan as people read it."""
        lines: list[str] = []
        async for item in self.run.plans.items(plan.id):
            if len(lines) == TABLE:
                lines.append(f"… and {plan.items - TABLE} more")
                break
            lines.append(_line(item))
        return "\n".join(lines)


def moved_on(item: Item, directory: Directory, protection: Protection, *, begun: bool = False) -> bool:
    """
    Tell whether a user is neither as when the plan was made nor as the plan wants it, or is protected by now.

    `begun`: this command may have made the user already, who is then as planned; one that others made is not.
    """
    after = {name: change["after"] for name, change in item["changes"].items()}
    if item["action"] == "create":
        try:
            user = directory.find(None, after)
        except Ambiguous:
            return True
        if user is None:
            return False
        return not begun or not all(alike(name, user.get(name), value) for name, value in after.items())
    user = directory.by_id.get(item["id"])
    if user is None or protection.reason(user) is not None:
        return True
    if not all(alike(name, user.get(name), value) for name, value in item.get("seen", {}).items()):
        return True
    return not all(
        alike(name, user.get(name), change["before"]) or alike(name, user.get(name), change["after"])
        for name, change in item["changes"].items()
    )


def _slim(user: User, wanted: frozenset[str]) -> User:
    slim = {name: value for name, value in user.items() if name in wanted}
    for name in _REPEATED:
        if isinstance(slim.get(name), str):
            slim[name] = intern(slim[name])
    if slim.get("products"):
        slim["products"] = tuple(intern(one) for one in slim["products"] if isinstance(one, str))
    return slim


def _line(item: Item) -> str:
    """Give one line of the table: what is done to whom, and why or what changes."""
    who = item.get("who") or f"line {item['line']}"
    said = [item["reason"]] if "reason" in item else []
    changes = item.get("changes", {}).items()
    said += [f"{name}: {_shown(change['before'])} → {_shown(change['after'])}" for name, change in changes]
    return f"{item['action']:<11} {who:<40} {'; '.join(said)[:200]}"


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)

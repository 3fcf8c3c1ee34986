"""
Writing a plan to the directory: user by user, each at most once in effect, deactivations last.

Every write has its own intent and step in the ledger (`Run.once`): a run that was killed goes on with the users that
were not written yet, and looks before it sends again what may have taken effect. Users that can't be written now are
tried again with the next attempt, whose intervals grow; what the vendor refuses is reported.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tasks.planview_admin import models
from tasks.planview_admin.spelling import alike, otherwise
from worker.errors import Conflict, ContractBroken, Forbidden, Invalid, NotFound, OutcomeUnknown, RelayError
from worker.many import Many, too_many
from worker.natural_key import fold

if TYPE_CHECKING:
    from tasks.planview_admin.brakes import Item
    from tasks.planview_admin.client import Admin
    from worker.run import Run

Numbered = tuple[int, "Item"]
"""An item of the plan with its number there, by which the ledger knows it."""


@dataclass(slots=True)
class Written:
    """What came of writing: `left` says, by the number of an item, why a user is not as planned."""

    done: int = 0
    left: dict[int, str] = field(default_factory=dict)
    stopped: bool = False
    """The run stopped itself: too much was refused."""


class Writing:
    """One run of writes."""

    def __init__(self, run: Run, admin: Admin, items: Sequence[Numbered]) -> None:
        self._run = run
        self._admin = admin
        self._items = items
        self._many = Many[Numbered](run, total=len(items))
        self._done: set[int] = set()
        self._refused: dict[int, RelayError] = {}
        self._otherwise: dict[int, str] = {}
        self._stopped = False

    async def write(self) -> Written:
        """
        Write all. Raises what stands against the whole connection, and what a later attempt may overcome.

        A group begins once those before it are done, as far as they can be: nobody is deactivated before.
        """
        for together in in_order(self._items):
            await self._many.each(together, self._write)
            if self._many.open and not self._stopped and not self._run.last_attempt:
                await self._many.raise_failures()
            if self._many.halted:
                break
        errors = self._refused | {number: error for (number, _), error in self._many.failures}
        if errors and not self._done and not self._stopped and not any(map(_personal, errors.values())):
            raise next(iter(errors.values()))
        left = {number: "not tried: the run had ended" for number, _ in self._items if number not in self._done}
        left |= {number: error.message for number, error in errors.items()} | self._otherwise
        return Written(len(self._done), left, self._stopped or too_many(len(left), len(self._items)))

    async def _write(self, numbered: Numbered) -> int:
        number, item = numbered
        make = self._create if item["action"] == "create" else self._change
        try:
            shown = await make(f"user:{number}", item)
        except (Invalid, NotFound, Conflict, Forbidden, OutcomeUnknown, ContractBroken) as error:
            self._refused[number] = error
            if too_many(len(self._refused), len(self._refused) + len(self._done)):
                self._stopped = True
                self._many.halt()
            return 0
        if shown:
            self._otherwise[number] = f"Planview Admin's answer shows otherwise: {', '.join(shown)}"
            return 0
        self._done.add(number)
        return 1

    async def _create(self, name: str, item: Item) -> list[str]:
        """Make a user; gives the fields that it does not show as asked."""
        fields = _after(item)
        key = "username" if fields.get("username") else "email"

        async def send() -> dict[str, Any]:
            user = await self._admin.create_user(fields)
            return {"id": user["id"], "otherwise": otherwise(user, fields)}

        async def find() -> list[dict[str, Any]]:
            listed = self._admin.search({key: str(fields[key])}, page_size=models.PAGE_SIZE, name=f"find.{name}")
            return [{"id": user["id"], "otherwise": otherwise(user, fields)} async for user in listed.rows()]

        made = await self._run.once(name, send, find)
        return list(made.value["otherwise"])

    async def _change(self, name: str, item: Item) -> list[str]:
        """Set a user's fields; gives those that it does not show as asked."""
        id, fields = item["id"], _after(item)

        async def send() -> dict[str, Any]:
            return {"otherwise": otherwise(await self._admin.write_user(id, fields, once=True), fields)}

        async def find() -> dict[str, Any] | None:
            user = await self._admin.read_user(id)
            there = all(alike(field, user.get(field), value) for field, value in fields.items())
            return {"otherwise": []} if there else None

        return list((await self._run.once(name, send, find, makes=False)).value["otherwise"])


def in_order(items: Iterable[Numbered]) -> list[list[Numbered]]:
    """
    Put a plan's writes in the order in which they can be done: groups, one after the other.

    Who takes a username or an address that somebody else gives up comes after that one; deactivations come last.
    """
    items = list(items)
    holders = {(name, fold(str(before))): number for number, item in items for name, before in _names(item, "before")}
    waits: dict[int, set[int]] = {}
    freed: dict[int, list[int]] = defaultdict(list)
    for number, item in items:
        others = {holders.get((name, fold(str(after))), number) for name, after in _names(item, "after")} - {number}
        waits[number] = others
        for other in others:
            freed[other].append(number)
    groups: list[list[int]] = []
    ready = [number for number, others in waits.items() if not others]
    while waits:
        ready = ready or list(waits)  # they wait for each other in a circle: the vendor will say
        groups.append(ready)
        for number in ready:
            waits.pop(number, None)
        ready = [other for number in ready for other in freed[number] if other in waits and _free(waits[other], number)]
    by_number = dict(items)
    last = [(number, item) for number, item in items if item["action"] == "deactivate"]
    first = [[(n, by_number[n]) for n in group if by_number[n]["action"] != "deactivate"] for group in groups]
    return [group for group in (*first, last) if group]


def _free(waits: set[int], number: int) -> bool:
    waits.discard(number)
    return not waits


def _names(item: Item, when: str) -> list[tuple[str, str]]:
    changes = {name: item["changes"].get(name) for name in ("username", "email")}
    return [(name, change[when]) for name, change in changes.items() if change is not None and change[when]]


def _after(item: Item) -> dict[str, Any]:
    return {name: change["after"] for name, change in item["changes"].items()}


def _personal(error: RelayError) -> bool:
    """Tell whether an error speaks of one user, not of the account or the vendor as a whole."""
    return isinstance(error, (Invalid, NotFound, Conflict, OutcomeUnknown, ContractBroken))

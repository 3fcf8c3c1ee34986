"""
Writing to many units: equal patches go out together, and what came of them is read, not believed.

No page says how many ids a batch may have, whether an unknown id is an error, or whether a refused batch changed
anything. So: send in batches, read back, send singly what is still as it was, read back once more. Sending is
replayable; a run that was cut off reads first and sends only what is left. What shows something else is left alone: a
person may have changed it since it was written, and nothing tells them from a vendor that keeps a value its own way.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tasks.planpoint.diff import alike
from worker.errors import Conflict, ContractBroken, Invalid, NotFound, RelayError
from worker.many import Many, too_many

if TYPE_CHECKING:
    from tasks.planpoint.client import Object, Planpoint
    from worker.run import Run
    from worker.vocabulary import Spelling

Units = Mapping[str, "Object"]
Wanted = Mapping[str, Mapping[str, Any]]
"""Per unit, the fields it is to have."""


@dataclass(frozen=True, slots=True)
class Patch:
    """The same fields for several units."""

    fields: Mapping[str, Any]
    ids: tuple[str, ...]


@dataclass(slots=True)
class Written:
    """What came of writing: the units as read back, and those not as wanted, with the vendor's reason if any."""

    units: Units
    left: dict[str, str] = field(default_factory=dict)
    stopped: bool = False
    """The run stopped itself: too much was refused."""


def grouped(wanted: Wanted, size: int) -> list[Patch]:
    """Group units that are to have the same fields, at most `size` in a patch."""
    alike: dict[str, list[str]] = defaultdict(list)
    for id, fields in wanted.items():
        alike[json.dumps(fields, sort_keys=True)].append(id)
    return [
        Patch(wanted[ids[0]], tuple(ids[start : start + size]))
        for ids in alike.values()
        for start in range(0, len(ids), size)
    ]


def as_wanted(unit: Object | None, fields: Mapping[str, Any]) -> bool:
    """Tell whether a unit shows these fields."""
    return unit is not None and all(alike(unit.get(name), value) for name, value in fields.items())


def as_it_was(unit: Object | None, before: Object, fields: Mapping[str, Any]) -> bool:
    """Tell whether nobody has touched these fields of a unit: each is as it was, or as it is wanted."""
    return unit is not None and all(
        alike(unit.get(name), before.get(name)) or alike(unit.get(name), value) for name, value in fields.items()
    )


async def write(
    run: Run,
    planpoint: Planpoint,
    before: Units,
    wanted: Wanted,
    spelling: Spelling,
    reread: Callable[[], Awaitable[Units]],
    *,
    size: int,
) -> Written:
    """
    Make units so that are as `before` has them; `reread` reads them back.

    Raises the first failure that a later attempt may overcome.
    """
    written = Written(before)
    pending, again, refused = wanted, wanted, dict[str, str]()
    for together in (size, 1):
        sending = Sending(run, planpoint, spelling, done=len(wanted) - len(pending), total=len(wanted))
        await sending.send(grouped(again, together))
        refused |= sending.refused
        units = written.units = await reread()
        pending = {id: fields for id, fields in pending.items() if not as_wanted(units.get(id), fields)}
        again = {
            id: fields
            for id, fields in pending.items()
            if id not in refused and as_it_was(units.get(id), before[id], fields)
        }
        written.stopped = sending.stopped
        if sending.stopped or not again:
            break
    written.left = {id: refused.get(id, "") for id in pending}
    return written


class Sending:
    """One round of patches, several side by side; afterwards `refused` says which units the vendor refused, and why."""

    def __init__(self, run: Run, planpoint: Planpoint, spelling: Spelling, *, done: int, total: int) -> None:
        self._planpoint = planpoint
        self._spelling = spelling
        self._many = Many[Patch](run, done=done, total=total)
        self.refused: dict[str, str] = {}
        self.stopped = False
        self._singly = 0
        self._no_batches = False

    async def send(self, patches: list[Patch]) -> None:
        """Send them all; what is refused is kept, what fails is raised once everything in flight has ended."""
        await self._many.each(patches, self._send)
        await self._many.raise_failures()

    async def _send(self, patch: Patch) -> int:
        alone = len(patch.ids) == 1
        if self._no_batches and not alone:
            return 0
        try:
            if alone:
                self._singly += 1
                await self._planpoint.update_unit(patch.ids[0], patch.fields, self._spelling)
            else:
                await self._planpoint.update_units(patch.ids, patch.fields, self._spelling)
        except ContractBroken:
            pass  # the vendor said yes: reading back tells what came of it
        except (Invalid, NotFound, Conflict) as error:
            self._refuse(patch, error)
            return 0
        return len(patch.ids)

    def _refuse(self, patch: Patch, error: RelayError) -> None:
        if len(patch.ids) > 1:
            # One unit may be the reason, or there are no batches here (PP-DOC has none): singly, in the next round.
            self._no_batches |= error.status in {404, 405}
            return
        self.refused[patch.ids[0]] = error.message
        if too_many(len(self.refused), self._singly):
            self.stopped = True
            self._many.halt()

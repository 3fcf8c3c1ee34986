"""
Writing to many units: equal patches go out together, and what came of them is read, not believed.

No page says how many ids a batch may have, whether an unknown id is an error, or whether a refused batch changed
anything. So: send in batches, read back, send what is not as wanted singly, read back once more. Sending is replayable;
a run that was cut off reads first and sends only what is left.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from worker.errors import Conflict, ContractBroken, Invalid, NotFound, RelayError, TransportError, Unavailable
from worker.natural_key import same

if TYPE_CHECKING:
    from tasks.planpoint.client import Object, Planpoint
    from worker.run import Run
    from worker.vocabulary import Spelling

SIDE_BY_SIDE: Final = 8
"""Requests of one command in flight; the connection's own limit holds besides."""

PATIENCE: Final = 2 * SIDE_BY_SIDE
"""Failures in a row after which the vendor is left in peace: the command is tried again later as a whole."""

REFUSED_SHARE: Final = 0.4
REFUSED_LEAST: Final = 20
"""A run in which so many units, and such a share of those tried singly, are refused stops itself."""

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
    return unit is not None and all(same(unit.get(name), value) for name, value in fields.items())


async def write(
    run: Run,
    planpoint: Planpoint,
    wanted: Wanted,
    spelling: Spelling,
    reread: Callable[[], Awaitable[Units]],
    *,
    size: int,
) -> Written:
    """Make units so; `reread` reads them back. Raises the first failure that a later attempt may overcome."""
    written = Written({})
    pending, refused = dict(wanted), dict[str, str]()
    for together in (size, 1):
        sending = Sending(run, planpoint, spelling, done=len(wanted) - len(pending), total=len(wanted))
        await sending.send(grouped({id: fields for id, fields in pending.items() if id not in refused}, together))
        refused |= sending.refused
        written.units = await reread()
        pending = {id: fields for id, fields in pending.items() if not as_wanted(written.units.get(id), fields)}
        written.stopped = sending.stopped
        if sending.stopped or not pending.keys() - refused.keys():
            break
    written.left = {id: refused.get(id, "") for id in pending}
    return written


class Sending:
    """One round of patches, several side by side; afterwards `refused` says which units the vendor refused, and why."""

    def __init__(self, run: Run, planpoint: Planpoint, spelling: Spelling, *, done: int, total: int) -> None:
        self._run = run
        self._planpoint = planpoint
        self._spelling = spelling
        self._done, self._total = done, total
        self.refused: dict[str, str] = {}
        self.stopped = False
        self._singly = 0
        self._no_batches = False
        self._halted = False
        self._failures: list[RelayError] = []
        self._in_a_row = 0
        self._got_on = False

    async def send(self, patches: list[Patch]) -> None:
        """Send them all; what is refused is kept, what fails is raised once everything in flight has ended."""
        queue = iter(patches)
        workers = [self._work(queue) for _ in range(min(SIDE_BY_SIDE, len(patches)))]
        ends = await asyncio.gather(*workers, return_exceptions=True)
        raised = [end for end in ends if isinstance(end, BaseException)]
        for error in raised:
            if isinstance(error, RelayError):
                raise error
        if raised:
            raise raised[0]
        if self._failures:
            worst = max(self._failures, key=lambda error: getattr(error, "after", None) or timedelta(0))
            left = self._total - self._done
            raise await self._run.unfinished(worst, left=left) if self._got_on else worst

    async def _work(self, queue: Iterator[Patch]) -> None:
        while not self._halted:
            patch = next(islice(queue, 1), None)
            if patch is None:
                return
            try:
                await self._run.breathe()
                await self._send(patch)
            except BaseException:
                self._halted = True
                raise

    async def _send(self, patch: Patch) -> None:
        alone = len(patch.ids) == 1
        if self._no_batches and not alone:
            return
        try:
            if alone:
                self._singly += 1
                await self._planpoint.update_unit(patch.ids[0], patch.fields, self._spelling)
            else:
                await self._planpoint.update_units(patch.ids, patch.fields, self._spelling)
        except (TransportError, Unavailable) as error:
            self._failures.append(error)
            self._in_a_row += 1
            self._halted |= self._in_a_row >= PATIENCE
            return
        except ContractBroken:
            pass  # the vendor said yes: reading back tells what came of it
        except (Invalid, NotFound, Conflict) as error:
            self._refuse(patch, error)
            return
        self._in_a_row = 0
        self._got_on = True
        self._done += len(patch.ids)
        self._run.progress(self._done, self._total)

    def _refuse(self, patch: Patch, error: RelayError) -> None:
        self._in_a_row = 0
        if len(patch.ids) > 1:
            # One unit may be the reason, or there are no batches here (PP-DOC has none): singly, in the next round.
            self._no_batches |= error.status in {404, 405}
            return
        self.refused[patch.ids[0]] = error.message
        many = len(self.refused) >= REFUSED_LEAST and len(self.refused) > REFUSED_SHARE * self._singly
        self.stopped |= many
        self._halted |= many

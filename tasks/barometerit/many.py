"""
`entity.update_many`: the same fields of many entities, in batches, and what came of each.

No page says how many BNs a request may have, whether an unknown one is an error, or to which entity a proposal belongs.
So a refused batch is halved until the refused entities stand alone, and what an answer leaves open is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tasks.barometerit.writes import UNREADABLE, proposals_of, unlike
from worker.errors import Conflict, Forbidden, Invalid, NotFound
from worker.many import Many

if TYPE_CHECKING:
    from tasks.barometerit.client import Barometerit, Object
    from tasks.barometerit.models import EntityUpdateMany
    from worker.command import Result
    from worker.run import Run

REFUSALS: Final = 5
"""Entities refused singly, and none accepted, after which the fields are what is refused."""


@dataclass(slots=True)
class Batch:
    """What came of some entities: `saved`, `proposed`, `missing`, `not_saved`, `unconfirmed`, or `refused`; and why."""

    outcomes: dict[str, str] = field(default_factory=dict)
    proposed: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, other: Batch) -> None:
        """Take another batch's outcomes in."""
        self.outcomes |= other.outcomes
        self.proposed += other.proposed
        self.reasons |= other.reasons


@dataclass(slots=True)
class UpdateMany:
    """One such command."""

    run: Run
    barometerit: Barometerit
    changes: Object
    refusals: int = 0
    accepted: bool = False

    async def result(self, data: EntityUpdateMany) -> Result:
        """Write all batches, several side by side; each is a step, so that none is written twice by a redelivery."""
        bns = list(dict.fromkeys(data.bns))
        batches = {
            f"batch:{start}": bns[start : start + data.batch_size] for start in range(0, len(bns), data.batch_size)
        }
        left = {name: batch for name, batch in batches.items() if self.run.kept(name) is None}
        many: Many[str] = Many(self.run, total=len(bns), done=len(bns) - sum(map(len, left.values())))

        async def write(name: str) -> int:
            await self.run.step(name, partial(self._kept, left[name]))
            return len(left[name])

        await many.each(left, write)
        await many.raise_failures()
        done = Batch()
        for name in batches:
            done.add(Batch(**self.run.kept(name)))
        return _told(done, len(bns))

    async def _kept(self, bns: Sequence[str]) -> dict[str, Any]:
        return asdict(await self._write(bns))

    async def _write(self, bns: Sequence[str]) -> Batch:
        try:
            written = await self.barometerit.update_entities(bns, self.changes)
        except (Invalid, NotFound, Conflict, Forbidden) as error:
            if len(bns) > 1:
                middle = len(bns) // 2
                halves = await self._write(bns[:middle])
                halves.add(await self._write(bns[middle:]))
                return halves
            self.refusals += 1
            if self.refusals == REFUSALS and not self.accepted:
                raise
            return Batch({bns[0]: "refused"}, reasons={bns[0]: error.message})
        self.accepted = True
        done = Batch(proposed=list(written.proposed))
        # The BNs of proposed changes may be those of the proposals or of the entities: no page says which.
        # What is in both lists waits: saved is only what waits for nobody.
        for outcome, told in (("saved", written.saved), ("proposed", written.proposed)):
            done.outcomes |= {bn: outcome for bn in bns if bn in told}
        left = [bn for bn in bns if bn not in done.outcomes]
        if left and len(set(written.proposed).difference(bns)) == len(left):
            done.outcomes |= dict.fromkeys(left, "proposed")
        else:
            for bn in left:
                await self._look(bn, done)
        return done

    async def _look(self, bn: str, done: Batch) -> None:
        """Look what became of an entity that the answer does not tell of."""
        waiting = await proposals_of(self.barometerit, bn) if done.proposed else None
        if waiting and not set(waiting).isdisjoint(done.proposed):
            done.outcomes[bn] = "proposed"
            return
        try:
            entity = await self.barometerit.read_entity(bn)
        except NotFound:
            done.outcomes[bn] = "missing"
            return
        except UNREADABLE as error:
            done.outcomes[bn] = "unconfirmed"
            done.reasons[bn] = f"Accepted, and could not be read back ({error.message})"
            return
        other, hidden = unlike(entity, self.changes)
        if not other and not hidden:
            done.outcomes[bn] = "saved"
            return
        waiting = await proposals_of(self.barometerit, bn) if waiting is None else waiting
        done.outcomes[bn] = "proposed" if waiting else "not_saved" if other else "unconfirmed"
        done.proposed += [one for one in waiting if one not in done.proposed]


def _told(done: Batch, count: int) -> Result:
    saved = [bn for bn, outcome in done.outcomes.items() if outcome == "saved"]
    result: dict[str, Any] = {"count": count, "saved": saved, "proposed": done.proposed, "outcomes": done.outcomes}
    if done.reasons:
        result["reasons"] = done.reasons
    outcomes = list(done.outcomes.values())
    unwritten = sum(map(outcomes.count, ("missing", "refused")))
    unshown = sum(map(outcomes.count, ("not_saved", "unconfirmed")))
    warnings = [f"{unwritten} of {count} entities were not written."] if unwritten else []
    if unshown:
        warnings.append(f"{unshown} of {count} entities don't show what was asked.")
    return {**result, "warnings": warnings} if warnings else result

"""
Which names a tenant's units use, where the two generations of the API name a field differently.

Writing sends the names that this tenant's units were read with, never both. They are remembered per connection; an
answer that shows other names than were written corrects what was remembered, and the write.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from worker import natural_key
from worker.run import Postpone

if TYPE_CHECKING:
    from tasks.planpoint.client import Object, Planpoint
    from worker.run import Run
    from worker.vocabulary import Spelling, Vocabulary

MEMORY: Final = "unit.spelling"


async def spelling_for(
    run: Run, planpoint: Planpoint, fields: Mapping[str, Any], sample: Callable[[], Awaitable[Spelling]]
) -> Spelling:
    """Give the names to write these fields under; `sample` reads a unit (or several) where they aren't known yet."""
    needed = planpoint.unit.ambiguous(fields)
    if not needed:
        return {}
    known: Spelling = await _recall(run)
    if not needed <= known.keys():
        known = await learn(run, planpoint.unit, await sample(), known)
    return known


async def learn(run: Run, unit: Vocabulary, seen: Spelling, known: Spelling | None = None) -> Spelling:
    """Remember the names that units were read with; fields that none has are taken to be of their generation."""
    if known is None:
        known = await _recall(run)
    learned = {**known, **seen}
    generation = next((unit.names[name].index(used) for name, used in seen.items()), None)
    if generation is not None:
        for name, several in unit.names.items():
            if len(several) > 1:
                learned.setdefault(name, several[generation])
    if learned != known:
        with contextlib.suppress(Postpone):  # the state store is away: the next command asks again
            await run.remember(MEMORY, learned)
    return learned


async def settled(
    run: Run, planpoint: Planpoint, asked: Mapping[str, Any], written: Spelling, answer: tuple[Object, Spelling]
) -> tuple[Object, list[str]]:
    """
    Give the unit that a write led to, and warnings of fields that don't show what was asked.

    Where the answer shows fields under other names than they were written with, they are written again under these.
    """
    unit, shown = answer
    names = planpoint.unit.names
    spelled = {name: written.get(name, names[name][0]) for name in planpoint.unit.ambiguous(asked)}
    missed = {name: asked[name] for name, used in spelled.items() if shown.get(name, used) != used}
    if missed:
        spelling = await learn(run, planpoint.unit, shown)
        unit, _ = await planpoint.update_unit(unit["id"], missed, spelling)
    return unit, differing(unit, asked)


def differing(one: Object, asked: Mapping[str, Any]) -> list[str]:
    """Give a warning where an answer shows fields otherwise than asked; those that it doesn't show, nobody can tell."""
    plain = {name: value for name, value in asked.items() if not isinstance(value, (dict, list))}
    other = natural_key.differing(one, plain)
    return [f"Planpoint's answer does not show what was asked: {', '.join(other)}."] if other else []


async def _recall(run: Run) -> dict[str, str]:
    with contextlib.suppress(Postpone):  # the state store is away: as if nothing were known
        known = await run.recall(MEMORY)
        if isinstance(known, dict):
            return known
    return {}

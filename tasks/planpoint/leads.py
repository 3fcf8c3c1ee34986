"""
The incremental export of leads: each lead once per project and schedule, also over crashes.

What was exported is remembered as short digests of the leads' ids (a lead without an id: of its content), so that the
state store holds no personal data.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.planpoint.client import Object
    from worker.run import Run


@dataclass(frozen=True, slots=True)
class Export:
    """One export: the leads that earlier ones did not have."""

    run: Run
    memory: str
    leads: list[Object]
    complete: bool
    known_before: int
    _exported: list[str]

    @classmethod
    async def begin(cls, run: Run, project_id: str, leads: list[Object], limit: int | None) -> Export:
        """Choose the leads, once per command: after a crash the same ones are written again."""

        async def choose() -> dict[str, list[str]]:
            known = await run.recall(memory(run, project_id)) or []
            before = set(known)
            new = [mark for mark in dict.fromkeys(map(_mark, leads)) if mark not in before]
            return {"known": known, "new": new[:limit], "more": new[limit:] if limit is not None else []}

        chosen = await run.step("leads", choose)
        new = set(chosen["new"])
        by_mark = {_mark(lead): lead for lead in leads}
        return cls(
            run=run,
            memory=memory(run, project_id),
            leads=[lead for mark, lead in by_mark.items() if mark in new],
            complete=not chosen["more"],
            known_before=len(chosen["known"]),
            _exported=chosen["new"],
        )

    async def end(self) -> None:
        """Remember that these leads are exported, beside what others exported since: once they are where they go."""
        known = await self.run.recall(self.memory) or []
        await self.run.remember(self.memory, list(dict.fromkeys([*known, *self._exported])))


def memory(run: Run, project_id: str) -> str:
    """Name what earlier exports had: one export at a time reads and writes it."""
    return f"leads:{project_id}:{run.schedule}"


def _mark(lead: Object) -> str:
    id = lead.get("id")
    told = id if isinstance(id, str) and id else json.dumps(lead, sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]

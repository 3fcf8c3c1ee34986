"""
The incremental export of entities: what changed since the last one, kept apart for each schedule.

Filters know days, and neither clock nor time zone of the vendor is known, so each export looks back to the start of the
last but one, and a day beyond: the overlap of one interval. What an earlier export had is dropped by BN and
lastUpdateDate; an entity that changed again comes again, and one without lastUpdateDate each time.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tasks.barometerit.client import Object
    from tasks.barometerit.models import EntityList
    from worker.run import Run

MARGIN: Final = timedelta(days=1)
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(slots=True)
class Changes:
    """
    One export. `since`: the first day to ask for, None for everything.

    What is remembered: when the last export started, and the one before; marks of the rows that may come again.
    """

    run: Run
    memory: str
    started: datetime
    last: dict[str, Any]
    since: date | None
    dropped: int = 0
    _known: set[str] = field(default_factory=set)
    _listed: dict[str, str] = field(default_factory=dict)
    """Mark and lastUpdateDate of each row that was listed and is exported, now or before."""

    @classmethod
    async def begin(cls, run: Run, data: EntityList) -> Changes | None:
        """Give the export that a command is, or None where it is a plain list. A redelivery begins the same one."""
        by_schedule = bool(run.schedule) and data.updated_from is not None and data.updated_to is None
        if not (by_schedule if data.only_changed is None else data.only_changed):
            return None
        memory = f"changes:{run.schedule}:{_digest(data)}"

        async def start() -> dict[str, Any]:
            return {"started": run.now().isoformat(), "last": await run.recall(memory) or {}}

        began = await run.step("changes", start)
        last = began["last"]
        since = data.updated_from
        if last.get("started"):
            since = datetime.fromisoformat(last["before"] or last["started"]).date() - MARGIN
        started = datetime.fromisoformat(began["started"])
        return cls(run, memory, started, last, since, _known=set(last.get("seen", ())))

    async def new(self, rows: AsyncGenerator[Object, None]) -> AsyncGenerator[Object, None]:
        """Give the rows that earlier exports did not have."""
        async with aclosing(rows):
            async for row in rows:
                mark = _mark(row)
                if mark is not None and mark in self._known:
                    self.dropped += 1
                else:
                    yield row
                # Behind the yield: a row that is asked for and not taken any more (a limit) is not exported.
                if mark is not None:
                    self._listed[mark] = str(row["last_update_date"])

    async def end(self, *, complete: bool) -> None:
        """Remember the export, once its rows are where they were to go; one cut by a limit goes on where it was."""
        if complete:
            before = self.last.get("started")
            since = (datetime.fromisoformat(before or self.started.isoformat()).date() - MARGIN).isoformat()
            # Rows from before the next export's first day can't come again; a day is left for the vendor's time zone.
            least = (date.fromisoformat(since) - MARGIN).isoformat()
            seen = [mark for mark, updated in self._listed.items() if not _DAY.match(updated) or updated[:10] >= least]
            state = {"started": self.started.isoformat(), "before": before, "seen": seen}
        else:
            state = {**self.last, "seen": sorted(self._known | self._listed.keys())}
        await self.run.remember(self.memory, state)

    def told(self) -> dict[str, Any]:
        """Give what the result says of it."""
        return {"since": None if self.since is None else self.since.isoformat(), "dropped": self.dropped}


def _digest(data: EntityList) -> str:
    """Tell exports of one schedule apart by what they ask for."""
    asked = data.model_dump(mode="json", include={"type", "filter", "operable_filter", "created_from", "created_to"})
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def _mark(row: Object) -> str | None:
    """Give what a row is known by; None where it does not say when it changed: it may have changed since."""
    if row.get("last_update_date") in (None, ""):
        return None
    return hashlib.sha256(f"{row.get('bn')} {row.get('last_update_date')}".encode()).hexdigest()[:16]

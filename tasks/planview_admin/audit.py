"""
The audit history, of a user or of the customer: each record once, none skipped, also over crashes and restarts.

Nothing is published of audit records, so they stay as received. What earlier runs had is remembered as an instant, up
to which all was had, and short digests of the records around it: the next run reads again from a while before that
instant and leaves out what it knows. So records that share an instant, or turn up late, are neither lost nor doubled.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from worker.data import with_warnings
from worker.errors import ContractBroken, RelayError
from worker.run import Postpone

if TYPE_CHECKING:
    from tasks.planview_admin import models
    from tasks.planview_admin.client import Admin, Swept
    from worker.command import Result
    from worker.rest import Endpoint
    from worker.run import Run

RECORDED: Final = "planview_admin.audit.recorded"
"""The type of an event that tells one record."""

TOGETHER: Final = 100
"""Events that are published side by side."""

CHECKPOINT: Final = 5_000
"""Events after which is written down how far they got, at the least: each time takes longer."""

Record = dict[str, Any]


def mark(record: Mapping[str, Any], key: str = "id") -> str:
    """Give what tells a record from others: its id, else its content."""
    id = record.get(key)
    known = isinstance(id, (str, int)) and not isinstance(id, bool) and id != ""
    told = f"id:{id}" if known else json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def instant(value: Any) -> datetime | None:
    """Read an instant: ISO 8601 (UTC where no zone is given), or seconds or milliseconds since 1970; else None."""
    try:
        if isinstance(value, str):
            read = datetime.fromisoformat(value.strip())
            return read if read.tzinfo else read.replace(tzinfo=UTC)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return datetime.fromtimestamp(value / 1000 if abs(value) > 1e11 else value, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None


@dataclass(slots=True)
class Seam:
    """
    Where one reading of a history joins the one before.

    `until`: everything before it was had, but for what may turn up late (`overlap`). `known`: what was had since then.
    """

    overlap: timedelta
    until: datetime | None = None
    known: set[str] = field(default_factory=set)
    _read: dict[str, datetime | None] = field(default_factory=dict)

    @classmethod
    def of(cls, state: Mapping[str, Any], overlap: timedelta) -> Seam:
        """Take up what `state` gave."""
        until = state.get("until")
        return cls(overlap, datetime.fromisoformat(until) if until else None, set(state.get("known", ())))

    @property
    def floor(self) -> datetime | None:
        """From where on to read."""
        return None if self.until is None else self.until - self.overlap

    def is_new(self, mark: str, at: datetime | None) -> bool:
        """Tell whether a record was not had before; what was is taken in."""
        if at is not None and self.floor is not None and at < self.floor:
            return False
        if mark in self.known:
            self._read[mark] = at
            return False
        return True

    def take(self, mark: str, at: datetime | None) -> None:
        """Take in a record that is new."""
        self._read[mark] = at

    def state(self, *, complete: bool) -> dict[str, Any]:
        """
        Give what the next reading needs to know; one that did not come to its end (`complete`) moves nothing forward.

        In which order records come is unpublished: what was not read yet may be older than all that was.
        """
        if not complete:
            known = self.known | self._read.keys()
            return {"until": self.until.isoformat() if self.until else None, "known": sorted(known)}
        until = max((at for at in (self.until, *self._read.values()) if at is not None), default=None)
        floor = None if until is None else until - self.overlap
        recent = (one for one, at in self._read.items() if at is None or floor is None or at >= floor)
        return {"until": until.isoformat() if until else None, "known": sorted(recent)}


@dataclass(slots=True)
class History:
    """One run of `user.audit` or `customer.audit`; `scope` tells the histories apart."""

    run: Run
    admin: Admin
    data: models.Audit
    endpoint: Endpoint
    scope: str
    path: Mapping[str, str] | None = None
    _seam: Seam = field(init=False)
    _count: int = field(init=False, default=0)
    _more: bool = field(init=False, default=False)

    async def result(self) -> Result:
        """Read the history, and hand its records on."""
        if not self.data.incremental:
            self._seam = Seam(timedelta(0))
            return await self._handed_on(self._swept(None))
        async with self.run.exclusive(f"audit:{self._memory}"):
            base = await self.run.step("seam", self._recall)
            state = await self._recall() if self.data.as_events else base
            if state.get("by") == self.run.digest:
                self._count = state["count"]  # events of this command that went out before it was cut off
            else:
                state = base
            overlap = timedelta(seconds=self.data.overlap)
            self._seam = Seam.of(state, overlap)
            result = await self._handed_on(self._swept(Seam.of(base, overlap).floor))
            await self._remember(complete=not self._more)
            return result

    async def _handed_on(self, swept: Swept) -> Result:
        if self.data.as_events:
            await self._emit(swept)
            result: dict[str, Any] = {"events": self._count, "complete": not self._more}
        else:
            template = self.data.destination
            destination = await self.run.destination(template, **(self.path or {})) if template else None
            result = await self.run.rows(self._new(swept), destination=destination, limit=self.data.limit)
        return with_warnings(result, swept.warnings)

    def _swept(self, floor: datetime | None) -> Swept:
        since = max((one for one in (floor, self.data.since) if one is not None), default=None)
        return self.admin.records(
            self.endpoint,
            self._mark,
            since=None if since is None else since.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            page_size=self.data.page_size,
            path=self.path,
        )

    async def _new(self, swept: Swept) -> AsyncIterator[Record]:
        """Give the records that are new; the one beyond `limit` only tells that there are more."""
        key = self._names["timestamp"][0]
        count = self._count
        async for page in swept.pages:
            self._check(page, key)
            for record in page:
                at, known = instant(record.get(key)), self._mark(record)
                if self.data.since is not None and at is not None and at < self.data.since:
                    continue  # the vendor may not know the parameter
                if not self._seam.is_new(known, at):
                    continue
                self._more = count == self.data.limit
                if not self._more:
                    self._seam.take(known, at)
                count += 1
                yield record
                if self._more:
                    return

    def _check(self, page: list[Record], key: str) -> None:
        if self.data.incremental and page and not any(instant(record.get(key)) for record in page):
            raise ContractBroken(
                f"No audit record shows an instant under {key!r}, so nobody can tell which are new: set "
                f'operations."{self.endpoint.name}".fields.timestamp of the connection to the vendor\'s key.'
            )

    async def _emit(self, swept: Swept) -> None:
        waiting: list[Record] = []
        unsaved = 0
        try:
            async for record in self._new(swept):
                if self._more:
                    break
                waiting.append(record)
                if len(waiting) == TOGETHER:
                    await self._publish(waiting)
                    unsaved += len(waiting)
                    waiting = []
                    if unsaved >= max(CHECKPOINT, self._count // 4) and self.data.incremental:
                        await self._remember(complete=False)
                        unsaved = 0
            await self._publish(waiting)
        except (Postpone, RelayError):
            await self._publish(waiting)
            if self.data.incremental:
                with contextlib.suppress(Postpone):
                    await self._remember(complete=False)
            raise

    async def _publish(self, records: list[Record]) -> None:
        emits = [self._told(record) for record in records]
        await asyncio.gather(*emits)
        self._count += len(records)

    async def _told(self, record: Record) -> None:
        name = f"{self.run.connection.name}:{self.scope}:{self._mark(record)}"
        data = {"connection": self.run.connection.name, "history": self.scope, "record": record}
        await self.run.emit(RECORDED, data, hashlib.sha256(name.encode()).hexdigest()[:32])

    @property
    def _names(self) -> Mapping[str, tuple[str, ...]]:
        return self.admin.record_names(self.endpoint).names

    def _mark(self, record: Record) -> str:
        return mark(record, self._names["id"][0])

    @property
    def _memory(self) -> str:
        return f"{self.scope}:{self.run.schedule}"

    async def _recall(self) -> dict[str, Any]:
        return dict(await self.run.recall(f"audit:{self._memory}") or {})

    async def _remember(self, *, complete: bool) -> None:
        state = {**self._seam.state(complete=complete), "by": self.run.digest, "count": self._count}
        await self.run.remember(f"audit:{self._memory}", state)

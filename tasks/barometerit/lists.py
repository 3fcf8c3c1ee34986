"""Lists as results: where their rows go, what is asked for, and what is told of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from tasks.barometerit import models
from tasks.barometerit.changes import Changes
from tasks.barometerit.client import in_query
from tasks.barometerit.pages import Pages
from worker.data import with_warnings

if TYPE_CHECKING:
    from datetime import date

    from tasks.barometerit.client import Barometerit, Object
    from tasks.barometerit.pages import Ask, Read
    from worker.command import Result
    from worker.run import Run


async def entities(run: Run, barometerit: Barometerit, data: models.EntityList) -> Result:
    """Do what `entity.list` promises."""
    destination = await _destination(run, data)
    changes = await Changes.begin(run, data)
    query = await _query(barometerit, data, data.updated_from if changes is None else changes.since)
    filtered = bool(query.keys() - {"type", "fieldsets"})
    ask = partial(barometerit.ask_entities, query)
    pages = Pages(ask, barometerit.read_entities, size=_size(data), filtered=filtered)
    rows = pages.rows(run) if changes is None else changes.new(pages.rows(run))
    result = await run.rows(rows, destination=destination, limit=data.limit, complete=lambda: pages.complete)
    if changes is not None:
        await changes.end(complete=result["complete"])
        result |= changes.told()
    return with_warnings(result, pages.warnings)


async def paged(run: Run, data: models.Paged, ask: Ask, read: Read, *, by_bn: bool = True) -> Result:
    """List page after page, to the end or the limit."""
    destination = await _destination(run, data)
    pages = Pages(ask, read, size=_size(data), by_bn=by_bn)
    rows = pages.rows(run)
    result = await run.rows(rows, destination=destination, limit=data.limit, complete=lambda: pages.complete)
    return with_warnings(result, pages.warnings)


async def whole(run: Run, data: models.Listing, look: Callable[[], Awaitable[list[Object]]], **ids: str) -> Result:
    """List what comes in one answer; asked once the destination is known to be one."""
    destination = await _destination(run, data, **ids)

    async def rows() -> AsyncIterator[Object]:
        for row in await look():
            yield row

    return await run.rows(rows(), destination=destination, limit=data.limit)


async def _destination(run: Run, data: models.Listing, **ids: str) -> str | None:
    """Give where a list's rows go, once it is known to be such a place: before anything is asked."""
    if data.destination is None:
        return None
    destination = await run.destination(data.destination, **ids)
    run.artifacts.check(destination)
    return destination


async def _query(barometerit: Barometerit, data: models.EntityList, updated_from: date | None) -> dict[str, str]:
    """Give a list's query (BIT-ENT): days as the vendor has them, filters built where they are not yet."""
    query = {"type": data.type}
    days = {
        "updateDateStartDate": updated_from,
        "updateDateEndDate": data.updated_to,
        "createDateStartDate": data.created_from,
        "createDateEndDate": data.created_to,
    }
    query |= {name: day.isoformat() for name, day in days.items() if day is not None}
    if (filter := data.filter) is not None:
        built = filter if isinstance(filter, str) else await barometerit.build_filter(filter)
        query["filter"] = in_query(built)
    if (operable := data.operable_filter) is not None:
        built = operable if isinstance(operable, str) else await barometerit.build_operable_filter(operable)
        query["operableFilter"] = in_query(built)
    if data.fieldsets:
        query["fieldsets"] = "true"
    return query


def _size(data: models.Paged) -> int:
    """Ask for no more than a limit takes, and the one row that tells whether there are more."""
    return data.page_size if data.limit is None else min(data.page_size, data.limit + 1)

"""
Lists to their end: page after page by `first` and `count`, what comes twice dropped, the number checked.

No page names the default or the largest `count` (BIT-ENT), so a page shorter than asked may be the vendor's limit and
not the end: the end is an empty page, one that brings nothing new, or the number that the vendor tells.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.barometerit.client import Object, Page

Fetch = Callable[[int, int], Awaitable["Page"]]
"""`fetch(first, count)` gives one page."""


@dataclass(slots=True)
class Pages:
    """
    The rows of a list, each once; `complete` and `warnings` say afterwards whether they were all.

    `filtered`: the vendor counts what there is without filters, so fewer rows are as they should be.
    """

    fetch: Fetch
    size: int
    filtered: bool = True
    complete: bool = True
    warnings: list[str] = field(default_factory=list)

    async def __aiter__(self) -> AsyncIterator[Object]:
        seen: set[str] = set()
        first = 0
        unfiltered: int | None = None
        while True:
            page = await self.fetch(first, self.size)
            unfiltered = page.unfiltered if page.unfiltered is not None else unfiltered
            first += len(page.rows)
            known = len(seen)
            for row in page.rows:
                mark = identity(row)
                if mark not in seen:
                    seen.add(mark)
                    yield row
            if len(seen) == known or (not self.filtered and unfiltered is not None and first >= unfiltered):
                break
        self._check(len(seen), unfiltered)

    def _check(self, rows: int, unfiltered: int | None) -> None:
        if unfiltered is None or rows == unfiltered or (self.filtered and rows < unfiltered):
            return
        self.complete = rows >= unfiltered
        self.warnings.append(
            f"barometerIT counts {unfiltered} without filters and lists {rows}: "
            "the list changed meanwhile, or not all came."
        )


def identity(row: Object) -> str:
    """Give what a row is known by: its BN, else all that it says."""
    bn = row.get("bn")
    return bn if isinstance(bn, str) and bn else json.dumps(row, sort_keys=True)

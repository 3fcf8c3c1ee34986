"""
Lists to their end: page after page by `first` and `count`, what comes twice dropped, the number checked.

No page names the default or the largest `count` (BIT-ENT), so a page shorter than asked may be the vendor's limit and
not the end: the end is an empty page, one that brings nothing new, or the number that the vendor tells.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

from worker.sweep import sweep

if TYPE_CHECKING:
    from tasks.barometerit.client import Object, Page
    from worker.rest import Response
    from worker.run import Run

Ask = Callable[[int, int], Awaitable["Response"]]
"""`ask(first, count)` asks for one page."""

Read = Callable[[bytes], "Page"]
"""Reads the body of a page."""


class Pages:
    """
    The rows of a list, each once; `complete` and `warnings` say afterwards whether they were all.

    `filtered`: the vendor counts what there is without filters, so fewer rows are as they should be.
    """

    def __init__(self, ask: Ask, read: Read, *, size: int, filtered: bool = True) -> None:
        self.cursor: int | None = 0
        self.complete = True
        self.warnings: list[str] = []
        self._ask = ask
        self._read = read
        self._size = size
        self._filtered = filtered
        self._seen: set[int] = set()

    async def rows(self, run: Run, name: str = "list") -> AsyncGenerator[Object, None]:
        """Give the rows, page after page; `name` tells the lists of one command apart."""

        async def ask(first: int) -> Response:
            return await self._ask(first, self._size)

        async with aclosing(sweep(run, name, self, ask)) as pages:
            async for page in pages:
                for row in page:
                    yield row

    def take(self, body: bytes) -> list[Object]:
        """Take the page at the cursor in, and give its new rows."""
        page = self._read(body)
        after = (self.cursor or 0) + len(page.rows)
        fresh = []
        for row in page.rows:
            mark = hash(_identity(row))
            if mark not in self._seen:
                self._seen.add(mark)
                fresh.append(row)
        told = None if self._filtered else page.unfiltered
        self.cursor = after if fresh and (told is None or after < told) else None
        if self.cursor is None:
            self._check(page.unfiltered)
        return fresh

    def _check(self, unfiltered: int | None) -> None:
        rows = len(self._seen)
        if unfiltered is None or rows == unfiltered or (self._filtered and rows < unfiltered):
            return
        self.complete = rows >= unfiltered
        self.warnings.append(
            f"barometerIT counts {unfiltered} without filters and lists {rows}: "
            "the list changed meanwhile, or not all came."
        )


def _identity(row: Object) -> str:
    """Give what a row is known by: its BN, else all that it says."""
    bn = row.get("bn")
    return bn if isinstance(bn, str) and bn else json.dumps(row, sort_keys=True)

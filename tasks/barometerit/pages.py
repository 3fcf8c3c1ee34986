"""
Lists to their end: page after page by `first` and `count`, what comes twice dropped, the number checked.

No page names the default or the largest `count` (BIT-ENT), so a page shorter than asked may be the vendor's limit and
not the end: the end is an empty page, one that brings nothing new, or a short one that reaches just the number that the
vendor tells. A full page is never taken for the last: a number that is too small would end the list early, unseen.
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

    `filtered`: the vendor counts what there is without filters, so fewer rows are as they should be. `by_bn`: a row's
    `bn` is its own, by which it is known when it comes again; else all that it says.
    """

    def __init__(self, ask: Ask, read: Read, *, size: int, filtered: bool = True, by_bn: bool = True) -> None:
        self.cursor: int | None = 0
        self.complete = True
        self.warnings: list[str] = []
        self._ask = ask
        self._read = read
        self._size = size
        self._filtered = filtered
        self._by_bn = by_bn
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
            mark = hash(self._identity(row))
            if mark not in self._seen:
                self._seen.add(mark)
                fresh.append(row)
        reached = not self._filtered and after == page.unfiltered and len(page.rows) < self._size
        again = self.cursor or 0
        self.cursor = after if fresh and not reached else None
        if self.cursor is None:
            # The first page a second time, of another size than asked: all there is, from who knows no pages.
            if page.rows and not fresh and not (again == len(page.rows) != self._size):
                self._warn("barometerIT gives a page that came before where the next one was asked for: not all came.")
            self._check(page.unfiltered)
        return fresh

    def _check(self, unfiltered: int | None) -> None:
        rows = len(self._seen)
        if unfiltered is None or rows == unfiltered or (self._filtered and rows < unfiltered):
            return
        self._warn(
            f"barometerIT counts {unfiltered} without filters and lists {rows}: "
            "the list changed meanwhile, or not all came.",
            complete=rows >= unfiltered,
        )

    def _warn(self, warning: str, *, complete: bool = False) -> None:
        self.complete &= complete
        self.warnings.append(warning)

    def _identity(self, row: Object) -> str:
        bn = row.get("bn")
        return bn if self._by_bn and isinstance(bn, str) and bn else json.dumps(row, sort_keys=True)

"""
The vendor's pages: where the next one begins, when there is no more, and what can't be right.

Pure. planview_admin.txt, "Working with Paged Responses": a page whose `Resources` are empty or fewer than its
`itemsPerPage` is the last; the next one begins at the answer's own `startIndex + itemsPerPage`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from worker.errors import ContractBroken
from worker.strict_json import read_vendors

Row = dict[str, Any]


class Pages:
    """
    The pages of one list, each row once; rows are as received.

    `key` tells rows apart. Rows that come a second time, because the data moved while they were read, are left out and
    counted in `moved`. Pages that can't be right raise `ContractBroken`: no `itemsPerPage`, 0, one that leads nowhere
    forward, or a full page of rows that were all there before.
    """

    def __init__(self, key: Callable[[Row], Any]) -> None:
        self.cursor: int | None = 1
        self.moved = 0
        self._key = key
        self._seen: set[int] = set()

    def take(self, body: bytes) -> list[Row]:
        """Take the page at the cursor in, and give its new rows."""
        start = self.cursor or 1
        page = _object(body)
        rows = page.get("Resources")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise _broken("Resources is an array of objects", body)
        if not rows:
            self.cursor = None
            return []
        told, size = _whole(page.get("startIndex")), _whole(page.get("itemsPerPage"))
        if told < 1 or size < 1:
            raise _broken("startIndex and itemsPerPage are whole numbers from 1", body)
        if told > start:
            raise _broken(f"the page that was asked for begins at {start}, not at {told}", body)
        self.cursor = None if len(rows) < size else told + size
        if self.cursor is not None and self.cursor <= start:
            raise _broken(f"startIndex + itemsPerPage leads forward from {start}, not to {self.cursor}", body)
        fresh = self._fresh(rows)
        if not fresh and self.cursor is not None:
            raise _broken(f"the page at {start} has other rows than those before it", body)
        return fresh

    def _fresh(self, rows: list[Row]) -> list[Row]:
        fresh = []
        for row in rows:
            mark = hash(self._key(row))
            if mark in self._seen:
                self.moved += 1
            else:
                self._seen.add(mark)
                fresh.append(row)
        return fresh


def _object(body: bytes) -> Row:
    try:
        page = read_vendors(body)
    except ValueError:
        raise _broken("a page is JSON", body) from None
    if not isinstance(page, dict):
        raise _broken("a page is a JSON object", body)
    return page


def _whole(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,15}", value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _broken(documented: str, body: bytes) -> ContractBroken:
    return ContractBroken(
        f"Planview Admin answered with another page than documented: {documented}.",
        status=200,
        response=body.decode("utf-8", errors="replace"),
    )

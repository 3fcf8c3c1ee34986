"""
Lists that come in pages, read to their end however often the reading is cut short.

A list of a thousand pages outlasts a vendor's points, a worker's drain and ten minutes of a run. What was read is
therefore kept when the reading must stop: as a step of the command, compressed, so that the next run gives those pages
again without asking for them and goes on with the one it did not get. A reading that nothing stops writes nothing.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from worker.errors import RelayError
from worker.run import Postpone

if TYPE_CHECKING:
    from worker.rest import Response
    from worker.run import Run


class Pages(Protocol):
    """A vendor's way of paging: where the next page begins, and what a page holds."""

    @property
    def cursor(self) -> Any:
        """What to ask for next; None: there is no more."""
        ...

    def take(self, body: bytes) -> list[Any]:
        """Take the body of the page at the cursor in, and give its rows; raises `ContractBroken`."""
        ...


async def sweep(
    run: Run, name: str, pages: Pages, fetch: Callable[[Any], Awaitable[Response]]
) -> AsyncGenerator[list[Any], None]:
    """
    Give the rows of each page, in order; `fetch` asks for the page at a cursor.

    `name` tells the lists of one command apart; a list that was read to its end is read anew the next time. A failure
    is raised with the pages before it kept; one that came after some progress is no failed attempt (`Run.unfinished`).
    """
    reading = 0
    while run.kept(f"{name}:{reading}:end"):
        reading += 1
    parts = 0
    while (part := run.kept(f"{name}:{reading}:{parts}")) is not None:
        parts += 1
        for packed in part:
            yield pages.take(zlib.decompress(base64.b64decode(packed)))
    fresh: list[bytes] = []
    while pages.cursor is not None:
        try:
            await run.breathe()
            response = await fetch(pages.cursor)
        except (RelayError, Postpone) as error:
            if not fresh:
                raise
            await run.step(f"{name}:{reading}:{parts}", lambda: _packed(fresh))
            if isinstance(error, Postpone):
                raise
            raise await run.unfinished(error, left=f"{name}:{reading}:{parts}") from error
        rows = pages.take(response.body)
        fresh.append(zlib.compress(response.body, 1))
        yield rows
    if parts:
        await run.step(f"{name}:{reading}:end", _ended)


async def _packed(pages: list[bytes]) -> list[str]:
    return [base64.b64encode(page).decode() for page in pages]


async def _ended() -> bool:
    return True

"""
Making objects at most once in effect, in barometerIT's terms: BNs, proposals, and where to look.

What an interrupted request made is new, so it is looked for among what was created these days; only a command that
gives `match_on` looks at everything.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tasks.barometerit.pages import Pages
from tasks.barometerit.writes import shows, tells
from worker.errors import Conflict, ContractBroken, NotFound
from worker.natural_key import Candidates, make_once, natural_key

if TYPE_CHECKING:
    from tasks.barometerit.client import Barometerit, Object, Written
    from worker.run import Run

LATELY: Final = timedelta(days=2)
"""How far back an interrupted request is looked for: filters know days, and the vendor's day may be another."""

Look = Callable[[], Awaitable[Candidates]]


async def make(
    run: Run,
    *,
    noun: str,
    wanted: Mapping[str, Any],
    match_on: Sequence[str] | None,
    default: Sequence[str],
    look: Look,
    send: Callable[[], Awaitable[Written]],
) -> Object:
    """
    Give the object that `send` makes, with `how` (see `worker.natural_key`), `saved` and `proposed`.

    What was found or adopted comes as it was listed; of what was created there may be no more than `bn`. A create that
    waits as a proposal has the proposal's BN in `proposed`, and no `bn`. Raises `Conflict` where an object is listed of
    which nobody can tell whether `match_on` fits it.
    """
    key = {} if match_on is None else natural_key(dict(wanted), match_on, default)

    async def sent() -> Object:
        written = await send()
        if written.object is not None and written.object.get("bn"):
            return {**written.object, "id": written.object["bn"], "saved": [written.object["bn"]], "proposed": []}
        if written.told:
            bn = (written.saved or written.proposed)[0]
            made: Object = {"id": bn, "saved": list(written.saved), "proposed": list(written.proposed)}
            return {**made, "bn": bn} if written.saved else made
        raise ContractBroken(f"barometerIT answered the making of a {noun} without its BN.")

    async def candidates() -> Candidates:
        found = await look()
        for row in found.rows:
            _refuse_untold(row, key)
        return Candidates([{**row, "id": row.get("bn")} for row in found.rows], found.complete)

    made = await make_once(
        run,
        noun=noun,
        wanted=dict(wanted),
        match_on=match_on,
        default=default,
        look=candidates,
        send=sent,
        alike=shows,
    )
    del made["id"]
    saved = [made["bn"]] if made["how"] != "adopted" and "bn" in made else []
    return {"saved": saved, "proposed": [], **made}


def _refuse_untold(row: Object, key: Mapping[str, Any]) -> None:
    """Raise `Conflict` where nobody can tell whether a listed object fits: to make another would be a guess."""
    untold = [name for name, value in key.items() if not tells(row.get(name), value)]
    if untold and all(name in untold or shows(row.get(name), value) for name, value in key.items()):
        raise Conflict(
            f"Whether {row.get('bn')} is what match_on looks for can't be told: {', '.join(untold)} is listed as "
            f"{row[untold[0]]!r}. Give its value by one of these names."
        )


def made_lately(run: Run, barometerit: Barometerit, type: str) -> Look:
    """Look among the entities of a type that were created these days."""

    async def look() -> Candidates:
        async def since() -> str:
            return (run.now() - LATELY).date().isoformat()

        day = await run.step("since", since)
        return await _listed(run, barometerit, {"type": type, "createDateStartDate": day}, filtered=True)

    return look


def searched(run: Run, barometerit: Barometerit, type: str, key: Mapping[str, Any]) -> Look:
    """
    Look among all entities of a type: those that a search for the name finds, or every one where none of these fits.

    What a search does not find may be there all the same (how it matches is not documented), so a find is believed
    and a miss is not.
    """

    async def look() -> Candidates:
        if "name" in key:
            found = [row async for row in _found(barometerit, type, key["name"])]
            if any(all(shows(row.get(field), value) for field, value in key.items()) for row in found):
                return Candidates(found)
        return await _listed(run, barometerit, {"type": type}, filtered=False)

    return look


async def _found(barometerit: Barometerit, type: str, name: str) -> AsyncIterator[Object]:
    """Give the entities of that very name that a search finds."""
    hits = await barometerit.search(name, 100, [type])
    for group in hits.get("matches") or []:
        for hit in group.get("entity_type_results") or []:
            if hit.get("name") == name and hit.get("bn"):
                with contextlib.suppress(NotFound):  # a search may know what is gone
                    yield await barometerit.read_entity(hit["bn"])


async def _listed(run: Run, barometerit: Barometerit, query: Mapping[str, str], *, filtered: bool) -> Candidates:
    """List entities to the end."""
    pages = Pages(partial(barometerit.ask_entities, query), barometerit.read_entities, size=100, filtered=filtered)
    rows = [row async for row in pages.rows(run, "candidates")]
    return Candidates(rows, pages.complete)

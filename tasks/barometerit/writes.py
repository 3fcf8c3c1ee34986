"""
What became of a write: saved, or held as a proposal.

An edit of an entity that is Completed or Approved waits for an editor (About_contributions), and the call succeeds all
the same. Where the answer tells (BIT-ASSOC: `successfulBns`, `proposedChangeBns`), it is believed; where it doesn't,
what was written is read back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from worker.errors import Conflict, ContractBroken, Forbidden, Invalid, NotFound, Unauthorized
from worker.natural_key import delete_once, differing, same, same_instant

if TYPE_CHECKING:
    from tasks.barometerit.client import Barometerit, Object, Written
    from worker.command import Result
    from worker.run import Run

Seen = Callable[[], Awaitable[Mapping[str, Any]]]
"""Gives an object's fields as they are now."""

UNREADABLE: Final = (NotFound, Unauthorized, Forbidden, Conflict, Invalid, ContractBroken)
"""What a reading that only follows a write may end with: the write was accepted, and is no failure for that."""

_CHOSEN: Final = (
    *("bn", "id", "name", "label", "displayableName"),
    *("displayValue", "display_value", "storedValue", "stored_value"),
)
"""By what an option is called, any of which may have been asked (BIT-ENT, BIT-GS, BIT-FLD)."""


async def outcome(
    barometerit: Barometerit,
    bn: str,
    asked: Mapping[str, Any],
    written: Written,
    seen: Seen,
    *,
    proposable: bool = True,
) -> dict[str, Any]:
    """
    Give `bn`, `saved` and `proposed` of a write to one object.

    `seen` is asked where the answer does not tell of this very object. An object in the answer may be but an echo of
    the request: it is believed only where nothing waits as a proposal. What neither shows nor waits is a warning, and
    so is what can't be read back, or not be held against what was asked.
    """
    if written.proposed or bn in written.saved:
        return told(bn, written)
    shown: Mapping[str, Any] | None = written.object
    if proposable or shown is None or not shown.keys() >= asked.keys():
        try:
            shown = await seen()
        except UNREADABLE as error:
            warning = f"barometerIT accepted the write, and it could not be read back ({error.message})"
            return {"bn": bn, "saved": [], "proposed": [], "warnings": [warning]}
    other, hidden = unlike(shown, asked)
    if not other and not hidden:
        return {"bn": bn, "saved": [bn], "proposed": []}
    waiting = await proposals_of(barometerit, bn) if proposable else []
    if waiting:
        return {"bn": bn, "saved": [], "proposed": waiting}
    warnings = []
    if other:
        warnings.append(f"barometerIT accepted the write and does not show what was asked: {', '.join(other)}.")
    if hidden:
        names = ", ".join(hidden)
        warnings.append(
            f"barometerIT accepted the write and does not show these fields, or not by what was asked: {names}."
        )
    return {"bn": bn, "saved": [], "proposed": [], "warnings": warnings}


def told(bn: str, written: Written) -> dict[str, Any]:
    """Give what an answer itself tells."""
    result: dict[str, Any] = {"bn": bn, "saved": list(written.saved), "proposed": list(written.proposed)}
    if written.transaction_ids:
        result["transaction_ids"] = list(written.transaction_ids)
    return result


async def delete(
    run: Run,
    barometerit: Barometerit,
    bn: str,
    read: Callable[[str], Awaitable[Object]],
    send: Callable[[str], Awaitable[Written]],
    *,
    proposable: bool = True,
) -> Result:
    """
    Delete what was there when the command first looked: not there then is an error, gone since is what it asked.

    `deleted` is false where the delete waits as a proposal, or where the object is still there; None where that can't
    be read: the delete was accepted.
    """
    written: Written | None = None

    async def sent() -> str:
        nonlocal written
        written = await send(bn)
        return ""

    await delete_once(run, bn, partial(read, bn), sent)
    gone: dict[str, Any] = {"bn": bn, "saved": [bn], "proposed": [], "deleted": True}
    if written is None:
        return gone
    if written.told:
        return {**told(bn, written), "deleted": bool(written.saved)}
    try:
        await read(bn)
    except NotFound:
        return gone
    except UNREADABLE as error:
        warning = f"barometerIT accepted the delete, and whether it is gone could not be read ({error.message})"
        return {"bn": bn, "saved": [], "proposed": [], "deleted": None, "warnings": [warning]}
    waiting = await proposals_of(barometerit, bn) if proposable else []
    result: dict[str, Any] = {"bn": bn, "saved": [], "proposed": waiting, "deleted": False}
    return result if waiting else {**result, "warnings": ["barometerIT accepted the delete, and it is still there."]}


async def associated(barometerit: Barometerit, source_bn: str, written: Written) -> Result:
    """Give what became of associations: where the answer does not tell, only proposals can be looked for."""
    if written.told:
        result = told(source_bn, written)
    else:
        result = {"saved": [], "proposed": await proposals_of(barometerit, source_bn)}
        if not result["proposed"]:
            result["warnings"] = ["barometerIT accepted the associations and does not say which it saved: list them."]
    result.pop("bn", None)
    return {"source_bn": source_bn, **result}


async def proposals_of(barometerit: Barometerit, bn: str) -> list[str]:
    """Give the BNs of the changes of an entity that wait for somebody to decide; none where they can't be listed."""
    try:
        answer = await barometerit.ask_proposals({"entityBn": bn, "type": "ALL"}, 0, 100)
        page = barometerit.read_proposals(answer.body)
    except UNREADABLE:
        return []
    return [str(one["bn"]) for one in page.rows if one.get("bn") and not one.get("processed_by_bn")]


def unlike(shown: Mapping[str, Any], asked: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Give the fields that show otherwise than asked, and those of which nobody can tell from what shows."""
    hidden = {name for name, value in asked.items() if name not in shown and value not in (None, "")}
    hidden |= {name for name, value in shown.items() if name in asked and not tells(value, asked[name])}
    return [name for name in differing(shown, asked, shows) if name not in hidden], sorted(hidden)


def shows(value: Any, asked: Any) -> bool:
    """Tell whether a field shows what was asked; options may be objects, days midnights."""
    if isinstance(value, Mapping):
        if isinstance(asked, Mapping):
            shared = value.keys() & asked.keys()
            return bool(shared) and all(same(value[name], asked[name]) for name in shared)
        return any(value.get(name) is not None and same(value[name], asked) for name in _CHOSEN)
    if isinstance(value, list) and isinstance(asked, list):
        return len(value) == len(asked) and all(map(shows, value, asked))
    if isinstance(asked, Mapping) and asked.get("bn") is not None:
        return same(value, asked["bn"])
    return same(value, asked) or same_instant(value, asked) or (asked in (None, "") and value in (None, ""))


def tells(value: Any, asked: Any) -> bool:
    """Tell whether what a field shows can be held against what was asked: an object may have other keys altogether."""
    if isinstance(value, list) and isinstance(asked, list):
        return len(value) != len(asked) or all(map(tells, value, asked))
    if not isinstance(value, Mapping) or asked in (None, ""):
        return True
    return not value.keys().isdisjoint(asked if isinstance(asked, Mapping) else _CHOSEN)


def merged(current: Object, changes: Mapping[str, Any], kept_by_server: frozenset[str]) -> dict[str, Any]:
    """Give all that a PUT is to hold: what is there and may be written, with the changes in its place."""
    there = {name: value for name, value in current.items() if name not in kept_by_server and value is not None}
    return {**there, **changes}

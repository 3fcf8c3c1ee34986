"""
What became of a write: saved, or held as a proposal.

An edit of an entity that is Completed or Approved waits for an editor (About_contributions), and the call succeeds all
the same. Where the answer tells (BIT-ASSOC: `successfulBns`, `proposedChangeBns`), it is believed; where it doesn't,
what was written is read back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from worker.errors import NotFound
from worker.natural_key import same

if TYPE_CHECKING:
    from tasks.barometerit.client import Barometerit, Object, Written
    from worker.command import Result

Seen = Callable[[], Awaitable[Mapping[str, Any]]]
"""Gives an object's fields as they are now."""


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

    `seen` is asked only where the answer does not tell. What neither shows nor waits as a proposal is a warning.
    """
    if written.told:
        return told(bn, written)
    shown = written.object if written.object is not None and written.object.keys() >= asked.keys() else await seen()
    left = sorted(name for name, value in asked.items() if not shows(shown.get(name), value))
    if not left:
        return {"bn": bn, "saved": [bn], "proposed": []}
    waiting = await proposals_of(barometerit, bn) if proposable else []
    if waiting:
        return {"bn": bn, "saved": [], "proposed": waiting}
    warning = f"barometerIT accepted the write and does not show what was asked: {', '.join(left)}."
    return {"bn": bn, "saved": [], "proposed": [], "warnings": [warning]}


def told(bn: str, written: Written) -> dict[str, Any]:
    """Give what an answer itself tells."""
    result: dict[str, Any] = {"bn": bn, "saved": list(written.saved), "proposed": list(written.proposed)}
    if written.transaction_ids:
        result["transaction_ids"] = list(written.transaction_ids)
    return result


async def deleted(
    barometerit: Barometerit, bn: str, written: Written, seen: Seen, *, proposable: bool = True
) -> Result:
    """Give what became of a delete: `deleted` is false where it waits as a proposal, or the object is still there."""
    if written.proposed and not written.saved:
        return {**told(bn, written), "deleted": False}
    if written.saved:
        return {**told(bn, written), "deleted": True}
    try:
        await seen()
    except NotFound:
        return {"bn": bn, "saved": [bn], "proposed": [], "deleted": True}
    waiting = await proposals_of(barometerit, bn) if proposable else []
    result: dict[str, Any] = {"bn": bn, "saved": [], "proposed": waiting, "deleted": False}
    return result if waiting else {**result, "warnings": ["barometerIT accepted the delete, and it is still there."]}


async def proposals_of(barometerit: Barometerit, bn: str) -> list[str]:
    """Give the BNs of the changes of an entity that wait for somebody to decide."""
    page = await barometerit.list_proposals({"entityBn": bn, "type": "ALL"}, 0, 100)
    return [str(one["bn"]) for one in page.rows if one.get("bn") and not one.get("processed_by_bn")]


def shows(value: Any, asked: Any) -> bool:
    """
    Tell whether a field shows what was asked.

    Options are objects with `bn`, `id`, `name` and `label`, and any of these may have been asked (BIT-ENT, BIT-GS).
    """
    if isinstance(value, Mapping):
        if isinstance(asked, Mapping):
            return all(same(value.get(name), part) for name, part in asked.items() if name in value)
        names = ("bn", "id", "name", "label", "displayableName")
        return any(value.get(name) is not None and same(value[name], asked) for name in names)
    if isinstance(asked, Mapping) and asked.get("bn") is not None:
        return same(value, asked["bn"])
    return same(value, asked) or (asked in (None, "") and value in (None, ""))


def merged(current: Object, changes: Mapping[str, Any], kept_by_server: frozenset[str]) -> dict[str, Any]:
    """Give all that a PUT is to hold: what is there and may be written, with the changes in its place."""
    there = {name: value for name, value in current.items() if name not in kept_by_server and value is not None}
    return {**there, **changes}

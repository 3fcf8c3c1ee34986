"""
What a sheet would change in a project, and whether that needs somebody's approval.

Pure: units as they are and rows as they were read in, the plan's items and counts out.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tasks.planpoint import models
from tasks.planpoint.sheet import NUMBERS, Reading, Wish, unit_key
from worker.cells import Unclear, folded
from worker.natural_key import same, same_instant

GONE: Final = frozenset({"leased", "sold"})
"""Statuses (folded) of units that nobody can buy any more: putting one back on sale by mistake is the costly error."""

Item = dict[str, Any]
"""One line of a plan: `action` is `update` (with `id`, `key`, `changes`), `unknown` or `invalid` (with `reason`)."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The plan's items, what they add up to, and the brakes that they trip."""

    items: list[Item]
    summary: dict[str, Any]
    reasons: tuple[str, ...]


def difference(reading: Reading, units: Iterable[Mapping[str, Any]], data: models.UnitsSync) -> Difference:
    """Compare what a sheet wants with what a project has."""
    by_key = _by_key(units, data.key)
    missing = {key: several for key, several in by_key.items() if key not in reading.mentioned}
    nearly = {} if data.key == "id" else {loose: key for key in missing if (loose := _loosely(key))}
    items: list[Item] = [{"action": "invalid", **problem} for problem in reading.problems]
    unchanged = 0
    for wish in reading.wishes:
        item = _item(wish, by_key.get(wish.key, []), data.key, nearly)
        if item is None:
            unchanged += 1
        else:
            items.append(item)
    lacking = [unit for several in missing.values() for unit in several]
    if reading.missing_status is not None:
        items.extend(_missing(lacking, reading.missing_status, data.key))
    return _judged(items, data, units=sum(map(len, by_key.values())), unchanged=unchanged, missing=len(lacking))


def _by_key(units: Iterable[Mapping[str, Any]], key: str) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for unit in units:
        value = unit.get(key)
        # A unit without the key is one that no row can mean: under a key of its own.
        found["" if value is None else _key(value, key)].append(unit)
    for unit in found.pop("", []):
        found[f"\0{unit['id']}"].append(unit)
    return found


def _key(value: Any, key: str) -> str:
    try:
        return unit_key(value, key)
    except Unclear:  # the vendor's own number, too large for a spreadsheet: one that no row can mean
        return str(value)


def _loosely(key: str) -> str:
    """Give what is the same in `A-01`, `a 01` and `A01`, and in `007` and `7`."""
    return folded(unicodedata.normalize("NFKC", key)).lstrip("0") if not key.startswith("\0") else ""


def _item(wish: Wish, units: list[Mapping[str, Any]], key: str, nearly: Mapping[str, str]) -> Item | None:
    if not units:
        near = nearly.get(_loosely(wish.key))
        if near is not None:  # else the unit that is meant would seem missing
            reason = f"no unit has the {key} {wish.key!r}; one has {near!r}"
            return {"action": "invalid", "line": wish.line, "reason": reason}
        return {"action": "unknown", "line": wish.line, "key": wish.key, "reason": f"no unit has this {key}"}
    if len(units) > 1:
        ids = ", ".join(unit["id"] for unit in units[:5])
        reason = f"{len(units)} units have the {key} {wish.key!r} ({ids})"
        return {"action": "invalid", "line": wish.line, "reason": reason}
    changes = changed(units[0], wish.fields)
    if not changes:
        return None
    return {"action": "update", "line": wish.line, "id": units[0]["id"], "key": wish.key, "changes": changes}


def alike(one: Any, other: Any) -> bool:
    """Tell whether two values of a unit are one: also a day and its midnight, which Planpoint shows in UTC."""
    return same(one, other) or same_instant(one, other)


def changed(unit: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Give what would change: per field, `before` and `after`, a number in the form that the unit has it in."""
    return {
        name: {"before": unit.get(name), "after": _in_the_form_of(unit.get(name), name, value)}
        for name, value in fields.items()
        if not alike(unit.get(name), value)
    }


def _in_the_form_of(current: Any, name: str, value: Any) -> Any:
    # Generation A keeps some numbers as text (viewerdocs, units/id/get: `bedrooms` is a string).
    return str(value) if name in NUMBERS and isinstance(current, str) else value


def _missing(units: Iterable[Mapping[str, Any]], status: str, key: str) -> Iterable[Item]:
    for unit in units:
        changes = changed(unit, {"status": status})
        if changes and unit.get(key):
            yield {"action": "update", "line": None, "id": unit["id"], "key": unit[key], "changes": changes}


def _judged(items: list[Item], data: models.UnitsSync, *, units: int, unchanged: int, missing: int) -> Difference:
    updates = [item for item in items if item["action"] == "update"]
    reopened = sum(map(_reopens, updates))
    share = len(updates) / units if units else 0.0
    summary = {
        "units": units,
        "changed": len(updates),
        "changed_share": round(share, 4),
        "reopened": reopened,
        "unchanged": unchanged,
        "missing": missing,
        "unknown": sum(item["action"] == "unknown" for item in items),
        "invalid": sum(item["action"] == "invalid" for item in items),
    }
    reasons = []
    if share > data.max_changed:
        reasons.append(
            f"{len(updates)} of {units} units would change ({share:.1%}); max_changed allows {data.max_changed:.1%}."
        )
    if reopened > data.max_reopened:
        reasons.append(
            f"{reopened} units would go from Leased or Sold to Available; max_reopened allows {data.max_reopened}."
        )
    if data.missing_status is not None and summary["invalid"]:
        reasons.append(
            f"{summary['invalid']} rows can't be used, so units may seem missing that are not; "
            "missing_status needs a clean sheet."
        )
    return Difference(items, summary, tuple(reasons))


def _reopens(item: Item) -> bool:
    status = item["changes"].get("status")
    return status is not None and folded(str(status["before"])) in GONE and folded(status["after"]) == "available"


def moved_on(item: Item, unit: Mapping[str, Any] | None) -> bool:
    """Tell whether a unit is neither as it was when the plan was made nor as the plan wants it."""
    if unit is None:
        return True
    return not all(
        alike(unit.get(name), change["before"]) or alike(unit.get(name), change["after"])
        for name, change in item["changes"].items()
    )

"""
Whether a plan needs somebody's approval.

Pure. What can lock people out is braked: users deactivated, and users who lose a product environment. Whatever a roster
says, and whatever went wrong with it, no more of them lose their access unseen than the command allows. So is what a
column in the wrong place or an old roster does to many: other names to sign in by, administrators, access given back.
And what a directory that shows too little makes of a roster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tasks.planview_admin.spelling import ADMINISTRATOR, ROLES, is_active

if TYPE_CHECKING:
    from tasks.planview_admin.protection import Protection

WRITES: Final = ("create", "update", "reactivate", "deactivate")
"""The actions of a plan that change something, in the order in which they are applied."""

MOST: Final = 0.5
"""The share of the active users beyond which removals, new names and returns need approval, whatever is allowed."""

SHRUNKEN: Final = 0.8
"""A roster or a directory with less than this share of the last one's rows has shrunk."""

AT_ONCE: Final = 10
"""How many users get other names, become administrators or are let in again without approval, whatever their share."""

RAISED: Final = 0.05
"""The share of the active users that become administrators without approval."""

_ORDER: Final = {action: place for place, action in enumerate(("invalid", "excluded", *WRITES))}

Item = dict[str, Any]
"""One line of a plan: `action`, `who`, `changes` with `before` and `after` of each field, `reason`, `line`, `id`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """
    What a roster may do.

    `last_rows` is how many rows the last one had that was applied, `last_users` how many users the directory had then;
    None where none was.
    """

    protection: Protection
    deactivate_missing: bool
    max_removals: int
    max_removal_share: float
    last_rows: int | None = None
    last_users: int | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """The plan's items, what they add up to, and the brakes that they trip."""

    items: list[Item]
    summary: dict[str, Any]
    reasons: tuple[str, ...]

    @property
    def writes(self) -> int:
        """How many users would be written to."""
        return sum(int(self.summary[action]) for action in WRITES)

    @property
    def removals(self) -> set[tuple[str, str]]:
        """Who would lose their access or a part of it."""
        return {removal(item) for item in self.items if removes(item)}


def removes(item: Item) -> bool:
    """Tell whether somebody would lose their access: be deactivated, or lose a product environment."""
    if item["action"] == "deactivate":
        return True
    products = item["changes"].get("products") if item["action"] == "update" else None
    return products is not None and bool(set(products["before"] or ()) - set(products["after"] or ()))


def removal(item: Item) -> tuple[str, str]:
    """Give what makes two removals one: the action and the user's id."""
    return item["action"], item["id"]


def judged(
    items: list[Item],
    users: Sequence[Mapping[str, Any]],
    rules: Rules,
    *,
    rows: int,
    unchanged: int,
    missing: int,
) -> Difference:
    """Put a plan's items in order, add them up, and say which brakes they trip."""
    counts = Counter(item["action"] for item in items)
    active = sum(is_active(user.get("status")) for user in users)
    removals = sum(map(removes, items))
    summary = {
        "users": len(users),
        "active": active,
        "rows": rows,
        **{action: counts[action] for action in WRITES},
        "unchanged": unchanged,
        "excluded": counts["excluded"],
        "invalid": counts["invalid"],
        "missing": missing,
        "removals": removals,
        "removal_share": round(_share(removals, active), 4),
    }
    ordered = sorted(items, key=lambda item: (_ORDER[item["action"]], item.get("line") or 0))
    reasons = (*_lost(summary, users, rules, items), *_mistaken(items, users, active), *_unseen(summary, rules))
    return Difference(ordered, summary, reasons)


def _lost(
    summary: Mapping[str, Any], users: Sequence[Mapping[str, Any]], rules: Rules, items: Sequence[Item]
) -> Iterator[str]:
    """Say why people must not lose their access unseen."""
    if not summary["removals"]:
        return
    removals, active, rows = summary["removals"], summary["active"], summary["rows"]
    share = _share(removals, active)
    lose = f"{removals} of {active} active users would lose access ({share:.1%})"
    if removals > rules.max_removals:
        yield f"{lose}; max_removals allows {rules.max_removals}."
    if share > rules.max_removal_share:
        yield f"{lose}; max_removal_share allows {rules.max_removal_share:.1%}."
    if share > MOST:
        yield f"{lose}, more than half of them: this always needs approval."
    if rules.deactivate_missing and summary["invalid"]:
        yield (
            f"{summary['invalid']} rows can't be used, so users may seem missing who are not; "
            "deactivate_missing needs a clean roster."
        )
    if rules.deactivate_missing and rules.last_rows is not None and rows < SHRUNKEN * rules.last_rows:
        yield f"The roster has {rows} rows, the last one had {rules.last_rows}: it has shrunk."
    for name, matter in (("role", "who is an administrator"), ("status", "who is active")):
        if not any(user.get(name) for user in users):
            yield f"No user shows a {name}, so nobody can tell {matter}: set fields.{name} of the connection."
    losing = {item["id"] for item in items if removes(item)}
    strange = {str(user["role"]) for user in users if user["id"] in losing and user.get("role")}.difference(ROLES)
    if strange:
        yield (
            f"Users with the role {', '.join(map(repr, sorted(strange)[:5]))} would lose access, which may be an "
            'administrator\'s: set fields."role.administrator" and fields."role.user" of the connection.'
        )


def _mistaken(items: Sequence[Item], users: Sequence[Mapping[str, Any]], active: int) -> Iterator[str]:
    """Say what looks like a column in the wrong place, or a field that is known by another key."""
    changed = [item["changes"] for item in items if item["action"] in {"update", "reactivate"}]
    renamed = sum(any(name in each and each[name]["before"] for name in ("username", "email")) for each in changed)
    raised = sum(
        item["changes"].get("role", {}).get("after") == ADMINISTRATOR for item in items if item["action"] in WRITES
    )
    back = sum(item["action"] == "reactivate" for item in items)
    for count, most, would in (
        (renamed, MOST, "users would get another username or email to sign in by: is a column in the wrong place?"),
        (raised, RAISED, "users would become administrators: is a column in the wrong place?"),
        (back, MOST, "inactive users would be let in again: is the roster an old one?"),
    ):
        if count > AT_ONCE and _share(count, active) > most:
            yield f"{count} {would} ({active} are active)"
    if any("products" in each for each in changed) and not any("products" in user for user in users):
        yield "No user shows products, so nobody can tell who would lose some: set fields.products of the connection."


def _unseen(summary: Mapping[str, Any], rules: Rules) -> Iterator[str]:
    """Say that users may not have been seen who are there."""
    if summary["create"] and rules.last_users is not None and summary["users"] < SHRUNKEN * rules.last_users:
        yield (
            f"The directory shows {summary['users']} users, after the last reconcile it had {rules.last_users}: it has "
            "shrunk, and users may be made a second time."
        )


def _share(removals: int, active: int) -> float:
    return min(removals / active, 1.0) if active else float(removals > 0)

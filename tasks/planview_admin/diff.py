"""
What a roster would change in a directory.

Pure: users as they are and wishes as they were read in, the plan's items out. A row means the user with its
id, else with its username, else with its email; where several fit, or several rows mean one user, nobody is touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tasks.planview_admin.brakes import Difference, Item, Rules, judged, removal, removes
from tasks.planview_admin.roster import FULL_NAME, KEYS
from tasks.planview_admin.spelling import ACTIVE, INACTIVE, alike, is_active
from worker.natural_key import fold

if TYPE_CHECKING:
    from tasks.planview_admin.protection import Protection
    from tasks.planview_admin.roster import Reading, Wish

User = Mapping[str, Any]


class Directory:
    """Users, found by id, username and email."""

    def __init__(self, users: Sequence[User]) -> None:
        self.users = users
        self.by_id = {user["id"]: user for user in users}
        self.by_username: dict[str, list[User]] = {}
        self.by_email: dict[str, list[User]] = {}
        for user in users:
            for name, index in (("username", self.by_username), ("email", self.by_email)):
                if user.get(name):
                    index.setdefault(fold(str(user[name])), []).append(user)

    def find(self, id: str | None, fields: Mapping[str, Any]) -> User | None:
        """Give the user who is meant, None where there is none; raises `Ambiguous` where that can't be told."""
        if id is not None:
            return self.by_id.get(id)
        username, email = fields.get("username"), fields.get("email")
        if username:
            found = self.by_username.get(fold(str(username)), [])
            if not found and email:
                # Who has another username is somebody else: where usernames are used, emails may be shared.
                found = [one for one in self.by_email.get(fold(str(email)), []) if not one.get("username")]
        else:
            found = self.by_email.get(fold(str(email)), [])
        if len(found) > 1:
            ids = ", ".join(str(user["id"]) for user in found[:5])
            name, value = ("username", username) if username else ("email", email)
            raise Ambiguous(f"{len(found)} users have the {name} {value!r} ({ids})")
        return found[0] if found else None


class Ambiguous(ValueError):
    """Several users fit: which one is meant can't be told."""


@dataclass(slots=True)
class _Match:
    wish: Wish
    user: User | None
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    problem: str | None = None
    protected: str | None = None

    @property
    def writes(self) -> bool:
        return bool(self.changes) and self.problem is None and self.protected is None

    def final(self, name: str) -> str | None:
        """Give the username or email that the user would have in the end (folded)."""
        value = self.user.get(name) if self.user is not None else None
        if self.writes and name in self.changes:
            value = self.changes[name]["after"]
        return fold(str(value)) if value else None


def difference(
    reading: Reading, users: Sequence[User], rules: Rules, agreed: Collection[tuple[str, str]] | None = None
) -> Difference:
    """
    Compare what a roster wants with what a directory has.

    `agreed`: the removals that an earlier reading of the directory led to; any other is left out.
    """
    directory = Directory(users)
    matches = list(_matched(reading.wishes, directory))
    _refuse_doubles(matches)
    for match in matches:
        if match.problem is None:
            _fill(match, rules.protection)
    _refuse_collisions(matches, directory)
    items: list[Item] = [{"action": "invalid", **problem} for problem in reading.problems]
    items += [_refused(match.wish, match.problem) for match in matches if match.problem is not None]
    items += filter(None, map(_item, matches))
    missing = _missing(reading, matches, users)
    if rules.deactivate_missing:
        items += [_leaving(user, rules.protection.reason(user)) for user in missing]
    if agreed is not None:
        items = [item if not removes(item) or removal(item) in agreed else _doubted(item) for item in items]
    unchanged = sum(match.problem is None and not match.changes for match in matches)
    return judged(items, users, rules, rows=reading.rows, unchanged=unchanged, missing=len(missing))


# Whom a row means


def _matched(wishes: Iterable[Wish], directory: Directory) -> Iterator[_Match]:
    for wish in wishes:
        try:
            user = directory.find(wish.id, wish.fields)
        except Ambiguous as ambiguous:
            yield _Match(wish, None, problem=str(ambiguous))
            continue
        unknown = user is None and wish.id is not None
        yield _Match(wish, user, problem=f"no user has the id {wish.id!r}" if unknown else None)


def _refuse_doubles(matches: Sequence[_Match]) -> None:
    """Believe none of several rows that mean one person."""
    lines: dict[tuple[str, Any], list[_Match]] = {}
    for match in matches:
        if match.problem is None:
            lines.setdefault(_person(match), []).append(match)
    for several in lines.values():
        if len(several) > 1:
            where = ", ".join(str(match.wish.line) for match in several[:5])
            for match in several:
                match.problem = f"lines {where} mean the same person"


def _person(match: _Match) -> tuple[str, Any]:
    if match.user is not None:
        return "id", match.user["id"]
    username = match.wish.fields.get("username")
    return ("username", fold(str(username))) if username else ("email", fold(str(match.wish.fields["email"])))


# What would change


def _fill(match: _Match, protection: Protection) -> None:
    wish, user = match.wish, match.user
    fields = dict(wish.fields)
    full_name = fields.pop(FULL_NAME, None)
    if full_name is not None and (user is None or full_name != _full_name(user)):
        match.problem = f"the name {full_name!r} can be divided in more than one way: give first_name and last_name"
        return
    if user is None:
        if not wish.active:
            return  # who is not to be active need not be made
        fields.pop("status", None)  # a new user is pending (PVA-USERS)
        lacking = [name for name in ("email", "first_name", "last_name") if not fields.get(name)]
        if lacking:
            match.problem = f"a new user needs {', '.join(lacking)}"
            return
        match.changes = {name: {"before": None, "after": _json(value)} for name, value in fields.items()}
        match.protected = protection.reason({**fields, "id": None})
        return
    match.changes = changed(user, fields, active=wish.active)
    if match.changes:
        match.protected = protection.reason(user) or protection.reason({**user, **fields, "role": user.get("role")})


def changed(user: User, fields: Mapping[str, Any], *, active: bool) -> dict[str, dict[str, Any]]:
    """Give what would change of a user, per field before and after; `active`: what the status is to amount to."""
    changes = {
        name: {"before": _json(user.get(name)), "after": _json(value)}
        for name, value in fields.items()
        if name != "status" and not alike(name, user.get(name), value)
    }
    if is_active(user.get("status")) != active:
        changes["status"] = {"before": user.get("status"), "after": ACTIVE if active else INACTIVE}
    return changes


def _full_name(user: User) -> str:
    return " ".join(f"{user.get('first_name') or ''} {user.get('last_name') or ''}".split())


def _json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _refuse_collisions(matches: Sequence[_Match], directory: Directory) -> None:
    """
    Refuse what would leave two users with one username, or with one email where nobody has usernames.

    An email is unique unless usernames are in use (PVA-USERS). What is refused stays as it is, which may bring it into
    another's way: so again, until nothing is refused any more.
    """
    usernames = bool(directory.by_username) or any(match.wish.fields.get("username") for match in matches)
    name = "username" if usernames else "email"
    renaming = [match for match in matches if match.writes and name in match.changes]
    while renaming:
        held = _held(name, matches, directory)
        for match in renaming:
            now = match.final(name)
            if now is not None and held[now] > 1:
                match.problem = f"another user has, or would have, the {name} {match.changes[name]['after']!r}"
        for match in _circles(name, [match for match in renaming if match.writes]):
            match.problem = f"it would exchange the {name} with other users, which can't be done one by one"
        left = [match for match in renaming if match.writes]
        if len(left) == len(renaming):
            break
        renaming = left
    if usernames:
        _refuse_ambiguous(matches, directory)


def _refuse_ambiguous(matches: Sequence[_Match], directory: Directory) -> None:
    """Where emails may be shared: refuse rows that name somebody by an email alone which others would have, too."""
    held = _held("email", matches, directory)
    for match in matches:
        wish = match.wish
        if (
            match.writes
            and wish.id is None
            and not wish.fields.get("username")
            and held[match.final("email") or ""] > 1
        ):
            match.problem = f"several users would have the email {wish.fields['email']!r}: give a username or the id"


def _circles(name: str, renaming: Sequence[_Match]) -> list[_Match]:
    """Give those that wait for each other to give up a name."""
    by_name = {fold(str(match.changes[name]["before"])): match for match in renaming if match.user is not None}
    followed: dict[int, int] = {}
    found: list[_Match] = []
    for number, start in enumerate(renaming):
        match: _Match | None = start
        path: list[_Match] = []
        while match is not None and id(match) not in followed:
            followed[id(match)] = number
            path.append(match)
            other = by_name.get(fold(str(match.changes[name]["after"])))
            match = None if other is match else other
        if match is not None and followed[id(match)] == number:
            found += path[next(at for at, one in enumerate(path) if one is match) :]
    return found


def _held(name: str, matches: Sequence[_Match], directory: Directory) -> Counter[str]:
    """Count the users who would have each username or email in the end."""
    renamed = {match.user["id"]: match for match in matches if match.user is not None and name in match.changes}
    made = [match for match in matches if match.user is None and match.writes]
    final = [match.final(name) for match in (*renamed.values(), *made)]
    final += [fold(str(user[name])) for user in directory.users if user.get(name) and user["id"] not in renamed]
    return Counter(value for value in final if value)


# The plan's lines


def _refused(wish: Wish, reason: str) -> Item:
    return {"action": "invalid", "line": wish.line, "who": wish.who, "reason": reason}


def _item(match: _Match) -> Item | None:
    if not match.changes or match.problem is not None:
        return None
    action = _action(match)
    item: Item = {"action": action, "line": match.wish.line, "who": match.wish.who, "changes": match.changes}
    if match.user is not None:
        item |= {"id": match.user["id"], "seen": _seen(match.user, match.changes)}
    if match.protected is not None:
        item |= {"action": "excluded", "would": action, "reason": match.protected}
    return item


def _action(match: _Match) -> str:
    if match.user is None:
        return "create"
    status = match.changes.get("status")
    if status is None:
        return "update"
    return "reactivate" if status["after"] == ACTIVE else "deactivate"


def _missing(reading: Reading, matches: Sequence[_Match], users: Sequence[User]) -> list[User]:
    """Give the users whom the roster does not mention in any way and who are not inactive already."""
    meant = {match.user["id"] for match in matches if match.user is not None}
    mentioned = reading.mentioned
    return [
        user
        for user in users
        if user["id"] not in meant
        and is_active(user.get("status"))
        and not any(_folded(name, user.get(name)) in mentioned[name] for name in KEYS)
    ]


def _folded(name: str, value: Any) -> str | None:
    return None if not value else str(value) if name == "id" else fold(str(value))


def _leaving(user: User, protected: str | None) -> Item:
    item: Item = {
        "action": "deactivate",
        "line": None,
        "who": str(user.get("username") or user.get("email") or user["id"]),
        "id": user["id"],
        "seen": _seen(user, ()),
        "changes": {"status": {"before": user.get("status"), "after": INACTIVE}},
        "reason": "the roster does not have this user",
    }
    if protected is not None:
        item |= {"action": "excluded", "would": "deactivate", "reason": protected}
    return item


def _seen(user: User, changes: Collection[str]) -> dict[str, Any]:
    """Give the names by which a user was found, or missed: under others it may be somebody else."""
    return {name: user[name] for name in ("username", "email") if user.get(name) and name not in changes}


def _doubted(item: Item) -> Item:
    reason = "only the second of two readings of the directory says so"
    return {**item, "action": "excluded", "would": item["action"], "reason": reason}

"""
Making an object at most once in effect, found again by its natural key.

No vendor takes an idempotency key, so what an interrupted create may have made is found by the fields that tell objects
apart. What was there before the first send must not be taken for it, so every create first looks (and writes down) what
already fits the key; only a command that gives `match_on` itself adopts that.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

from worker.errors import BadCommand, Conflict, NotFound, OutcomeUnknown

if TYPE_CHECKING:
    from worker.run import Once, Run

Row = dict[str, Any]
"""An object of the vendor's in our names, with its `id`."""

_DATED: Final = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(frozen=True, slots=True)
class Candidates:
    """The objects among which one is to be found; `complete` says whether these are all that there are."""

    rows: Sequence[Row]
    complete: bool = True


class Fitting(Protocol):
    """Gives the objects that fit the key; `surely`: none is an answer only where all were listed."""

    async def __call__(self, *, surely: bool = True) -> list[Row]:
        """List and compare."""
        ...


Send = Callable[[], Awaitable[Row]]
Alike = Callable[[Any, Any], bool]


async def make_once(
    run: Run,
    *,
    noun: str,
    wanted: Row,
    match_on: Sequence[str] | None,
    default: Sequence[str],
    look: Callable[[], Awaitable[Candidates]],
    send: Send,
    alike: Alike | None = None,
) -> dict[str, Any]:
    """
    Give the object that `send` makes, with `how`: `created`, `found` (an interrupted send had made it) or `adopted`.

    `wanted` holds the fields of the object to be, in our names; the natural key is those named by `match_on`, else
    `default` (as far as the command gives them). `look` lists the objects among which it is to be found; `alike` tells
    whether a field of theirs is the one looked for (left out: `same`). Commands that match on the same key take turns,
    so that the second finds what the first has made.

    Raises `Conflict` where `match_on` fits several objects; `OutcomeUnknown` where several new ones fit after an
    interrupted send, or none does and the list was not complete; `BadCommand` where the command leaves a field of its
    `match_on` empty.
    """
    key = natural_key(wanted, match_on, default)
    is_same = alike or same

    async def fitting(*, surely: bool = True) -> list[Row]:
        candidates = await look()
        rows = [row for row in candidates.rows if all(is_same(row.get(name), value) for name, value in key.items())]
        if surely and not rows and not candidates.complete:
            raise OutcomeUnknown(
                f"No {noun} with this {' and '.join(key)} is listed, but the vendor does not list all it has: "
                "look there whether it exists, then replay or drop."
            )
        return rows

    if match_on is None:
        made = await _make_new(run, key, fitting, send)
    else:
        made = await _adopt_or_make(run, noun, key, fitting, send)
    return {**made.value, "how": made.how}


async def _make_new(run: Run, key: Row, fitting: Fitting, send: Send) -> Once:
    async def before() -> list[str]:
        if run.unsure:  # what is there may be what an earlier run has made, of which nobody remembers
            return []
        return [str(row["id"]) for row in await fitting(surely=False)]

    async def find() -> list[Row]:
        return [row for row in await fitting() if str(row["id"]) not in known]

    known = await run.step("before", before) if key else []
    return await run.once("create", send, find if key else None)


async def _adopt_or_make(run: Run, noun: str, key: Row, fitting: Fitting, send: Send) -> Once:
    async def find() -> list[Row]:
        found = await fitting()
        if len(found) > 1:
            ids = ", ".join(str(row["id"]) for row in found[:5])
            raise Conflict(f"match_on fits {len(found)} {noun}s ({ids}): name more fields, so that it fits one.")
        return found

    async with run.exclusive(f"{noun}.create:{_digest(key)}"):
        return await run.once("create", send, find, adopt=True)


async def delete_once(
    run: Run, id: str, seen: Callable[[], Awaitable[Any]], delete: Callable[[], Awaitable[str]]
) -> dict[str, Any]:
    """
    Delete what was there when the command first looked (`seen`): not there then is an error, gone since what it asked.

    Gives `id`, `deleted` and the `message` that `delete` gives.
    """

    async def there() -> bool:
        await seen()
        return True

    await run.step("there", there)
    try:
        message = await delete()
    except NotFound:
        message = ""  # a delete that was interrupted, or repeated in the call, had taken effect
    return {"id": id, "deleted": True, "message": message}


def natural_key(wanted: Row, match_on: Sequence[str] | None, default: Sequence[str]) -> dict[str, Any]:
    """Give the fields by which the object can be found again, with their values."""
    if match_on is not None and not match_on:
        raise BadCommand("data.match_on names nothing that tells one object from another: name a field such as name.")
    if match_on is None:
        return {name: wanted[name] for name in default if wanted.get(name) is not None}
    empty = [name for name in match_on if wanted.get(name) is None]
    if empty:
        raise BadCommand(
            f"data.match_on names {', '.join(empty)}, which the command leaves empty: give a value, or match on others."
        )
    return {name: wanted[name] for name in match_on}


def same(one: Any, other: Any) -> bool:
    """Tell whether two values are one to a vendor: a number and its text (`2`, `"2"`), a reference and its id."""
    one, other = _referred(one), _referred(other)
    if isinstance(one, str) and isinstance(other, str):
        return composed(one) == composed(other)  # "01" and "1" are two names
    if isinstance(one, str) != isinstance(other, str):
        text, number = (one, other) if isinstance(one, str) else (other, one)
        return _is_number(number) and _number(text) == number
    if _is_number(one) and _is_number(other):
        return bool(one == other)
    return type(one) is type(other) and bool(one == other)


def same_instant(one: Any, other: Any) -> bool:
    """Tell whether two texts are one instant; a day is its midnight in UTC, as vendors show it."""
    if not (isinstance(one, str) and isinstance(other, str)):
        return False
    instant = _instant(one)
    return instant is not None and instant == _instant(other)


def folded(one: Any, other: Any) -> bool:
    """Tell whether two values are the same without regard to case, as addresses and user names are."""
    if isinstance(one, str) and isinstance(other, str):
        return fold(one) == fold(other)
    return same(one, other)


def fold(name: str) -> str:
    """Give what is the same of a name or address in any case and any spelling of its letters."""
    if name.isascii():
        return name.strip().casefold()
    # É may be one character or two, and full-width where somebody writes Japanese; what nobody sees counts for nothing.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible(name)).casefold()).strip()


def visible(text: str) -> str:
    """Give text without what nobody sees: zero-width spaces, marks of order and of direction."""
    return text if text.isascii() else "".join(char for char in text if unicodedata.category(char) != "Cf")


def composed(text: str) -> str:
    """Give text without blanks around it, each letter with its accents in one character where there is one."""
    return text.strip() if text.isascii() else unicodedata.normalize("NFC", text).strip()


def differing(one: Mapping[str, Any], asked: Mapping[str, Any], alike: Callable[[Any, Any], bool] = same) -> list[str]:
    """Give the fields that an answer shows otherwise than asked; those that it doesn't show, nobody can tell."""
    return sorted(name for name, value in asked.items() if name in one and not alike(one[name], value))


def _referred(value: Any) -> Any:
    """Give the id of an object that stands where others give its id alone."""
    if isinstance(value, Mapping):
        return value.get("_id", value.get("id", value))
    return value


def _instant(text: str) -> datetime | None:
    try:
        instant = datetime.fromisoformat(text) if _DATED.match(text) else None
    except ValueError:
        return None
    return instant if instant is None or instant.tzinfo is not None else instant.replace(tzinfo=UTC)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(text: str) -> float | None:
    try:
        return float(text) if "_" not in text else None
    except ValueError:
        return None


def _digest(key: Row) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:16]

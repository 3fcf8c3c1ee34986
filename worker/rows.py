"""
Rows out and rows in: lists written as JSON Lines or CSV or collected for a result; sheets and rosters read.

JSON Lines is exact: one object a line, UTF-8. CSV (RFC 4180, UTF-8) is for people: its heading is every name that any
row has, in the order they first came; nested values stand in a cell as JSON, None as nothing, true and false in words.
A spreadsheet takes a cell that begins with = @ + or - for a formula, and leads and names come from strangers: such text
gets an apostrophe before it (numbers and telephone numbers do not). Who needs the very text takes JSON Lines.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from itertools import islice
from tempfile import SpooledTemporaryFile
from typing import Any, Final

from worker.artifacts import Artifacts, Writer
from worker.destinations import Destination
from worker.errors import BadCommand, Invalid
from worker.sheets import BadRow, Row, Sheet, inline_sheet, open_sheet, read_sheet
from worker.storage import storage_errors

__all__ = [
    "BadRow",
    "Row",
    "Sheet",
    "collect_rows",
    "inline_sheet",
    "open_sheet",
    "read_sheet",
    "write_rows",
]

RESULT_LIMIT: Final = 256 * 1024
"""Bytes of a result that goes into the event (contract: a result over 256 KiB needs a destination)."""

_BATCH: Final = 500
_SPOOLED: Final = 8 * 1024 * 1024  # bytes of a CSV's rows that wait in memory until all its columns are known
_FORMULA: Final = re.compile(r"[=@\t\r\n]|[+-](?![\d\s.,:()/eE%-]*\Z)")


async def collect_rows(
    rows: AsyncIterator[Mapping[str, Any]], *, limit: int | None = None, max_bytes: int = RESULT_LIMIT
) -> dict[str, Any]:
    """
    Collect rows for a result: `rows`, `count`, and `complete`: whether these are all.

    Raises `Invalid` as soon as they have more than `max_bytes` as JSON: they need a destination.
    """
    collected: list[Mapping[str, Any]] = []
    size = 0
    async with _limited(rows, limit) as (wanted, complete):
        async for row in wanted:
            size += len(_json(row)) + 1
            if size > max_bytes:
                raise Invalid(
                    f"destination: the rows have more than {max_bytes // 1024} KiB, too much for an event. "
                    "Give a destination to write them to, or a smaller limit."
                )
            collected.append(row)
    return {"rows": collected, "count": len(collected), "complete": complete()}


async def write_rows(
    artifacts: Artifacts,
    destination: str | Destination,
    rows: AsyncIterator[Mapping[str, Any]],
    *,
    limit: int | None = None,
) -> dict[str, Any]:
    """
    Write rows to a destination, as JSON Lines or CSV by its ending, and publish it once all are there.

    Gives `destination`, `rows` (how many), `bytes`, `sha256`, and `complete`: whether these are all. Raises
    `BadCommand` for another ending, before the first row is asked for.
    """
    place = destination if isinstance(destination, Destination) else artifacts.check(destination)
    write = _WRITERS.get(place.ending)
    if write is None:
        raise BadCommand(f"{place.field}: rows are written as {', '.join(_WRITERS)}; {place.given!r} ends otherwise.")
    async with artifacts.writer(place) as writer, _limited(rows, limit) as (wanted, complete):
        count = await write(artifacts, writer, wanted)
        published = await writer.publish()
    return {
        "destination": published.destination,
        "rows": count,
        "bytes": published.bytes,
        "sha256": published.sha256,
        "complete": complete(),
    }


@asynccontextmanager
async def _limited(
    rows: AsyncIterator[Mapping[str, Any]], limit: int | None
) -> AsyncIterator[tuple[AsyncGenerator[Mapping[str, Any], None], Callable[[], bool]]]:
    """Give at most `limit` rows, and whether there were no more: one more is asked for to tell."""
    more = False

    async def wanted() -> AsyncGenerator[Mapping[str, Any], None]:
        nonlocal more
        count = 0
        async for row in rows:
            if count == limit:
                more = True
                return
            count += 1
            yield row

    try:
        async with aclosing(wanted()) as generator:
            yield generator, lambda: not more
    finally:
        if isinstance(rows, AsyncGenerator):
            await rows.aclose()


async def _batches(rows: AsyncIterator[Mapping[str, Any]]) -> AsyncGenerator[list[Mapping[str, Any]], None]:
    batch: list[Mapping[str, Any]] = []
    async for row in rows:
        batch.append(row)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


async def _write_jsonl(artifacts: Artifacts, writer: Writer, rows: AsyncIterator[Mapping[str, Any]]) -> int:
    count = 0
    async with aclosing(_batches(rows)) as batches:
        async for batch in batches:
            await writer.write(await artifacts.in_thread(_lines, batch))
            count += len(batch)
    return count


async def _write_csv(artifacts: Artifacts, writer: Writer, rows: AsyncIterator[Mapping[str, Any]]) -> int:
    """Keep the rows aside until the last has come: only then all columns are known."""
    count = 0
    columns: dict[str, None] = {}
    with SpooledTemporaryFile(_SPOOLED) as aside:

        def keep(batch: list[Mapping[str, Any]]) -> None:
            for row in batch:
                columns.update(dict.fromkeys(row))
            aside.write(_lines(batch))

        async with aclosing(_batches(rows)) as batches:
            async for batch in batches:
                with storage_errors(writer.destination, "write"):
                    await artifacts.in_thread(keep, batch)
                count += len(batch)
        pieces = _csv(list(columns), map(json.loads, aside))
        aside.seek(0)
        with storage_errors(writer.destination, "write"):
            while piece := await artifacts.in_thread(next, pieces, b""):
                await writer.write(piece)
    return count


def _csv(columns: list[str], rows: Iterator[Mapping[str, Any]]) -> Iterator[bytes]:
    text = io.StringIO(newline="")
    table = csv.writer(text)
    if columns:
        table.writerow([_cell(name) for name in columns])
    while True:
        batch = list(islice(rows, _BATCH))
        table.writerows([_cell(row.get(name)) for name in columns] for row in batch)
        if text.tell():
            # A lone surrogate, which JSON can spell, is no character that UTF-8 has.
            yield text.getvalue().encode(errors="replace")
        if not batch:
            return
        text.seek(0)
        text.truncate()


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case str():
            return "'" + value if _FORMULA.match(value) else value
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case _:
            return json.dumps(value, ensure_ascii=False)


def _lines(batch: list[Mapping[str, Any]]) -> bytes:
    return b"".join([_json(row) + b"\n" for row in batch])


def _json(row: Mapping[str, Any]) -> bytes:
    text = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate: only its escape can be written
        return json.dumps(row, separators=(",", ":")).encode()


_WRITERS: Final = {".jsonl": _write_jsonl, ".ndjson": _write_jsonl, ".csv": _write_csv}

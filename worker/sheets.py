"""
Sheets and rosters: rows read from CSV, XLSX, JSON or JSON Lines, each with its line, none dropped in silence.

What can't be read is a `BadRow` with its line and the reason, in its place among the others. A file that makes no
sense as a whole raises `BadCommand`. Blank lines are no rows. Cells of CSV are text as it stands; XLSX gives numbers,
booleans and None as such and dates in ISO 8601.
"""

from __future__ import annotations

import asyncio
import codecs
import csv
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as attribute
from itertools import islice
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from charset_normalizer import from_bytes

from worker.csv_check import LONGEST_RECORD
from worker.errors import BadCommand
from worker.workbooks import Unreadable, read_workbook

if TYPE_CHECKING:
    from worker.artifacts import Artifacts

LARGEST_SHEET: Final = 64 * 1024 * 1024
"""Bytes of a file that is read as a sheet: a roster of 100,000 users has about 20 MB."""

ROWS_KEYS: Final = ("rows", "records", "users")
"""Where a JSON object holds its rows."""

_BATCH: Final = 500
_SAMPLE: Final = 256 * 1024  # bytes or characters that a guess looks at
_DELIMITERS: Final = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Where several fit a text equally well, the first holds: charset-normalizer alone reads French and Spanish as Polish.
_LEGACY: Final = (
    "cp1252", "iso8859_2", "cp1250", "mac_roman", "cp1251", "koi8_r", "cp1253", "cp1254",
    "cp932", "euc_jp", "gb18030", "big5", "euc_kr",
)  # fmt: skip
_BROKEN: Final = re.compile("[\udc80-\udcff]")  # what "surrogateescape" makes of a byte that is not UTF-8
_FOREIGN: Final = re.compile("[^\x00-\x7f]")
_LINE: Final = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")
_JSON_LINE: Final = re.compile(r"[^\n]*\n|[^\n]+\Z")

csv.field_size_limit(max(csv.field_size_limit(), LONGEST_RECORD))  # 128 KiB a cell, unless told otherwise


@dataclass(frozen=True, slots=True)
class Row:
    """One row: the line (XLSX: row, JSON: item) it begins on, from 1, and its cells by their headings."""

    line: int
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row, or a part of the heading, that can't be read, and why."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Sheet:
    """
    One sheet, to be read once, by `for` or, its parsing done in a thread, by `async for`.

    `encoding` and `delimiter` are what was found; `heading` is the names in order, empty for JSON whose rows name them.
    """

    format: str
    rows: Iterator[Row | BadRow]
    heading: tuple[str, ...] = ()
    encoding: str | None = None
    delimiter: str | None = None
    worksheet: str | None = None
    in_thread: Callable[..., Any] | None = attribute(default=None, repr=False)

    def __iter__(self) -> Iterator[Row | BadRow]:
        return self.rows

    async def __aiter__(self) -> AsyncIterator[Row | BadRow]:
        def batch() -> list[Row | BadRow]:
            return list(islice(self.rows, _BATCH))

        while items := batch() if self.in_thread is None else await self.in_thread(batch):
            for item in items:
                yield item
            await asyncio.sleep(0)  # others have their turn between two batches, also where no thread parses


async def read_sheet(
    artifacts: Artifacts, source: str, *, field: str = "rows_url", max_bytes: int = LARGEST_SHEET
) -> Sheet:
    """
    Open the sheet at an allowed place; its name's ending says the format.

    Raises `BadCommand` for a place that is not allowed or a file that is no such sheet, `NotFound` where there is none,
    `Invalid` for more than `max_bytes`.
    """
    place = artifacts.check(source, field=field)
    data = await artifacts.read(place, max_bytes=max_bytes)
    return replace(await artifacts.in_thread(open_sheet, data, place.name, field), in_thread=artifacts.in_thread)


def open_sheet(data: bytes, name: str, field: str = "rows_url") -> Sheet:
    """Open a sheet that was read already; `name` says by its ending which format it has."""
    ending = PurePosixPath(name).suffix.lower()
    opening = _FORMATS.get(ending)
    try:
        if opening is None:
            raise Unreadable(f"has the ending {ending!r}; a sheet ends in {', '.join(_FORMATS)}")
        if ending != ".xlsx" and data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
            raise Unreadable("is a workbook by its content; save it as .xlsx and name it so")
        return opening(data)
    except Unreadable as error:
        raise BadCommand(f"{field}: {name!r} {error}.") from None


def inline_sheet(items: Iterable[Any]) -> Sheet:
    """Read rows that came in the command itself, numbered from 1."""
    return Sheet(format="inline", rows=(_item(number, item) for number, item in enumerate(items, 1)))


def _open_xlsx(data: bytes) -> Sheet:
    title, records = read_workbook(data)
    heading, rows = _tabular(records, ragged=True)
    return Sheet(format="xlsx", rows=rows, heading=heading, worksheet=title)


def _open_csv(data: bytes) -> Sheet:
    text, encoding = _decode(data)
    if _BROKEN.search(text) and len(_BROKEN.findall(text)) * 5 > len(
        _FOREIGN.findall(text)
    ):  # not UTF-8 with a broken byte or two, but something else
        text, encoding = _decode_legacy(data)
    told = re.match(r"sep=(.)\r?\n", text)  # Excel's own way to say it
    delimiter = told[1] if told else _delimiter(text[:_SAMPLE])
    start = told.end() if told else 0
    records = _records(text, delimiter, start=start, first=2 if told else 1)
    heading, rows = _tabular(records, ragged=False)
    return Sheet(
        format="csv", rows=rows, heading=heading, encoding=encoding, delimiter=_DELIMITERS.get(delimiter, delimiter)
    )


def _records(text: str, delimiter: str, *, start: int = 0, first: int = 1) -> Iterator[tuple[int, list[str] | str]]:
    """Give each record with the line it begins on, or the reason why it is none."""
    # Not by StringIO, which takes four bytes a character.
    reader = csv.reader((line[0] for line in _LINE.finditer(text, start)), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + first
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            last = reader.line_num + first - 1
            said = "a quote that is opened on this line is never closed" if "end of data" in str(error) else str(error)
            yield line, said + (f"; lines {line} to {last} are lost" if last > line else "")
            continue
        if any(not cell.isascii() and _BROKEN.search(cell) for cell in record):
            yield line, "it holds bytes that are not UTF-8, as the rest of the file is"
        else:
            yield line, record


def _decode(data: bytes) -> tuple[str, str]:
    """Decode text whose encoding nobody named; bytes that break UTF-8 become lone surrogates."""
    for mark, name in _BOMS:
        if data.startswith(mark):
            try:
                return data.decode(name), name.removesuffix("-sig")
            except UnicodeDecodeError:
                raise Unreadable(f"begins like {name.removesuffix('-sig')} and is not; save it as UTF-8") from None
    sample = data[:_SAMPLE]
    if sample.count(0) * 5 > len(sample):
        name = "utf-16-le" if sample[1::2].count(0) > sample[::2].count(0) else "utf-16-be"
        try:
            return data.decode(name), name
        except UnicodeDecodeError:
            raise Unreadable("holds NUL bytes and is no text; save it as UTF-8") from None
    return data.decode("utf-8", "surrogateescape"), "utf-8"


def _decode_legacy(data: bytes) -> tuple[str, str]:
    # The guess needs lines with foreign letters, wherever they stand.
    lines = [line for line in data.split(b"\n") if not line.isascii()]
    matches = list(from_bytes(b"\n".join(lines)[:_SAMPLE], cp_isolation=list(_LEGACY)))
    least = min((match.chaos for match in matches), default=0.0)
    fitting = {name for match in matches if match.chaos == least for name in match.could_be_from_charset}
    for name in (*(name for name in _LEGACY if name in fitting), "cp1252"):
        try:
            return data.decode(name), name
        except UnicodeDecodeError:
            continue
    raise Unreadable("has an encoding that could not be told; save it as UTF-8")


def _delimiter(sample: str) -> str:
    """Give what divides the heading and most lines after it into as many cells; a comma where nothing does."""

    def fit(delimiter: str) -> tuple[float, int]:
        widths = [
            len(cells) for _, cells in islice(_records(sample, delimiter), 50) if isinstance(cells, list) and cells
        ]
        if not widths or widths[0] < 2:
            return 0.0, 0
        return sum(width == widths[0] for width in widths) / len(widths), widths[0]

    return max(_DELIMITERS, key=fit)


def _tabular(
    records: Iterator[tuple[int, Sequence[Any] | str]], *, ragged: bool
) -> tuple[tuple[str, ...], Iterator[Row | BadRow]]:
    """Take the first record for the heading. `ragged`: a row may leave out its last cells, as in a workbook."""
    for line, record in records:
        if isinstance(record, str):
            raise Unreadable(f"has no heading that can be read: line {line}: {record}")
        if not _blank(record):
            names = ["" if cell is None else str(cell).strip() for cell in record]
            while not names[-1]:
                names.pop()
            return tuple(names), _rows(line, names, records, ragged=ragged)
    raise Unreadable("is empty: there is not even a heading")


def _rows(
    first: int, names: list[str], records: Iterator[tuple[int, Sequence[Any] | str]], *, ragged: bool
) -> Iterator[Row | BadRow]:
    places: dict[str, list[int]] = {}
    for at, name in enumerate(names, 1):
        if name:
            places.setdefault(name.casefold(), []).append(at)
    for several in places.values():
        if len(several) > 1:
            columns = ", ".join(map(str, several))
            yield BadRow(
                first, f"the heading {names[several[0] - 1]!r} stands in columns {columns}: none of them is read"
            )
    taken = {at - 1: names[at - 1] for several in places.values() if len(several) == 1 for at in several}
    for line, record in records:
        if isinstance(record, str):
            yield BadRow(line, record)
        elif _blank(record):
            continue
        elif (stray := _stray(record, names)) is not None:
            yield BadRow(line, f"cell {stray + 1} is filled, and no heading stands above it")
        elif len(record) < len(names) and not ragged:
            yield BadRow(line, f"it has {len(record)} cells where the heading has {len(names)}")
        else:
            yield Row(line, {name: record[at] if at < len(record) else None for at, name in taken.items()})


def _stray(record: Sequence[Any], names: list[str]) -> int | None:
    """Find a filled cell that no heading stands above."""
    unnamed = (at for at, cell in enumerate(record) if not _blank((cell,)) and (at >= len(names) or not names[at]))
    return next(unnamed, None)


def _blank(cells: Sequence[Any]) -> bool:
    return all(cell is None or (isinstance(cell, str) and not cell.strip()) for cell in cells)


def _open_jsonl(data: bytes) -> Sheet:
    text, encoding = _decode(data)

    def rows() -> Iterator[Row | BadRow]:
        for number, line in enumerate((line[0] for line in _JSON_LINE.finditer(text)), 1):
            if _BROKEN.search(line):
                yield BadRow(number, "it holds bytes that are not UTF-8")
            elif line.strip():
                try:
                    yield _item(number, _DECODER.decode(line.strip()))
                except (ValueError, RecursionError) as error:
                    yield BadRow(number, f"it is no JSON: {error}")

    return Sheet(format="jsonl", rows=rows(), encoding=encoding)


def _open_json(data: bytes) -> Sheet:
    text, encoding = _decode(data)
    if _BROKEN.search(text):
        raise Unreadable("holds bytes that are not UTF-8; save it as UTF-8")
    start, end = _array(text)
    return Sheet(format="json", rows=_items(text, start, end), encoding=encoding)


def _array(text: str) -> tuple[int, str]:
    """Find where the rows begin (the document itself, or the object's `rows`, `records` or `users`) and how it ends."""
    at = _skip(text, 0)
    if text[at : at + 1] == "[":
        return at + 1, "]"
    if text[at : at + 1] != "{":
        raise Unreadable("is neither a JSON array nor an object that holds one")
    at = _skip(text, at + 1)
    while text[at : at + 1] == '"':
        name, at = _value(text, at)
        at = _skip(text, at)
        if text[at : at + 1] != ":":
            break
        at = _skip(text, at + 1)
        if name in ROWS_KEYS and text[at : at + 1] == "[":
            return at + 1, "}"
        _, at = _value(text, at)
        at = _skip(text, at)
        if text[at : at + 1] != ",":
            break
        at = _skip(text, at + 1)
    raise Unreadable(f"holds no array named {', '.join(ROWS_KEYS)}")


def _items(text: str, at: int, end: str) -> Iterator[Row | BadRow]:
    """Parse the array's items one after another, so that only one is there at a time."""
    number = 0
    at = _skip(text, at)
    while text[at : at + 1] != "]":
        number += 1
        try:
            value, at = _value(text, at)
        except Unreadable as error:
            yield BadRow(number, f"from here on the file can't be read: it {error}")
            return
        yield _item(number, value)
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            yield BadRow(number + 1, f"from here on the file can't be read: no comma or ] at character {at + 1}")
            return
    rest = text[at:].rstrip()
    if rest != "]" if end == "]" else not rest.endswith(end):
        yield BadRow(number + 1, "after the rows the file goes on, or breaks off, where it should end")


def _value(text: str, at: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"is no JSON: {error}") from None


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _item(number: int, value: Any) -> Row | BadRow:
    if isinstance(value, _Twice):
        return BadRow(number, f"it names {value.name!r} twice")
    if not isinstance(value, Mapping):
        return BadRow(number, f"it is a JSON {type(value).__name__} where an object is needed")
    return Row(number, value)


class _Twice(dict[str, Any]):
    """An object that names a field twice; the last one holds."""

    name = ""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        made = _Twice(made)
        made.name = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
    return made


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


_SPACE: Final = re.compile(r"[ \t\r\n]*")
_DECODER: Final = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant)
_FORMATS: Final[Mapping[str, Callable[[bytes], Sheet]]] = {
    ".csv": _open_csv,
    ".tsv": _open_csv,
    ".xlsx": _open_xlsx,
    ".json": _open_json,
    ".jsonl": _open_jsonl,
    ".ndjson": _open_jsonl,
}

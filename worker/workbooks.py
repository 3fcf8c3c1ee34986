"""
Workbooks (XLSX): the rows of the first visible worksheet, without trusting what the file says of itself.

Numbers, booleans and None come as such, dates in ISO 8601. A zip bomb, parts that take minutes and gigabytes to parse,
a document type, formulas that nobody calculated (their cells would seem empty) are refused.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from datetime import date, datetime, time
from typing import Any, Final

LARGEST_UNPACKED: Final = 512 * 1024 * 1024
"""Bytes of an XLSX once unpacked; a larger one is taken for a zip bomb."""

LARGEST_PART: Final = 64 * 1024 * 1024
"""Bytes of a part that is parsed whole, unpacked: the texts of all cells, say, which take four times as much memory."""

MOST_ELEMENTS: Final = 500_000
"""Elements of any other such part; Excel itself writes 65,490 cell formats at most."""

_NOT_OPENED: Final = (
    *("xl/media/", "xl/pivotCache/", "xl/pivotTables/", "xl/calcChain.xml", "xl/externalLinks/", "xl/embeddings/"),
    *("xl/model/", "customXml/"),
)
"""Parts that nobody parses here, whatever they hold. (Of chart sheets' drawings openpyxl does.)"""

WIDEST: Final = 4096
"""Cells of one row of an XLSX."""

LAST_ROW: Final = 1_048_576
"""The last row that a worksheet has."""

_EXCEL_ERRORS: Final = frozenset(
    {"#DIV/0!", "#N/A", "#NAME?", "#NULL!", "#NUM!", "#REF!", "#VALUE!", "#SPILL!", "#CALC!"}
)
# A calculated formula without text has t="str"; one that nobody calculated has no type and no value.
_NOT_CALCULATED: Final = re.compile(
    rb"<(?:\w+:)?c\b(?![^>]*\bt=\"str\")[^>]*>\s*<(?:\w+:)?f\b(?:[^>]*/>|[^<]*</(?:\w+:)?f>)\s*"
    rb"(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v>\s*</(?:\w+:)?v>)?\s*</(?:\w+:)?c>"
)
_LONGEST_CELL: Final = 64 * 1024  # bytes of a cell with its formula, which has 8,192 characters at most


class Unreadable(ValueError):
    """The file makes no sense as a sheet; the text goes on after its name."""


def read_workbook(data: bytes) -> tuple[str, Iterator[tuple[int, list[Any] | str]]]:
    """
    Give the title of the first visible worksheet, and its rows with their numbers, one after another.

    In place of a row that can't be read stands the reason. Raises `Unreadable` for what is no workbook.
    """
    from openpyxl import load_workbook  # noqa: PLC0415 - takes a third of a second, for those who read workbooks

    _guard(data)
    try:
        book = load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
        visible = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"]
        if visible:
            visible[0].reset_dimensions()  # what the file says of its own size may be wrong, and would cut rows off
    except Exception as error:  # noqa: BLE001 - openpyxl raises what its parsers raise
        raise Unreadable(f"can't be read as a workbook ({type(error).__name__}: {error}); save it again") from None
    if not visible:
        raise Unreadable("has no visible worksheet; show one")
    return visible[0].title, _records(visible[0])


def _guard(data: bytes) -> None:
    """Refuse what would unpack to too much, and formulas that nobody has calculated: their cells would seem empty."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) > 10_000 or sum(member.file_size for member in members) > LARGEST_UNPACKED:
                raise Unreadable(f"unpacks to more than {LARGEST_UNPACKED // 1024**2} MiB; divide it")
            for member in members:
                with archive.open(member) as file:
                    if member.filename.startswith("xl/worksheets/") and member.filename.endswith(".xml"):
                        _guard_worksheet(file)
                    elif not member.filename.startswith(_NOT_OPENED):
                        _guard_part(member, file)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise Unreadable(f"is no workbook ({error}); save it as .xlsx") from None


def _guard_part(member: zipfile.ZipInfo, file: Any) -> None:
    if member.file_size > LARGEST_PART:
        raise Unreadable(
            f"has a part {member.filename!r} that unpacks to more than {LARGEST_PART // 1024**2} MiB; divide it"
        )
    data = file.read()
    _refuse_document_type(data)
    if member.filename != "xl/sharedStrings.xml" and data.count(b"<") > MOST_ELEMENTS:
        raise Unreadable(
            f"has a part {member.filename!r} of more than {MOST_ELEMENTS:,} elements; copy its cells to a new workbook"
        )


def _refuse_document_type(xml: bytes) -> None:
    if b"<!DOCTYPE" in xml:
        raise Unreadable("declares a document type, which no workbook does")


def _guard_worksheet(file: Any) -> None:
    tail = b""
    while block := file.read(1024 * 1024):
        seen = tail + block
        _refuse_document_type(seen)
        if _NOT_CALCULATED.search(seen):
            raise Unreadable("has formulas that were never calculated; open it in Excel, let it calculate, save it")
        tail = seen[-_LONGEST_CELL:]


def _records(sheet: Any) -> Iterator[tuple[int, list[Any] | str]]:
    line = 0
    try:
        for line, cells in enumerate(sheet.iter_rows(values_only=True), 1):
            if line > LAST_ROW:  # rows up to a number that no worksheet has would be made up one by one
                yield line, f"no worksheet has more than {LAST_ROW:,} rows; from here on nothing is read"
                return
            if len(cells) > WIDEST:
                yield line, f"it has {len(cells):,} cells, more than {WIDEST:,}; from here on nothing is read"
                return
            wrong = next((f"cell {at} holds {cell}" for at, cell in enumerate(cells, 1) if cell in _EXCEL_ERRORS), None)
            yield line, [_cell(cell) for cell in cells] if wrong is None else wrong
    except Exception as error:  # noqa: BLE001 - openpyxl raises what its parsers raise
        yield line + 1, f"from here on the file can't be read: {type(error).__name__}: {error}"


def _cell(value: Any) -> Any:
    match value:
        case datetime(hour=0, minute=0, second=0, microsecond=0):
            return value.date().isoformat()
        case datetime() | date() | time():
            return value.isoformat()
        case str() | int() | float() | None:
            return value
        case _:
            return str(value)

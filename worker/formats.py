"""
Whether a file of a known format is whole: checked while its bytes stream by, in constant memory.

A check is fed the bytes in order and asked once at the end. What it finds is a sentence, not an error: the raw file is
the vendor's, and the caller decides.

- `CsvCheck`: every record as wide as the heading, every record ended, the encoding kept; counts rows and columns.
- `JsonCheck`: begins with a bracket, ends with its partner, UTF-8. What lies between is not parsed.
- `XmlCheck`: begins with an element and ends with the end of that element. What lies between is not parsed.

A page that says what went wrong is none of them: HTML and JSON are no CSV of one column, HTML is no XML.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

LONGEST_RECORD: Final = 4 * 1024 * 1024
"""Bytes that one record of a CSV may have, and so what a check holds back at most, beside the block it sees."""

PIECE: Final = 64 * 1024
"""Bytes that are looked at together: what the processor's cache holds, and small enough that no memory for them goes
back to the system in between. A mebibyte at a time takes twice as long."""

_EDGES: Final = {b",", b"\n", b""}  # what stands beside the quotes of a cell
_DELETED: Final = bytes(byte for byte in range(256) if byte not in b',"\n')
_NO_HEADING: Final = re.compile(rb"\s*(?:<[!?a-z]|\{\s*[\"}]|\[\s*[\[{\"\]])", re.IGNORECASE)
"""How HTML, XML and JSON begin, and no heading of a CSV."""
_HEAD: Final = 64 * 1024  # bytes in which the first element of an XML document must begin
_TAIL: Final = 4 * 1024  # bytes in which its end must lie, comments after it included
_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

csv.field_size_limit(max(csv.field_size_limit(), LONGEST_RECORD))  # 128 KiB a cell, unless told otherwise


@dataclass(frozen=True, slots=True)
class Findings:
    """What a check found: `problem` is None where the file is whole. `rows` leaves the heading out."""

    problem: str | None = None
    rows: int | None = None
    columns: int | None = None
    unended: bool = False
    """Whether the problem is only that the last record, otherwise as it should be, is not ended by a newline: RFC 4180
    allows that, and so it is no problem where the file is known to be whole from elsewhere."""


class Check(Protocol):
    """Sees a file's bytes in order, then tells what it found."""

    def feed(self, data: bytes) -> None:
        """See the next bytes; cheapest where they come in blocks of a mebibyte or so."""

    def finish(self) -> Findings:
        """Tell what was found, once all bytes were seen."""


class CsvCheck:
    """
    Every record as wide as the heading, every record ended by a newline, the encoding kept.

    Records are read as RFC 4180 has them; once that fails, as text whose quotes are escaped by backslashes
    (barometerIT's example shows such a cell). A quote inside a bare cell stands for itself. Blank lines are no records.

    The work is done on whole blocks, not on records: with everything but commas, newlines and quotes deleted and what
    is quoted cut out, n good records are n times the same short line. Only blocks where that fails are read record by
    record.
    """

    def __init__(self, *, encoding: str = "utf-8") -> None:
        self._utf8 = _Utf8(encoding)
        self._held = b""  # begins where a record begins
        self._enough = 0  # bytes held before another look is worth its while
        self._escaped = False  # quotes were found to be escaped by backslashes
        self._width = 0
        self._records = 0
        self._problem: str | None = None
        self._unended = False

    def feed(self, data: bytes) -> None:
        """See the next bytes; cheapest where they come in blocks of a mebibyte or so."""
        try:
            for piece in _pieces(data):
                if self._problem is None:
                    self._held += self._utf8.encode(piece)
                    if len(self._held) >= self._enough:
                        self._count(last_chance=len(self._held) > LONGEST_RECORD)
        except ValueError as error:
            self._problem = str(error)

    def finish(self) -> Findings:
        """Tell rows and columns, or the first problem."""
        if self._problem is None:
            try:
                self._held += self._utf8.encode(b"", final=True)
                self._count(last_chance=True)
                self._end()
            except ValueError as error:
                self._problem = str(error)
        if self._problem is not None and not self._unended:
            return Findings(problem=self._problem)
        return Findings(problem=self._problem, rows=self._records - 1, columns=self._width, unended=self._unended)

    def _count(self, *, last_chance: bool) -> None:
        """Count the whole records among the held bytes and let go of them."""
        if not self._width:
            if _NO_HEADING.match(self._held):
                raise ValueError("The file begins like HTML, XML or JSON, not like a CSV.")
            self._take(*self._count_one_by_one(last_chance=last_chance, most=1))  # the heading
        if self._width:
            self._take(*(self._count_alike() or self._count_one_by_one(last_chance=last_chance)))

    def _take(self, records: int, size: int) -> None:
        self._records += records
        self._held = self._held[size:]
        # Nothing got whole: look again when twice as much is here, lest a long record be read over and over.
        self._enough = 0 if size else min(2 * len(self._held), LONGEST_RECORD + 1)
        if len(self._held) > LONGEST_RECORD:
            raise ValueError(f"Record {self._records + 1} is longer than {LONGEST_RECORD // 1024**2} MiB.")

    def _count_alike(self) -> tuple[int, int] | None:
        """Count records if all are of the heading's width, and nothing has to be weighed; None where something has."""
        held, width = self._held, self._width
        bones = self._unescaped(held).translate(None, _DELETED)
        end, stop = held.rfind(b"\n") + 1, bones.rfind(b"\n") + 1
        quotes = bones.count(b'"', 0, stop)
        while quotes % 2:  # the last newline is inside quotes: go back to one that is not
            before = bones.rfind(b"\n", 0, stop - 1) + 1
            quotes -= bones.count(b'"', before, stop)
            stop, end = before, held.rfind(b"\n", 0, end - 1) + 1
        if not end:
            return None if held else (0, 0)
        bones = bones[:stop]
        if quotes:
            parts = bones.split(b'"')
            bones = b"".join(parts[::2])
            if b"\n" in b"".join(parts[1::2]) and not _quotes_are_in_place(self._unescaped(held[:end])):
                return None  # what seems a cell of several lines are two quotes in two bare cells
        records = len(bones) // width
        if bones != (b"," * (width - 1) + b"\n") * records:
            return None
        if width == 1 and (held.startswith((b"\n", b"\r\n")) or b"\n\n" in held or b"\n\r\n" in held):
            return None  # a blank line has as many commas as a record of one column
        return records, end

    def _unescaped(self, text: bytes) -> bytes:
        return text.replace(b"\\\\", b"").replace(b'\\"', b"") if self._escaped else text

    def _count_one_by_one(self, *, last_chance: bool, most: int | None = None) -> tuple[int, int]:
        """
        Count the whole records, up to `most`; raise `ValueError` for one that is not as wide as the heading.

        A record that may go on beyond what is here is left for later, unless this is the last chance.
        """
        lines = _lines(self._held)
        records = size = at = 0
        while at < len(lines) and records != most:
            taken = 1
            if lines[at].strip("\r\n"):
                if (found := self._fit(lines, at, last_chance=last_chance, number=self._records + records + 1)) is None:
                    break
                taken = found
                records += 1
            size += sum(map(len, lines[at : at + taken]))
            at += taken
        return records, size

    def _fit(self, lines: list[str], at: int, *, last_chance: bool, number: int) -> int | None:
        """Give how many lines the record has that begins there, by the reading that fits it; None: not known yet."""
        widths = []
        for escaped in (self._escaped, not self._escaped):
            width, taken = _read_record(lines, at, escaped=escaped)
            if taken and width == (self._width or width):
                self._width, self._escaped = width, escaped and bool(self._width)
                return taken
            if not taken and not last_chance:
                return None
            widths.append(f"{width} cells" if taken else "a quote that is never closed")
        raise ValueError(f"Record {number} has {widths[0]}; the heading has {self._width or 'none'}.")

    def _end(self) -> None:
        if self._held:
            last = self._records + 1
            self._held += b"\n"
            with contextlib.suppress(ValueError):
                self._count(last_chance=True)
            self._unended = self._records == last
            raise ValueError(f"The last record, number {last}, is not ended by a newline: the file is cut short.")
        if not self._records:
            raise ValueError("The file is empty: there is not even a heading.")


def _pieces(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), PIECE):
        yield data[at : at + PIECE]


def _lines(data: bytes) -> list[str]:
    """Divide at newlines only, a character a byte so that lengths stay true; leave out what has no newline yet."""
    text = data[: data.rfind(b"\n") + 1].decode("latin-1")
    return [line + "\n" for line in text.split("\n")[:-1]]


def _read_record(lines: list[str], at: int, *, escaped: bool) -> tuple[int, int]:
    """Give the cells and the lines of the record that begins there; 0 lines where it has not ended by the last one."""
    if '"' not in lines[at] and not escaped:
        return lines[at].count(",") + 1, 1
    taken = 0
    ended = False

    def following() -> Iterator[str]:
        nonlocal taken, ended
        for index in range(at, len(lines)):
            taken += 1
            yield lines[index].replace("\r", "")  # alone in a bare cell, the module takes it for a broken file
        ended = True

    try:
        cells = next(csv.reader(following(), escapechar="\\" if escaped else None))
    except csv.Error:  # a cell longer than a record may be
        return 0, 0
    return len(cells), 0 if ended else taken


def _quotes_are_in_place(text: bytes) -> bool:
    """Whether every quote stands at the beginning or the end of a cell, or is doubled."""
    outside = text.split(b'"')[::2]  # empty between the two of a doubled quote
    before = {part[-1:] for part in outside[:-1]}
    after = {part[:2] if part[:1] == b"\r" else part[:1] for part in outside[1:]}
    return before <= _EDGES and after <= _EDGES | {b"\r\n"}


class JsonCheck:
    """Begins with one of `opening` and ends with its partner, in UTF-8. What lies between is not parsed."""

    def __init__(self, *, encoding: str = "utf-8", opening: bytes = b"[{") -> None:
        self._opening = opening
        self._utf8 = _Utf8(encoding)
        self._first = self._last = b""
        self._problem: str | None = None

    def feed(self, data: bytes) -> None:
        """See the next bytes."""
        if self._problem is not None:
            return
        try:
            for piece in _pieces(data):
                self._see(self._utf8.encode(piece))
        except ValueError as error:
            self._problem = str(error)

    def finish(self) -> Findings:
        """Tell whether the beginning and the end fit."""
        if self._problem is None:
            try:
                self._see(self._utf8.encode(b"", final=True))
            except ValueError as error:
                return Findings(problem=str(error))
            if not self._first or self._first not in self._opening:
                self._problem = f"The file does not begin with {' or '.join(self._opening.decode())}, as JSON."
            elif self._last != {b"[": b"]", b"{": b"}"}[self._first]:
                self._problem = (
                    f"The file begins with {self._first.decode()} and does not end with its partner: it is cut short."
                )
        return Findings(problem=self._problem)

    def _see(self, data: bytes) -> None:
        if not self._first:
            self._first = data.lstrip()[:1]
        self._last = data.rstrip()[-1:] or self._last


class XmlCheck:
    """Begins with an element and ends with that element's end. What lies between is not parsed."""

    _OPENING: Final = re.compile(
        rb"(?:<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^>\[]*(?:\[.*?\]\s*)?>|\s)*<([^\s<>/!?]+)", re.DOTALL
    )
    _AFTERWARDS: Final = re.compile(rb"(?:<!--(?:(?!-->).)*-->|<\?(?:(?!\?>).)*\?>|\s)*\Z", re.DOTALL)

    def __init__(self, *, encoding: str = "utf-8") -> None:
        self._encoding = encoding
        self._utf8: _Utf8 | None = None
        self._head = self._tail = b""
        self._problem: str | None = None

    def feed(self, data: bytes) -> None:
        """See the next bytes."""
        if self._problem is not None:
            return
        try:
            if self._utf8 is None:
                declared = re.match(rb"""<\?xml[^>]*\sencoding\s*=\s*["']([\w.:-]+)["']""", data[:200])
                self._utf8 = _Utf8(declared[1].decode() if declared else self._encoding)
            for piece in _pieces(data):
                self._see(self._utf8.encode(piece))
        except ValueError as error:
            self._problem = str(error)

    def finish(self) -> Findings:
        """Tell whether the beginning and the end fit."""
        if self._problem is None and self._utf8 is not None:
            try:
                self._see(self._utf8.encode(b"", final=True))
            except ValueError as error:
                self._problem = str(error)
        return Findings(problem=self._problem or self._complaint())

    def _see(self, data: bytes) -> None:
        if len(self._head) < _HEAD:
            self._head += data[: _HEAD - len(self._head)]
        self._tail = (self._tail + data)[-_TAIL:] if len(data) < _TAIL else data[-_TAIL:]

    def _complaint(self) -> str | None:
        opening = self._OPENING.match(self._head)
        if opening is None:
            return "The file does not begin like an XML document."
        end = self._AFTERWARDS.sub(b"", self._tail, count=1)
        name = opening[1]
        if name.lower() == b"html":
            return "The file is an HTML page."
        if re.search(rb"</" + re.escape(name) + rb"\s*>\Z", end):
            return None
        if re.fullmatch(rb"[^<>]*/>", self._head[opening.end() :].strip()):
            return None  # one element without content
        root = name.decode(errors="replace")
        return f"The file begins with <{root}> and does not end with its end tag: it is cut short."


class _Utf8:
    """Turns a stream of any encoding into UTF-8 without byte order mark; raises `ValueError` where it is broken."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._decoder: codecs.IncrementalDecoder | None = None
        self._start = b""
        self._seen = 0

    def encode(self, data: bytes, *, final: bool = False) -> bytes:
        if self._decoder is None:
            data = self._start + data
            if len(data) < 4 and not final:  # a byte order mark may have 4 bytes
                self._start = data
                return b""
            data = self._begin(data)
        decoder = self._decoder
        assert decoder is not None  # noqa: S101 - _begin has made it
        plain = self._encoding == "utf-8"
        if plain and data.isascii() and not (final or decoder.getstate()[0]):
            self._seen += len(data)
            return data
        try:
            text = decoder.decode(data, final)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"Byte {self._seen + error.start + 1} or so is not {self._encoding}: {error.reason}."
            ) from None
        self._seen += len(data)
        return data if plain else text.encode()

    def _begin(self, data: bytes) -> bytes:
        marked = next(((mark, name) for mark, name in _BOMS if data.startswith(mark)), None)
        try:
            name = marked[1] if marked else codecs.lookup(self._encoding).name
            self._decoder = codecs.getincrementaldecoder(name)()
        except LookupError:
            raise ValueError(f"The encoding {self._encoding!r} is unknown.") from None
        self._encoding = "utf-8" if name in {"utf-8", "ascii", "utf-8-sig"} else name
        return data.removeprefix(codecs.BOM_UTF8)  # the UTF-16 and UTF-32 decoders take their own mark


CHECKS: Final[Mapping[str, Callable[..., Check]]] = {"csv": CsvCheck, "json": JsonCheck, "xml": XmlCheck}
"""The check of each format that barometerIT's reports come in."""

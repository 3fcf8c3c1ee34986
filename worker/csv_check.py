"""
Whether a CSV is whole: every record as wide as the heading and ended by a newline, the encoding kept.

Records are read as RFC 4180 has them; once that fails, as text whose quotes are escaped by backslashes (barometerIT's
example shows such a cell). Any other quote inside a cell stands for itself. Blank lines are no records.

There are three ways to read, each for what the one before leaves: `csv_records.c`, where it was compiled, for records
as they should be; whole blocks, where n good records with all but commas, newlines and quotes deleted, and what is
quoted cut out, are n times the same short line; and record by record, which knows what to say of one that is not good.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator
from typing import Final

from worker.csv_records import Counting, count_plain
from worker.formats import PIECE, Findings, Utf8, broken, pieces

LONGEST_RECORD: Final = 4 * 1024 * 1024
"""Bytes that one record of a CSV may have, and so what a check holds back at most, beside the block it sees."""

_LARGE_PIECE: Final = 1024 * 1024  # a quarter of what may be held, so that reading that again is no great part
_EDGES: Final = {b",", b"\n", b""}  # what stands beside the quotes of a cell
_BLANK: Final = {"\n", "\r\n"}
_DELETED: Final = bytes(byte for byte in range(256) if byte not in b',"\n')
_NO_HEADING: Final = re.compile(rb"\s*(?:<[!?a-z]|\{\s*[\"}]|\[\s*[\[{\"\]])", re.IGNORECASE)
"""How HTML, XML and JSON begin, and no heading of a CSV."""

csv.field_size_limit(max(csv.field_size_limit(), LONGEST_RECORD))  # 128 KiB a cell, unless told otherwise


class CsvCheck:
    """Sees the bytes of a CSV in order, then tells rows and columns, or what is wrong: see the module's page."""

    def __init__(self, *, encoding: str = "utf-8", count: Counting | None = count_plain) -> None:
        self._count_plain = count
        self._utf8 = Utf8(encoding, unread=count is not None)
        self._held = b""  # begins where a record begins
        self._let_go = 0  # bytes before it
        self._enough = 0  # bytes held before another look is worth its while
        self._escaped = False  # quotes were found to be escaped by backslashes
        self._width = 0
        self._records = 0
        self._problem: str | None = None
        self._unended = False

    def feed(self, data: bytes) -> None:
        """See the next bytes; cheapest where they come in blocks of a tenth of a mebibyte or more."""
        try:
            for piece in pieces(data, PIECE if self._count_plain is None else _LARGE_PIECE):
                if self._problem is None:
                    self._see(self._utf8.encode(piece))
        except ValueError as error:
            self._problem = str(error)

    def finish(self) -> Findings:
        """Tell rows and columns, or the first problem."""
        if self._problem is None:
            try:
                self._held += self._utf8.encode(b"", final=True)
                self._end()
            except ValueError as error:
                self._problem = str(error)
        if self._problem is not None and not self._unended:
            return Findings(problem=self._problem)
        return Findings(problem=self._problem, rows=self._records - 1, columns=self._width, unended=self._unended)

    def _see(self, data: bytes) -> None:
        if len(self._held) + len(data) < self._enough or not self._skip_plain(data):
            self._held += data
        if len(self._held) >= self._enough:
            self._count()
            if len(self._held) > LONGEST_RECORD:  # let it say why, if it knows
                self._count(last_chance=True)
            if len(self._held) > LONGEST_RECORD:
                raise ValueError(f"Record {self._records + 1} is longer than {LONGEST_RECORD // 1024**2} MiB.")

    def _skip_plain(self, data: bytes) -> bool:
        """Count what is plain without copying it, if what is held and the first line make whole records."""
        count, begin = self._count_plain, data.find(b"\n") + 1
        if count is None or not self._width or self._escaped or not begin:
            return False
        first = self._held + data[:begin]
        records, end, _ = count(first, 0, self._width)
        if end != len(first):
            return False
        more, end, _ = count(data, begin, self._width)
        self._records += records + more
        self._let_go += len(first) + end - begin
        self._held = data[end:]
        self._enough = 0
        return True

    def _end(self) -> None:
        self._count_all(last_chance=self._held.endswith(b"\n"))
        if self._held:
            self._read(final=True)
            several = b"\n" in self._held
            last = self._records + 1
            self._held += b"\n"
            try:
                self._count_all(last_chance=True)
            except ValueError:
                if several:
                    raise
            self._unended = self._records == last
            raise ValueError(f"The last record, number {last}, is not ended by a newline: the file is cut short.")
        if not self._records:
            raise ValueError("The file is empty: there is not even a heading.")

    def _count_all(self, *, last_chance: bool) -> None:
        """Count until nothing more gets whole; a block that is counted may leave some that can be."""
        before = -1
        while len(self._held) != before:
            before = len(self._held)
            self._count(last_chance=last_chance)

    def _count(self, *, last_chance: bool = False) -> None:
        """Count whole records among the held bytes and let go of them; at the last chance, nothing may go on."""
        if not self._width:
            if _NO_HEADING.match(self._held):
                raise ValueError("The file begins like HTML, XML or JSON, not like a CSV.")
            self._read()
            self._take(*self._count_one_by_one(last_chance=last_chance, most=1))  # the heading
        if self._width and self._count_plain is not None and not self._escaped:
            records, size, odd = self._count_plain(self._held, 0, self._width)
            done = not (odd or last_chance)
            if size or done:
                self._take(records, size)
            if done:
                return
        if self._width:
            self._read()
            self._take(*(self._count_alike() or self._count_one_by_one(last_chance=last_chance)))

    def _read(self, *, final: bool = False) -> None:
        """Raise `ValueError` where the held bytes are not UTF-8 after all; with `final`, there are no more."""
        if self._count_plain is not None:
            try:
                codecs.utf_8_decode(self._held, "strict", final)
            except UnicodeDecodeError as error:
                raise broken("utf-8", self._let_go, error) from None

    def _take(self, records: int, size: int) -> None:
        self._records += records
        self._held = self._held[size:]
        self._let_go += size
        # Nothing got whole: look again when twice as much is here, lest a long record be read over and over.
        self._enough = 0 if size else min(2 * len(self._held), LONGEST_RECORD + 1)

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
            if not _quotes_are_in_place(self._unescaped(held[:end])):
                return None  # in a bare cell, where one stands for itself and ends or begins nothing
        records = len(bones) // width
        if bones != (b"," * (width - 1) + b"\n") * records:
            return None
        if width == 1 and (held.startswith((b"\n", b"\r\n")) or b"\n\n" in held or b"\n\r\n" in held):
            return None  # a blank line has as many commas as a record of one column
        return records, end

    def _unescaped(self, text: bytes) -> bytes:
        """Put what stands for itself in the place of each escape: a quote behind it begins no cell."""
        return text.replace(b"\\\\", b"x").replace(b'\\"', b"x") if self._escaped else text

    def _count_one_by_one(self, *, last_chance: bool, most: int | None = None) -> tuple[int, int]:
        """
        Count the whole records, up to `most`; raise `ValueError` for one that is not as wide as the heading.

        A record that may go on beyond what is here is left for later, unless this is the last chance.
        """
        lines = _lines(self._held)
        records = size = at = 0
        while at < len(lines) and records != most:
            taken = 1
            if lines[at] not in _BLANK:
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
    return max(1, len(cells)), 0 if ended else taken


def _quotes_are_in_place(text: bytes) -> bool:
    """Whether every quote stands at the beginning or the end of a cell, or is doubled."""
    outside = text.split(b'"')[::2]  # empty between the two of a doubled quote
    before = {part[-1:] for part in outside[:-1]}
    after = {part[:2] if part[:1] == b"\r" else part[:1] for part in outside[1:]}
    return before <= _EDGES and after <= _EDGES | {b"\r\n"}

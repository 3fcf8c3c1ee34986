"""
Whether a CSV is whole: every record as wide as the heading and ended by a newline, the encoding kept.

Records are read as RFC 4180 has them; once that fails, as text whose quotes are escaped by backslashes (barometerIT's
example shows such a cell). Any other quote inside a cell stands for itself. Blank lines are no records.

There are three ways to read, each for what the one before leaves: `csv_records.c`, where it was compiled, for records
as they should be; whole blocks, by deleting all but commas and newlines where that leaves n times the same short line,
else by a regular expression; and record by record, which knows what to say of one that is not good.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from worker.csv_records import Counting, count_plain
from worker.formats import PIECE, Findings, TextCheck, Utf8, broken

LONGEST_RECORD: Final = 4 * 1024 * 1024
"""Bytes that one record of a CSV may have, and so what a check holds back at most, beside the block it sees."""

_LARGE_PIECE: Final = 1024 * 1024  # a quarter of what may be held, so that reading that again is no great part
_BLANK: Final = {"\n", "\r\n"}
_DELETED: Final = bytes(byte for byte in range(256) if byte not in b",\n")
_NO_HEADING: Final = re.compile(rb"\s*(?:<[!?a-z]|\{\s*[\"}]|\[\s*[\[{\"\]])", re.IGNORECASE)
"""How HTML, XML and JSON begin, and no heading of a CSV."""

csv.field_size_limit(max(csv.field_size_limit(), LONGEST_RECORD))  # 128 KiB a cell, unless told otherwise


class CsvCheck(TextCheck):
    """Sees the bytes of a CSV in order, then tells rows and columns, or what is wrong: see the module's page."""

    def __init__(self, *, encoding: str = "utf-8", count: Counting | None = count_plain) -> None:
        super().__init__(Utf8(encoding, unread=count is not None), piece=PIECE if count is None else _LARGE_PIECE)
        self._count_plain = count
        self._held = b""  # begins where a record begins
        self._let_go = 0  # bytes before it
        self._enough = 0  # bytes held before another look is worth its while
        self._escaped = False  # quotes were found to be escaped by backslashes
        self._width = 0
        self._records = 0
        self._unended = False

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
        self._count(last_chance=self._held.endswith(b"\n"))
        if self._held:
            self._read(final=True)
            several = b"\n" in self._held
            last = self._records + 1
            self._held += b"\n"
            try:
                self._count(last_chance=True)
            except ValueError:
                if several:
                    raise
            self._unended = self._records == last
            raise ValueError(f"The last record, number {last}, is not ended by a newline: the file is cut short.")
        if not self._records:
            raise ValueError("The file is empty: there is not even a heading.")

    def _findings(self) -> Findings:
        if self._problem is not None and not self._unended:
            return Findings(problem=self._problem)
        return Findings(problem=self._problem, rows=self._records - 1, columns=self._width, unended=self._unended)

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
            records, size = self._count_whole()
            more, end = self._count_one_by_one(size, last_chance=last_chance, number=self._records + records + 1)
            self._take(records + more, end)

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

    def _count_whole(self) -> tuple[int, int]:
        """Count the whole records of the heading's width that are at the front, and say where they end."""
        held, width = self._held, self._width
        if width > 1 and b'"' not in held and not self._escaped:
            end = held.rfind(b"\n") + 1
            records, left = divmod(len(bones := held[:end].translate(None, _DELETED)), width)
            if not left and bones == (b"," * (width - 1) + b"\n") * records:
                return records, end
        found = _records(width, escaped=self._escaped).findall(held)
        rest = found[-1] if found else b""
        return len(found) - bool(rest), len(held) - len(rest)

    def _count_one_by_one(
        self, size: int = 0, *, last_chance: bool, number: int = 1, most: int | None = None
    ) -> tuple[int, int]:
        """
        Count whole records, up to `most`, from `size` on where number `number` begins, and say where they end.

        Raise `ValueError` for one that is not as wide as the heading. One that may go on beyond what is here is left
        for later, unless this is the last chance.
        """
        lines = _lines(self._held[size:])
        records = at = 0
        while at < len(lines) and records != most:
            taken = 1
            if lines[at] not in _BLANK:
                if (found := self._fit(lines, at, last_chance=last_chance, number=number + records)) is None:
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


@lru_cache
def _records(width: int, *, escaped: bool) -> re.Pattern[bytes]:
    """
    Find one whole record after the other, and as a group what comes after the last.

    Nothing in it is ever tried twice (`*+`). What `csv.reader` would read otherwise is left to it: a carriage return
    between a quote and what comes before it, and a backslash behind a cell's last quote or at the end of a line.
    """
    quoted, bare = rb'"[^"]*+(?:""[^"]*+)*+"', rb"[^,\n]*+"
    if escaped:
        quoted = rb'"[^"\\]*+(?:(?:""|\\[^\r])[^"\\]*+)*+"(?!\r*\\)'
        bare = rb"[^,\n\\]*+(?:\\[^\r\n][^,\n\\]*+)*+"
    cell = rb'(?:%s)?+(?!\r*")%s' % (quoted, bare)
    return re.compile(rb"(?:\r?\n)*+(?:%s,){%d}+%s\n|([\s\S]+)" % (cell, width - 1, cell))


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

"""
Whether a file of a known format is whole: checked while its bytes stream by, in constant memory.

A check is fed the bytes in order and asked once at the end. What it finds is a sentence, not an error: the raw file is
the vendor's, and the caller decides.

- `worker.csv_check.CsvCheck`: every record as wide as the heading and ended, the encoding kept; counts rows, columns.
- `JsonCheck`: begins with a bracket, ends with its partner, UTF-8. What lies between is not parsed.
- `XmlCheck`: begins with an element and ends with the end of that element. What lies between is not parsed.

A page that says what went wrong is none of them: HTML and JSON are no CSV of one column, HTML is no XML.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

PIECE: Final = 128 * 1024
"""Bytes Python looks at together: what a processor's cache holds. A mebibyte at a time takes half as long again."""

_HEAD: Final = 64 * 1024  # bytes in which the first element of an XML document must begin
_TAIL: Final = 4 * 1024  # bytes in which its end must lie, comments after it included
_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


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


def pieces(data: bytes, size: int = PIECE) -> Iterator[bytes]:
    """Divide what came into what is looked at together."""
    for at in range(0, len(data), size):
        yield data[at : at + size]


class JsonCheck:
    """Begins with one of `opening` and ends with its partner, in UTF-8. What lies between is not parsed."""

    def __init__(self, *, encoding: str = "utf-8", opening: bytes = b"[{") -> None:
        self._opening = opening
        self._utf8 = Utf8(encoding)
        self._first = self._last = b""
        self._problem: str | None = None

    def feed(self, data: bytes) -> None:
        """See the next bytes."""
        if self._problem is not None:
            return
        try:
            for piece in pieces(data):
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
        self._utf8: Utf8 | None = None
        self._head = self._tail = b""
        self._problem: str | None = None

    def feed(self, data: bytes) -> None:
        """See the next bytes."""
        if self._problem is not None:
            return
        try:
            if self._utf8 is None:
                declared = re.match(rb"""<\?xml[^>]*\sencoding\s*=\s*["']([\w.:-]+)["']""", data[:200])
                self._utf8 = Utf8(declared[1].decode() if declared else self._encoding)
            for piece in pieces(data):
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


class Utf8:
    """
    Turns a stream of any encoding into UTF-8 without byte order mark; raises `ValueError` where it is broken.

    With `unread`, what is UTF-8 already is handed on as it is, for one that reads it anyway.
    """

    def __init__(self, encoding: str, *, unread: bool = False) -> None:
        self._encoding = encoding
        self._unread = unread
        self._decoder: codecs.IncrementalDecoder | None = None
        self._start = b""
        self._seen = 0

    def encode(self, data: bytes, *, final: bool = False) -> bytes:
        """Give the next bytes in UTF-8; with `final`, there are no more."""
        if self._decoder is None:
            data = self._start + data
            if len(data) < 4 and not final:  # a byte order mark may have 4 bytes
                self._start = data
                return b""
            data = self._begin(data)
        decoder = self._decoder
        assert decoder is not None  # noqa: S101 - _begin has made it
        plain = self._encoding == "utf-8"
        if plain and (self._unread or (data.isascii() and not (final or decoder.getstate()[0]))):
            self._seen += len(data)
            return data
        try:
            text = decoder.decode(data, final)
        except UnicodeDecodeError as error:
            raise broken(self._encoding, self._seen, error) from None
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


def broken(encoding: str, before: int, error: UnicodeDecodeError) -> ValueError:
    """Say where a stream is broken: so many bytes `before` the ones that could not be decoded."""
    return ValueError(f"Byte {before + error.start + 1} or so is not {encoding}: {error.reason}.")

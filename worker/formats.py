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
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final, Protocol

PIECE: Final = 128 * 1024
"""Bytes Python looks at together: what a processor's cache holds. A mebibyte at a time takes half as long again."""

_HEAD: Final = 64 * 1024  # bytes in which the first element of an XML document must begin
_TAIL: Final = 4 * 1024  # bytes in which its end must lie, comments after it included
_MARK: Final = 4  # bytes that a byte order mark has at most
_DECLARATION: Final = 200  # bytes in which an XML document says its encoding
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


class TextCheck(ABC):
    """A check that sees text in UTF-8, piece by piece, up to the first problem, and tells that."""

    def __init__(self, utf8: Utf8, *, piece: int = PIECE) -> None:
        self._utf8 = utf8
        self._piece = piece
        self._problem: str | None = None

    def feed(self, data: bytes) -> None:
        """See the next bytes."""
        for at in range(0, len(data), self._piece):
            self._look(data[at : at + self._piece])

    def finish(self) -> Findings:
        """Tell the first problem, or that there is none."""
        self._look(b"", final=True)
        return self._findings()

    def _look(self, data: bytes, *, final: bool = False) -> None:
        if self._problem is None:
            try:
                self._see(self._utf8.encode(data, final=final))
                if final:
                    self._end()
            except ValueError as error:
                self._problem = str(error)

    def _findings(self) -> Findings:
        return Findings(problem=self._problem)

    @abstractmethod
    def _see(self, data: bytes) -> None:
        """See the next piece; raises `ValueError` for a problem."""

    @abstractmethod
    def _end(self) -> None:
        """Raise `ValueError` where what was seen is not whole."""


class JsonCheck(TextCheck):
    """Begins with one of `opening` and ends with its partner, in UTF-8. What lies between is not parsed."""

    def __init__(self, *, encoding: str = "utf-8", opening: bytes = b"[{") -> None:
        super().__init__(Utf8(encoding))
        self._opening = opening
        self._first = self._last = b""

    def _see(self, data: bytes) -> None:
        if not self._first:
            self._first = data.lstrip()[:1]
        self._last = data.rstrip()[-1:] or self._last

    def _end(self) -> None:
        if not self._first or self._first not in self._opening:
            raise ValueError(f"The file does not begin with {' or '.join(self._opening.decode())}, as JSON.")
        if self._last != {b"[": b"]", b"{": b"}"}[self._first]:
            first = self._first.decode()
            raise ValueError(f"The file begins with {first} and does not end with its partner: it is cut short.")


class XmlCheck(TextCheck):
    """Begins with an element and ends with that element's end. What lies between is not parsed."""

    _DECLARED: Final = re.compile(rb"""<\?xml[^>]*\sencoding\s*=\s*["']([\w.:-]+)["']""")
    _OPENING: Final = re.compile(
        rb"(?:<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^>\[]*(?:\[.*?\]\s*)?>|\s)*<([^\s<>/!?]+)", re.DOTALL
    )
    _AFTERWARDS: Final = re.compile(rb"(?:<!--(?:(?!-->).)*-->|<\?(?:(?!\?>).)*\?>|\s)*\Z", re.DOTALL)

    def __init__(self, *, encoding: str = "utf-8") -> None:
        super().__init__(Utf8(encoding, declared=self._DECLARED))
        self._head = self._tail = b""

    def _see(self, data: bytes) -> None:
        if len(self._head) < _HEAD:
            self._head += data[: _HEAD - len(self._head)]
        self._tail = (self._tail + data)[-_TAIL:] if len(data) < _TAIL else data[-_TAIL:]

    def _end(self) -> None:
        opening = self._OPENING.match(self._head)
        if opening is None:
            raise ValueError("The file does not begin like an XML document.")
        end = self._AFTERWARDS.sub(b"", self._tail, count=1)
        name = opening[1]
        if name.lower() == b"html":
            raise ValueError("The file is an HTML page.")
        empty = re.fullmatch(rb"[^<>]*/>", self._head[opening.end() :].strip())  # one element without content
        if not empty and not re.search(rb"</" + re.escape(name) + rb"\s*>\Z", end):
            root = name.decode(errors="replace")
            raise ValueError(f"The file begins with <{root}> and does not end with its end tag: it is cut short.")


class Utf8:
    """
    Turns a stream of any encoding into UTF-8 without byte order mark; raises `ValueError` where it is broken.

    With `unread`, what is UTF-8 already is handed on as it is, for one that reads it anyway. `declared` finds the
    encoding's name in the beginning of a file that tells it.
    """

    def __init__(self, encoding: str, *, unread: bool = False, declared: re.Pattern[bytes] | None = None) -> None:
        self._encoding = encoding
        self._unread = unread
        self._declared = declared
        self._needed = _MARK if declared is None else _DECLARATION
        self._decoder: codecs.IncrementalDecoder | None = None
        self._start = b""
        self._seen = 0

    def encode(self, data: bytes, *, final: bool = False) -> bytes:
        """Give the next bytes in UTF-8; with `final`, there are no more."""
        if self._decoder is None:
            data = self._start + data
            if len(data) < self._needed and not final:
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
        name = next((name for mark, name in _BOMS if data.startswith(mark)), None)
        said = self._declared.match(data, 0, _DECLARATION) if self._declared is not None else None
        try:
            name = name or codecs.lookup(said[1].decode() if said else self._encoding).name
            self._decoder = codecs.getincrementaldecoder(name)()
        except LookupError:
            raise ValueError(f"The encoding {self._encoding!r} is unknown.") from None
        self._encoding = "utf-8" if name in {"utf-8", "ascii", "utf-8-sig"} else name
        return data.removeprefix(codecs.BOM_UTF8)  # the UTF-16 and UTF-32 decoders take their own mark


def broken(encoding: str, before: int, error: UnicodeDecodeError) -> ValueError:
    """Say where a stream is broken: so many bytes `before` the ones that could not be decoded."""
    return ValueError(f"Byte {before + error.start + 1} or so is not {encoding}: {error.reason}.")

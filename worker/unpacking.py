"""
Packed bodies unpacked (RFC 9110, 8.4.1): piece by piece, in constant memory, and whether their end has come.

aiohttp's own unpacking takes a gzip stream that stops short for a whole one.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, Final

PIECE: Final = 256 * 1024
"""Bytes that are given at once, however much they were packed."""

_ITSELF: Final = 32 + zlib.MAX_WBITS  # gzip or zlib, as its beginning says
_BARE: Final = -zlib.MAX_WBITS  # deflate without zlib's frame, as some servers send it
CODINGS: Final = frozenset({"gzip", "x-gzip", "deflate"})


class Unpacking:
    """One packed body; `ended` says whether what was fed is whole."""

    def __init__(self, coding: str) -> None:
        """Begin; `coding` is one of `CODINGS`."""
        self.ended = False
        self._coding = coding
        self._stream: Any = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Give what the next bytes hold; raises `ValueError` where they are not packed so."""
        more = True
        while data or more:
            if self._stream is None:
                if self.ended and self._coding != "deflate":
                    data = data.lstrip(b"\0")  # a gzip file may be filled up with zeros
                if not data:
                    return
                bare = self._coding == "deflate" and data[0] & 0x0F != zlib.DEFLATED
                self._stream, self.ended = zlib.decompressobj(_BARE if bare else _ITSELF), False
            try:
                piece = self._stream.decompress(data, PIECE)
            except zlib.error as error:
                raise ValueError(f"it is no {self._coding} ({error})") from None
            if piece:
                yield piece
            more = len(piece) == PIECE  # there may be more of it inside
            data = self._stream.unconsumed_tail
            if self._stream.eof:
                data, more = self._stream.unused_data, False
                self._stream, self.ended = None, True

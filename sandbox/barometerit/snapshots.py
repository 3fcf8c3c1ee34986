"""
Report snapshots of any size: made as they are sent, from any offset, the same bytes every time.

Rows come in blocks. One block is laid out once; in each copy of it only the rows' barometer numbers differ, which one
`bytes.replace` puts in. So 3 GB take no memory and cost about as much time as the socket does.
"""

import csv
import hashlib
import io
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Literal
from xml.sax.saxutils import escape

Format = Literal["CSV", "JSON", "XML"]

_ROWS_PER_BLOCK = 512
_SLOT = "\x01\x01\x01\x01\x01"
"""Stands for the block's number inside a barometer number, while the block is laid out."""
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CSV_NAMES = ("BAROMETER_NO", "NAME", "DESCRIPTION", "DOMAIN", "CONTENT_STATUS", "CONTACTS")
_JSON_NAMES = ("barometerNo", "name", "description", "domain", "contentStatus", "contacts")
_WORDS = ("ledger", "portal", "gateway", "billing", "archive", "claims", "Zürich", "catalogue", "payroll", "東京")


def base36(number: int, width: int) -> str:
    """The number in digits and capitals, filled up with zeros."""
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits.rjust(width, "0")


@dataclass(frozen=True, slots=True)
class Body:
    """A snapshot's bytes, without the bytes."""

    header: bytes
    block: bytes
    ends: Sequence[int]
    """Where each row of the block ends."""
    joint: bytes
    """What stands between rows and not behind the last."""
    footer: bytes
    rows: int

    @property
    def length(self) -> int:
        """Bytes in all."""
        return len(self.header) + self._full * len(self.block) + len(self._tail())

    def blocks(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes [start, stop), a block at a time."""
        position = 0
        first = max(0, (start - len(self.header)) // len(self.block))
        if first == 0:
            if start < len(self.header):
                yield self.header[start : min(stop, len(self.header))]
            position = len(self.header)
        else:
            first = min(first, self._full)
            position = len(self.header) + first * len(self.block)
        for number in range(first, self._full + 1):
            if position >= stop:
                return
            piece = self._numbered(self.block, number) if number < self._full else self._tail()
            low, high = max(0, start - position), min(len(piece), stop - position)
            if low < high:
                yield piece if (low, high) == (0, len(piece)) else piece[low:high]
            position += len(piece)

    def sha256(self) -> str:
        """The digest of all bytes; takes as long as hashing them does."""
        digest = hashlib.sha256()
        for piece in self.blocks(0, self.length):
            digest.update(piece)
        return digest.hexdigest()

    @property
    def _full(self) -> int:
        """Whole blocks before the tail; the tail holds the last rows, at least one if there are any."""
        return max(0, self.rows - 1) // _ROWS_PER_BLOCK

    def _tail(self) -> bytes:
        left = self.rows - self._full * _ROWS_PER_BLOCK
        rows = self._numbered(self.block[: self.ends[left - 1]], self._full) if left else b""
        return rows.removesuffix(self.joint) + self.footer if self.joint else rows + self.footer

    @staticmethod
    def _numbered(block: bytes, number: int) -> bytes:
        return block.replace(_SLOT.encode(), base36(number, len(_SLOT)).encode())


@lru_cache(maxsize=64)
def body(asset_bn: str, format: Format, rows: int, columns: int) -> Body:
    """The snapshot's bytes; another asset's differ, as another day's snapshot would."""
    rng = random.Random(asset_bn)
    table = [_row(rng, asset_bn, number, columns) for number in range(_ROWS_PER_BLOCK)]
    header, joint, footer, lines = _laid_out(table, format, columns)
    encoded = [line.encode() for line in lines]
    return Body(
        header=header.encode(),
        block=b"".join(encoded),
        ends=list(accumulate(map(len, encoded))),
        joint=joint.encode(),
        footer=footer.encode(),
        rows=rows,
    )


def _laid_out(table: list[list[str]], format: Format, columns: int) -> tuple[str, str, str, list[str]]:
    """Header, joint, footer and the rows' lines."""
    match format:
        case "CSV":
            return _csv([_headings(_CSV_NAMES, "FIELD_", columns)]), "", "", [_csv([row]) for row in table]
        case "JSON":
            rows = [json.dumps(_object(row), ensure_ascii=False).replace("\\u0001", "\x01") for row in table]
            return "[\n", ",\n", "\n]\n", [f"{row},\n" for row in rows]
        case "XML":
            head = '<?xml version="1.0" encoding="UTF-8"?>\n<rows>\n'
            return head, "", "</rows>\n", [_xml(row) for row in table]


def rows_for(size: int, columns: int) -> int:
    """How many rows make a CSV of about so many bytes."""
    layout = body("040U00000000", "CSV", 1, columns)
    return max(1, round((size - len(layout.header)) * _ROWS_PER_BLOCK / len(layout.block)))


def _row(rng: random.Random, asset_bn: str, number: int, columns: int) -> list[str]:
    """One row as the vendor's page shows it; now and then a cell that a careless reader of CSV trips over."""
    words = rng.choices(_WORDS, k=6)
    description = f"The {words[0]} {words[1]} of the {words[2]} {words[3]}"
    if number % 16 == 3:
        description += ", with a comma"
    if number % 32 == 5:
        description += ' and a "quoted" word'
    if number % 64 == 7:
        description += "\nand a second line"
    row = [
        f"0418{_SLOT}{base36(number, 3)}",
        f"{words[4]} {words[5]} {number}",
        f"{description} ({asset_bn})",
        rng.choice(("Corporate Strategy", "Finance", "Operations")),
        rng.choice(("Identified", "Completed")),
        rng.choice(("Homer Simpson-Primary", "Jean-Luc Picard-Primary", "")),
    ]
    row += [f"value {rng.randrange(10_000):04}" for _ in range(columns - len(row))]
    return row[:columns]


def _headings(names: Sequence[str], prefix: str, columns: int) -> list[str]:
    return [*names, *(f"{prefix}{10 + extra}" for extra in range(columns - len(names)))][:columns]


def _csv(rows: list[list[str]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _object(row: list[str]) -> dict[str, object]:
    shown: dict[str, object] = dict(zip(_headings(_JSON_NAMES, "field", len(row)), row, strict=True))
    if "contacts" in shown:
        name, _, qualifier = str(shown["contacts"]).rpartition("-")
        shown["contacts"] = [{"name": name, "qualifier": qualifier}] if qualifier else []
    return shown


def _xml(row: list[str]) -> str:
    names = _headings(_JSON_NAMES, "field", len(row))
    cells = (f"<{name}>{escape(cell)}</{name}>" for name, cell in zip(names, row, strict=True))
    return f"<row>{''.join(cells)}</row>\n"

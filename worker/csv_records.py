"""
The records of a CSV counted by `csv_records.c`, where it was compiled: ten times as fast, and beside other Python code.

Compiling is `hatch_build.py`'s business. Without a compiler there is no library and `count_plain` is None; then
`worker.csv_check` does the same in Python.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Final

Counting = Callable[[bytes, int, int], tuple[int, int, bool]]
"""
Takes a text, where to begin in it, and the heading's number of cells. Gives how many records there are whole and plain,
where they end, and whether what follows may be an odd one: not plain, or with a cell of several lines that goes on.
"""

LIBRARY: Final = Path(__file__).with_name("_csv_records.so")


def load(library: Path) -> Counting | None:
    """Load what `hatch_build.py` has built; None where there is nothing, or nothing that this machine can load."""
    try:
        planrelay_records = ctypes.CDLL(str(library)).planrelay_records_1  # lets go of the interpreter while it runs
    except (OSError, AttributeError):
        return None
    size, pointer = ctypes.c_size_t, ctypes.POINTER
    planrelay_records.argtypes = [ctypes.c_char_p, size, size, size, pointer(size), pointer(ctypes.c_int)]
    planrelay_records.restype = size

    def count(text: bytes, begin: int, cells: int) -> tuple[int, int, bool]:
        records, odd = size(), ctypes.c_int()
        end: int = planrelay_records(text, begin, len(text), cells, records, odd)
        return records.value, end, bool(odd.value)

    return count


count_plain: Final = load(LIBRARY)

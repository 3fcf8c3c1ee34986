"""
JSON that means one thing: read without its ambiguities, written in one way.

Pure: no I/O. Python's reader alone takes NaN, keeps the last of two equal keys, overflows to infinity and may exhaust
the stack. RFC 8259 leaves each of these to the reader, so two readers of one message could see two commands.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from typing import Any, Final

MAX_DEPTH: Final = 64
"""Arrays and objects inside each other; no command needs a tenth of it."""

_BOM: Final = b"\xef\xbb\xbf"
_MAYBE_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


class BadJSON(ValueError):
    """The text is not JSON, or is JSON that readers understand differently; the message completes "the body …"."""


def read(text: bytes) -> Any:
    """
    Decode UTF-8 JSON; raises `BadJSON` for anything doubtful and nothing else.

    Doubtful are: other encodings, NaN and Infinity, numbers that overflow, two equal keys in one object, half of a
    surrogate pair, more than `MAX_DEPTH` levels. A byte order mark is skipped (RFC 8259, 8.1).
    """
    try:
        decoded = text.removeprefix(_BOM).decode("utf-8")
        if decoded.startswith("\ufeff"):
            raise BadJSON("begins with two byte order marks")
        value = _DECODER.decode(decoded)
    except UnicodeDecodeError as error:
        raise BadJSON(f"is not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise BadJSON(f"is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except BadJSON:
        raise
    except RecursionError:
        raise BadJSON(f"is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError:  # int() refuses more than 4,300 digits
        raise BadJSON("holds a number of too many digits") from None
    _check_depth(value)
    if _MAYBE_SURROGATE.search(text):
        _check_surrogates(value)
    return value


def read_vendors(text: str | bytes) -> Any:
    """
    Decode a vendor's JSON, taken as it comes: two equal keys, any of JSON's encodings, half of a surrogate pair.

    Raises `ValueError` for what is none, and for what no event can carry on: NaN, 1e999, what is nested without end.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode(json.detect_encoding(text), "surrogatepass")
        return _LENIENT.decode(text)
    except RecursionError:
        raise BadJSON("is nested too deep to be read") from None


def write(value: Any) -> bytes:
    """
    Encode as compact UTF-8 JSON; raises `ValueError` or `TypeError` for what JSON has no word for (NaN, dates).

    Half of a surrogate pair, which a vendor's answer may hold, is written as the escape it came as.
    """
    try:
        return _ENCODER.encode(value).encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")


def digest(value: Any) -> str:
    """Give the hex SHA-256 of a JSON value: the same however it was written (order of keys, spaces, `1` or `1.0`)."""
    text = _CANONICAL.encode(_canonical(value))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _refuse_constant(name: str) -> Any:
    raise BadJSON(f"holds {name}, which JSON has no word for")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise BadJSON("holds a number too large for a double")
    return number


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise BadJSON(f"gives the key {twice[:100]!r} twice in one object")
    return found


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):  # level by level, because recursion is what this guards against
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise BadJSON(f"is nested deeper than {MAX_DEPTH} levels")


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise BadJSON("holds half of a surrogate pair, which is no character") from None


def _canonical(value: Any) -> Any:
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {name: _canonical(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_canonical(inner) for inner in value]
        case _:
            return value


# Made once: json.loads and json.dumps make a new one for each call that wants anything unusual.
_DECODER: Final = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_without_duplicates
)
_LENIENT: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_CANONICAL: Final = json.JSONEncoder(sort_keys=True, allow_nan=False, separators=(",", ":"))

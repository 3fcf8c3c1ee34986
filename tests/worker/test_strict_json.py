from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import strict_json
from worker.strict_json import MAX_DEPTH, BadJSON

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


def nested(levels: int) -> bytes:
    """Write so many arrays inside each other."""
    return b"[" * levels + b"]" * levels


@given(values)
def test_what_is_written_is_read_back(value: object) -> None:
    """Writing and reading give the same value."""
    assert strict_json.read(strict_json.write(value)) == value


@given(st.binary() | st.text().map(str.encode))
def test_bytes_give_a_value_or_one_error(text: bytes) -> None:
    """Whatever comes off the wire, nothing but `BadJSON` is raised."""
    with contextlib.suppress(BadJSON):
        strict_json.read(text)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"{'a': 1}", "is not JSON"),
        (b'{"a": 1,}', "is not JSON"),
        (b'{"a": 1} x', "is not JSON"),
        (b'{"a": NaN}', "holds NaN"),
        (b"[Infinity]", "holds Infinity"),
        (b"[-Infinity]", "holds -Infinity"),
        (b"[1e999]", "too large"),
        (b"[-1e999]", "too large"),
        (b"1" * 5_000, "too many digits"),
        (b'{"a": 1, "a": 1}', "the key 'a' twice"),
        (b'[{"b": {"a": 1, "c": 2, "a": 3}}]', "the key 'a' twice"),
        (b'{"a": "\xff"}', "is not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "is not UTF-8"),
        (b'["\\ud800"]', "surrogate"),
        (b'{"\\udc00x": 1}', "surrogate"),
        (b"[" * 100_000, "nested deeper"),
        (nested(MAX_DEPTH + 1), "nested deeper"),
        (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "nested deeper"),
    ],
)
def test_doubtful_json_is_refused(text: bytes, rule: str) -> None:
    """What readers understand differently is an error that says what it is."""
    with pytest.raises(BadJSON, match=rule):
        strict_json.read(text)


def test_the_deepest_legal_value_is_read() -> None:
    """`MAX_DEPTH` levels are legal, one more is not."""
    assert strict_json.read(nested(MAX_DEPTH))


def test_a_whole_surrogate_pair_is_a_character() -> None:
    """Escapes that make one character are read as it."""
    assert strict_json.read(b'["\\ud83d\\ude00"]') == ["\U0001f600"]


def test_a_byte_order_mark_is_skipped() -> None:
    """Some publishers begin with one; RFC 8259 lets readers ignore it."""
    assert strict_json.read(b"\xef\xbb\xbf[1]") == [1]


def test_half_a_surrogate_pair_is_written_as_its_escape() -> None:
    """A vendor's odd text must not stop the result from being told."""
    assert strict_json.write({"name": "\ud800"}) == b'{"name":"\\ud800"}'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_what_json_can_not_say_is_not_written(value: object) -> None:
    """Neither NaN nor objects become text that no reader takes."""
    with pytest.raises((ValueError, TypeError)):
        strict_json.write([value])


@given(values)
def test_the_digest_does_not_depend_on_the_writing(value: object) -> None:
    """Spaces, escapes and the order of keys are no difference."""
    other = json.loads(json.dumps(value, indent=3, sort_keys=True))
    assert strict_json.digest(value) == strict_json.digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"b": 1}),
        ([1, 2], [2, 1]),
        ({"a": None}, {}),
        ({"a": "1"}, {"a": 1}),
        (1, True),
    ],
)
def test_other_data_has_another_digest(one: object, other: object) -> None:
    """What differs in meaning differs in digest."""
    assert strict_json.digest(one) != strict_json.digest(other)


def test_a_whole_number_is_one_number() -> None:
    """`1` and `1.0` are one JSON number, written by two languages."""
    assert strict_json.digest({"a": [1, -0.0]}) == strict_json.digest({"a": [1.0, 0]})

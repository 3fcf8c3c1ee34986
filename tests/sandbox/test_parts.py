"""The parts without a server: switches, limits, collections, generated bodies, headers."""

import itertools
from datetime import timedelta
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.barometerit.snapshots import base36, body, rows_for
from sandbox.journal import redacted
from sandbox.limits import PointsWindow
from sandbox.store import Collection
from sandbox.switches import Quota, Span, duration, quota_of, span

FORMATS: tuple[Literal["CSV", "JSON", "XML"], ...] = ("CSV", "JSON", "XML")


@pytest.mark.parametrize(
    ("said", "seconds"), [("250ms", 0.25), ("2s", 2), ("1.5m", 90), ("1h", 3600), (3, 3), (0.5, 0.5), ("1d", 86_400)]
)
def test_durations(said: Any, seconds: float) -> None:
    """A duration is a text with a unit, or a number of seconds."""
    assert duration(said) == timedelta(seconds=seconds)


@pytest.mark.parametrize("said", ["2", "-1s", -1, True, None, "s", "2 s", timedelta(-1)])
def test_durations_refused(said: Any) -> None:
    """Anything else, or a negative one, is refused."""
    with pytest.raises(ValueError, match="must be a duration"):
        duration(said)


def test_spans_and_quotas() -> None:
    """Spans have a shorter and a longer end; quotas are points and a period, and are shown as they are read."""
    assert span("80ms-120ms") == Span(timedelta(milliseconds=80), timedelta(milliseconds=120))
    assert quota_of("50/s") == Quota(50, timedelta(seconds=1))
    assert quota_of(str(quota_of("50/2s"))) == quota_of("50/2s")
    assert span(str(span("80ms-120ms"))) == span("80ms-120ms")
    with pytest.raises(ValueError, match="shorter"):
        span("2s-1s")
    for wrong in ("50", "0/2s", "x/2s", "50/0s"):
        with pytest.raises(ValueError, match="points and a period"):
            quota_of(wrong)


@given(
    points=st.integers(1, 20),
    period=st.sampled_from([0.5, 1.0, 2.0, 60.0]),
    steps=st.lists(st.floats(0, 3), min_size=1, max_size=60),
)
def test_points_window(points: int, period: float, steps: list[float]) -> None:
    """No window gives more than its points, and whoever waits as long as Retry-After says finds some."""
    window, quota = PointsWindow(), Quota(points, timedelta(seconds=period))
    spent: dict[int, int] = {}
    for now in itertools.accumulate(steps, initial=1_000_000.25):
        verdict = window.take(quota, 1, now)
        number = int(now // period)
        if verdict.retry_after is None:
            spent[number] = spent.get(number, 0) + 1
            assert verdict.remaining == points - spent[number] >= 0
        else:
            assert verdict.retry_after >= 1
            assert (now + verdict.retry_after) // period > number


@given(
    format=st.sampled_from(FORMATS),
    rows=st.sampled_from([0, 1, 2, 511, 512, 513, 1024, 1025, 2000]),
    columns=st.integers(1, 12),
    data=st.data(),
)
def test_any_range_of_a_snapshot(
    format: Literal["CSV", "JSON", "XML"], rows: int, columns: int, data: st.DataObject
) -> None:
    """The bytes from any offset to any other are those of the whole, whose length is known beforehand."""
    made = body("040U00000001", format, rows, columns)
    whole = b"".join(made.blocks(0, made.length))
    assert len(whole) == made.length
    start = data.draw(st.integers(0, made.length))
    stop = data.draw(st.integers(start, made.length))
    assert b"".join(made.blocks(start, stop)) == whole[start:stop]


@given(size=st.integers(1_000, 3_000_000_000), columns=st.integers(1, 40))
def test_rows_for_a_size(size: int, columns: int) -> None:
    """A wanted size is met within a row's length and one in a hundred."""
    made = body("040U00000002", "CSV", rows_for(size, columns), columns)
    assert abs(made.length - size) <= 1_000 + size // 100


@given(st.integers(0, 36**8 - 1))
def test_base36(number: int) -> None:
    """Barometer numbers count in digits and capitals."""
    text = base36(number, 8)
    assert (len(text), int(text, 36), text) == (8, number, text.upper())


def test_collection_keeps_its_indexes() -> None:
    """Changing or removing an object moves it in the indexes of natural keys and groups."""
    kept = Collection("id", natural=lambda one: one.get("name"), group=lambda one: one["of"])
    for number, name in enumerate(["a", "b", "a"]):
        kept.add({"id": str(number), "name": name, "of": number % 2})
    assert list(kept.duplicates()) == [("a", ["0", "2"])]
    kept.change("2", {"name": "b", "of": 1})
    assert list(kept.duplicates()) == [("b", ["1", "2"])]
    assert [one["id"] for one in kept.page(0, None, 1)] == ["1", "2"]
    kept.remove("1")
    kept.add({"id": "2", "name": "c", "of": 0})
    assert (list(kept.duplicates()), kept.size(1), kept.size(0)) == ([], 0, 2)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('{"password": "hush", "name": "x"}', '{"password": "[removed]", "name": "x"}'),
        ("client_secret=hush&grant_type=g", "client_secret=[removed]&grant_type=g"),
        ('{"resetToken":"hush"}', '{"resetToken":"[removed]"}'),
        ('{"passwordRequired": true}', '{"passwordRequired": true}'),
    ],
)
def test_redaction(text: str, kept: str) -> None:
    """Values of passwords, secrets and tokens are removed, in JSON and in forms."""
    assert redacted(text) == kept

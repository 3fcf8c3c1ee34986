import asyncio
import csv
import io
import json
import os
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worker.artifacts import Artifacts
from worker.errors import BadCommand, ContractBroken, Invalid
from worker.rows import collect_rows, write_rows
from worker.sheets import Row, open_sheet

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    """Give artifacts in a folder of their own."""
    return Artifacts(["./"], cwd=tmp_path)


class Source:
    """Rows that come one by one, and how many were asked for."""

    def __init__(self, *rows: Mapping[str, Any], error: Exception | None = None) -> None:
        self.asked = 0
        self.closed = False
        self._rows = rows
        self._error = error

    async def rows(self) -> AsyncGenerator[Mapping[str, Any], None]:
        """Give them."""
        try:
            for row in self._rows:
                self.asked += 1
                await asyncio.sleep(0)
                yield row
            if self._error is not None:
                raise self._error
        finally:
            self.closed = True


NUMBERED = [{"id": number} for number in range(5)]


async def test_rows_are_collected() -> None:
    """Without destination they come in the result."""
    assert await collect_rows(Source(*NUMBERED).rows()) == {"rows": NUMBERED, "count": 5, "complete": True}


@pytest.mark.parametrize(("limit", "complete"), [(0, False), (4, False), (5, True), (6, True), (None, True)])
async def test_a_limit_says_whether_there_is_more(artifacts: Artifacts, limit: int | None, complete: bool) -> None:
    """One row beyond the limit is asked for, no more; what is left is let go of."""
    for ending in ("", "a.jsonl", "a.csv"):
        source = Source(*NUMBERED)
        if ending:
            result = await write_rows(artifacts, ending, source.rows(), limit=limit)
        else:
            result = await collect_rows(source.rows(), limit=limit)
        assert result["complete"] is complete
        assert result.get("count", result["rows"]) == min(5, 5 if limit is None else limit)
        assert source.asked == min(5, 5 if limit is None else limit + 1)
        assert source.closed


async def test_too_much_for_an_event_is_refused_at_once() -> None:
    """It is not gathered first: at the limit the error says what to give."""
    source = Source(*[{"text": "x" * 1000}] * 1000)
    with pytest.raises(Invalid, match="Give a destination"):
        await collect_rows(source.rows())
    assert source.asked < 300
    assert source.closed


async def test_json_lines_are_exact(artifacts: Artifacts, tmp_path: Path) -> None:
    """One object a line, UTF-8, as it came; the count and the digest are the file's."""
    rows: list[dict[str, Any]] = [
        {"name": "Müller\n", "n": None, "deep": {"a": [1, 2.5, True]}},
        {"formula": "=1+1", "lone": "\ud800"},
    ]
    result = await write_rows(artifacts, "a.jsonl", Source(*rows).rows())
    text = (tmp_path / "a.jsonl").read_bytes()
    assert [json.loads(line) for line in text.splitlines()] == rows
    assert "Müller".encode() in text
    assert (result["destination"], result["rows"], result["bytes"], result["complete"]) == (
        "a.jsonl",
        2,
        len(text),
        True,
    )


async def test_a_csv_has_every_column_that_any_row_has(artifacts: Artifacts, tmp_path: Path) -> None:
    """In the order in which they first came, even from the last row; what a row lacks is empty."""
    rows: list[dict[str, Any]] = [
        {"id": 1, "b": True},
        *({"id": number} for number in range(2, 1200)),
        {"z": {"k": "ü"}, "id": 1200, "n": None},
    ]
    await write_rows(artifacts, "a.CSV", Source(*rows).rows())
    read = list(csv.reader(io.StringIO((tmp_path / "a.CSV").read_text(encoding="utf-8"), newline="")))
    assert read[0] == ["id", "b", "z", "n"]
    assert read[1] == ["1", "true", "", ""]
    assert read[-1] == ["1200", "", '{"k": "ü"}', ""]
    assert len(read) == 1201


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3+cmd|' /C calc'!A0", "'-2+3+cmd|' /C calc'!A0"),
        ("\t=1", "'\t=1"),
        ("-5.30", "-5.30"),
        ("+49 (0)89 123-456", "+49 (0)89 123-456"),
        ("-", "-"),
        ("a=1", "a=1"),
        ("'", "'"),
    ],
)
async def test_no_cell_of_a_csv_is_a_formula(artifacts: Artifacts, tmp_path: Path, text: str, written: str) -> None:
    """Text from strangers is not run by who opens the file; numbers and telephone numbers stay."""
    await write_rows(artifacts, "a.csv", Source({"a": text, "b": -5}).rows())
    assert list(open_sheet((tmp_path / "a.csv").read_bytes(), "a.csv")) == [Row(2, {"a": written, "b": "-5"})]


async def test_no_rows_are_a_file_too(artifacts: Artifacts, tmp_path: Path) -> None:
    """An empty list is written as an empty file."""
    for name in ("a.csv", "a.jsonl"):
        result = await write_rows(artifacts, name, Source().rows())
        assert (result["rows"], result["bytes"]) == (0, 0)
        assert (tmp_path / name).read_bytes() == b""


async def test_another_ending_is_refused_before_anything_is_asked(artifacts: Artifacts) -> None:
    """The error lists what can be written."""
    source = Source(*NUMBERED)
    with pytest.raises(BadCommand, match=r"\.jsonl, \.ndjson, \.csv"):
        await write_rows(artifacts, "a.xlsx", source.rows())
    assert source.asked == 0


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
async def test_rows_that_break_off_are_not_published(artifacts: Artifacts, tmp_path: Path, name: str) -> None:
    """A page that fails leaves nothing under the name."""
    with pytest.raises(ContractBroken):
        await write_rows(artifacts, name, Source(*NUMBERED, error=ContractBroken()).rows())
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - pathlib's is a generator, which blocks as it is read


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(st.dictionaries(st.text(), JSON_VALUES, max_size=4), max_size=10))
def test_any_rows_come_back_from_json_lines(artifacts: Artifacts, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    """What is written is what is read."""
    asyncio.run(write_rows(artifacts, "a.jsonl", Source(*rows).rows()))
    assert [
        row.values for row in open_sheet((tmp_path / "a.jsonl").read_bytes(), "a.jsonl") if isinstance(row, Row)
    ] == rows


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(st.fixed_dictionaries({"a": st.text(), "b": JSON_VALUES}), min_size=1, max_size=10))
def test_a_csv_has_a_record_for_each_row(artifacts: Artifacts, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    """Whatever the cells hold, the table keeps its shape."""
    asyncio.run(write_rows(artifacts, "a.csv", Source(*rows).rows()))
    text = (tmp_path / "a.csv").read_bytes().decode()
    assert [len(record) for record in csv.reader(io.StringIO(text, newline=""))] == [2] * (len(rows) + 1)

"""The vendor's pages (planview_admin.txt, "Working with Paged Responses"): where they end, and what can't be right."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.planview_admin.pages import Pages
from worker.errors import ContractBroken


def page(start: Any, size: Any, *ids: int, **more: Any) -> bytes:
    """Make a page's body."""
    said = {"startIndex": start, "itemsPerPage": size, "Resources": [{"id": id} for id in ids], **more}
    return json.dumps({name: value for name, value in said.items() if value is not None}).encode()


def pages() -> Pages:
    """Make a reading whose rows are told apart by id."""
    return Pages(lambda row: row["id"])


def test_the_next_page_is_where_the_answer_says() -> None:
    """`startIndex + itemsPerPage` of the answer, whatever was asked for."""
    reading = pages()

    assert reading.take(page(1, 3, 1, 2, 3)) == [{"id": 1}, {"id": 2}, {"id": 3}]
    assert reading.cursor == 4


def test_whole_numbers_may_come_as_text() -> None:
    """ASCII digits in quotes say the same."""
    reading = pages()

    assert reading.take(page("1", "2", 1, 2)) == [{"id": 1}, {"id": 2}]
    assert reading.cursor == 3


@pytest.mark.parametrize("last", [page(1, 3, 1, 2), page(1, 3), page(1, 0), page(1, None)])
def test_an_empty_or_short_page_is_the_last(last: bytes) -> None:
    """No rows, or fewer than `itemsPerPage`: there is no more; an empty page need not say more than that."""
    reading = pages()

    reading.take(last)

    assert reading.cursor is None


@pytest.mark.parametrize(
    "body",
    [
        page(1, 0, 1),
        page(1, None, 1),
        page(None, 1, 1),
        page(1, "3.0", 1),
        page(1, "\N{ARABIC-INDIC DIGIT THREE}", 1),
        page(1, "9" * 5000, 1),
        page(1, True, 1),
        page(1, -1, 1),
        page(5, 1, 1),
        b"[]",
        b"<html>",
        b"{}",
        b'{"Resources": [1], "startIndex": 1, "itemsPerPage": 1}',
    ],
)
def test_a_page_that_cannot_be_right_is_an_error(body: bytes) -> None:
    """`itemsPerPage` 0, missing or no number, a page beyond the one asked for, no array: `ContractBroken`."""
    with pytest.raises(ContractBroken):
        pages().take(body)


def test_pages_that_lead_back_are_an_error() -> None:
    """A page that begins before the one asked for and leads no further would be read for ever."""
    reading = pages()
    reading.take(page(1, 2, 1, 2))

    with pytest.raises(ContractBroken, match="leads forward"):
        reading.take(page(1, 2, 3, 4))


def test_the_same_full_page_again_is_an_error() -> None:
    """A vendor that serves its first page for ever is noticed at the second."""
    reading = pages()
    reading.take(page(1, 2, 1, 2))

    with pytest.raises(ContractBroken, match="other rows"):
        reading.take(page(3, 2, 1, 2))


def test_rows_that_moved_come_once() -> None:
    """Somebody was put in before the page: the row that moved on is left out, and counted."""
    reading = pages()
    reading.take(page(1, 2, 1, 2))

    assert reading.take(page(3, 2, 2, 3)) == [{"id": 3}]
    assert reading.moved == 1


@given(total=st.integers(0, 40), size=st.integers(1, 12))
def test_every_row_comes_once(total: int, size: int) -> None:
    """Any number of rows in pages of any size: all of them, in order, and no page beyond the last."""
    reading, read, asked = pages(), list[int](), 0
    while reading.cursor is not None:
        start = reading.cursor
        read += [row["id"] for row in reading.take(page(start, size, *range(start, min(start + size, total + 1))))]
        asked += 1

    assert read == list(range(1, total + 1))
    assert asked == total // size + 1

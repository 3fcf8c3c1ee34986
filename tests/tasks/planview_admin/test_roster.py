"""What a roster says: Planview's own columns and others, and what can't be understood."""

from typing import Any

import pytest

from tasks.planview_admin.roster import FULL_NAME, Reader, Reading
from tasks.planview_admin.spelling import Spelling
from worker.errors import BadCommand
from worker.rows import inline_sheet


def read(*rows: dict[str, Any], columns: dict[str, str] | None = None, **fields: str) -> Reading:
    """Read rows, on a connection with these fields."""
    reader = Reader(Spelling.of(fields), columns)
    for row in inline_sheet(rows):
        reader.read(row)
    return reader.finish()


def fields_of(row: dict[str, Any], **more: Any) -> Any:
    """Give the fields of one row that can be used."""
    reading = read(row, **more)
    assert reading.problems == []
    return reading.wishes[0].fields


def test_the_columns_of_the_vendors_export_are_understood() -> None:
    """Name, email, status, admin, products (PVA-USERS), in any case."""
    row = {"Name": "Ada Byron", "EMAIL": "ada@x.y", "Status": "active", "Admin": "Yes", "Products": "p1; p2"}

    assert fields_of(row) == {
        "email": "ada@x.y",
        "first_name": "Ada",
        "last_name": "Byron",
        "role": "Administrator",
        "status": "Active",
        "products": ("p1", "p2"),
    }


@pytest.mark.parametrize("heading", ["First name", "first_name", "firstName", "FIRSTNAME"])
def test_headings_are_field_names_in_either_language(heading: str) -> None:
    """Case, blanks and underscores make no difference."""
    assert fields_of({"email": "a@x.y", heading: "Ada"})["first_name"] == "Ada"


def test_headings_can_be_mapped() -> None:
    """`columns` says which column is which field; no other one is read then."""
    reading = read(
        {"Mail": "a@x.y", "email": "other", "Vorname": "Ada"}, columns={"Mail": "email", "Vorname": "firstName"}
    )

    assert reading.wishes[0].fields == {"email": "a@x.y", "first_name": "Ada"}
    assert reading.ignored == ["email"]


def test_an_empty_cell_says_nothing_and_an_empty_list_does() -> None:
    """A blank cell leaves its field alone; a JSON row's empty list of products means none."""
    assert fields_of({"email": "a@x.y", "first_name": " ", "products": ""}) == {"email": "a@x.y"}
    assert fields_of({"email": "a@x.y", "products": []})["products"] == ()


def test_what_is_no_field_is_left_alone() -> None:
    """Unknown columns, and those that nobody sets, are named and not read."""
    reading = read({"email": "a@x.y", "Shoe size": 43, "Last login": "yesterday"})

    assert reading.ignored == ["Shoe size", "Last login"]


def test_a_field_of_the_operators_is_a_field() -> None:
    """`fields.department` of the connection makes a column of it, under either name."""
    assert fields_of({"email": "a@x.y", "Dept": "Sales"}, department="dept")["department"] == "Sales"


def test_the_operators_word_for_inactive_is_understood() -> None:
    """`"status.inactive" = "Disabled"`: both words mean the same."""
    for word in ("disabled", "Inactive"):
        assert fields_of({"email": "a@x.y", "status": word}, **{"status.inactive": "Disabled"})["status"] == "Inactive"


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("Ada Byron", {"first_name": "Ada", "last_name": "Byron"}),
        ("Byron, Ada Augusta", {"first_name": "Ada Augusta", "last_name": "Byron"}),
        ("Ada Augusta Byron", {FULL_NAME: "Ada Augusta Byron"}),
        ("Ada", {FULL_NAME: "Ada"}),
    ],
)
def test_a_name_is_divided_only_where_there_is_one_way(name: str, fields: dict[str, str]) -> None:
    """Two words, or a comma; any other name is kept whole, to be compared."""
    assert fields_of({"email": "a@x.y", "name": name}) == {"email": "a@x.y", **fields}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"first_name": "Ada"}, "has none of id, username and email"),
        ({"email": "ada"}, "'ada' is no address"),
        ({"email": "a@x.y;b@x.y"}, "is no address"),
        ({"email": "<ada@x.y>"}, "is no address"),
        ({"email": "mailto:ada@x.y"}, "is no address"),
        ({"email": "\x00ada@x.y"}, "is no address"),
        ({"email": "a@x.y", "role": "emperor"}, "'emperor' is none of Administrator, User"),
        ({"email": "a@x.y", "status": "gone"}, "'gone' is none of Active, Pending, Inactive"),
        ({"email": "a@x.y", "admin": "perhaps"}, "neither true nor false"),
        ({"email": "a@x.y", "admin": "no", "role": "Administrator"}, "contradict each other"),
        ({"email": "a@x.y", "first_name": ["Ada"]}, "a JSON array is no value of it"),
        ({"id": 12345678901234567890.0}, "1.23456789012346e+19 is a number that the spreadsheet has rounded"),
        ({"email": "a@x.y", "products": [True]}, "products are a list of ids or names"),
    ],
)
def test_what_cannot_be_understood_is_a_problem_with_its_line(row: dict[str, Any], reason: str) -> None:
    """The row is left out and reported; the rows around it are used."""
    reading = read({"email": "first@x.y"}, row, {"email": "last@x.y"})

    assert [wish.line for wish in reading.wishes] == [1, 3]
    (problem,) = reading.problems
    assert problem["line"] == 2
    assert reason in problem["reason"]


def test_a_row_that_cannot_be_used_still_mentions_its_person() -> None:
    """A typing error in another column makes nobody seem to have left."""
    reading = read({"email": "Ada@x.y", "id": 7.0, "role": "emperor"})

    assert reading.mentioned["email"] == {"ada@x.y"}
    assert reading.mentioned["id"] == {"7"}


def test_an_address_is_written_as_it_is_seen() -> None:
    """A zero-width space that came with a copy is no part of a new user's address, nor a letter in two pieces."""
    assert fields_of({"email": "\u200bzoe\u0308@x.y\u00a0"})["email"] == "zo\u00eb@x.y"


def test_two_columns_of_one_field_are_an_error() -> None:
    """Which one holds can't be told."""
    with pytest.raises(BadCommand, match="are both email"):
        read({"email": "a@x.y", "Email address": "b@x.y"})

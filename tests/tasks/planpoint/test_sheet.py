"""A sheet's cells and columns: understood, or a problem with its line."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.planpoint import models
from tasks.planpoint.sheet import Reader, Reading, number
from worker.errors import BadCommand
from worker.rows import BadRow, Row


def read(
    *rows: dict[str, Any] | BadRow, units: tuple[dict[str, Any], ...] = (), head: tuple[str, ...] = (), **data: Any
) -> Reading:
    """Read rows that stand on the lines 2, 3, …, as a CSV's do."""
    asked = {"project_id": "a" * 24, "rows": [{"x": 1}], "key": "unit_number", "mode": "plan", **data}
    reader = Reader(models.UnitsSync.model_validate(asked), models.UNIT, units)
    reader.head(head)
    for line, row in enumerate(rows, 2):
        reader.read(row if isinstance(row, BadRow) else Row(line, row))
    return reader.finish()


@pytest.mark.parametrize(
    ("cell", "mark", "value"),
    [
        (350_000, None, 350_000),
        (350_000.0, None, 350_000),
        (349_999.5, None, 349_999.5),
        ("350000", None, 350_000),
        ("-5", None, -5),
        ("€ 350000", None, 350_000),
        ("350 000 €", None, 350_000),
        ("1'234'567", None, 1_234_567),
        ("350,000", ".", 350_000),
        ("350,000.50", ".", 350_000.5),
        ("1,234,567.00", ".", 1_234_567),
        ("1.234,5", ",", 1234.5),
        ("350 000", ",", 350_000),
        ("350\N{NO-BREAK SPACE}000,25 €", ",", 350_000.25),
        ("1'234'567", ".", 1_234_567),
        ("0.5", ".", 0.5),
        ("1,5", ",", 1.5),
    ],
)
def test_numbers_are_read(cell: Any, mark: str | None, value: float) -> None:
    """As they are, or from text with the declared decimal mark, its groups and a currency sign."""
    assert number(cell, mark) == value
    assert type(number(cell, mark)) is type(value)


@pytest.mark.parametrize(
    ("cell", "mark", "says"),
    [
        ("1.234", None, "two ways"),
        ("1,5", None, "two ways"),
        ("1 234.5", None, "two ways"),
        ("1 234'567", None, "no number"),
        ("30 %", ".", "no number"),
        ("on request", ",", "no number"),
        ("12,34", ".", "no number"),
        ("1,2345", ".", "no number"),
        ("1.234.5", ".", "no number"),
        ("1,234 567", ".", "no number"),
        ("abc", None, "no number"),
        ("١٢", None, "no number"),
        ("1e5", ".", "no number"),
        ("", ".", "no number"),
        ("9" * 16, None, "no number"),
        (True, None, "no number"),
        ([1], None, "no number"),
        (float("inf"), None, "no number"),
        (float("nan"), None, "no number"),
        (10**15, None, "fifteen digits"),
        (-(10**400), None, "fifteen digits"),
    ],
)
def test_what_is_no_number_is_said_so(cell: Any, mark: str | None, says: str) -> None:
    """Nothing is guessed: two readings, broken groups, other digits and exponents are refused."""
    with pytest.raises(ValueError, match=says):
        number(cell, mark)


@given(st.integers(-(10**12), 10**12), st.integers(0, 99), st.sampled_from([".", ","]))
def test_a_number_written_in_groups_is_read_back(whole: int, cents: int, mark: str) -> None:
    """Any amount, grouped and with two decimals, in either convention."""
    text = f"{whole:,}.{cents:02}"
    text = text if mark == "." else text.translate(str.maketrans(",.", ".,"))
    sign = "-" if whole < 0 else ""

    assert number(text, mark) == float(f"{sign}{abs(whole)}.{cents:02}")


def test_columns_are_known_by_either_name() -> None:
    """Headings in our words or the vendor's, of any generation, whatever their case and spaces."""
    reading = read({"Unit Number": "101", "Availability": "sold", "square feet": 70, "Bedrooms": "2", "PRICE": 5})

    (wish,) = reading.wishes
    assert (wish.line, wish.key) == (2, "101")
    assert wish.fields == {"status": "Sold", "sqft": 70, "bed": 2, "price": 5}
    assert reading.ignored == []


def test_other_columns_and_empty_cells_are_left_alone() -> None:
    """A column that is no field is reported, and a cell without a value says nothing."""
    reading = read({"unit_number": "101", "Agent": "Ada", "price": "", "bed": None, "model": "  ", "floor": "3"})

    assert reading.wishes[0].fields == {}
    assert reading.ignored == ["Agent", "floor"]


def test_columns_may_be_mapped() -> None:
    """With `columns` these are listed and no others, to our names, the vendor's or a tenant's own."""
    reading = read(
        {"Nr": 101.0, "Preis": "1.000", "price": 7, "Ausblick": "Süd"},
        columns={"Nr": "unit_number", "Preis": "price", "Ausblick": "seaView"},
        decimal_mark=",",
        units=({"id": "1", "seaView": "Nord"},),
    )

    (wish,) = reading.wishes
    assert (wish.key, wish.fields) == ("101", {"price": 1000, "seaView": "Süd"})
    assert reading.ignored == ["price"]


@pytest.mark.parametrize("field", ["prcie", "Price", "Unit_number"])
def test_a_column_is_not_mapped_to_a_misspelt_field(field: str) -> None:
    """It would be written as a new one; the error names what was probably meant."""
    says = rf"'Preis' is mapped to {field}, which no page documents .* \(did you mean (price|unit_number)\?\)"
    with pytest.raises(BadCommand, match=says):
        read({"Nr": "1", "Preis": 1}, columns={"Nr": "unit_number", "Preis": field}, units=({"id": "1"},))


def test_a_field_that_no_unit_has_yet_is_filled() -> None:
    """A tenant's own field begins somewhere; the reading says that nobody has seen it."""
    columns = {"Nr": "unit_number", "Ausblick": "seaView"}
    reading = read({"Nr": "1", "Ausblick": "Süd"}, columns=columns, units=({"id": "1"},))

    assert (reading.wishes[0].fields, reading.unseen) == ({"seaView": "Süd"}, ["seaView"])


@pytest.mark.parametrize("field", ["floor", "project", "images", "tags"])
def test_a_column_of_a_field_that_a_sheet_never_changes_is_left_alone(field: str) -> None:
    """A reference or a list: left alone and reported, with `columns` as without."""
    columns = {"Nr": "unit_number", "Was": field, "Preis": "price"}
    reading = read({"Nr": "1", "Was": "x", "Preis": 1}, columns=columns, units=({"id": "1", "tags": []},))

    assert (reading.wishes[0].fields, reading.ignored, reading.unseen) == ({"price": 1}, ["Was"], [])


def test_a_column_that_is_mapped_has_to_be_in_the_table() -> None:
    """A misspelt heading must not leave its prices as they are, in silence."""
    columns = {"Nr": "unit_number", "Preis": "price"}
    with pytest.raises(BadCommand, match="columns names 'Preis', which the sheet does not have once: it has 'Nr', 'Pr"):
        read({"Nr": "1", "Preis (EUR)": 1}, columns=columns, head=("Nr", "Preis (EUR)"))

    assert read({"Nr": "1"}, columns=columns).absent == ["Preis"]  # rows that name their own fields may leave some out


def test_a_heading_that_is_nearly_a_field_is_said_so() -> None:
    """The column is left alone; the warning names what was probably meant."""
    assert read({"unit_number": "1", "Pirce": 1}).ignored == ["Pirce (did you mean price?)"]


def test_lists_are_no_cells() -> None:
    """A JSON sheet's list is a problem, and a column for a field that holds lists is left alone."""
    reading = read({"unit_number": "1", "model": ["a"]}, {"unit_number": "2", "images": "a.jpg", "views": "b"})
    assert reading.problems == [{"line": 2, "reason": "model: a JSON array is no value of it"}]

    reading = read({"unit_number": "2", "images": "a.jpg", "Views": "b"}, units=({"id": "1", "Views": ["N"]},))
    assert (reading.wishes[0].fields, reading.ignored) == ({}, ["images", "Views"])


def test_amounts_are_not_less_than_nothing() -> None:
    """A price below zero is a problem; a level below the ground is none."""
    assert read({"unit_number": "1", "price": "-5"}).problems == [
        {"line": 2, "reason": "price: '-5' is less than nothing"}
    ]
    assert read({"unit_number": "1", "position": -1}).wishes[0].fields == {"position": -1}


@pytest.mark.parametrize("head", [(), ("Unit number", "Price")])
def test_a_sheet_without_rows_is_refused(head: tuple[str, ...]) -> None:
    """It is a mistake, whatever its heading, and no reason to take all units for missing."""
    with pytest.raises(BadCommand, match="no rows"):
        read(head=head)


def test_a_sheet_of_which_nothing_can_be_read_says_why() -> None:
    """The first line's reason is told."""
    with pytest.raises(BadCommand, match="line 4: it is no JSON"):
        read(BadRow(5, "it is no JSON"), BadRow(4, "it is no JSON"))


def test_a_letter_is_a_letter_however_it_is_encoded() -> None:
    """Keys are compared composed: a spreadsheet on a Mac may write É as two characters."""
    assert read({"unit_number": "E\N{COMBINING ACUTE ACCENT}1"}).wishes[0].key == "É1"


def test_two_columns_of_one_field_are_refused() -> None:
    """Which of the two counts, nobody can tell."""
    with pytest.raises(BadCommand, match="both status"):
        read({"unit_number": "1", "status": "Sold", "availability": "Sold"})


def test_a_sheet_without_its_key_is_refused() -> None:
    """The error names the columns that there are."""
    with pytest.raises(BadCommand, match="unit_number: it has 'name', 'price'"):
        read({"name": "101", "price": 1})


def test_a_row_that_is_not_understood_is_a_problem_with_its_line() -> None:
    """Rows without a key, with an unreadable cell or unreadable whole: none is dropped in silence."""
    reading = read(
        {"unit_number": "101", "price": "cheap"},
        {"unit_number": "", "price": 1},
        BadRow(4, "has 3 cells, the heading 2"),
        {"unit_number": "104", "price": 1},
    )

    assert reading.problems == [
        {"line": 2, "reason": "price: 'cheap' is no number"},
        {"line": 3, "reason": "has no unit_number"},
        {"line": 4, "reason": "has 3 cells, the heading 2"},
    ]
    assert [wish.key for wish in reading.wishes] == ["104"]
    assert reading.mentioned == {"101", "104"}


def test_of_a_key_that_comes_twice_no_row_is_believed() -> None:
    """Every row of it is a problem."""
    reading = read({"unit_number": "1", "price": 1}, {"unit_number": "2"}, {"unit_number": "1", "price": 2})

    assert [wish.key for wish in reading.wishes] == ["2"]
    assert [problem["line"] for problem in reading.problems] == [2, 4]


@pytest.mark.parametrize(
    ("cell", "status"),
    [
        ("Available", "Available"),
        ("on hold", "OnHold"),
        ("ON_HOLD", "OnHold"),
        ("leased", "Leased"),
        ("reserved", "Reserved"),
    ],
)
def test_statuses_are_known_ones_or_the_tenants(cell: str, status: str) -> None:
    """The five documented and those that units of the project have, whatever their case."""
    reading = read({"unit_number": "1", "status": cell}, units=({"status": "Reserved"},))

    assert reading.wishes[0].fields == {"status": status}


@pytest.mark.parametrize(
    ("own", "status"), [(["sold"], "sold"), (["sold", "Sold"], "Sold"), (["SOLD", "sold"], "sold")]
)
def test_a_status_is_written_as_the_tenants_units_have_it(own: list[str], status: str) -> None:
    """Else every unit would be written each time; of several ways the documented one holds."""
    units = tuple({"status": one} for one in own)

    assert read({"unit_number": "1", "status": "SOLD"}, units=units).wishes[0].fields == {"status": status}


def test_the_status_for_missing_units_is_checked_too() -> None:
    """A typing error there would go to every unit that the sheet lacks."""
    assert read({"unit_number": "1"}, missing_status="on hold").missing_status == "OnHold"
    with pytest.raises(BadCommand, match=r"data.missing_status: 'Unavailabel' is neither one of"):
        read({"unit_number": "1"}, missing_status="Unavailabel")


def test_a_status_that_nobody_knows_is_a_problem_until_it_is_given() -> None:
    """A typing error must not become a new status; `statuses` lets a right one through."""
    (problem,) = read({"unit_number": "1", "status": "Sould"}).problems
    assert "'Sould' is neither one of Available, OnHold, Sold, Leased, Unavailable" in problem["reason"]

    (wish,) = read({"unit_number": "1", "status": "optioned"}, statuses=["Optioned"]).wishes
    assert wish.fields == {"status": "Optioned"}


@pytest.mark.parametrize(("cell", "value"), [(True, True), ("yes", True), ("FALSE", False)])
def test_flags_are_yes_or_no(cell: Any, value: bool) -> None:
    """Booleans as such or in words."""
    assert read({"unit_number": "1", "isFeatured": cell}).wishes[0].fields == {"is_featured": value}


def test_texts_from_a_spreadsheet_are_texts() -> None:
    """A unit called 101 is the unit "101", also where the spreadsheet made a number of it."""
    assert read({"name": 101.0, "model": 7}, key="name").wishes[0].key == "101"


cells = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(allow_nan=False), st.text(max_size=6))


@given(st.lists(st.dictionaries(st.sampled_from(["unit_number", "price", "status", "junk"]), cells), max_size=8))
def test_every_row_is_a_wish_or_a_problem(rows: list[dict[str, Any]]) -> None:
    """Whatever a sheet holds: each row ends in exactly one of the two, as plain JSON."""
    reading = read({"unit_number": "first"}, *rows)

    lines = [wish.line for wish in reading.wishes] + [problem["line"] for problem in reading.problems]
    assert sorted(lines) == list(range(2, len(rows) + 3))
    json.dumps([wish.fields for wish in reading.wishes])

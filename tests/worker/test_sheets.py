import io
import json
import struct
import tracemalloc
import zipfile
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.artifacts import Artifacts
from worker.errors import BadCommand, Invalid, NotFound
from worker.sheets import BadRow, Row, inline_sheet, open_sheet, read_sheet


def rows(data: bytes | str, name: str = "a.csv") -> list[Row | BadRow]:
    """Read everything."""
    return list(open_sheet(data.encode() if isinstance(data, str) else data, name))


def workbook(*lines: list[Any], **cells: Any) -> bytes:
    """Make an XLSX of one worksheet."""
    book = openpyxl.Workbook()
    sheet = book.active
    for line in lines:
        sheet.append(line)
    for cell, value in cells.items():
        sheet[cell] = value
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def rezipped(data: bytes, name: str, old: bytes, new: bytes) -> bytes:
    """Change a member of a workbook."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as before, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as after:
        for member in before.namelist():
            content = before.read(member)
            after.writestr(member, content.replace(old, new) if member == name else content)
    return file.getvalue()


# --- CSV -------------------------------------------------------------------------------------------------------------


def test_rows_come_with_their_lines_and_headings() -> None:
    """Blank lines are no rows; a cell of several lines moves the next row's line."""
    data = '\n name , price\n101,"1\n000"\n\n102, 2 \n,\n103,\n'
    assert rows(data) == [
        Row(3, {"name": "101", "price": "1\n000"}),
        Row(6, {"name": "102", "price": " 2 "}),
        Row(8, {"name": "103", "price": ""}),
    ]


@pytest.mark.parametrize(("delimiter", "name"), [(",", "comma"), (";", "semicolon"), ("\t", "tab"), ("|", "bar")])
def test_the_delimiter_is_found(delimiter: str, name: str) -> None:
    """Also where cells hold the other delimiters: decimal commas in a sheet of semicolons, say."""
    lines = [["unit", "price", "note"], ["A1", "312.500,00", "a|b"], ["A2", "1,5", "x;y"], ["A3", "2,5", "tab\there"]]
    data = "\n".join(delimiter.join(f'"{cell}"' if delimiter in cell else cell for cell in line) for line in lines)
    sheet = open_sheet(data.encode(), "a.csv")
    assert sheet.delimiter == name
    assert [row.values for row in sheet if isinstance(row, Row)] == [
        dict(zip(lines[0], line, strict=True)) for line in lines[1:]
    ]


def test_excel_may_name_the_delimiter() -> None:
    """The line `sep=` is no row, and lines are counted with it."""
    assert rows("sep=|\r\na|b,c\r\n1|2\r\n") == [Row(3, {"a": "1", "b,c": "2"})]


def test_one_column_has_no_delimiter() -> None:
    """A list of addresses is a sheet too."""
    assert rows("email\na@example.com\nb@example.com\n") == [
        Row(2, {"email": "a@example.com"}),
        Row(3, {"email": "b@example.com"}),
    ]


@pytest.mark.parametrize(
    ("text", "encoding", "found"),
    [
        ("naïve;Müller", "utf-8", "utf-8"),
        ("naïve;Müller", "utf-8-sig", "utf-8"),
        ("naïve;Müller", "utf-16", "utf-16"),
        ("Name;Plain", "utf-16-le", "utf-16-le"),
        ("Name;Plain", "utf-16-be", "utf-16-be"),
        ("naïve;Müller", "utf-32", "utf-32"),
        ("Lefèvre;Garçon Éloïse Crédit Agricole", "cp1252", "cp1252"),
        ("Müller Straße;verfügbar Äpfelweg", "cp1252", "cp1252"),
        ("Muñoz;Peña año", "cp1252", "cp1252"),
        ("Jyrki Hämäläinen;Päivi Mäkelä", "cp1252", "cp1252"),
        ("price;€ 5", "cp1252", "cp1252"),
        ("Łukasz;Żółkiewski Grażyna Śliwińska Krzysztof", "cp1250", "cp1250"),
        ("Иван;Петров Анна Сидорова", "cp1251", "cp1251"),
        ("山田太郎;営業鈴木花子開発", "cp932", "cp932"),
    ],
)
def test_the_encoding_is_found(text: str, encoding: str, found: str) -> None:
    """By its byte order mark, as UTF-8, or as the legacy encoding in which the letters make sense."""
    sheet = open_sheet(f"a;b\n{text}\n".encode(encoding), "a.csv")
    assert sheet.encoding == found
    assert list(sheet) == [Row(2, dict(zip("ab", text.split(";"), strict=True)))]


def test_a_broken_byte_spoils_its_row_only() -> None:
    """A file that is UTF-8 but for a byte is not read as something else; the row with that byte is bad."""
    lines = ["name,city"] + ["Müller,Köln"] * 20
    data = "\n".join(lines).encode() + b"\nM\xfcller,Bonn\nMeyer,Ulm\n"
    items = rows(data)
    assert items[19] == Row(21, {"name": "Müller", "city": "Köln"})
    assert items[20] == BadRow(22, "it holds bytes that are not UTF-8, as the rest of the file is")
    assert items[21] == Row(23, {"name": "Meyer", "city": "Ulm"})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1", "it has 1 cells where the heading has 2"),
        ("1,2,3", "cell 3 is filled, and no heading stands above it"),
        ('"1" x,2', "',' expected after '\"'"),
    ],
)
def test_a_bad_row_is_told_and_the_others_read(line: str, reason: str) -> None:
    """It stands in its place, with its line and the reason."""
    assert rows(f"a,b\n0,0\n{line}\n4,5\n") == [
        Row(2, {"a": "0", "b": "0"}),
        BadRow(3, reason),
        Row(4, {"a": "4", "b": "5"}),
    ]


def test_empty_cells_beyond_the_heading_do_no_harm() -> None:
    """Spreadsheets leave delimiters at the ends of lines."""
    assert rows("a,b,,\n1,2,,\n3,4,\n5,6,,,,\n") == [
        Row(2, {"a": "1", "b": "2"}),
        Row(3, {"a": "3", "b": "4"}),
        Row(4, {"a": "5", "b": "6"}),
    ]


def test_a_quote_never_closed_names_what_is_lost() -> None:
    """What it swallowed is told by its lines."""
    reason = "a quote that is opened on this line is never closed; lines 3 to 5 are lost"
    assert rows('a,b\n1,2\n"3,4\n5,6\n7,8\n') == [Row(2, {"a": "1", "b": "2"}), BadRow(3, reason)]


def test_a_heading_that_stands_twice_is_not_read() -> None:
    """Which of the two is meant can't be told; the other columns are read."""
    assert rows("email,Name,EMAIL\na@x,A,b@x\n") == [
        BadRow(1, "the heading 'email' stands in columns 1, 3: none of them is read"),
        Row(2, {"Name": "A"}),
    ]


def test_a_cell_without_heading_is_told() -> None:
    """An unnamed column may be empty; where it is not, the row is bad."""
    assert rows("a,,b\n1,,2\n3,x,4\n") == [
        Row(2, {"a": "1", "b": "2"}),
        BadRow(3, "cell 2 is filled, and no heading stands above it"),
    ]


@pytest.mark.parametrize(
    ("data", "name", "said"),
    [
        (b"", "a.csv", "is empty"),
        (b"\n\n", "a.csv", "is empty"),
        (b"", "a.json", "neither a JSON array"),
        (b"a,b\n", "a.xls", "ending '.xls'"),
        (b"a,b\n", "a", "ending ''"),
        (b"PK\x03\x04...", "a.csv", "workbook by its content"),
        (b"\xd0\xcf\x11\xe0...", "a.csv", "workbook by its content"),
        (b"a,b\n1,2\n", "a.xlsx", "is no workbook"),
        (b"\xff\xfea", "a.csv", "begins like utf-16 and is not"),
        (b'"a,b\n', "a.csv", "no heading that can be read"),
        (b'"text"', "a.json", "neither a JSON array"),
        (b'{"a": 1}', "a.json", "holds no array named rows, records, users"),
        (b'{"rows": 1}', "a.json", "holds no array named"),
        (b'{"a": [}', "a.json", "is no JSON"),
        (b'["\xff"]', "a.json", "not UTF-8"),
    ],
)
def test_a_file_that_is_no_sheet_is_refused(data: bytes, name: str, said: str) -> None:
    """The error names the field and the file, and says what to do."""
    with pytest.raises(BadCommand) as caught:
        open_sheet(data, name, "roster_url")
    assert caught.value.message.startswith(f"roster_url: {name!r} ")
    assert said in caught.value.message


@given(st.binary(max_size=300), st.sampled_from(["a.csv", "a.json", "a.jsonl", "a.xlsx"]))
def test_no_bytes_cause_anything_else(data: bytes, name: str) -> None:
    """Whatever a file holds, it is rows, bad rows, or refused."""
    try:
        items = list(open_sheet(data, name))
    except BadCommand:
        return
    assert all(isinstance(item, (Row, BadRow)) for item in items)


@given(st.lists(st.lists(st.text(alphabet='abc,;|\t"\n é'), min_size=2, max_size=2), max_size=20))
def test_no_row_is_lost(cells: list[list[str]]) -> None:
    """What a CSV writer writes comes back, but for rows of blanks."""
    text = "heading,other\n" + "".join(
        ",".join('"' + cell.replace('"', '""') + '"' for cell in row) + "\n" for row in cells
    )
    sheet = open_sheet(text.encode(), "a.csv")
    if sheet.delimiter == "comma":
        read = [list(row.values.values()) for row in sheet if isinstance(row, Row)]
        assert read == [row for row in cells if any(cell.strip() for cell in row)]


# --- XLSX ------------------------------------------------------------------------------------------------------------


def test_a_workbook_is_read() -> None:
    """Numbers, booleans and nothing as such, dates in ISO 8601; a row may leave out its last cells."""
    data = workbook(
        ["unit", "price", "sold", "since", "until", "note"],
        ["A1", 312500, True, date(2026, 11, 22), datetime(2026, 11, 22, 8, 30, tzinfo=UTC).replace(tzinfo=None), "x"],
        [],
        ["A2", 1.5],
    )
    sheet = open_sheet(data, "a.xlsx")
    assert sheet.heading == ("unit", "price", "sold", "since", "until", "note")
    assert sheet.worksheet == "Sheet"
    first = {"unit": "A1", "price": 312500, "sold": True, "since": "2026-11-22", "until": "2026-11-22T08:30:00"}
    second = dict.fromkeys(sheet.heading) | {"unit": "A2", "price": 1.5}
    assert list(sheet) == [Row(2, {**first, "note": "x"}), Row(4, second)]


def test_an_error_of_the_spreadsheet_is_no_value() -> None:
    """A cell that shows #REF! makes its row bad."""
    assert rows(workbook(["a", "b"], [1, "#REF!"], [2, 3]), "a.xlsx") == [
        BadRow(2, "cell 2 holds #REF!"),
        Row(3, {"a": 2, "b": 3}),
    ]


def test_a_formula_that_was_never_calculated_is_refused() -> None:
    """Its cell would seem empty: a program wrote it, and no spreadsheet ever opened it."""
    with pytest.raises(BadCommand, match="never calculated"):
        open_sheet(workbook(["a", "b"], [1, "=A2+1"]), "a.xlsx")


def test_a_formula_whose_text_is_empty_is_calculated() -> None:
    """A spreadsheet that found no text says so by the cell's type."""
    data = workbook(["a", "b"], [1, "=IF(A2=1,A3,A4)"])
    calculated = rezipped(data, "xl/worksheets/sheet1.xml", b'<c r="B2">', b'<c r="B2" t="str">')
    assert rows(calculated, "a.xlsx") == [Row(2, {"a": 1, "b": None})]


def test_the_first_visible_worksheet_is_read() -> None:
    """A hidden one is not what a person sees."""
    book = openpyxl.Workbook()
    book.active.sheet_state = "hidden"
    book.create_sheet("Units").append(["a"])
    file = io.BytesIO()
    book.save(file)
    assert open_sheet(file.getvalue(), "a.xlsx").worksheet == "Units"


def test_a_wrong_dimension_cuts_no_row_off() -> None:
    """What a file says of its own size is not believed."""
    data = workbook(["a"], [1], [2], [3])
    lying = rezipped(data, "xl/worksheets/sheet1.xml", b'ref="A1:A4"', b'ref="A1:A2"')
    assert lying != data
    assert [row.line for row in rows(lying, "a.xlsx")] == [2, 3, 4]


def declaring(data: bytes, size: int) -> bytes:
    """Let a workbook's directory say that its first member unpacks to so many bytes."""
    at = data.index(b"PK\x01\x02") + 24
    return data[:at] + struct.pack("<I", size) + data[at + 4 :]


def test_a_zip_bomb_is_not_unpacked() -> None:
    """A workbook that would unpack to more than the limit is refused by what its directory says."""
    with pytest.raises(BadCommand, match="unpacks to more than 512 MiB"):
        open_sheet(declaring(workbook(["a"]), 600 << 20), "a.xlsx")


def test_a_zip_that_lies_about_its_size_is_no_workbook() -> None:
    """No more is unpacked than the directory says, and that fails its checksum."""
    with zipfile.ZipFile(io.BytesIO(workbook(["a"], [1]))) as archive:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as other:
            for name in sorted(archive.namelist(), reverse=True):
                other.writestr(name, archive.read(name))
    with pytest.raises(BadCommand, match="CRC"):
        open_sheet(declaring(file.getvalue(), 100), "a.xlsx")


def test_a_document_type_is_refused() -> None:
    """Entities that grow have no place in a workbook."""
    data = workbook(["a"], [1])
    grown = rezipped(data, "xl/worksheets/sheet1.xml", b"<worksheet", b'<!DOCTYPE x [<!ENTITY a "a">]><worksheet')
    with pytest.raises(BadCommand, match="document type"):
        open_sheet(grown, "a.xlsx")


def with_part(data: bytes, part: str, holds: bytes) -> bytes:
    """Put a part into a workbook, in the place of its own."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as archive,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as other,
    ):
        for name in archive.namelist():
            if name != part:
                other.writestr(name, archive.read(name))
        other.writestr(part, holds)
    return file.getvalue()


@pytest.mark.parametrize(
    ("part", "holds", "times", "says"),
    [
        ("xl/styles.xml", b"<xf/>", 600_000, "'xl/styles.xml' of more than 500,000 elements"),
        ("xl/sharedStrings.xml", b"<si/>", 14 << 20, "'xl/sharedStrings.xml' that unpacks to more than 64 MiB"),
        ("xl/workbook.xml", b"<!DOCTYPE x []>", 1, "document type"),
    ],
)
def test_a_part_that_takes_minutes_to_parse_is_refused(part: str, holds: bytes, times: int, says: str) -> None:
    """A workbook of a few kilobytes can hold millions of cell formats: each would be an object of a kilobyte."""
    with pytest.raises(BadCommand, match=says):
        open_sheet(with_part(workbook(["a"], [1]), part, holds * times), "a.xlsx")


@pytest.mark.parametrize("part", ["xl/pivotCache/pivotCacheRecords1.xml", "xl/calcChain.xml"])
def test_a_part_that_is_not_parsed_may_be_large(part: str) -> None:
    """What a pivot table has cached, and the order of the formulas, are nothing to a sheet's rows."""
    assert rows(with_part(workbook(["a"], [1]), part, b"<r/>" * 600_000), "a.xlsx") == [Row(2, {"a": 1})]


def test_a_row_beyond_the_last_ends_the_reading() -> None:
    """The rows up to it would be made up, a hundred million of them, one by one."""
    data = rezipped(workbook(["a"], [1], [2]), "xl/worksheets/sheet1.xml", b'<row r="3"', b'<row r="99999999"')
    *_, last = rows(data, "a.xlsx")
    assert isinstance(last, BadRow)
    assert "1,048,576 rows" in last.reason


def test_a_damaged_workbook_tells_where_it_ends() -> None:
    """Rows before the damage are read; what follows is one bad row."""
    data = workbook(["a"], [1], [2])
    broken = rezipped(data, "xl/worksheets/sheet1.xml", b'<row r="3"', b'<row r="3" <<<')
    first, last = rows(broken, "a.xlsx")
    assert first == Row(2, {"a": 1})
    assert isinstance(last, BadRow)
    assert last.reason.startswith("from here on the file can't be read")


def test_a_very_wide_row_ends_the_reading() -> None:
    """One cell at the far right of a million rows would keep a processor busy for an hour."""
    first, last = rows(workbook(["a"], [1], XFD3=1), "a.xlsx")
    assert first == Row(2, {"a": 1})
    assert isinstance(last, BadRow)
    assert "16,384 cells" in last.reason


# --- JSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '[{"a": 1}, {"a": "x"}]',
        ' [ {"a":1}\n,{"a":"x"} ] ',
        '{"rows": [{"a": 1}, {"a": "x"}]}',
        '{"count": 2, "page": {"rows": [1]}, "records": [{"a": 1}, {"a": "x"}], "more": false}',
        '\ufeff{"users":[{"a":1},{"a":"x"}]}',
    ],
)
def test_json_is_an_array_or_holds_one(text: str) -> None:
    """Items are numbered from 1."""
    assert rows(text, "a.json") == [Row(1, {"a": 1}), Row(2, {"a": "x"})]


def test_json_items_that_are_no_rows_are_told() -> None:
    """No object, or one that names a field twice."""
    assert rows('[{"a": 1}, 5, null, {"a": 1, "a": 2}, {"b": {"c": 1, "c": 2}}]', "a.json") == [
        Row(1, {"a": 1}),
        BadRow(2, "it is a JSON int where an object is needed"),
        BadRow(3, "it is a JSON NoneType where an object is needed"),
        BadRow(4, "it names 'a' twice"),
        Row(5, {"b": {"c": 2}}),
    ]


@pytest.mark.parametrize(
    "text", ['[{"a": 1}] [{"a": 2}]', '[{"a": 1}]}', '{"rows": [{"a": 1}]', '{"rows": [{"a": 1}], "more": tr']
)
def test_json_that_does_not_end_where_its_rows_do_is_told(text: str) -> None:
    """A second array behind the first, or an object cut off, may have held more rows."""
    reason = "after the rows the file goes on, or breaks off, where it should end"
    assert rows(text, "a.json") == [Row(1, {"a": 1}), BadRow(2, reason)]


@pytest.mark.parametrize("text", ['[{"a": 1}, {"a": ', '[{"a": 1}, {"a": NaN}]', '[{"a": 1} {"a": 2}]', '[{"a": 1}'])
def test_json_that_breaks_off_tells_where(text: str) -> None:
    """What was whole before is read; the rest is one bad row."""
    first, last = rows(text, "a.json")
    assert first == Row(1, {"a": 1})
    assert isinstance(last, BadRow)
    assert last.line == 2
    assert last.reason.startswith("from here on the file can't be read")


def test_json_lines_stand_alone() -> None:
    """A bad line spoils no other."""
    lines = ['{"a": 1}', "", '{"a": ', "7", '{"a": "\u2028"}', '{"a": Infinity}', '{"a": 2}']
    items = rows("\n".join(lines), "a.jsonl")
    assert [type(item).__name__ for item in items] == ["Row", "BadRow", "BadRow", "Row", "BadRow", "Row"]
    assert [item.line for item in items] == [1, 3, 4, 5, 6, 7]


def test_deep_nesting_is_a_bad_row() -> None:
    """It ends in no recursion error."""
    assert isinstance(rows("[" * 100_000, "a.jsonl")[0], BadRow)
    with pytest.raises(BadCommand):
        open_sheet(b'{"a":' * 100_000, "a.json")


def test_rows_in_the_command_are_numbered() -> None:
    """A roster given inline goes the same way as one from a file."""
    assert list(inline_sheet([{"a": 1}, "x"])) == [
        Row(1, {"a": 1}),
        BadRow(2, "it is a JSON str where an object is needed"),
    ]


# --- From a place ----------------------------------------------------------------------------------------------------


async def test_a_sheet_is_read_from_an_allowed_place(tmp_path: Path) -> None:
    """Its rows come from a thread, in order, however many."""
    data = "id,name\n" + "".join(f"{number},Müller\n" for number in range(2500))
    (tmp_path / "a.csv").write_text(data)
    sheet = await read_sheet(Artifacts(["./"], cwd=tmp_path), "a.csv")
    assert (sheet.format, sheet.encoding, sheet.delimiter, sheet.heading) == ("csv", "utf-8", "comma", ("id", "name"))
    lines = [row.line async for row in sheet]
    assert lines == list(range(2, 2502))


async def test_a_place_that_is_not_allowed_names_the_field(tmp_path: Path) -> None:
    """So does one where nothing is, and one with too much."""
    artifacts = Artifacts(["in/"], cwd=tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text("a,b\n" * 100)
    with pytest.raises(BadCommand, match=r"roster_url: .* outside"):
        await read_sheet(artifacts, "out/a.csv", field="roster_url")
    with pytest.raises(NotFound, match="roster_url"):
        await read_sheet(artifacts, "in/b.csv", field="roster_url")
    with pytest.raises(Invalid, match="roster_url"):
        await read_sheet(artifacts, "in/a.csv", field="roster_url", max_bytes=100)


def test_a_large_sheet_takes_bounded_memory() -> None:
    """Rows are made one after another: of 20,000, only those at hand are there."""
    data = b"id,email,first,last\n" + b"".join(b"%d,user%d@example.com,Ada,Lovelace\n" % (n, n) for n in range(20_000))
    as_json = json.dumps([{"id": n, "email": f"user{n}@example.com", "last": "Lovelace"} for n in range(20_000)])
    for name, content in {"a.csv": data, "a.json": as_json.encode()}.items():
        tracemalloc.start()
        try:
            assert sum(isinstance(row, Row) for row in open_sheet(content, name)) == 20_000
            assert tracemalloc.get_traced_memory()[1] < 3 * len(content)
        finally:
            tracemalloc.stop()

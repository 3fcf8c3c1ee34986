import csv
import io
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.formats import CHECKS, LONGEST_RECORD, Check, CsvCheck, Findings, JsonCheck, XmlCheck


def see(check: Check, data: bytes, size: int = 1 << 20) -> Findings:
    """Feed a check in pieces and ask it."""
    for at in range(0, len(data), size):
        check.feed(data[at : at + size])
    return check.finish()


def check_csv(data: bytes, *, size: int = 1 << 20, encoding: str = "utf-8") -> Findings:
    """Check a whole CSV."""
    return see(CsvCheck(encoding=encoding), data, size)


GOOD = {
    "plain": (b"a,b\n1,2\n3,4\n", 2, 2),
    "crlf": (b"a,b\r\n1,2\r\n", 1, 2),
    "only a heading": (b"a,b,c\n", 0, 3),
    "one column": (b"a\n1\n2\n", 2, 1),
    "one column, blank lines": (b"a\n\n1\n\r\n\n2\n", 2, 1),
    "empty cells": (b"a,b\n,\n,\n", 2, 2),
    "quoted": (b'"a","b"\n"1","2"\n', 1, 2),
    "comma in quotes": (b'a,b\n"1,5",2\n', 1, 2),
    "newline in quotes": (b'a,b\n"line\nanother\n\nthird",2\n3,4\n', 2, 2),
    "newline in quotes in the heading": (b'"a\nb",c\n1,2\n', 1, 2),
    "quotes in quotes": (b'a,b\n"say ""hi"", he said",2\n"""",""\n', 2, 2),
    "backslash before quotes": (b'a,b\n"say \\"hi, you\\", he said",2\n3,4\n', 2, 2),
    "backslash at the end of a cell": (b'a,b\n"C:\\","x,y"\n3,4\n', 2, 2),
    "a quote in a bare cell": (b'a,b\n5" pipe,2\n3,4\n6",7\n', 3, 2),
    "blank lines": (b"a,b\n\n1,2\n\r\n3,4\n\n", 2, 2),
    "byte order mark": (b"\xef\xbb\xbfa,b\n1,2\n", 1, 2),
    "accents": ("é,b\nMüller,2\n".encode(), 1, 2),
    "nul": (b"a,b\n\0,2\n", 1, 2),
}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize("name", GOOD)
def test_a_whole_csv_is_counted(name: str, size: int) -> None:
    """Rows without the heading, and columns, however the bytes are cut into pieces."""
    data, rows, columns = GOOD[name]
    assert check_csv(data, size=size) == Findings(rows=rows, columns=columns)


BAD = {
    "empty": (b"", "is empty"),
    "no newline at the end": (b"a,b\n1,2\n3,4", "Record 3, number 3"),
    "cut in the middle of a row": (b"a,b\n1,2\n3", "cut short"),
    "cut in a heading": (b"a,b", "cut short"),
    "a cell too few": (b"a,b\n1,2\n3\n4,5\n", "Record 3 has 1 cells; the heading has 2"),
    "a cell too many": (b"a,b\n1,2,3\n", "Record 2 has 3 cells"),
    "one more and one less": (b"a,b\n1,2,3\n4\n", "Record 2 has 3 cells"),
    "a quote never closed": (b'a,b\n"1,2\n3,4\n', "Record 2 has a quote that is never closed"),
    "not UTF-8": (b"a,b\n\xe9,2\n", "is not utf-8"),
    "cut in a character": (b"a,b\n1,\xc3", "is not utf-8"),
}


@pytest.mark.parametrize("size", [1, 2, 5, 1 << 20])
@pytest.mark.parametrize(
    ("data", "rows"),
    [(b"a,b\n1,2\n3,4", 2), (b"a,b", 0), (b'a,b\n"x",2', 1), (b"a,b\n1,2\n3", None), (b'a,b\n1,"2', None)],
)
def test_what_lacks_only_its_last_newline_is_known_by_that(data: bytes, rows: int | None, size: int) -> None:
    """Its rows are counted, for whoever knows from elsewhere that the file is whole; a record too short is no such."""
    findings = check_csv(data, size=size)
    assert findings.problem is not None
    assert (findings.unended, findings.rows) == (rows is not None, rows)


@pytest.mark.parametrize("size", [1, 2, 5, 1 << 20])
@pytest.mark.parametrize("name", BAD)
def test_a_csv_that_is_not_whole_is_told(name: str, size: int) -> None:
    """The problem names the record or the byte, however the bytes are cut into pieces."""
    data, problem = BAD[name]
    findings = check_csv(data, size=size)
    assert findings.problem is not None
    assert problem.replace("Record 3, number 3", "The last record, number 3") in findings.problem
    assert findings.unended or (findings.rows, findings.columns) == (None, None)


@pytest.mark.parametrize("padding", [0, 500])
def test_two_stray_quotes_are_no_cell(padding: int) -> None:
    """Inches in bare cells of two rows hide no newline between them, be quotes many or few; real cells stay cells."""
    long = b"x" * padding
    stray = b'5" pipe %s,1\n' % long
    real = b'"a ""b""\n%s,",2\r\n"""%s\n",3\n' % (long, long)
    assert check_csv(b"name,n\n" + (stray + real) * 300) == Findings(rows=900, columns=2)
    assert check_csv(b"name,n\n" + stray + b'6" %s\n' % long).problem is not None


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "cp1252", "iso-8859-1", "utf-32"])
def test_another_encoding_may_be_declared(encoding: str) -> None:
    """A declared encoding is what the bytes are held against."""
    data = "Straße,b\n1,2\n".encode(encoding)
    assert check_csv(data, size=5, encoding=encoding) == Findings(rows=1, columns=2)


def test_an_unknown_encoding_is_a_problem() -> None:
    """The vendor's word for it is repeated."""
    assert "'klingon'" in (check_csv(b"a,b\n", encoding="klingon").problem or "")


def test_a_damaged_row_far_down_is_found() -> None:
    """In the middle of many good blocks, one row with a cell too few is named by its number."""
    rows = [b"%d,x,y,z\n" % number for number in range(300_000)]
    rows[200_000] = b"200000,x,y\n"
    assert check_csv(b"a,b,c,d\n" + b"".join(rows)).problem == "Record 200002 has 3 cells; the heading has 4."


def test_a_record_without_end_is_given_up() -> None:
    """What holds back more than a record may have is a problem, not memory."""
    check = CsvCheck()
    check.feed(b'a,b\n"')
    for _ in range(2 * LONGEST_RECORD // 65536):
        check.feed(b"x,y\n" * 16384)
    assert "never closed" in (check.finish().problem or "")


@given(
    st.lists(
        st.lists(st.text(alphabet='ab,"\n\r\\é '), min_size=3, max_size=3).filter(lambda cells: cells != [""] * 3),
        min_size=1,
        max_size=20,
    ),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.integers(min_value=1, max_value=40),
)
def test_whatever_the_csv_module_writes_is_whole(rows: list[list[str]], quoting: int, size: int) -> None:
    """Any cells, quoted as RFC 4180 has it, are counted as they were written."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=quoting)  # type: ignore[arg-type] # typeshed wants the literal
    writer.writerow(["id", "name", "x"])
    writer.writerows(rows)
    assert check_csv(text.getvalue().encode(), size=size) == Findings(rows=len(rows), columns=3)


@given(
    st.lists(st.lists(st.text(alphabet="abc é", min_size=1), min_size=2, max_size=4), min_size=1, max_size=30),
    st.integers(min_value=1, max_value=40),
)
def test_rows_of_different_width_never_pass(rows: list[list[str]], size: int) -> None:
    """A row that is not as wide as the heading is found, however many good ones stand around it."""
    data = "h,i,j\n" + "".join(",".join(row) + "\n" for row in rows)
    findings = check_csv(data.encode(), size=size)
    assert (findings.problem is None) == all(len(row) == 3 for row in rows)


@pytest.mark.parametrize("data", [b"[]", b" [1, 2]\n", b'\xef\xbb\xbf{"a": 1}\r\n', b'[{"a": "\xc3\xa9"}]'])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_json_ends_with_the_partner_of_its_beginning(data: bytes, size: int) -> None:
    """An array or an object that is closed passes."""
    assert see(JsonCheck(), data, size) == Findings()


@pytest.mark.parametrize("data", [b"", b"  ", b"[1, 2", b"[1}", b'{"a": 1]', b"<html>", b'["\xe9"]', b'["\xc3'])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_json_that_is_cut_short_is_told(data: bytes, size: int) -> None:
    """What is not closed, or is something else, does not pass."""
    assert see(JsonCheck(), data, size).problem is not None


WHOLE_XML: list[bytes | str] = [
    b"<a/>",
    b"<a><b/></a>",
    b'<?xml version="1.0"?>\n<!-- x -->\n<ns:root a="1">x</ns:root >\n<!-- end -->\n',
    b"<!DOCTYPE r [<!ELEMENT r ANY>]><r>1</r>",
    '<?xml version="1.0" encoding="iso-8859-1"?><a>é</a>',
]


@pytest.mark.parametrize("data", WHOLE_XML)
def test_xml_ends_with_its_first_element(data: bytes | str) -> None:
    """The document element's own end tag, or none where it is empty, with comments after it."""
    assert see(XmlCheck(), data if isinstance(data, bytes) else data.encode("iso-8859-1")) == Findings()


@pytest.mark.parametrize("data", [b"", b"x", b"<a>", b"<a><b></b>", b"<a></a", b"<a></b>", b"<a>\xff</a>", b"{}"])
def test_xml_that_is_cut_short_is_told(data: bytes) -> None:
    """What lacks its end, or is something else, does not pass."""
    assert see(XmlCheck(), data).problem is not None


def test_the_end_of_a_long_xml_is_looked_for_at_its_end() -> None:
    """Only the beginning and the end are kept."""
    data = b"<rows>" + b"<row>1</row>" * 100_000
    assert see(XmlCheck(), data + b"</rows>", 65_536) == Findings()
    assert see(XmlCheck(), data, 65_536).problem is not None


@pytest.mark.parametrize(("format", "kind"), [("csv", CsvCheck), ("json", JsonCheck), ("xml", XmlCheck)])
def test_each_format_of_a_report_has_its_check(format: str, kind: Callable[[], Check]) -> None:
    """CSV, JSON and XML."""
    assert CHECKS[format] is kind

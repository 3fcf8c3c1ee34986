import csv
import io
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.csv_check import LONGEST_RECORD, CsvCheck
from worker.csv_records import Counting, count_plain, load
from worker.formats import Findings


def compiled() -> Counting:
    """Give the counting in C; skips where it can't be had, and fails where it could."""
    if count_plain is None:
        if shutil.which("cc") is None:
            pytest.skip("worker/csv_records.c is not compiled, and there is no C compiler (cc).")
        pytest.fail("worker/csv_records.c is not compiled: make .venv again.", pytrace=False)
    return count_plain


@pytest.fixture(scope="module", params=["compiled", "python"])
def counting(request: pytest.FixtureRequest) -> Counting | None:
    """Give both ways to count plain records, which must come to the same."""
    return None if request.param == "python" else compiled()


def check_csv(counting: Counting | None, data: bytes, *, size: int = 1 << 20, encoding: str = "utf-8") -> Findings:
    """Check a whole CSV that comes in pieces."""
    check = CsvCheck(encoding=encoding, count=counting)
    for at in range(0, len(data), size):
        check.feed(data[at : at + size])
    return check.finish()


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
def test_a_whole_csv_is_counted(name: str, size: int, counting: Counting | None) -> None:
    """Rows without the heading, and columns, however the bytes are cut into pieces."""
    data, rows, columns = GOOD[name]
    assert check_csv(counting, data, size=size) == Findings(rows=rows, columns=columns)


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
def test_what_lacks_only_its_last_newline_is_known_by_that(
    data: bytes, rows: int | None, size: int, counting: Counting | None
) -> None:
    """Its rows are counted, for whoever knows from elsewhere that the file is whole; a record too short is no such."""
    findings = check_csv(counting, data, size=size)
    assert findings.problem is not None
    assert (findings.unended, findings.rows) == (rows is not None, rows)


@pytest.mark.parametrize("size", [1, 2, 5, 1 << 20])
@pytest.mark.parametrize("name", BAD)
def test_a_csv_that_is_not_whole_is_told(name: str, size: int, counting: Counting | None) -> None:
    """The problem names the record or the byte, however the bytes are cut into pieces."""
    data, problem = BAD[name]
    findings = check_csv(counting, data, size=size)
    assert findings.problem is not None
    assert problem.replace("Record 3, number 3", "The last record, number 3") in findings.problem
    assert findings.unended or (findings.rows, findings.columns) == (None, None)


@pytest.mark.parametrize("padding", [0, 500])
def test_two_stray_quotes_are_no_cell(padding: int, counting: Counting | None) -> None:
    """Inches in bare cells of two rows hide no newline between them, be quotes many or few; real cells stay cells."""
    long = b"x" * padding
    stray = b'5" pipe %s,1\n' % long
    real = b'"a ""b""\n%s,",2\r\n"""%s\n",3\n' % (long, long)
    assert check_csv(counting, b"name,n\n" + (stray + real) * 300) == Findings(rows=900, columns=2)
    assert check_csv(counting, b"name,n\n" + stray + b'6" %s\n' % long).problem is not None


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "cp1252", "iso-8859-1", "utf-32"])
def test_another_encoding_may_be_declared(encoding: str, counting: Counting | None) -> None:
    """A declared encoding is what the bytes are held against."""
    data = "Straße,b\n1,2\n".encode(encoding)
    assert check_csv(counting, data, size=5, encoding=encoding) == Findings(rows=1, columns=2)


def test_an_unknown_encoding_is_a_problem(counting: Counting | None) -> None:
    """The vendor's word for it is repeated."""
    assert "'klingon'" in (check_csv(counting, b"a,b\n", encoding="klingon").problem or "")


def test_a_damaged_row_far_down_is_found(counting: Counting | None) -> None:
    """In the middle of many good blocks, one row with a cell too few is named by its number."""
    rows = [b"%d,x,y,z\n" % number for number in range(300_000)]
    rows[200_000] = b"200000,x,y\n"
    assert check_csv(counting, b"a,b,c,d\n" + b"".join(rows)).problem == "Record 200002 has 3 cells; the heading has 4."


def test_a_record_without_end_is_given_up(counting: Counting | None) -> None:
    """What holds back more than a record may have is a problem, not memory."""
    check = CsvCheck(count=counting)
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
def test_whatever_the_csv_module_writes_is_whole(
    counting: Counting | None, rows: list[list[str]], quoting: int, size: int
) -> None:
    """Any cells, quoted as RFC 4180 has it, are counted as they were written."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=quoting)  # type: ignore[arg-type] # typeshed wants the literal
    writer.writerow(["id", "name", "x"])
    writer.writerows(rows)
    assert check_csv(counting, text.getvalue().encode(), size=size) == Findings(rows=len(rows), columns=3)


@given(
    st.lists(st.lists(st.text(alphabet="abc é", min_size=1), min_size=2, max_size=4), min_size=1, max_size=30),
    st.integers(min_value=1, max_value=40),
)
def test_rows_of_different_width_never_pass(counting: Counting | None, rows: list[list[str]], size: int) -> None:
    """A row that is not as wide as the heading is found, however many good ones stand around it."""
    data = "h,i,j\n" + "".join(",".join(row) + "\n" for row in rows)
    findings = check_csv(counting, data.encode(), size=size)
    assert (findings.problem is None) == all(len(row) == 3 for row in rows)


CELLS = [
    "",
    "a",
    "é",
    '"q"',
    '"x,y"',
    '"1\n2"',
    '"say ""hi"""',
    '5"',
    '6" pipe',
    '"12" pipe"',
    '"a"b',
    '"\\"',
    '\\"',
    '"a\\",b"',
    '"a"\r"b"',
    '"a"\\"b',
    "\\,",
    "C:\\x",
    "\r",
    '"',
    "\\",
]
PLAIN = ["", "1", "é", "東京", "a longer one, " * 7, "x" * 64, 'say "hi"', '"', '""', "1\n2", "\r\n"]
ENDS = ["\n", "\n", "\r\n", "\n\n", ""]


@given(
    st.binary(max_size=60)
    | st.lists(st.lists(st.sampled_from(CELLS), min_size=1, max_size=3).map(",".join), max_size=8).flatmap(
        lambda lines: st.lists(st.sampled_from(ENDS), min_size=len(lines), max_size=len(lines)).map(
            lambda ends: "".join(map("".join, zip(lines, ends, strict=True))).encode()
        )
    ),
    st.integers(1, 200),
    st.sampled_from(["a", "a,b"]),
    st.integers(0, 70),
    st.integers(0, 3),
)
@example(b'\r"x,y"\n', 30, "a,b", 0, 0)
@example(b'\\","q,\n"\n', 30, "a,b", 0, 0)
@example(b'5" pipe,"two, and\nthree"\n', 24, "a,b", 0, 0)
@example(b'"q,\n"\r\n\\"x\n', 8, "a", 0, 0)
@example(b'"a\\",b","2"\n\\""a\\",b","2"\n', 8, "a,b", 0, 0)
def test_compiled_or_not_and_however_it_is_cut_the_findings_are_the_same(
    data: bytes, size: int, heading: str, before: int, after: int
) -> None:
    """
    Whatever comes, broken or not; of several things that are wrong either may be told.

    What stands before and after moves it to where the C code begins to look at 64 bytes, or ends.
    """
    plain = ",".join("é1" for _ in heading.split(",")) + "\n"
    longer = f'"{"x" * before}"{plain[2:]}'.encode()
    data = f"{heading}\n".encode() + longer + data + 100 * after * plain.encode()
    found = [check_csv(counting, data, size=cut) for counting in (compiled(), None) for cut in (size, 1 << 20)]
    assert len({each.problem is None for each in found}) == 1
    assert len({(each.rows, each.columns, each.unended) for each in found}) == 1


@pytest.mark.parametrize("row", [b'5" pipe,two\n', b'5" pipe,"two, and\nthree"\n', b'say "hi","two"\n'])
def test_without_the_library_inches_in_bare_cells_are_read_at_speed(row: bytes) -> None:
    """Not record by record, which takes a dozen times as long as the csv module does."""
    data = b"a,b\n" + row * 10_000

    def spent(read: Callable[[], object]) -> float:
        began = time.process_time()
        read()
        return time.process_time() - began

    ours = min(spent(lambda: check_csv(None, data)) for _ in range(3))
    assert ours < 5 * min(spent(lambda: list(csv.reader(io.StringIO(data.decode())))) for _ in range(3))


@pytest.mark.parametrize("cell", PLAIN)
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("width", [2, 3])
def test_what_is_plain_is_counted_to_its_end(cell: str, ending: str, width: int) -> None:
    """Nothing of it is left to the slower ways, wherever it stands among 64 bytes."""
    text = io.StringIO()
    csv.writer(text, lineterminator=ending).writerows([[str(10**at), *[cell] * (width - 1)] for at in range(300)])
    data = text.getvalue().encode()
    assert compiled()(data, 0, width) == (300, len(data), False)
    assert compiled()(b"x" * 7 + data, 7, width) == (300, 7 + len(data), False)


@pytest.mark.parametrize("cell", ['"12" pipe"', '"say \\"hi\\""', '"a"b', '6" pipe'])
def test_quotes_that_nobody_doubled_leave_nothing_to_the_slower_ways(cell: str) -> None:
    """One such cell in a block would have had the rest of it read a hundred times slower."""
    data = f"1,{cell}\n".encode() * 300
    assert compiled()(data, 0, 2) == (300, len(data), False)


@given(st.binary(max_size=40) | st.binary(min_size=20, max_size=60).map(lambda some: some * 6), st.integers(1, 4))
def test_only_whole_characters_are_plain(data: bytes, cells: int) -> None:
    """What was counted is UTF-8, ends with a newline, and is what the csv module reads."""
    records, end, _ = compiled()(data, 0, cells)
    assert data[:end] == b"" or data[:end].endswith(b"\n")
    text = data[:end].decode().replace("\0", "0")
    lines = [line.replace("\r", "") + "\n" for line in text.split("\n")[:-1]]
    assert [len(record) for record in csv.reader(lines) if record] == [cells] * records


def test_a_quoted_cell_of_several_lines_may_lack_only_the_last_newline(counting: Counting | None) -> None:
    """The newline inside it is not the one that ends the record."""
    found = check_csv(counting, b'a,b\n1,2\n3,"x\ny"')
    assert (found.unended, found.rows) == (True, 2)


def test_without_the_library_there_is_no_counting(tmp_path: Path) -> None:
    """Nothing there, or nothing that can be loaded, is no error: the check does without."""
    (tmp_path / "_csv_records.so").write_bytes(b"no library")
    assert load(tmp_path / "nothing.so") is None
    assert load(tmp_path / "_csv_records.so") is None


def test_pieces_of_any_size_do(counting: Counting | None) -> None:
    """A piece as large as the longest record, with a cell of several lines at its end, is no record without end."""
    rows = b'41800,"several\nlines, in a cell"\n' * 300_000
    assert check_csv(counting, b"a,b\n" + rows, size=LONGEST_RECORD) == Findings(rows=300_000, columns=2)


@pytest.mark.parametrize("size", [len(b"a,b\n") + 65536 + at for at in range(0, 30, 3)])
def test_a_quote_in_a_bare_cell_ends_nothing_at_the_edge_of_a_piece(counting: Counting | None, size: int) -> None:
    """Beside a cell of several lines that the edge cuts."""
    rows = b'5" pipe,"two, and\nthree"\n' * 10_000
    assert check_csv(counting, b"a,b\n" + rows, size=size) == Findings(rows=10_000, columns=2)

import pytest

from worker.formats import Check, Findings, JsonCheck, XmlCheck


def see(check: Check, data: bytes, size: int = 1 << 20) -> Findings:
    """Feed a check in pieces and ask it."""
    for at in range(0, len(data), size):
        check.feed(data[at : at + size])
    return check.finish()


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
@pytest.mark.parametrize("size", [1, 3, 100])
def test_xml_ends_with_its_first_element(data: bytes | str, size: int) -> None:
    """The document element's own end tag, or none where it is empty, with comments after it."""
    assert see(XmlCheck(), data if isinstance(data, bytes) else data.encode("iso-8859-1"), size) == Findings()


@pytest.mark.parametrize("data", [b"", b"x", b"<a>", b"<a><b></b>", b"<a></a", b"<a></b>", b"<a>\xff</a>", b"{}"])
def test_xml_that_is_cut_short_is_told(data: bytes) -> None:
    """What lacks its end, or is something else, does not pass."""
    assert see(XmlCheck(), data).problem is not None


def test_the_end_of_a_long_xml_is_looked_for_at_its_end() -> None:
    """Only the beginning and the end are kept."""
    data = b"<rows>" + b"<row>1</row>" * 100_000
    assert see(XmlCheck(), data + b"</rows>", 65_536) == Findings()
    assert see(XmlCheck(), data, 65_536).problem is not None

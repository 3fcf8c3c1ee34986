"""Field names: ours and the vendor's, read and written from one declaration."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import BadCommand
from worker.vocabulary import Vocabulary, snake_case

INNER = Vocabulary.of("unitNumber", id="_id")
ONE = Vocabulary.of("name", "unitNumber", "units", id="_id", status=("status", "availability"), nested={"units": INNER})


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("name", "name"),
        ("unitNumber", "unit_number"),
        ("brochurePDF", "brochure_pdf"),
        ("groupSVGUrl", "group_svg_url"),
        ("isOwner", "is_owner"),
    ],
)
def test_names_in_camel_case_become_snake_case(theirs: str, ours: str) -> None:
    """Our name of a documented field follows from the vendor's."""
    assert snake_case(theirs) == ours


def test_the_first_name_that_is_present_is_read() -> None:
    """Of several names of a field the first counts; the other stays as it came."""
    assert ONE.read({"availability": "A"}) == {"status": "A"}
    assert ONE.read({"availability": "A", "status": "S"}) == {"availability": "A", "status": "S"}
    assert ONE.read({"status": "S", "availability": "A"}) == {"status": "S", "availability": "A"}


def test_a_second_id_does_not_take_the_place_of_the_first() -> None:
    """An object with `_id` and `id` is known by `_id`."""
    assert ONE.read({"_id": "1", "id": "2"}) == ONE.read({"id": "2", "_id": "1"}) == {"id": "1"}


def test_unknown_fields_stay_as_they_came() -> None:
    """What nobody documents is kept under the vendor's own name."""
    assert ONE.read({"houseStyle": {"aB": 1}}) == {"houseStyle": {"aB": 1}}


@pytest.mark.parametrize("units", [[{"unitNumber": 1}, "an id"], [], None, "text"])
def test_objects_inside_are_read_in_their_own_vocabulary(units: Any) -> None:
    """Nested objects are translated, everything else in their place is kept."""
    read = [{"unit_number": 1}, "an id"] if units and isinstance(units, list) else units

    assert ONE.read({"units": units}) == {"units": read}


def test_an_objects_spelling_is_what_it_uses() -> None:
    """The spelling names fields with several names only, and those that the object has."""
    assert ONE.spelling({"availability": 1, "name": "x"}) == {"status": "availability"}
    assert ONE.spelling({"name": "x"}) == {}


def test_fields_are_written_as_spelled() -> None:
    """Never under both names: as spelled, else the default."""
    assert ONE.write({"status": "S", "unit_number": 1}, {"status": "availability"}) == {
        "availability": "S",
        "unitNumber": 1,
    }
    assert ONE.write({"status": "S"}) == {"status": "S"}
    assert ONE.write({"availability": "S"}) == {"status": "S"}
    assert ONE.write({"status": "S"}, {"status": "something else"}) == {"status": "S"}


def test_the_same_field_in_two_languages_is_refused() -> None:
    """Which of the two values is meant, nobody can tell."""
    with pytest.raises(BadCommand, match="unitNumber and unit_number are the same field"):
        ONE.write({"unit_number": 1, "unitNumber": 2})


def test_an_operators_name_is_the_only_one() -> None:
    """A configured name replaces the documented ones, and needs no spelling; other keys of the map are not ours."""
    configured = ONE.configured({"status": "state", "last_login": "lastLogin"})

    assert configured.read({"state": "S", "availability": "A"}) == {"status": "S", "availability": "A"}
    assert configured.ambiguous({"status": 1}) == set()
    assert configured.write({"status": "S"}) == {"state": "S"}
    assert ONE.ambiguous({"availability": 1, "name": 2}) == {"status"}


@given(st.dictionaries(st.sampled_from(["_id", "name", "unitNumber", "status", "other"]), st.integers()))
def test_what_was_read_is_written_back_alike(theirs: dict[str, int]) -> None:
    """Reading and writing are each other's inverse, whatever fields an object has."""
    assert ONE.write(ONE.read(theirs), ONE.spelling(theirs)) == theirs

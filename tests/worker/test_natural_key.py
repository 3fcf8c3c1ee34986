"""Natural keys: what is the same, and what a command names."""

from typing import Any

import pytest

from worker.errors import BadCommand
from worker.natural_key import folded, natural_key, same


@pytest.mark.parametrize(
    ("one", "other"),
    [(2, 2.0), (2, "2"), ("2.0", 2), ("a ", "a"), ({"_id": "x"}, "x"), ("x", {"id": "x", "name": "n"}), (None, None)],
)
def test_what_a_vendor_takes_for_one(one: Any, other: Any) -> None:
    """A number is its text, a reference its id, and space around text says nothing."""
    assert same(one, other)
    assert same(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("01", "1"),
        ("1.0", "1"),
        (True, 1),
        (1, True),
        (None, ""),
        (None, 0),
        ("a", "A"),
        (1, "1_0"),
        (10, "1_0"),
        ([], ""),
    ],
)
def test_what_a_vendor_tells_apart(one: Any, other: Any) -> None:
    """Texts are names, letter by letter; true is no number; nothing is not empty."""
    assert not same(one, other)
    assert not same(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Zo\u00eb@x.y", "ZOE\u0308@x.y"),  # one character, or a letter and its dots
        ("ada@x.y", "\uff41\uff44\uff41@x.y"),  # full-width
        ("ada@x.y", "\u200bada@x.y\u200e"),  # a zero-width space, a mark of direction
        ("ada@x.y", "ada@x.y\u00a0"),
        ("STRASSE", "straße"),
    ],
)
def test_a_name_is_one_however_it_is_spelled(one: str, other: str) -> None:
    """What reads the same signs in the same person: case, composed letters, width, what nobody sees."""
    assert folded(one, other)
    assert folded(other, one)


def test_text_is_one_with_its_accents_composed_or_not() -> None:
    """A Mac writes é as two characters; another case is another text."""
    assert same("Ren\u00e9", "Rene\u0301")
    assert not same("Ren\u00e9", "REN\u00c9")


def test_the_default_key_leaves_out_what_the_command_leaves_empty() -> None:
    """Without `match_on` the default fields count, as far as they are given."""
    assert natural_key({"name": "n", "floor": None}, None, ("floor", "name")) == {"name": "n"}


def test_match_on_needs_values() -> None:
    """A key of empty fields would fit everything."""
    with pytest.raises(BadCommand, match="leaves empty"):
        natural_key({"name": None}, ["name"], ("name",))
    with pytest.raises(BadCommand, match="tells one object from another"):
        natural_key({"name": "n"}, [], ("name",))

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, TypeAdapter, ValidationError

from config.values import Secret, parse_duration, parse_size

SECRETS: TypeAdapter[SecretStr] = TypeAdapter(Secret)


def secret(value: Any, environ: dict[str, str] | None = None) -> str:
    """Resolve a secret in an environment."""
    return SECRETS.validate_python(value, context={"environ": environ or {}}).get_secret_value()


def why(value: Any, environ: dict[str, str] | None = None) -> str:
    """Give the sentence that refuses a secret."""
    with pytest.raises(ValidationError) as caught:
        secret(value, environ)
    return str(caught.value.errors()[0]["ctx"]["error"])


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("250ms", timedelta(milliseconds=250)),
        ("25s", timedelta(seconds=25)),
        ("5m", timedelta(minutes=5)),
        ("1h", timedelta(hours=1)),
        ("1d", timedelta(days=1)),
        ("0s", timedelta(0)),
        ("1.5h", timedelta(minutes=90)),
        ("0.1s", timedelta(milliseconds=100)),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, duration: timedelta) -> None:
    """Milliseconds, seconds, minutes, hours, days."""
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    "value",
    [25, 2.5, True, None, "", "25", "s", "-5s", "5 s", "5S", "5min", "1h30m", "1e3s", "\u0665s", "inf", "5s\n", []],
)
def test_anything_else_is_no_duration(value: object) -> None:
    """A number without a unit could be anything, so it is an error that shows how to write one."""
    with pytest.raises(ValueError, match=r'must be a duration; .* "250ms"'):
        parse_duration(value)


@pytest.mark.parametrize("text", ["3650.1d", "999999999.999999d"])
def test_a_duration_of_more_than_ten_years_is_refused(text: str) -> None:
    """Added to an instant it would leave the calendar."""
    with pytest.raises(ValueError, match="longer than ten years"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=87_600))
def test_whole_durations_are_exact(number: int) -> None:
    """No rounding creeps in."""
    assert parse_duration(f"{number}ms") == timedelta(milliseconds=number)
    assert parse_duration(f"{number}h") == timedelta(hours=number)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("16MiB", 16 * 2**20),
        ("64KiB", 65_536),
        ("1GiB", 2**30),
        ("512B", 512),
        ("1kB", 1000),
        ("2MB", 2_000_000),
        (7, 7),
    ],
)
def test_a_size_is_a_number_and_a_unit(value: object, size: int) -> None:
    """Binary and decimal units; a bare number is bytes."""
    assert parse_size(value) == size


@pytest.mark.parametrize("value", ["16", "16 MiB", "16mib", "1.5MiB", "-1B", "MiB", True, 2.5, None, "16MiB\n"])
def test_anything_else_is_no_size(value: object) -> None:
    """The error lists the units."""
    with pytest.raises(ValueError, match=r"must be a size; .*KiB, MiB, GiB"):
        parse_size(value)


def test_a_secret_may_be_a_literal() -> None:
    """As it stands."""
    assert secret("hunter2") == "hunter2"


def test_a_secret_may_be_in_the_environment() -> None:
    """`{ env = "NAME" }`."""
    assert secret({"env": "ACME"}, {"ACME": "hunter2"}) == "hunter2"


@pytest.mark.parametrize("content", [b"hunter2", b"hunter2\n", b"hunter2\r\n"])
def test_a_secret_may_be_in_a_file(tmp_path: Path, content: bytes) -> None:
    """`{ file = "path" }`; the line break that editors add is no part of it."""
    file = tmp_path / "secret"
    file.write_bytes(content)
    assert secret({"file": str(file)}) == "hunter2"


def test_spaces_belong_to_a_secret(tmp_path: Path) -> None:
    """Only the last line break is dropped."""
    file = tmp_path / "secret"
    file.write_bytes(b" hunter 2 \n")
    assert secret({"file": str(file)}) == " hunter 2 "


def test_a_variable_that_is_not_set_is_named() -> None:
    """The operator must know which."""
    assert why({"env": "ACME"}) == "names the environment variable ACME, which is not set; set it"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """With what the system says."""
    file = tmp_path / "nowhere"
    assert why({"file": str(file)}) == (
        f"names the file {file}, which can't be read (No such file or directory); make it readable"
    )


def test_a_folder_is_no_secret(tmp_path: Path) -> None:
    """A mount that went wrong leaves a folder behind."""
    assert "can't be read (Is a directory)" in why({"file": str(tmp_path)})


def test_a_file_that_is_not_text_is_refused_without_its_content(tmp_path: Path) -> None:
    """A key in binary form was not meant."""
    file = tmp_path / "secret"
    file.write_bytes(b"\xff\xfehunter2")
    said = why({"file": str(file)})
    assert "is not text in UTF-8" in said
    assert "hunter2" not in said


def test_a_file_that_is_too_long_is_refused(tmp_path: Path) -> None:
    """It is the wrong file."""
    file = tmp_path / "secret"
    file.write_bytes(b"x" * 65_537)
    assert "longer than 65,536 bytes" in why({"file": str(file)})


def test_an_empty_secret_is_refused(tmp_path: Path) -> None:
    """An empty variable or file is a mistake in the deployment, and signing in with it would only tell so later."""
    file = tmp_path / "secret"
    file.write_bytes(b"\n")
    assert why("") == "is empty: the text holds nothing; give the secret, or leave the key out"
    assert "the environment variable ACME holds nothing" in why({"env": "ACME"}, {"ACME": ""})
    assert f"the file {file} holds nothing" in why({"file": str(file)})


@pytest.mark.parametrize(
    "value", [5, True, ["hunter2"], {}, {"env": "A", "file": "b"}, {"env": 5}, {"vault": "hunter2"}, {"ENV": "A"}]
)
def test_anything_else_is_no_secret(value: object) -> None:
    """The error shows the three ways, and not what was given."""
    said = why(value, {"A": "x"})
    assert said == 'must be a secret; write it in quotes, or { env = "NAME" }, or { file = "path" }'

"""
What settings are made of: sections, durations, sizes, counts and secrets, each with an error that says how to write it.

An error never repeats the value: somebody may have put a password in the wrong place.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationInfo

_UNITS: Final = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)")

_LONGEST: Final = timedelta(days=3650)
"""Added to any instant, it stays within the calendar."""

_SIZES: Final = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_SIZE: Final = re.compile(r"([0-9]{1,12})(B|kB|MB|GB|KiB|MiB|GiB)")

_SECRET_LIMIT: Final = 64 * 1024
"""Bytes of a secret's file: a key or a token is far shorter, and anything longer is the wrong file."""


class Section(BaseModel):
    """A table of the settings: frozen, every key known, no value repeated in an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)


def parse_duration(value: Any) -> timedelta:
    """Read `"250ms"`, `"25s"`, `"1.5h"`, …; a timedelta stays what it is, anything else raises `ValueError`."""
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('must be a duration; write a number and ms, s, m, h or d in quotes, like "250ms" or "5m"')
    duration = float(match[1]) * _UNITS[match[2]]
    if duration > _LONGEST:
        raise ValueError("is longer than ten years; write a shorter duration")
    return duration


def parse_size(value: Any) -> int:
    """Read `"16MiB"`, `"64KiB"`, … as bytes; a number of bytes stays what it is, anything else raises `ValueError`."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        units = ", ".join(_SIZES)
        raise ValueError(f'must be a size; write a whole number and a unit in quotes, like "16MiB" (units: {units})')
    return int(match[1]) * _SIZES[match[2]]


def _whole(value: Any) -> Any:
    if isinstance(value, bool | float):
        raise ValueError("must be a whole number")  # noqa: TRY004 - pydantic collects ValueErrors only
    return value


def _flag(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, str) and value.lower() in {"true", "false"}):
        return value
    raise ValueError("must be true or false")


def resolve_secret(value: Any, info: ValidationInfo) -> Any:
    """
    Give the secret that a setting names: a literal, `{ env = "NAME" }` or `{ file = "path" }`.

    The environment is the validation context's, else the process's. A file's trailing line break is not part of it.
    """
    context = info.context if isinstance(info.context, Mapping) else {}
    match value:
        case None | SecretStr():
            return value
        case str():
            secret, origin = value, "the text"
        case {"env": str(name)} if len(value) == 1:
            environ: Mapping[str, str] = context.get("environ", os.environ)
            if name not in environ:
                raise ValueError(f"names the environment variable {name}, which is not set; set it")
            secret, origin = environ[name], f"the environment variable {name}"
        case {"file": str(name)} if len(value) == 1:
            secret, origin = _read_secret(Path(name)), f"the file {name}"
        case _:
            raise ValueError('must be a secret; write it in quotes, or { env = "NAME" }, or { file = "path" }')
    if not secret:
        raise ValueError(f"is empty: {origin} holds nothing; give the secret, or leave the key out")
    return secret


def _read_secret(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_SECRET_LIMIT + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"names the file {path}, which can't be read ({reason}); make it readable") from None
    if len(content) > _SECRET_LIMIT:
        raise ValueError(f"names the file {path}, which is longer than {_SECRET_LIMIT:,} bytes; name a secret's file")
    try:
        return content.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"names the file {path}, which is not text in UTF-8; write the secret as text") from None


def _not_negative(value: timedelta) -> timedelta:
    if value < timedelta(0):
        raise ValueError("must not be negative")
    return value


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError('must be more than 0; write one like "5s"')
    return value


Duration = Annotated[timedelta, BeforeValidator(parse_duration), AfterValidator(_not_negative)]
"""A time span; `"250ms"`, `"25s"`, `"5m"`, `"1h"`, `"1d"`."""

PositiveDuration = Annotated[timedelta, BeforeValidator(parse_duration), AfterValidator(_positive)]
"""A time span that is not 0."""

Size = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]
"""Bytes; `"16MiB"`."""

Count = Annotated[int, BeforeValidator(_whole), Field(ge=1)]
"""A whole number from 1."""

Port = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=65_535)]
"""A TCP port; 0 where that means off."""

Flag = Annotated[bool, BeforeValidator(_flag)]
"""True or false."""

Secret = Annotated[SecretStr, BeforeValidator(resolve_secret)]
"""A text that is never shown."""

"""
A connection: one tenant's account at one vendor's API, as the operator configures it.

Knows no vendor: which credentials a system needs is checked by its slice, here only that they are whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo, model_validator

from config.shape import nearest
from config.values import Count, Secret, Section

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What a connection, a schedule or a limit key may be called."""

_PACE: Final = re.compile(r"([0-9]{1,9})/([smhd])")
_PER: Final = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_TYPE_PATTERN: Final = re.compile(r"[a-z0-9_.]+\*?|\*")
_UNPRINTABLE: Final = re.compile(r"[\x00-\x20\x7f]")


@dataclass(frozen=True, slots=True)
class Pace:
    """At most `count` requests in any stretch of `per`."""

    count: int
    per: timedelta


def parse_pace(value: Any) -> Pace:
    """Read `"20/s"`, `"100/m"`, `"5000/h"`, …; a `Pace` stays what it is, anything else raises `ValueError`."""
    if isinstance(value, Pace):
        return value
    match = _PACE.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(match[1]) == 0:
        raise ValueError('must be a pace; write requests per s, m, h or d in quotes, like "20/s" or "100/m"')
    return Pace(int(match[1]), _PER[match[2]])


def check_name(value: str) -> str:
    """Give a name back; one that can't be a metric's label and a part of a key raises `ValueError`."""
    if not NAME.fullmatch(value):
        raise ValueError("must be a name; write up to 100 letters, digits, dots, dashes and underscores")
    return value


def _check_base_url(value: str) -> str:
    remedy = "write it like https://acme.example.com"
    if _UNPRINTABLE.search(value):
        raise ValueError(f"must be a URL without spaces; {remedy}")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError(f"must be a URL; {remedy}") from None
    if parts.scheme not in {"http", "https"}:
        raise ValueError(f"must be an http or https URL; {remedy}")
    if not parts.hostname or port == 0:
        raise ValueError(f"must name a host; {remedy}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must hold no credentials; write them as username and password, client_id and so on")
    if parts.query or parts.fragment or value.endswith(("?", "#")):
        raise ValueError(f"must end with the host or a path, without ? or #; {remedy}")
    return value.rstrip("/")


def _check_path(value: str) -> str:
    if not value.startswith("/") or _UNPRINTABLE.search(value) or "?" in value or "#" in value:
        raise ValueError("must be a path that begins with /, without spaces, ? or #; write it like /api/units/{id}")
    return value


def _check_prefix(value: str) -> str:
    return _check_path(value).rstrip("/") if value else value


def _check_patterns(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise ValueError("must name at least one; leave it out to allow all")
    return value


def _check_type_patterns(value: tuple[str, ...]) -> tuple[str, ...]:
    if not all(_TYPE_PATTERN.fullmatch(pattern) for pattern in value):
        raise ValueError('must be command types, or how they begin and *; write them like "planpoint.unit.*"')
    return _check_patterns(value)


def _check_protected(value: tuple[str, ...]) -> tuple[str, ...]:
    if not all(pattern.removeprefix("id:").strip() for pattern in value):
        raise ValueError('must be user names or ids, * for any part; write them like "*@acme.example" or "id:42"')
    return value


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _check_system(value: str, info: ValidationInfo) -> str:
    """Hold a system against those that the validation's context names, if it names any."""
    known = info.context.get("systems") if isinstance(info.context, Mapping) else None
    if known is not None and value not in known:
        near = nearest(value, known)
        raise ValueError("is not known; " + (f"did you mean {near}?" if near else f"known: {', '.join(sorted(known))}"))
    return value


class Override(Section):
    """What one operation really looks like at this tenant, where the built-in knowledge is an assumption."""

    method: Annotated[Literal["GET", "POST", "PUT", "PATCH", "DELETE"], BeforeValidator(_upper)] | None = None
    path: Annotated[str, AfterValidator(_check_path)] | None = None
    fields: Mapping[str, str] = Field(default_factory=dict)
    """Our name = the vendor's JSON key, for this operation only."""


class Connection(Section):
    """
    One tenant at one system.

    `api_prefix` None means the system's own default. `limit_key` is what the vendor counts its limit against:
    connections with one limit key share one gate.
    """

    name: Annotated[str, AfterValidator(check_name)]
    limit_key: Annotated[str, AfterValidator(check_name)] = Field(default_factory=lambda given: given["name"])
    system: Annotated[str, AfterValidator(_check_system)]
    base_url: Annotated[str, AfterValidator(_check_base_url)]
    api_prefix: Annotated[str, AfterValidator(_check_prefix)] | None = None

    username: str | None = Field(default=None, min_length=1)
    password: Secret | None = None
    client_id: str | None = Field(default=None, min_length=1)
    client_secret: Secret | None = None
    token: Secret | None = None
    auth: Literal["bearer", "raw"] = "bearer"

    reserve: float = Field(default=0.1, ge=0, lt=1)
    """Share of the vendor's points kept for commands on one object while any of them waits."""
    max_in_flight: Count = 8
    pace: Annotated[Pace, BeforeValidator(parse_pace)] | None = None

    protected_users: Annotated[tuple[str, ...], AfterValidator(_check_protected)] = ()
    allowed_users: Annotated[tuple[str, ...], AfterValidator(_check_patterns)] | None = None
    """Broker users that may use it; None: all."""
    allowed_types: Annotated[tuple[str, ...], AfterValidator(_check_type_patterns)] | None = None
    """Command types that may be sent through it, a last `*` for any ending; None: all of its system."""

    fields: Mapping[str, str] = Field(default_factory=dict)
    """Our name = the vendor's JSON key."""
    operations: Mapping[str, Override] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_credentials(self) -> Connection:
        problems = list(self._half_credentials())
        ways = [
            ("username and password", self.username or self.password),
            ("client_id and client_secret", self.client_id or self.client_secret),
            ("token", self.token),
        ]
        given = [name for name, value in ways if value]
        if len(given) > 1:
            problems.append(f"signs in by {' and also by '.join(given)}; keep one of them")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _half_credentials(self) -> Iterator[str]:
        for one, other in (("username", "password"), ("client_id", "client_secret")):
            for given, missing in ((one, other), (other, one)):
                if getattr(self, given) is not None and getattr(self, missing) is None:
                    yield f"has {given} without {missing}; add {missing}"

    def secrets(self) -> Iterator[SecretStr]:
        """Give every secret of this connection."""
        return (secret for secret in (self.password, self.client_secret, self.token) if secret is not None)

"""
Signing in, as flows: generators that yield the requests they need and return a token. No I/O, no clock.

A flow says what to ask and how to read the answer; `worker.gateway` asks it. Whoever drives a flow sends each yielded
`Request`, sends the whole 2xx `Response` back in, and gets the `Token` as the generator's return value.

Tokens are kept per process, never in the state store. They are short-lived secrets: in a store they would have to be
encrypted with a key that every worker holds, would outlive a revoked credential, and would turn a readable store into a
way into every tenant. What that costs is one token call per worker, connection and token lifetime.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal, Protocol

from worker.errors import ContractBroken
from worker.rest import Endpoint, Request, Response

DEFAULT_LIFETIME: Final = timedelta(minutes=10)
"""How long a token is believed where neither `expires_in` nor the JWT's `exp` tells."""

LONGEST_LIFETIME: Final = timedelta(days=1)
"""No token is kept longer than this, whatever its answer claims."""


@dataclass(frozen=True, slots=True)
class Token:
    """What goes into the `Authorization` header, whole; `lifetime` from now on, None where only a 401 ends it."""

    authorization: str
    lifetime: timedelta | None = None

    def __repr__(self) -> str:
        return f"Token(lifetime={self.lifetime})"  # never the secret: this may end in a traceback


class Flow(Protocol):
    """How a connection signs in."""

    def token(self, now: datetime) -> Generator[Request, Response, Token]:
        """Yield the requests it takes and return the token; `now` is aware. Raises `ContractBroken`."""
        ...


@dataclass(frozen=True, slots=True, repr=False)
class Basic:
    """HTTP Basic (RFC 7617), the credentials in UTF-8; asks nobody."""

    username: str
    password: str

    def token(self, now: datetime) -> Generator[Request, Response, Token]:  # noqa: ARG002 - a Flow
        """Return the header at once."""
        yield from ()
        return Token(_basic(self.username, self.password))


@dataclass(frozen=True, slots=True, repr=False)
class Bearer:
    """A fixed token: after `Bearer` (RFC 6750), or `raw`, alone in the header, as some keys are sent."""

    value: str
    style: Literal["bearer", "raw"] = "bearer"

    def token(self, now: datetime) -> Generator[Request, Response, Token]:  # noqa: ARG002 - a Flow
        """Return the header at once."""
        yield from ()
        return Token(_bearer(self.value, self.style))


CLIENT_CREDENTIALS: Final = Endpoint(
    name="token",
    method="POST",
    path="/io/v1/oauth2/token",
    evidence="seed",
    source='planview_admin.txt, "Client Credentials"',
    replayable=True,
)

LOGIN: Final = Endpoint(
    name="login",
    method="POST",
    path="/api/users/login",
    evidence="public",
    source="PP-OAS, users/login",
    replayable=True,
)


@dataclass(frozen=True, slots=True, repr=False)
class ClientCredentials:
    """
    OAuth 2 client credentials (RFC 6749, 4.4): form body, client id and secret as Basic.

    The token is the answer's `id_token`, else `access_token`; its lifetime `expires_in`, else the JWT's `exp`, else ten
    minutes (planview_admin.txt, "Client Credentials": the `id_token` is the bearer token).
    """

    client_id: str
    client_secret: str
    endpoint: Endpoint = CLIENT_CREDENTIALS

    def token(self, now: datetime) -> Generator[Request, Response, Token]:
        """Ask the token URL once."""
        response = yield self.endpoint.request(
            form={"grant_type": "client_credentials"},
            headers={"Authorization": _basic(self.client_id, self.client_secret), "Accept": "application/json"},
        )
        answer = _object(response, self.endpoint)
        value = _first(answer, ("id_token", "access_token"), self.endpoint)
        return Token(_bearer(value, "bearer"), _lifetime(answer, value, _vendors_now(response, now)))


@dataclass(frozen=True, slots=True, repr=False)
class Login:
    """
    A user name and password exchanged for a token by JSON: the answer's `access_token`, else `token`.

    Source: PP-OAS, users/login; generation A of the documentation has `token`. The answer may hold more secrets
    (`resetToken`, payment fields): nothing but the token is read from it.
    """

    username: str
    password: str
    style: Literal["bearer", "raw"] = "bearer"
    endpoint: Endpoint = LOGIN

    def token(self, now: datetime) -> Generator[Request, Response, Token]:
        """Log in once."""
        response = yield self.endpoint.request(
            json={"username": self.username, "password": self.password}, headers={"Accept": "application/json"}
        )
        value = _first(_object(response, self.endpoint), ("access_token", "token"), self.endpoint)
        exp = _claims(value).get("exp")
        known = _lifetime({}, value, _vendors_now(response, now)) if isinstance(exp, (int, float)) else None
        return Token(_bearer(value, self.style), known)


def _basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode("ascii")


def _bearer(value: str, style: Literal["bearer", "raw"]) -> str:
    return value if style == "raw" else f"Bearer {value}"


def _object(response: Response, endpoint: Endpoint) -> Mapping[str, Any]:
    try:
        return response.object()
    except ContractBroken as error:
        # Also a part of the answer stays out of the error: its beginning may be the token.
        raise ContractBroken(
            f"{endpoint.method} {endpoint.path} answered with success and no JSON object.", status=error.status
        ) from None


def _first(answer: Mapping[str, Any], names: tuple[str, ...], endpoint: Endpoint) -> str:
    for name in names:
        value = answer.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip()
    # The answer itself stays out of the error: it may hold other secrets.
    raise ContractBroken(
        f"{endpoint.method} {endpoint.path} answered with success and no {' or '.join(names)}; "
        f"the operation {endpoint.name!r} of the connection may need another path."
    )


def _lifetime(answer: Mapping[str, Any], value: str, now: datetime) -> timedelta:
    expires_in = answer.get("expires_in")
    if isinstance(expires_in, str) and expires_in.isascii() and expires_in.isdigit():
        expires_in = int(expires_in)  # RFC 6749 has a number; some servers quote it
    if isinstance(expires_in, (int, float)) and not isinstance(expires_in, bool) and expires_in > 0:
        return _bounded(expires_in)
    exp = _claims(value).get("exp")
    if isinstance(exp, (int, float)) and not isinstance(exp, bool) and exp > now.timestamp():
        return _bounded(exp - now.timestamp())
    return DEFAULT_LIFETIME  # also where a token that was just given is said to have ended: a clock is wrong


def _bounded(seconds: float) -> timedelta:
    if not 0 < seconds < LONGEST_LIFETIME.total_seconds():  # also what is no number: then the longest, until a 401
        return timedelta(0) if seconds <= 0 else LONGEST_LIFETIME
    return timedelta(seconds=seconds)


def _vendors_now(response: Response, now: datetime) -> datetime:
    """Give the vendor's own time where the answer has it: its `exp` was written by that clock, not by ours."""
    try:
        date = parsedate_to_datetime(response.headers.get("Date", ""))
    except (TypeError, ValueError, IndexError):
        return now
    return date if date.utcoffset() is not None else date.replace(tzinfo=UTC)


def _claims(token: str) -> Mapping[str, Any]:
    """Read a JWT's claims without judging them (RFC 7519): its signature is the vendor's business. Empty: no JWT."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}

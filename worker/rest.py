"""
Requests and responses as values: what a slice says and hears, without an HTTP library.

Pure: no I/O, no clock. `worker.gateway` sends these, `worker.transport` puts them on the wire.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from string import Formatter
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote

from worker import strict_json
from worker.errors import (
    Busy,
    Conflict,
    ContractBroken,
    Forbidden,
    Invalid,
    NotFound,
    RateLimited,
    Rejection,
    Unauthorized,
    Unavailable,
)

if TYPE_CHECKING:
    from datetime import timedelta

Evidence = Literal["seed", "public", "assumed"]
"""Where an endpoint is known from: the vendor's page given to us, other public text, or nowhere (a default)."""

Query = Mapping[str, str | int | bool | list[str]]


class Encoded(str):
    """A query's value that is URL-encoded already, and goes out as it is."""

    __slots__ = ()


Body = bytes | Callable[[], AsyncIterator[bytes]]
"""A request's body: whole, or made piece by piece each time that it is sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """
    One call of a vendor's API, as documented.

    `name` is the key of `[connections.X.operations."<name>"]`, which overrides `method` and `path`.
    `replayable` says whether sending twice does no harm: declared, never inferred from the verb.
    `busy` lists the statuses that mean "this object is being worked on".
    """

    name: str
    method: str
    path: str
    evidence: Evidence
    source: str
    replayable: bool
    busy: frozenset[int] = frozenset()

    def overridden(self, method: str | None, path: str | None) -> Endpoint:
        """Give this endpoint as the operator's configuration has it."""
        if not method and not path:
            return self
        return Endpoint(
            name=self.name,
            method=(method or self.method).upper(),
            path=path or self.path,
            evidence=self.evidence,
            source=self.source,
            replayable=self.replayable,
            busy=self.busy,
        )

    def request(
        self,
        *,
        path: Mapping[str, str] | None = None,
        query: Query | None = None,
        json: Any = None,
        form: Mapping[str, str] | None = None,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: timedelta | None = None,
    ) -> Request:
        """Fill the path's `{fields}` (percent-encoded whole: no id can leave its segment) and make a request."""
        values = path or {}
        fields = [name for _, name, _, _ in Formatter().parse(self.path) if name]
        missing = [name for name in fields if not values.get(name)]
        if missing:
            raise Invalid(
                f"The path {self.path} of {self.name} needs {', '.join(missing)}, which the command left empty."
            )
        filled = self.path
        for name in fields:
            value = str(values[name])
            if value in {".", ".."}:
                raise Invalid(f"The {name} of {self.name} is {value!r}, which is no id.")
            filled = filled.replace("{" + name + "}", quote(value, safe=""))
        return Request(
            endpoint=self,
            path=filled,
            query=dict(query or {}),
            json=json,
            form=None if form is None else dict(form),
            body=body,
            headers=dict(headers or {}),
            timeout=timeout,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request to be: relative to the connection's base URL, without credentials."""

    endpoint: Endpoint
    path: str
    query: Query = field(default_factory=dict)
    json: Any = None
    form: Mapping[str, str] | None = None
    body: Body | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: timedelta | None = None
    """Overrides `http.request_timeout` for this request."""

    @property
    def method(self) -> str:
        """The HTTP method."""
        return self.endpoint.method

    @property
    def replayable(self) -> bool:
        """Whether sending it twice does no harm."""
        return self.endpoint.replayable


class Headers(Mapping[str, str]):
    """Response headers: names without regard to case, the first value of each; `all(name)` gives every one."""

    __slots__ = ("_values",)

    def __init__(self, pairs: list[tuple[str, str]] | Mapping[str, str]) -> None:
        items = pairs.items() if isinstance(pairs, Mapping) else pairs
        self._values: dict[str, list[str]] = {}
        for name, value in items:
            self._values.setdefault(name.lower(), []).append(value)

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()][0]

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def all(self, name: str) -> list[str]:
        """Give every value of one header, in order."""
        return self._values.get(name.lower(), [])


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A whole answer: status, headers, body bytes."""

    status: int
    headers: Headers
    body: bytes
    after: timedelta | None = None
    """The wait that `Retry-After` asks for, measured from the answer's arrival; None where absent or invalid."""

    @property
    def text(self) -> str:
        """The body as text; bytes that are not UTF-8 are replaced."""
        return self.body.decode("utf-8", errors="replace")

    def json(self) -> Any:
        """Decode the body; a body that is no JSON raises `ContractBroken` with its beginning."""
        try:
            return strict_json.read_vendors(self.body)
        except ValueError:
            raise ContractBroken(
                "The vendor answered with success and a body that is not JSON.", status=self.status, response=self.text
            ) from None

    def object(self) -> dict[str, Any]:
        """Decode the body as a JSON object, else raise `ContractBroken`."""
        value = self.json()
        if not isinstance(value, dict):
            raise ContractBroken(
                f"The vendor answered with success and a JSON {type(value).__name__} where an object is documented.",
                status=self.status,
                response=self.text,
            )
        return value


_REJECTIONS: Final[Mapping[int, type[Rejection]]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: NotFound,
}


def raise_for_status(response: Response, endpoint: Endpoint) -> Response:
    """Give a 2xx response back; anything else raises its place in the error tree with the vendor's own words."""
    status = response.status
    if 200 <= status < 300:
        return response
    text = response.text
    said = vendor_message(text)
    where = f"{endpoint.method} {endpoint.path}"
    what = f"{where} was answered {status}" + (f": {said}" if said else ".")
    if status < 400:
        # With credentials on board nobody follows a vendor's word to another address.
        to = response.headers.get("Location", "")
        raise ContractBroken(
            f"{where} was answered {status}, a redirect{f' to {to[:200]}' if to else ''}, which planrelay does not "
            "follow; check the connection's base_url and the operation's path.",
            status=status,
            response=text,
        )
    if status in endpoint.busy:
        raise Busy(what, after=response.after, status=status, response=text)
    if status == 429:
        raise RateLimited(what, after=response.after, status=status, response=text)
    if status >= 500 or status in {408, 425}:
        raise Unavailable(what, after=response.after, status=status, response=text)
    kind = _REJECTIONS.get(status, Invalid)
    raise kind(what, status=status, response=text)


_SAID_KEPT: Final = 4_000
"""Characters of a vendor's sentence that an error keeps: cut to what is told only once its secrets are out."""


def vendor_message(text: str) -> str:
    """Find the sentence in an error body: JSON `message`, `detail`, `error_description` or `error`, else the text."""
    try:
        body = strict_json.read_vendors(text)
    except ValueError:
        return " ".join(text.split())[:_SAID_KEPT]
    if isinstance(body, dict):
        for key in ("message", "detail", "error_description", "error"):
            value = body.get(key)
            if isinstance(value, str) and value:
                return value[:_SAID_KEPT]
    return ""

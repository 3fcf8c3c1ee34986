"""
What a stand-in is asked and what it answers, without a server: `Call` in, `Answer` out, `Refusal` for a no.

A stand-in declares its operations with `@operation(method, path, name)`; `Routes` finds the one that a request means.
"""

import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

JSON = Any
"""A JSON value; objects are `dict[str, JSON]`."""

Object = dict[str, JSON]


@dataclass(frozen=True, slots=True)
class Stream:
    """A body too big to hold: its length is known, its bytes are made block by block from any offset."""

    length: int
    blocks: Callable[[int, int], Iterator[bytes]]
    """`blocks(start, stop)`: the bytes [start, stop), in pieces."""
    rate: int | None = None
    """Bytes a second, if the vendor is slow."""
    chunked: bool = False
    """Sent in chunks, without a Content-Length."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back: status, headers (Content-Type among them) and body."""

    status: int
    body: bytes | Stream = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """The vendor says no; the stand-in gives the sentence the form its vendor would."""

    def __init__(self, status: int, message: str, *, headers: Mapping[str, str] | None = None, **extra: JSON) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers: Mapping[str, str] = headers or {}
        self.extra = extra


@dataclass(slots=True)
class Call:
    """One request as a stand-in sees it. `effects` collects what it did: (verb, collection, id)."""

    method: str
    path: str
    ident: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    now: float
    """Seconds since the epoch."""
    effects: list[Sequence[str]]
    upload: Callable[[], AsyncIterator[tuple[str, bytes]]] | None = None
    """For uploads, instead of `body`: pieces of (file name, bytes) as they arrive."""

    def json(self) -> JSON:
        """The body as JSON; anything else is a 400."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise Refusal(400, f"the body is not JSON: {error}") from error

    def object(self) -> Object:
        """The body as a JSON object; anything else is a 400."""
        value = self.json()
        if not isinstance(value, dict):
            raise Refusal(400, "the body must be a JSON object")
        return value

    def integer(self, name: str, default: int, *, least: int) -> int:
        """A whole number from the query, not below `least`; anything else is a 400."""
        text = self.query.get(name)
        if text is None:
            return default
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise Refusal(400, f"{name} must be a whole number of at least {least}, not {text!r}")
        return int(text)

    def basic(self) -> tuple[str, str] | None:
        """User and password of an `Authorization: Basic` header (RFC 7617), or None."""
        scheme, _, encoded = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            user, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except ValueError:
            return None
        return (user, password) if colon else None

    def bearer(self) -> str | None:
        """The token of an `Authorization: Bearer` header (RFC 6750), or None."""
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        return token if scheme.lower() == "bearer" and token else None

    def did(self, verb: str, collection: str, ident: str) -> None:
        """Writes an effect down for the journal."""
        self.effects.append((verb, collection, ident))


Handler = Callable[[Any, Call], "Answer | Awaitable[Answer]"]
_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a vendor: `path` is its segments, with "*" for an id."""

    name: str
    method: str
    path: tuple[str, ...]
    handle: Handler
    public: bool = False
    """Needs no credentials."""
    free: bool = False
    """Costs no points."""
    upload: bool = False
    """Takes its body as a stream."""
    produces: str = ""
    """Media type of its answer, where the vendor checks Accept; empty: JSON."""


def operation(method: str, path: str, name: str, **traits: Any) -> Callable[[_Function], _Function]:
    """Declares a method of a stand-in to be an operation; `traits` are those of `Operation`."""

    def mark(function: _Function) -> _Function:
        declared = list(getattr(function, "operations", ()))
        declared.append(Operation(name, method, tuple(path.strip("/").split("/")), function, **traits))
        function.operations = declared  # type: ignore[attr-defined]  # the mark that Routes reads
        return function

    return mark


class Routes:
    """The operations of a stand-in by path and method."""

    def __init__(self, stand_in: type) -> None:
        self._by_path: dict[tuple[str, ...], dict[str, Operation]] = {}
        self._stars: dict[int, list[int]] = {}
        functions = (function for one in stand_in.__mro__ for function in vars(one).values())
        for function in functions:
            for declared in getattr(function, "operations", ()):
                self._by_path.setdefault(declared.path, {})[declared.method] = declared
                if "*" in declared.path:
                    places = self._stars.setdefault(len(declared.path), [])
                    place = declared.path.index("*")
                    if place not in places:
                        places.append(place)

    def __iter__(self) -> Iterator[Operation]:
        for methods in self._by_path.values():
            yield from methods.values()

    def find(self, method: str, segments: Sequence[str]) -> tuple[Operation, str]:
        """The operation and the id in its path; 404 for an unknown path, 405 for a known one without that method."""
        path = tuple(segments)
        ident = ""
        methods = self._by_path.get(path)
        if methods is None:
            for place in self._stars.get(len(path), ()):
                methods = self._by_path.get((*path[:place], "*", *path[place + 1 :]))
                if methods is not None and path[place]:
                    ident = path[place]
                    break
            else:
                raise Refusal(404, f"there is nothing at /{'/'.join(path)}")
        found = methods.get(method)
        if found is None:
            raise Refusal(405, f"{method} is not possible here", headers={"Allow": ", ".join(sorted(methods))})
        return found, ident


def encode(value: JSON) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()

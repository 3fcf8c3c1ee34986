"""The journal: every request in the order it arrived, what became of it, and how many were under way at once."""

import hashlib
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

from sandbox.wire import JSON, Object

BODY_LIMIT = 2_000
"""Characters of a body that are kept."""

_KEPT_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "authorization",
        "connection",
        "content-disposition",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "host",
        "idempotency-key",
        "if-match",
        "if-none-match",
        "if-range",
        "range",
        "traceparent",
        "tracestate",
        "user-agent",
        "x-request-id",
    }
)
_SECRET = re.compile(
    r"""((?:[a-z_]*password|[a-z_]*secret|[a-z_]*token)["']?\s*[:=]\s*["']?)[^"'&\s,}]+""", re.IGNORECASE
)


def redacted(text: str) -> str:
    """The text with the values of passwords, secrets and tokens in it replaced."""
    return _SECRET.sub(r"\1[removed]", text)


@dataclass(slots=True)
class Entry:
    """One request; the package's page says what each attribute holds."""

    seq: int
    vendor: str
    tenant: str
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    arrived: float
    arrived_wall: float
    in_flight: int
    operation: str = ""
    body: str = ""
    status: int | None = None
    fault: str | None = None
    sent: int = 0
    effects: Sequence[Sequence[str]] = ()
    answered: float | None = None
    answered_wall: float | None = None

    @property
    def arrived_at(self) -> datetime:
        """When it arrived, UTC."""
        return datetime.fromtimestamp(self.arrived_wall, UTC)

    @property
    def answered_at(self) -> datetime | None:
        """When it was answered, UTC; None while it is under way."""
        return None if self.answered_wall is None else datetime.fromtimestamp(self.answered_wall, UTC)

    def to_json(self) -> Object:
        """The entry as JSON."""
        shown: Object = {name: getattr(self, name) for name in self.__slots__}
        shown["headers"] = dict(self.headers)
        shown["effects"] = [list(effect) for effect in self.effects]
        shown["arrived_at"] = self.arrived_at.isoformat()
        shown["answered_at"] = None if self.answered_at is None else self.answered_at.isoformat()
        return shown

    @classmethod
    def from_json(cls, shown: Object) -> "Entry":
        """The entry that `to_json` showed."""
        return cls(**{name: shown[name] for name in cls.__slots__})


@dataclass(slots=True)
class _Traffic:
    now: int = 0
    peak: int = 0


@dataclass(slots=True)
class Journal:
    """Keeps the newest `limit` entries; counts of requests under way are exact whatever it forgets."""

    limit: int = 200_000
    _seen: int = 0
    _entries: deque[Entry] = field(init=False)
    _traffic: dict[tuple[str | None, str | None], _Traffic] = field(default_factory=dict)
    _known_headers: dict[tuple[tuple[str, str], ...], Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._entries = deque(maxlen=self.limit)

    # What the server writes

    def open(
        self, vendor: str, tenant: str, method: str, path: str, query: str, headers: Iterable[tuple[str, str]]
    ) -> Entry:
        """Writes down that a request arrived."""
        self._seen += 1
        traffic = [self._of(vendor, tenant), self._of(vendor, None), self._of(None, None)]
        for one in traffic:
            one.now += 1
            one.peak = max(one.peak, one.now)
        entry = Entry(
            seq=self._seen,
            vendor=vendor,
            tenant=tenant,
            method=method,
            path=path,
            query=redacted(query) if query else "",
            headers=self._shared(headers),
            arrived=time.monotonic(),
            arrived_wall=time.time(),
            in_flight=traffic[0].now,
        )
        self._entries.append(entry)
        return entry

    def close(self, entry: Entry) -> None:
        """Writes down that a request was answered, or is over without an answer."""
        entry.answered = time.monotonic()
        entry.answered_wall = time.time()
        for one in (self._of(entry.vendor, entry.tenant), self._of(entry.vendor, None), self._of(None, None)):
            one.now -= 1

    # What a test reads

    def entries(self, *, limit: int | None = None, **filters: JSON) -> list[Entry]:
        """The entries that pass the filters, in order of arrival; the newest `limit` of them."""
        found = self._passing(filters)
        return found if limit is None else found[-limit:] if limit else []

    def count(self, **filters: JSON) -> int:
        """How many entries pass the filters."""
        return len(self._passing(filters))

    def counts(self, by: str = "status", **filters: JSON) -> dict[str, int]:
        """How many of the entries that pass the filters have each value of an attribute; "None" for none."""
        if by not in Entry.__slots__:
            raise ValueError(f"by must be an attribute of an entry, such as status or operation, not {by!r}")
        return dict(Counter(str(getattr(entry, by)) for entry in self._passing(filters)))

    def seen(self) -> int:
        """How many requests arrived since the start, forgotten ones included."""
        return self._seen

    def in_flight(self, vendor: str | None = None, tenant: str | None = None) -> int:
        """How many requests are under way."""
        return self._of(vendor, tenant).now

    def peak(self, vendor: str | None = None, tenant: str | None = None) -> int:
        """How many requests were under way at once, at most, since the last `clear`."""
        return self._of(vendor, tenant).peak

    def clear(self) -> None:
        """Forgets the entries and the peaks; what is under way stays counted."""
        self._entries.clear()
        for traffic in self._traffic.values():
            traffic.peak = traffic.now

    def _of(self, vendor: str | None, tenant: str | None) -> _Traffic:
        if vendor is None:
            tenant = None
        traffic = self._traffic.get((vendor, tenant))
        if traffic is None:
            traffic = self._traffic[(vendor, tenant)] = _Traffic()
        return traffic

    def _shared(self, headers: Iterable[tuple[str, str]]) -> Mapping[str, str]:
        # Requests of one client differ little: equal sets of headers are kept once, which is most of an entry's memory.
        pairs = tuple((name, value) for name, value in headers if name.lower() in _KEPT_HEADERS)
        known = self._known_headers.get(pairs)
        if known is None:
            known = {name: _hidden(value) if name.lower() == "authorization" else value for name, value in pairs}
            if len(self._known_headers) >= 1_000:
                self._known_headers.clear()
            self._known_headers[pairs] = known
        return known

    def _passing(self, filters: Mapping[str, JSON]) -> list[Entry]:
        tests = [_test(name, wanted) for name, wanted in filters.items() if wanted is not None]
        return [entry for entry in self._entries if all(test(entry) for test in tests)]


def _hidden(authorization: str) -> str:
    """An Authorization header's scheme and a short hash of the rest: enough to tell two secrets apart, no more."""
    scheme, space, secret = authorization.partition(" ")
    if not space:
        scheme, secret = "", authorization
    return f"{scheme} sha256:{hashlib.sha256(secret.encode()).hexdigest()[:8]}".lstrip()


def _test(name: str, wanted: Any) -> Callable[[Entry], bool]:
    match name:
        case "vendor" | "tenant" | "method" | "fault" | "status":
            return lambda entry: bool(getattr(entry, name) == wanted)
        case "operation":
            return lambda entry: fnmatchcase(entry.operation, wanted)
        case "path":
            pattern = re.compile(wanted)
            return lambda entry: pattern.search(entry.path) is not None
        case "since":
            return lambda entry: entry.seq > wanted
        case "answered":
            return lambda entry: (entry.answered is not None) is wanted
        case _:
            raise ValueError(
                f"there is no filter {name!r}; there are vendor, tenant, method, path, operation, status, fault, since "
                "and answered"
            )

"""What the three stand-ins share: switches, the points window, tokens, refusals, and seeding of their collections."""

import base64
import itertools
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any, ClassVar

from sandbox.limits import PointsWindow, Verdict
from sandbox.store import Collection
from sandbox.switches import Switches
from sandbox.wire import JSON, Answer, Call, Object, Operation, Refusal, Routes, encode


class StandIn(ABC):
    """One vendor for one tenant. Its operations are plain methods: what they do, they do at once and wholly."""

    vendor: ClassVar[str]
    routes: ClassVar[Routes]
    json_type: ClassVar[str] = "application/json;charset=UTF-8"
    shows_points: ClassVar[bool] = False
    """Successes carry X-Rate-Limit-Remaining while there is a quota."""
    switches: Switches

    def __init__(self, tenant: str, switches: Switches, clock: Callable[[], float]) -> None:
        self.tenant = tenant
        self.switches = switches
        self.clock = clock
        self.window = PointsWindow()
        self.collections: dict[str, Collection] = {}
        self._serial = itertools.count(1)

    @abstractmethod
    def locate(self, path: str) -> list[str]:
        """The path's segments as the routes know them, the vendor's own prefix taken off."""

    @abstractmethod
    def authorize(self, call: Call, wanted: Operation) -> None:
        """Lets a caller with the right credentials through; else a Refusal."""

    @abstractmethod
    def seed(self, collection: str, items: Iterable[Object], traits: Mapping[str, JSON]) -> list[str]:
        """Adds objects, filling in what they leave out; their ids."""

    def admit(self, call: Call, wanted: Operation) -> Mapping[str, str]:
        """Credentials, then points: headers for the answer, or a Refusal."""
        if not wanted.public:
            self.authorize(call, wanted)
        if wanted.free:
            return {}
        verdict: Verdict = self.window.take(self.switches.quota, self.cost(wanted), call.now)
        if verdict.retry_after is not None:
            headers = {"Retry-After": str(verdict.retry_after)}
            if self.shows_points and self.switches.remaining_on_429:
                headers["X-Rate-Limit-Remaining"] = str(verdict.remaining)
            raise Refusal(429, "the rate limit is exceeded", headers=headers)
        if verdict.remaining is None or not self.shows_points:
            return {}
        return {"X-Rate-Limit-Remaining": str(verdict.remaining)}

    def cost(self, wanted: Operation) -> int:  # noqa: ARG002  # a vendor may price its operations
        """Points that an operation costs."""
        return 1

    def refuse(self, refusal: Refusal) -> Answer:
        """The refusal in the vendor's form."""
        body = encode({"message": refusal.message, **refusal.extra})
        return Answer(refusal.status, body, {"Content-Type": self.json_type, **refusal.headers})

    def answer(self, value: JSON, status: int = 200, **headers: str) -> Answer:
        """An answer in JSON."""
        return Answer(status, encode(value), {"Content-Type": self.json_type, **headers})

    def collection(self, name: str) -> Collection:
        """The collection of that name; ValueError names those there are."""
        if name not in self.collections:
            raise ValueError(f"{self.vendor} has no collection {name!r}; it has {', '.join(self.collections)}")
        return self.collections[name]

    def check_traits(self, collection: str, traits: Mapping[str, JSON], allowed: Iterable[str]) -> None:
        """ValueError for what a collection can't be seeded with."""
        unknown = sorted(set(traits) - set(allowed))
        if unknown:
            raise ValueError(f"{self.vendor} {collection} can't be seeded with {', '.join(unknown)}")

    def state(self, name: str, first: int, count: int | None) -> list[Object]:
        """Copies of a collection's objects."""
        return deepcopy(self.collection(name).page(first, count))

    def existing(self, collection: str, ident: str) -> Object:
        """The object, or a 404."""
        found = self.collections[collection].get(ident)
        if found is None:
            raise Refusal(404, f"there is no {collection.removesuffix('s')} {ident}")
        return found

    def serial(self) -> int:
        """The next number of this tenant, from 1."""
        return next(self._serial)

    def fingerprint(self, kind: str) -> int:
        """32 bits that tell tenants' and kinds' ids apart."""
        return zlib.crc32(f"{self.vendor}/{self.tenant}/{kind}".encode())


class Tokens:
    """Bearer tokens that were handed out, each until its time is over or all of them are refused."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def issue(self, claims: Object, until: float, now: float) -> str:
        """A token that looks like a JWT: its `exp` is `until` in whole seconds, its signature is nobody's."""
        if len(self._until) >= 10_000:
            self._until = {token: end for token, end in self._until.items() if end > now}
        payload = {**claims, "iat": int(now), "exp": int(until)}
        parts = (encode({"alg": "RS256", "typ": "JWT"}), encode(payload), b"sandbox-signature")
        token = ".".join(map(_base64url, parts))
        self._until[token] = until
        return token

    def valid(self, token: str, now: float) -> bool:
        """Whether the token was handed out and still counts."""
        return self._until.get(token, 0.0) > now

    def invalidate(self) -> None:
        """Refuses every token handed out so far."""
        self._until.clear()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def filled(count: int | None, objects: Iterable[Mapping[str, Any]] | None) -> Iterable[Object]:
    """What to seed: `count` empty objects, or copies of those given."""
    if (count is None) == (objects is None):
        raise ValueError("give count or objects, one of them")
    if objects is not None:
        return (dict(one) for one in objects)
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise ValueError(f"count must be a whole number of at least 0, not {count!r}")
    return ({} for _ in range(count))

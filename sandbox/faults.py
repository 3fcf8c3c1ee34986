"""Scripted faults: rules that say which request is to go wrong, and how; chance in them comes from a seed."""

import asyncio
import random
import re
from collections.abc import Collection as Many
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Literal, get_args

from sandbox.switches import duration
from sandbox.wire import JSON, Object, encode

Kind = Literal["status", "delay", "reset", "truncate", "short", "malformed", "hang"]
End = Literal["close", "reset", "hang"]
"""How a truncated body ends: with a FIN, with a RST, or not at all until it is released."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is to go wrong with one request; the package's page says what each kind does."""

    kind: Kind
    after_effect: bool = False
    delay: timedelta = timedelta(0)
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    fraction: float = 0.5
    end: End = "close"


@dataclass(slots=True)
class _Match:
    """Which requests a rule is about, and which of those it strikes."""

    vendor: str | None = None
    tenant: str | None = None
    method: str | None = None
    path: re.Pattern[str] | None = None
    operation: str | None = None
    body_matches: re.Pattern[str] | None = None
    skip: int = 0
    nth: frozenset[int] | None = None
    times: int | None = None
    probability: float = 1.0

    def concerns(self, asked: "Asked") -> bool:
        return (
            self.vendor in (None, asked.vendor)
            and self.tenant in (None, asked.tenant)
            and self.method in (None, asked.method)
            and (self.path is None or self.path.search(asked.path) is not None)
            and (self.operation is None or fnmatchcase(asked.operation, self.operation))
            and (self.body_matches is None or self.body_matches.search(asked.body) is not None)
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """What a rule may look at."""

    vendor: str
    tenant: str
    method: str
    path: str
    operation: str
    body: str


@dataclass(frozen=True, slots=True)
class _Mix:
    throttled: float
    unavailable: float
    reset: float
    after_effect: float
    retry_after: str | None

    def pick(self, rng: random.Random) -> Fault | None:
        # Both draws are made for every request: what befalls the nth doesn't hang on what befell those before it.
        draw, late = rng.random(), rng.random() < self.after_effect
        if draw < self.throttled:
            headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
            return Fault("status", status=429, headers=headers)
        if draw < self.throttled + self.unavailable:
            return Fault("status", status=503, after_effect=late)
        if draw < self.throttled + self.unavailable + self.reset:
            return Fault("reset", after_effect=late)
        return None


@dataclass(slots=True)
class _Rule:
    match: _Match
    deed: Fault | _Mix
    rng: random.Random
    said: Object
    matched: int = 0
    fired: int = 0

    def strike(self, asked: Asked) -> Fault | None:
        if not self.match.concerns(asked):
            return None
        self.matched += 1
        chance = self.rng.random() if self.match.probability < 1 else 0.0
        fault = self.deed.pick(self.rng) if isinstance(self.deed, _Mix) else self.deed
        if (
            fault is None
            or self.matched <= self.match.skip
            or (self.match.nth is not None and self.matched not in self.match.nth)
            or (self.match.times is not None and self.fired >= self.match.times)
            or chance >= self.match.probability
        ):
            return None
        self.fired += 1
        return fault


class Faults:
    """The rules in force. The first that fires decides what becomes of a request."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._rules: dict[int, _Rule] = {}
        self._made = 0
        self._released = asyncio.Event()

    def add(  # noqa: PLR0913  # a rule says many things, most of the time one or two of them
        self,
        kind: Kind,
        *,
        after_effect: bool = False,
        delay: JSON = 0,
        status: int = 503,
        headers: Mapping[str, str | int] | None = None,
        body: JSON = None,
        fraction: float = 0.5,
        end: End = "close",
        seed: int | None = None,
        **match: JSON,
    ) -> int:
        """
        Adds a rule and gives its id.

        `body` is what a "status" or "malformed" answer carries (text as it is, else JSON); the rest is on the package's
        page. ValueError for what is no rule.
        """
        if kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, not {kind!r}")
        if not 0 <= fraction < 1:
            raise ValueError(f"fraction must be at least 0 and below 1, not {fraction!r}")
        if end not in get_args(End):
            raise ValueError(f"end must be one of {', '.join(get_args(End))}, not {end!r}")
        if not 200 <= status <= 599:
            raise ValueError(f"status must be between 200 and 599, not {status!r}")
        fault = Fault(
            kind=kind,
            after_effect=after_effect,
            delay=duration(delay),
            status=status,
            headers={name: str(value) for name, value in (headers or {}).items()},
            body=body.encode() if isinstance(body, str) else None if body is None else encode(body),
            fraction=fraction,
            end=end,
        )
        return self._keep(fault, seed, match, kind)

    def mix(
        self,
        *,
        throttled: float = 0.10,
        retry_after: str | int | None = "1",
        unavailable: float = 0.05,
        reset: float = 0.01,
        after_effect: float = 0.5,
        seed: int | None = None,
        **match: JSON,
    ) -> int:
        """Adds a rule that makes shares of the requests fail: 429, 503 and resets; gives its id."""
        shares = (throttled, unavailable, reset)
        if min(*shares, after_effect) < 0 or sum(shares) > 1 or after_effect > 1:
            raise ValueError("the shares must be at least 0 and together at most 1")
        deed = _Mix(throttled, unavailable, reset, after_effect, None if retry_after is None else str(retry_after))
        return self._keep(deed, seed, match, "mix")

    def rules(self) -> list[Object]:
        """The rules in order: id, kind, what they match, how often they matched and fired."""
        return [
            {"id": number, **rule.said, "matched": rule.matched, "fired": rule.fired}
            for number, rule in self._rules.items()
        ]

    def remove(self, id: int) -> None:
        """Takes one rule away."""
        if id not in self._rules:
            raise ValueError(f"there is no rule {id}")
        del self._rules[id]

    def clear(self) -> None:
        """Takes all rules away; what hangs goes on hanging until `release`."""
        self._rules.clear()

    def release(self) -> None:
        """Lets go of every request that hangs now."""
        self._released.set()
        self._released = asyncio.Event()

    def strike(self, asked: Asked) -> Fault | None:
        """What is to befall this request."""
        for rule in self._rules.values():
            fault = rule.strike(asked)
            if fault is not None:
                return fault
        return None

    @property
    def active(self) -> bool:
        """Whether there are rules at all."""
        return bool(self._rules)

    @property
    def released(self) -> asyncio.Event:
        """Set by the next `release`."""
        return self._released

    def _keep(self, deed: Fault | _Mix, seed: int | None, match: Mapping[str, JSON], kind: str) -> int:
        self._made += 1
        rule = _Rule(
            match=_read_match(match),
            deed=deed,
            rng=random.Random(f"{self._seed}/{self._made}" if seed is None else seed),
            said={"kind": kind, "match": dict(match)},
        )
        self._rules[self._made] = rule
        return self._made


def _read_match(match: Mapping[str, JSON]) -> _Match:
    unknown = set(match) - set(_Match.__slots__)
    if unknown:
        known = ", ".join(_Match.__slots__)
        raise ValueError(f"a rule can't match {', '.join(sorted(unknown))}; it can match {known}")
    read = dict(match)
    for name in ("path", "body_matches"):
        if read.get(name) is not None:
            try:
                read[name] = re.compile(read[name])
            except (re.error, TypeError) as error:
                raise ValueError(f"{name} must be a regular expression: {error}") from error
    nth = read.get("nth")
    if nth is not None:
        read["nth"] = frozenset(nth if isinstance(nth, Many) else (nth,))
    if not 0 <= read.get("probability", 1.0) <= 1:
        raise ValueError("probability must be between 0 and 1")
    return _Match(**read)

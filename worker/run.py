"""
One run of one command, as a slice's coroutine sees it.

A coroutine gets a `Run` and its validated data; it returns a result or raises an error of the tree. Everything that
must survive a crash goes through here: steps, requests that must not be sent twice, holds, watermarks.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from worker.errors import (
    Busy,
    ContractBroken,
    DeadlineExceeded,
    Forbidden,
    Invalid,
    NotFound,
    NotSent,
    OutcomeUnknown,
    Paused,
    RateLimited,
    Rejection,
    RelayError,
    TransportError,
    Unavailable,
)
from worker.ledger import Claim, Ledger, StoreAway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from datetime import datetime

    from config.connections import Connection
    from config.settings import Settings
    from worker.artifacts import Artifacts
    from worker.gateway import Gateway
    from worker.message import Command
    from worker.plans import Plans

CONTINUE_AFTER: Final = timedelta(minutes=10)
"""A run older than this parks itself at its next `breathe`, so that no message stays unacknowledged for long."""

RESOLVE_MARGIN: Final = timedelta(seconds=5)
"""Beyond the request timeout, until a request that was cut off can no longer be running at the vendor."""

UNFINISHED_PAUSE: Final = timedelta(seconds=2)
"""How long a run waits that got further and met failures on its way."""

STORE_PATIENCE: Final = timedelta(seconds=5)
"""How long a command waits parked for a state store that is away."""


class Postpone(Exception):
    """Not now, and nobody's fault: the command goes back to the broker, counted neither as attempt nor as deferral."""

    def __init__(self, wait: timedelta, reason: str) -> None:
        super().__init__(reason)
        self.wait = wait
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Once:
    """What a request that must not be sent twice led to, and how."""

    value: Any
    how: Literal["created", "found", "adopted"]


class Host(Protocol):
    """What the engine lends to a run."""

    settings: Settings
    ledger: Ledger
    artifacts: Artifacts
    plans: Plans

    def now(self) -> datetime: ...
    async def emit(self, run: Run, type: str, data: Mapping[str, Any], id: str) -> None: ...
    def holding(self, name: str, token: str) -> contextlib.AbstractContextManager[None]: ...
    @property
    def draining(self) -> bool: ...


@dataclass(kw_only=True, eq=False)
class Run:
    """One run of a command: its connection's gateway, and the ledger's help against doing anything twice."""

    command: Command
    connection: Connection
    gateway: Gateway
    host: Host
    attempt: int
    started: datetime
    digest: str
    claim: Claim | None
    """None: the state store is away and the run is unclaimed."""
    last_error: str = ""
    last_status: int | None = None
    unsure: bool = False
    """Whether there may have been an earlier run that nobody remembers: every request that makes something is looked up
    before it is sent."""
    log: Any = None
    progressed: tuple[int, int | None] | None = None

    def __post_init__(self) -> None:
        self._steps: dict[str, Any] = dict(self.claim.steps) if self.claim else {}
        self._intents: dict[str, timedelta] = dict(self.claim.intents) if self.claim else {}
        self.unresolved: set[str] = {name for name in self._intents if f"once:{name}" not in self._steps}
        """Requests of this command that may have taken effect and were not looked up yet."""

    @property
    def artifacts(self) -> Artifacts:
        return self.host.artifacts

    @property
    def plans(self) -> Plans:
        return self.host.plans

    @property
    def settings(self) -> Settings:
        return self.host.settings

    @property
    def resolve_after(self) -> timedelta:
        """How long after it was sent a request can still be running at the vendor."""
        return self.host.settings.http.request_timeout + RESOLVE_MARGIN

    @property
    def last_attempt(self) -> bool:
        """Whether a failure now would be final: whoever has something to tell all the same tells it instead."""
        most = self.host.settings.retry.max_attempts
        attempt = max(self.attempt, self.gateway.tally.attempt)
        return self.attempt > most or (attempt == most and not self.unresolved)

    def now(self) -> datetime:
        """Give the present instant (aware, UTC)."""
        return self.host.now()

    async def step(self, name: str, make: Callable[[], Awaitable[Any]]) -> Any:
        """Give what `make` gave the first time, also after a crash: the value is in the ledger before this returns."""
        if name in self._steps:
            return self._steps[name]
        value = await make()
        if self.claim is not None:
            await self._write(self.host.ledger.write_step(self.digest, name, value))
        self._steps[name] = value
        return value

    def kept(self, name: str) -> Any:
        """Give what a step has kept, None where it was never done."""
        return self._steps.get(name)

    async def once(
        self,
        name: str,
        send: Callable[[], Awaitable[Any]],
        find: Callable[[], Awaitable[Any]] | None,
        *,
        adopt: bool = False,
        makes: bool = True,
    ) -> Once:
        """
        Do what `send` does at most once in effect.

        `find` looks by natural key and gives every object it finds there (`id` or `bn` in each), or one, or None; it
        raises where the answer is unsure. An interrupted send takes what it finds only where no other command is known
        to have made it. Where there is no `find`, a send that was interrupted ends as `OutcomeUnknown`. `adopt`: the
        command named a natural key, so what was there before the first send is taken as the result. Without `makes`
        nothing new comes of it, so what `find` gives is the proof that it was done.
        """
        step = f"once:{name}"
        if step in self._steps:
            return Once(**self._steps[step])
        if self.unsure and name not in self._intents and find is not None:
            await self._doubt(name)
        resumed = name in self._intents or self.unsure
        if resumed:
            found = await self._resolve(name, find, own=makes and not adopt)
            if found is not None:
                return await self._keep(step, Once(found, "found"), makes=makes)
        if adopt and find is not None and not resumed:
            found = _single(await find())
            if found is not None:
                return await self._keep(step, Once(found, "adopted"))
        if self.attempt > self.host.settings.retry.max_attempts:
            said = self.last_error or "The vendor gave no answer, and nothing was created."
            raise Unavailable(said, status=self.last_status)
        if self.claim is None:
            raise Postpone(STORE_PATIENCE, "store_away")
        await self._write(self.host.ledger.write_intent(self.digest, name))
        self._intents[name] = timedelta(0)
        self.unresolved.add(name)
        value = await self._send(name, send, find, own=makes)
        return await self._keep(step, Once(value, "created"), makes=makes)

    async def _doubt(self, name: str) -> None:
        """Wait, as after a request that was cut off: an earlier run may have sent this one a moment ago."""
        await self._write(self.host.ledger.write_intent(self.digest, name))
        self._intents[name] = timedelta(0)
        raise Postpone(self.resolve_after, "unresolved")

    async def _send(
        self, name: str, send: Callable[[], Awaitable[Any]], find: Callable[[], Awaitable[Any]] | None, *, own: bool
    ) -> Any:
        try:
            value = await send()
        except ContractBroken:
            # A whole answer came and can't be read: nothing is running any more, so a look can tell at once.
            made = None if find is None else await self._found(find, own=own)
            if made is None:
                raise
            self.unresolved.discard(name)
            return made
        except (NotSent, RateLimited, Busy):
            await self._forget(name)
            raise
        except Paused as error:
            # Said with a 2xx or a 5xx it may have taken effect: a replay looks first. Where nothing can be looked up,
            # the replay itself is the decision to send again.
            if error.status is not None and 400 <= error.status < 500:
                await self._forget(name)
            raise
        except (TransportError, Unavailable) as error:
            if find is None:
                raise OutcomeUnknown(
                    f"{error.message} Whether it took effect can't be looked up; check there, then replay or drop.",
                    status=error.status,
                    response=error.response,
                ) from error
            raise
        except Rejection:
            await self._forget(name)
            raise
        self.unresolved.discard(name)
        return value

    async def _own(self, candidates: Any) -> Any:
        """Of what was found by natural key, give what this command made: not what another is known to have made."""
        return _single([each for each in _listed(candidates) if not await self._made_elsewhere(each)])

    async def _made_elsewhere(self, candidate: Any) -> bool:
        try:
            maker = await self.host.ledger.maker(self.connection.name, _identity(candidate))
        except StoreAway:
            raise Postpone(STORE_PATIENCE, "store_away") from None
        return maker not in {None, self.digest}

    async def _found(self, find: Callable[[], Awaitable[Any]], *, own: bool) -> Any:
        found = await find()
        return await self._own(found) if own else _single(found)

    async def _resolve(self, name: str, find: Callable[[], Awaitable[Any]] | None, *, own: bool) -> Any:
        """Look for what an interrupted send may have made; None means it certainly made nothing."""
        if find is None:
            if self.claim is not None and self.claim.run > 1:
                return None  # an operator replayed it: that is the decision to send again
            raise OutcomeUnknown(
                "An earlier run was cut off after sending, and whether that took effect can't be looked up; "
                "check at the vendor, then replay or drop."
            )
        left = self.resolve_after - self._intents[name]
        if left > timedelta(0):
            raise Postpone(left, "unresolved")
        try:
            found = await self._found(find, own=own)
        except Unavailable as error:
            if self.attempt > self.host.settings.retry.max_attempts:
                raise OutcomeUnknown(f"The outcome could not be looked up: {error.message}") from error
            raise
        except (Forbidden, NotFound, Invalid, ContractBroken) as error:
            raise OutcomeUnknown(
                f"An earlier run was cut off after sending, and looking it up failed: {error.message} "
                "Check at the vendor, then replay or drop.",
                status=error.status,
                response=error.response,
            ) from error
        self.unresolved.discard(name)
        return found

    async def _keep(self, step: str, once: Once, *, makes: bool = True) -> Once:
        if self.claim is not None:
            if makes and once.how != "adopted":
                await self._write(self.host.ledger.write_made(self.digest, self.connection.name, _identity(once.value)))
            await self._write(self.host.ledger.write_step(self.digest, step, {"value": once.value, "how": once.how}))
        self._steps[step] = {"value": once.value, "how": once.how}
        return once

    async def _forget(self, name: str) -> None:
        self._intents.pop(name, None)
        self.unresolved.discard(name)
        with contextlib.suppress(StoreAway):  # left standing, it costs one look-up
            await self.host.ledger.clear_intent(self.digest, name)

    async def _write(self, writing: Awaitable[None]) -> None:
        try:
            await writing
        except StoreAway:
            raise Postpone(STORE_PATIENCE, "store_away") from None

    @contextlib.asynccontextmanager
    async def exclusive(self, name: str, *, customer: bool = False) -> AsyncIterator[None]:
        """
        Be the only one in the fleet that does `name` on this connection; raises `Busy` while another does.

        `customer`: on all connections with this one's limit key, which are the same customer's. A command that crashed
        or was parked inside takes its own hold up again.
        """
        full = f"{self.connection.limit_key if customer else self.connection.name}:{name}"
        try:
            left = await self.host.ledger.hold(full, self.digest, self.host.ledger.lease)
        except StoreAway:
            raise Postpone(STORE_PATIENCE, "store_away") from None
        if left is not None:
            raise Busy(f"Another command is at work on {name}.", after=min(left, timedelta(seconds=5)))
        with self.host.holding(full, self.digest):
            try:
                yield
            finally:
                with contextlib.suppress(StoreAway):
                    await asyncio.shield(self.host.ledger.let_go(full, self.digest))

    async def recall(self, key: str) -> Any:
        """Give what this connection's commands last remembered under `key`, or None."""
        try:
            return await self.host.ledger.recall(f"{self.connection.name}:{key}")
        except StoreAway:
            raise Postpone(STORE_PATIENCE, "store_away") from None

    async def remember(self, key: str, value: Any) -> None:
        """Keep a small JSON value for later commands of this connection: a watermark, a tenant's vocabulary."""
        await self._write(self.host.ledger.remember(f"{self.connection.name}:{key}", value))

    async def breathe(self) -> None:
        """Call between the items of long work: parks the command while the worker drains or the run grows old."""
        if self.host.draining:
            raise Postpone(timedelta(0), "drained")
        if self.now() - self.started > CONTINUE_AFTER:
            raise Postpone(timedelta(seconds=1), "continued")
        await asyncio.sleep(0)

    async def unfinished(self, error: RelayError, *, left: int | str) -> Exception:
        """
        Give what to raise for `error` at the end of a run that did some of its items.

        `left` is what is still to do: how many items, or the name of the next one.
        A run that left fewer than any before it is no failed attempt: it goes on after a short wait, uncounted. What
        got no further gives the error back, to be counted; so long work ends however many of its items fail once.
        """
        step = f"left:{left}"
        if isinstance(error, RateLimited | Busy) or getattr(error, "after", None) is not None or step in self._steps:
            return error
        await self.step(step, _nothing)
        return Postpone(UNFINISHED_PAUSE, "unfinished")

    async def emit(self, type: str, data: Mapping[str, Any], id: str) -> None:
        """Publish an extra event, confirmed; the same `id` makes a repeated one recognisable."""
        await self.host.emit(self, type, data, id)

    def progress(self, done: int, total: int | None = None) -> None:
        """Say how far the work is; shown by `planrelay show`."""
        self.progressed = (done, total)

    @property
    def schedule(self) -> str:
        """The schedule that this command came from, or an empty string: the scope of a watermark."""
        source = self.command.source
        return source.removeprefix("/planrelay/schedule/") if source.startswith("/planrelay/schedule/") else ""

    async def rows(
        self,
        rows: AsyncIterator[Mapping[str, Any]],
        *,
        destination: str | None = None,
        limit: int | None = None,
        complete: Callable[[], bool] = lambda: True,
    ) -> dict[str, Any]:
        """Write rows to `destination` (JSONL or CSV by its ending), or collect them for the result."""
        from worker.rows import collect_rows, write_rows  # noqa: PLC0415 - sheets' libraries load when first used

        if destination is None:
            result = await collect_rows(rows, limit=limit)
        else:
            result = await write_rows(self.artifacts, destination, rows, limit=limit)
        if not complete():
            result["complete"] = False
        return result

    async def destination(self, template: str, **ids: str) -> str:
        """Fill a destination's `{date}`, `{time}` and ids, once per command: a redelivery gets the same name."""

        async def fill() -> str:
            return self.artifacts.fill(template, now=self.now(), tz=self.zone, **ids)

        filled: str = await self.step("destination:" + ",".join(sorted(ids)), fill)
        return filled

    @property
    def zone(self) -> str:
        """The schedule's time zone, else UTC."""
        for schedule in self.host.settings.schedules:
            if schedule.name == self.schedule:
                return str(schedule.timezone)
        return "UTC"


async def _nothing() -> None:
    return None


def _listed(found: Any) -> list[Any]:
    if found is None:
        return []
    return list(found) if isinstance(found, (list, tuple)) else [found]


def _single(found: Any) -> Any:
    """Give the one object found, None where there is none; several are no answer."""
    candidates = _listed(found)
    if len(candidates) > 1:
        names = ", ".join(_identity(each) for each in candidates[:5])
        raise OutcomeUnknown(
            f"{len(candidates)} objects have this natural key ({names}): which one is meant can't be told; "
            "give `match_on` fields that are unique, or tidy up at the vendor."
        )
    return candidates[0] if candidates else None


def _identity(value: Any) -> str:
    """Give the vendor's id of an object: how the ledger tells who made it."""
    if isinstance(value, dict):
        for name in ("id", "bn", "_id"):
            if value.get(name):
                return str(value[name])
    return str(value)


__all__ = ["DeadlineExceeded", "Host", "Once", "Postpone", "RelayError", "Run"]

"""
One command, from message to outcome: claim, run, settle. Record and publish first, acknowledge last.

`Engine` is what a worker process has one of. Its `admission` turns a delivery into a `Ticket` or says why it is no
command; `perform` runs a ticket to a settled end, and `refuse` ends what is no command. The caller (Celery's tracer,
through `worker.app`) acknowledges when they return, and never before: by then the result event, the parked copy or the
dead letter is confirmed by the broker. It is one file because the order of its steps is what it promises.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import hashlib
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import structlog

from worker import result_event, topology, tracing
from worker.admission import Admission, Ticket
from worker.delivery import Delivery
from worker.errors import (
    BadCommand,
    Conflict,
    Crowded,
    DeadlineExceeded,
    Expired,
    Invalid,
    OutcomeUnknown,
    RelayError,
    WorkerLost,
)
from worker.ledger import (
    LOST_RUNS,
    SUSPECT,
    Claim,
    ClaimLost,
    Elsewhere,
    Finished,
    Ledger,
    Mismatch,
    Stale,
    StoreAway,
)
from worker.message import Command, Unreadable
from worker.outcome import Defer, Discard, Retry, RetryPolicy, decide
from worker.result_event import ResultEvent, Tally
from worker.run import STORE_PATIENCE, Postpone, Run
from worker.telling import Publishing, Teller
from worker.turnstile import Turnstile

if TYPE_CHECKING:
    from random import Random

    from config.settings import Settings
    from worker.artifacts import Artifacts
    from worker.command import Operation
    from worker.gateway import Gateway
    from worker.plans import Plans
    from worker.telemetry import Metrics, Redactor

log = structlog.get_logger("planrelay.command")

SHORT_WAIT: Final = timedelta(seconds=1.5)
"""A wait for a carried instant that is spent here."""

PART: Final = timedelta(seconds=1)
"""What the ladder's whole seconds leave over of a wait, at most."""

WORN: Final = topology.DELIVERY_LIMIT // 2
"""Deliveries after which a message is replaced by a fresh copy: the broker counts those of a worker that only held it
when it died, and would in the end dead-letter the command untold. What runs were lost is the ledger's to count."""

YOUNG_LEDGER: Final = timedelta(hours=1)
"""How long after its ledger was emptied a redelivered command may have had a run of which it doesn't know."""

NOTES_LIMIT: Final = 16 * 1024
"""Characters of steps and intents that a parked copy carries; long work has more, and looks at the vendor instead."""

GIVING_BACK: Final = timedelta(seconds=8)
"""How long a draining worker tries to put unfinished commands back confirmed, before it leaves that to the broker."""


class Ending(enum.Enum):
    """How a delivery ended, for the metrics and for Celery's result backend."""

    DONE = "done"
    REPEATED = "repeated"
    DEFERRED = "deferred"
    RETRIED = "retried"
    POSTPONED = "postponed"
    DISCARDED = "discarded"
    PASSED_OVER = "passed_over"


class Parking(Protocol):
    """Where a command waits that no worker holds: the broker's ladder, or the state store."""

    async def park(self, delivery: Delivery, wait: timedelta, command: Command) -> None:
        """Put the copy away for `wait`; returns when it is confirmed."""


@dataclass(slots=True, eq=False)
class _Job:
    """A command in this process, from claim to settlement."""

    ticket: Ticket
    settled: asyncio.Future[None]
    body: asyncio.Task[Any] | None = None
    run: Run | None = None
    gateway: Gateway | None = None
    claimed: bool = False
    fate: str = ""
    holds: dict[str, str] = field(default_factory=dict)

    def stop(self, fate: str) -> None:
        """Cancel the slice's coroutine; `fate` says why, and so what becomes of the command."""
        if self.body is not None and not self.body.done() and not self.fate:
            self.fate = fate
            self.body.cancel()


@dataclass(kw_only=True, eq=False)
class Engine:
    """What runs commands in one worker process."""

    settings: Settings
    operations: Mapping[str, Operation]
    ledger: Ledger
    publisher: Publishing
    answers: Publishing
    """The way to who asked for an answer: what is wrong with theirs holds up nothing else."""
    parking: Parking
    gateway: Callable[..., Gateway]
    artifacts: Artifacts
    turnstile: Turnstile
    metrics: Metrics
    policy: RetryPolicy
    clock: Callable[[], datetime]
    rng: Random
    amqp: bool
    redactor: Redactor
    plans: Plans
    revoked: Callable[[str], bool] = lambda _id: False

    def __post_init__(self) -> None:
        self.jobs: dict[str, _Job] = {}
        self.present: Counter[str] = Counter()
        """Jobs by connection."""
        self.suspects = Turnstile(1)
        self.admission = Admission(self.operations, self.settings.connections, self.artifacts)
        self.teller = Teller(self.publisher, self.answers, self.metrics)
        self._draining = asyncio.Event()
        self._side: set[asyncio.Task[Any]] = set()

    # What a run may ask of its host.

    def now(self) -> datetime:
        """Give the present instant (aware, UTC)."""
        return self.clock()

    @property
    def draining(self) -> bool:
        """Whether this worker is on its way out."""
        return self._draining.is_set()

    async def emit(self, run: Run, type: str, data: Mapping[str, Any], id: str) -> None:
        """Publish an event beside the result, confirmed."""
        command = run.command
        event = result_event.event(
            id=id,
            type=type,
            subject=command.id,
            time=self.now(),
            data=data,
            traceparent=command.traceparent,
            tracestate=command.tracestate,
        )
        await self.teller.announce(event, command.id)

    @contextlib.contextmanager
    def holding(self, name: str, token: str) -> Iterator[None]:
        """Keep a fleet-wide hold renewed while the block runs."""
        job = self.jobs[token]
        job.holds[name] = token
        try:
            yield
        finally:
            job.holds.pop(name, None)

    # What is no command.

    async def refuse(self, delivery: Delivery, error: BadCommand) -> None:
        """End a message that is no command: failed event where it can be answered, dead letter, confirmed."""
        command: Command | Unreadable | None = getattr(error, "command", None)
        if isinstance(error, Unreadable):
            command = error
        digest = None if command is None else command.key
        error.message = self.redactor.message(error.message)
        log.warning(
            "command.refused",
            command_id=getattr(command, "id", None),
            type=getattr(command, "type", None),
            connection=getattr(command, "connection", None),
            attempt=delivery.journey.attempt,
            kind=error.kind,
            reason=error.message,
        )
        if command is not None and (isinstance(command, Command) or command.answerable):
            tally = Tally(
                received_at=delivery.journey.received,
                started_at=None,
                finished_at=self.now(),
                attempts=delivery.journey.attempt,
                deferrals=delivery.journey.deferrals,
                run=delivery.journey.run,
            )
            salt = hashlib.sha256(delivery.body).hexdigest()
            await self.teller.tell(
                result_event.failed(command, error, tally, redact=self.redactor.text, salt=salt),
                delivery,
                subject=command.id or "",
            )
        await self.teller.bury(delivery, error, attempts=delivery.journey.attempt, key=digest)
        self.metrics.dead_letter(error.kind)

    # From a ticket to its end.

    async def perform(self, ticket: Ticket) -> tuple[Ending, Any]:
        """Run a command to a settled end; when this returns, its message may be acknowledged."""
        command = ticket.command
        structlog.contextvars.bind_contextvars(  # in the job's own context: it ends with the job
            command_id=command.id,
            type=command.type,
            connection=command.connection,
            attempt=ticket.delivery.journey.attempt,
        )
        while (other := self.jobs.get(command.key)) is not None:
            await asyncio.shield(other.settled)  # a second delivery joins the run; the ledger then has its end
        job = _Job(ticket, asyncio.get_running_loop().create_future())
        self.jobs[command.key] = job
        self.present[command.connection] += 1
        attempt, broker = ticket.delivery.journey.attempt, "rabbitmq" if self.amqp else "valkey"
        try:
            with tracing.run(command, attempt=attempt, broker=broker) as traced:
                ending, value = end = await self._perform(job)
                failed = value.kind if isinstance(value, RelayError) else None
                traced.say({"planrelay.outcome": ending.value}, failed=failed)
                return end
        except asyncio.CancelledError:
            self._on_cancelled(job)
            raise
        finally:
            del self.jobs[command.key]
            self.present[command.connection] -= 1
            self.ledger.forget(command.key)
            job.settled.set_result(None)

    async def _perform(self, job: _Job) -> tuple[Ending, Any]:
        ticket = job.ticket
        journey = ticket.delivery.journey
        try:
            if ticket.delivery.deliveries >= WORN:
                raise Postpone(timedelta(0), "worn")
            await self._until_due(ticket)
            too_old = self._too_old(ticket)
            claim = await self._claim(job)
            if isinstance(claim, tuple):
                return claim
            await self._until_agreed(ticket, claim)
            if too_old is not None:
                return await self._discard(job, too_old, attempt=journey.attempt, started=journey.started)
            if claim is not None and claim.lost >= LOST_RUNS:
                if claim.trial > timedelta(0):
                    raise Postpone(claim.trial, "on_trial")
                return await self._discard(job, WorkerLost(), attempt=journey.attempt, started=journey.started)
            async with self._alone(job, claim), self.turnstile.turn(ticket.connection.name):
                return await self._run(job, claim)
        except Postpone as postponed:
            return await self._postpone(job, postponed)
        except ClaimLost:
            log.warning("command.claim_lost")
            return Ending.PASSED_OVER, None

    @contextlib.asynccontextmanager
    async def _alone(self, job: _Job, claim: Claim | None) -> AsyncIterator[None]:
        """
        Let a command that was lost with its workers run when no other such command does.

        The one that ends its worker so ends it alone; those that only ran beside it get through, and their wait counts
        neither for them nor against them.
        """
        if claim is None or claim.lost < SUSPECT:
            yield
            return
        async with self.suspects.turn(job.ticket.connection.name):
            log.warning("command.suspect", lost=claim.lost)
            await self._begin(job.ticket)
            yield

    async def _begin(self, ticket: Ticket) -> None:
        with contextlib.suppress(StoreAway):  # not counted then, should it be lost
            await self.ledger.begin(ticket.command.key)

    def _in_line(self, ticket: Ticket) -> bool:
        """Whether so many commands of its connection are here that this one will stand at the gate first."""
        return self.present[ticket.connection.name] > max(ticket.connection.max_in_flight // 4, 1)

    async def _until_due(self, ticket: Ticket) -> None:
        """Wait for the carried instant: never early. What is further off goes back to the broker."""
        left = self._left(ticket)
        if left > SHORT_WAIT or (left > timedelta(0) and self.draining):
            raise Postpone(left, "not_due")
        loop = asyncio.get_running_loop()
        rest = left.total_seconds()
        until = loop.time() + rest
        while rest > 0:
            await asyncio.sleep(rest)
            rest = until - loop.time()  # a timer may ring a little early

    async def _until_agreed(self, ticket: Ticket, claim: Claim | None) -> None:
        """
        Wait on where the broker gave a parked copy back too early, as it does when its clock is put forward.

        Two clocks must say so, the store's and this machine's: one alone may be the one that is wrong. Nothing waits
        longer for it than it was parked for.
        """
        parked = ticket.delivery.journey.not_before
        if claim is None or parked is None:
            return
        early = min(claim.early, parked - self.now())
        if early > SHORT_WAIT:
            log.warning("parking.early", seconds=round(early.total_seconds(), 3))
            raise Postpone(early, "early")
        await asyncio.sleep(max(early.total_seconds(), 0))

    def _left(self, ticket: Ticket) -> timedelta:
        """Give what is left to wait. A parked copy has waited its whole seconds, whatever this machine's clock says."""
        now, parked, asked = self.now(), ticket.delivery.journey.not_before, ticket.command.not_before
        waits = [timedelta(0)]
        if parked is not None:
            waits.append(min(parked - now, PART))
        if asked is not None:
            waits.append(asked - now)
        return max(waits)

    def _too_old(self, ticket: Ticket) -> Expired | None:
        now = self.now()
        expiry = ticket.command.expiry
        if expiry is not None and now > expiry:
            return Expired(f"The command was not to be started after {expiry.isoformat()}.")
        since = max(filter(None, (ticket.delivery.journey.received, ticket.command.not_before)))
        if now - since > self.settings.retry.max_age:
            return Expired(f"The command is older than retry.max_age ({self.settings.retry.max_age}).")
        return None

    async def _claim(self, job: _Job) -> Claim | tuple[Ending, Any] | None:
        """Take the command; a tuple is its end already, None an unclaimed run (the state store is away)."""
        ticket = job.ticket
        journey = ticket.delivery.journey
        try:
            claim = await self.ledger.claim(
                ticket.key,
                generation=journey.generation,
                received_ms=round(journey.received.timestamp() * 1000),
                reply=_reply(ticket.delivery),
                run=journey.run,
                waits=self._in_line(ticket),
                notes=journey.notes,
            )
        except StoreAway as away:
            log.warning("ledger.away", reason=str(away))
            if ticket.delivery.deliveries >= LOST_RUNS:  # whether it ran each time, only the ledger can tell
                raise Postpone(STORE_PATIENCE, "store_away") from None
            return None
        match claim:
            case Claim():
                job.claimed = True
                return claim
            case Finished():
                return await self._repeat(ticket, claim)
            case Elsewhere(remaining):
                raise Postpone(min(max(remaining, timedelta(seconds=1)), timedelta(seconds=30)), "running_elsewhere")
            case Stale(reply):
                if _reply(ticket.delivery) not in {"", reply}:
                    raise Postpone(timedelta(seconds=2), "running_elsewhere")  # somebody else asks: answered at the end
                log.info("command.passed_over", generation=journey.generation)
                return Ending.PASSED_OVER, None
            case Mismatch():
                error = Conflict("The same idempotency key came before with other data; use a new key.")
                return await self._discard(job, error, attempt=journey.attempt, started=None, salt=ticket.key.data)

    async def _repeat(self, ticket: Ticket, finished: Finished) -> tuple[Ending, Any]:
        """Answer a command that has its outcome, and finish the telling that a crash may have cut short."""
        event = result_event.loaded(finished.event)
        told = json.loads(finished.event)
        subject, data = str(told["subject"]), told["data"]
        await self.teller.tell(event, ticket.delivery, subject=subject, asked=ticket.command.id)
        if finished.dead and not finished.told:
            error = _as_error(data["error"])
            await self.teller.bury(ticket.delivery, error, attempts=data["attempts"], key=ticket.command.key)
            with contextlib.suppress(StoreAway):
                await self.ledger.told(ticket.command.key)
        log.info("command.repeated", outcome="dead" if finished.dead else "done")
        return Ending.REPEATED, data.get("result")

    async def _run(self, job: _Job, claim: Claim | None) -> tuple[Ending, Any]:
        ticket = job.ticket
        journey = ticket.delivery.journey
        started = self.now()
        gateway = self.gateway(
            ticket.connection,
            attempt=journey.attempt,
            bulk=ticket.operation.bulk,
            deadline=started + self.settings.worker.command_deadline,
        )
        run = Run(
            command=ticket.command,
            connection=ticket.connection,
            gateway=gateway,
            host=self,
            attempt=journey.attempt,
            started=started,
            digest=ticket.command.key,
            claim=claim,
            last_error=journey.error,
            last_status=journey.status,
            unsure=claim is not None and self._forgotten(ticket.delivery, claim),
            log=log,
        )
        if claim is not None and claim.late:
            gateway.on_permit = functools.partial(self._begin, ticket)
        job.run, job.gateway = run, gateway
        log.info("command.started")
        with self.metrics.in_flight(ticket.connection.name):
            error = await self._body(job, run)
        tally = gateway.tally
        job.ticket = ticket = _moved(
            ticket,
            started=journey.started or started,
            deferrals=journey.deferrals + tally.deferrals,
            requests=journey.requests + tally.http_requests,
        )
        attempt = tally.attempt
        if not isinstance(error, Exception):
            try:
                return await self._done(job, error, attempt)
            except (TypeError, ValueError, RecursionError) as no_json:
                return await self._settle(job, no_json, attempt)
        if isinstance(error, (Postpone, ClaimLost)):
            raise error
        if isinstance(error, StoreAway):  # what a slice keeps there itself: its plans
            raise Postpone(STORE_PATIENCE, "store_away") from error
        if isinstance(error, Crowded):
            raise Postpone(error.after or timedelta(seconds=1), "crowded")
        return await self._settle(job, error, attempt)

    def _forgotten(self, delivery: Delivery, claim: Claim) -> bool:
        """Whether there may have been a run of which an emptied ledger no longer knows."""
        # On Valkey the queues are in the same store: who empties it takes the commands too.
        again = delivery.journey.unsure or (delivery.redelivered and delivery.journey.notes is None)
        return self.amqp and again and claim.new and claim.ledger_age < YOUNG_LEDGER

    async def _body(self, job: _Job, run: Run) -> Any:
        """Await the slice's coroutine under the deadline; gives its result, or its error as a value."""
        ticket = job.ticket
        patience = self.settings.worker.command_deadline
        job.body = asyncio.ensure_future(ticket.operation.body(run, ticket.data))
        deadline = asyncio.timeout(patience.total_seconds())
        try:
            async with deadline:
                return await job.body
        except asyncio.CancelledError:
            if not job.fate:
                raise  # Celery ends the job: see `_on_cancelled`
            return ClaimLost(ticket.command.key) if job.fate == "claim_lost" else Postpone(timedelta(0), "drained")
        except TimeoutError as error:
            if not deadline.expired():
                return error
            return DeadlineExceeded(f"The command took longer than worker.command_deadline ({patience}).")
        except Exception as error:  # noqa: BLE001 - whatever it is, `decide` has a fate for it
            return error

    async def _done(self, job: _Job, result: Mapping[str, Any], attempt: int) -> tuple[Ending, Any]:
        ticket = job.ticket
        try:
            result = result_event.fit(result, writes=ticket.operation.writes)
        except Invalid as refused:
            return await self._discard(job, refused, attempt=attempt, started=ticket.delivery.journey.started)
        event = result_event.succeeded(ticket.command, result, self._tally(ticket, attempt))
        stands = await self._finish(job, event, dead=False, attempt=attempt)
        await self.teller.tell(stands, ticket.delivery, subject=ticket.command.id)
        self._count(ticket, "succeeded")
        log.info("command.done", attempts=attempt, requests=ticket.delivery.journey.requests)
        return Ending.DONE, result

    async def _settle(self, job: _Job, error: Exception, attempt: int) -> tuple[Ending, Any]:
        ticket = job.ticket
        journey = ticket.delivery.journey
        streak = journey.streak + (0 if job.gateway is None else job.gateway.tally.deferrals)
        fate = decide(error, attempt=attempt, deferral_run=streak, policy=self.policy, rng=self.rng)
        unresolved = job.run is not None and bool(job.run.unresolved)
        if isinstance(error, RelayError):
            error.message = self.redactor.message(error.message)
        elif not isinstance(error, ExceptionGroup):
            log.error("command.bug", exc_info=error)
        match fate:
            case Defer(wait, reason):
                self.metrics.retry(ticket.operation.system, reason)
                changes: dict[str, Any] = {
                    "deferrals": journey.deferrals + 1,
                    "streak": streak + 1,
                    "attempt": attempt,
                }
                return await self._park(job, self._at_least(job, wait), reason, error, Ending.DEFERRED, changes=changes)
            case Retry(wait, reason):
                self.metrics.retry(ticket.operation.system, reason)
                changes = {"attempt": attempt + 1, "streak": 0}
                return await self._park(job, self._at_least(job, wait), reason, error, Ending.RETRIED, changes=changes)
            case Discard(failure):
                passing = failure.kind in {"unavailable", "deadline_exceeded"}
                if unresolved and attempt <= self.policy.max_attempts and passing:
                    # The last send may have taken effect: one more look, and then nothing is sent any more.
                    changes = {"attempt": self.policy.max_attempts + 1, "streak": 0}
                    wait = self._at_least(job, timedelta(0))
                    return await self._park(job, wait, "unresolved", error, Ending.POSTPONED, changes=changes)
                if unresolved and passing:
                    failure = OutcomeUnknown(
                        f"{failure.message} What was sent before may have taken effect, and could not be looked up; "
                        "check at the vendor, then replay or drop.",
                        status=failure.status,
                        response=failure.response,
                    )
                return await self._discard(
                    job, failure, attempt=min(attempt, self.policy.max_attempts), started=journey.started
                )

    def _at_least(self, job: _Job, wait: timedelta) -> timedelta:
        """Nothing is looked up before the request that was cut off can no longer be running at the vendor."""
        return max(wait, job.run.resolve_after) if job.run is not None and job.run.unresolved else wait

    async def _postpone(self, job: _Job, postponed: Postpone) -> tuple[Ending, Any]:
        waiting = postponed.reason in {"running_elsewhere", "not_due", "worn"}
        return await self._park(job, postponed.wait, postponed.reason, None, Ending.POSTPONED, own=not waiting)

    async def _park(
        self,
        job: _Job,
        wait: timedelta,
        reason: str,
        error: Exception | None,
        ending: Ending,
        *,
        own: bool = True,
        changes: Mapping[str, Any] | None = None,
    ) -> tuple[Ending, Any]:
        """Put a copy away, confirmed, then let the ledger know. `own`: this delivery is the one that counts."""
        ticket = job.ticket
        journey = ticket.delivery.journey
        until = self.now() + wait
        said = getattr(error, "message", "") or journey.error
        status = journey.status if error is None else getattr(error, "status", None)
        notes: Mapping[str, str] | None = journey.notes
        unsure = journey.unsure or ticket.delivery.redelivered or reason == "running_elsewhere"
        if job.claimed:
            notes = self.ledger.notes(ticket.command.key)
            unsure = sum(len(name) + len(value) for name, value in notes.items()) > NOTES_LIMIT
        copy = ticket.delivery.moved(
            not_before=until if wait > timedelta(0) else None,
            generation=journey.generation + (1 if own else 0),
            error=said[:500],
            status=status,
            notes=None if unsure else notes or None,
            unsure=unsure,
            **(changes or {}),
        )
        await self.teller.insist(lambda: self.parking.park(copy, wait, ticket.command))
        if own and job.claimed:
            with contextlib.suppress(StoreAway):  # the copy is newer than what the ledger knows: it will be believed
                await self.ledger.park(
                    ticket.command.key,
                    generation=copy.journey.generation,
                    attempts=copy.journey.attempt,
                    deferrals=copy.journey.deferrals,
                    wait=wait,
                    reason=reason,
                    error=said[:500],
                    lived=_lived(job),
                )
        log.info(_PARKED[ending], reason=reason, wait_s=round(wait.total_seconds(), 3), error=said or None)
        self._count(ticket, ending.value)
        return ending, None

    async def _discard(
        self, job: _Job, error: RelayError, *, attempt: int, started: datetime | None, salt: str = ""
    ) -> tuple[Ending, Any]:
        """End a command as failed: ledger, event, dead letter, each before the next."""
        error.message = self.redactor.message(error.message)
        ticket = _moved(job.ticket, started=started)
        job.ticket = ticket
        event = result_event.failed(
            ticket.command, error, self._tally(ticket, attempt), redact=self.redactor.text, salt=salt
        )
        stands = await self._finish(job, event, dead=True, attempt=attempt)
        await self.teller.tell(stands, ticket.delivery, subject=ticket.command.id)
        if stands is event:
            await self.teller.bury(ticket.delivery, error, attempts=attempt, key=ticket.command.key)
            self.metrics.dead_letter(error.kind)
            if job.claimed:
                with contextlib.suppress(StoreAway):
                    await self.ledger.told(ticket.command.key)
        log.warning("command.discarded", kind=error.kind, reason=error.message, attempts=attempt)
        self._count(ticket, "failed")
        return Ending.DISCARDED, error

    async def _finish(self, job: _Job, event: ResultEvent, *, dead: bool, attempt: int) -> ResultEvent:
        """Keep the outcome in the ledger; gives the event that stands, which is the first one told."""
        if not job.claimed:
            return event
        body = event.body
        journey = job.ticket.delivery.journey
        keep = functools.partial(
            self.ledger.finish,
            job.ticket.key,
            dead=dead,
            event=body,
            attempts=attempt,
            deferrals=journey.deferrals,
            run=journey.run,
        )
        try:
            stands = await keep()
        except StoreAway:
            self._later(self._finish_later(keep))
            return event
        return event if stands == body else result_event.loaded(stands)

    async def _finish_later(self, keep: Callable[[], Awaitable[bytes]]) -> None:
        """The store went away at the end of a run: keep the outcome once it is back, for repeated commands."""
        for wait in (1, 2, 4, 8, 15, 30, 60, 120):
            await asyncio.sleep(wait)
            with contextlib.suppress(StoreAway):
                await keep()
                return

    def _tally(self, ticket: Ticket, attempt: int) -> Tally:
        journey = ticket.delivery.journey
        return Tally(
            received_at=journey.received,
            started_at=journey.started,
            finished_at=self.now(),
            attempts=attempt,
            deferrals=journey.deferrals,
            http_requests=journey.requests,
            run=journey.run,
        )

    def _count(self, ticket: Ticket, outcome: str) -> None:
        journey = ticket.delivery.journey
        spent = max(self.now() - (journey.started or self.now()), timedelta(0))
        self.metrics.command(ticket.command.type, ticket.command.connection, outcome, spent)

    async def call(
        self, operation: Operation, connection: str, data: Mapping[str, Any], idempotencykey: str | None
    ) -> Mapping[str, Any]:
        """Run an operation that no message asked for (a test, a shell): one attempt, nothing settled, errors raised."""
        now = self.now()
        command = Command(
            id=uuid.uuid4().hex,
            source="call",
            type=operation.type,
            connection=connection,
            idempotency_key=idempotencykey,
            data=data,
            form="celery",
        )
        target = self.admission.connection(command, None)
        gateway = self.gateway(
            target, attempt=1, bulk=operation.bulk, deadline=now + self.settings.worker.command_deadline
        )
        run = Run(
            command=command,
            connection=target,
            gateway=gateway,
            host=self,
            attempt=1,
            started=now,
            digest=command.key,
            claim=Claim(lost=0, run=1),
            log=log,
        )
        return await operation.body(run, operation.validate(data))

    # The process's own rhythm.

    async def keep_claims(self) -> None:
        """Renew the leases of this worker and of what runs here, for ever; a claim that was lost ends its run."""
        while True:
            claimed = [digest for digest, job in self.jobs.items() if job.claimed]
            holds = [(name, token) for job in self.jobs.values() for name, token in job.holds.items()]
            try:
                for digest in await self.ledger.renew(claimed):
                    if digest in self.jobs:
                        self.jobs[digest].stop("claim_lost")
                for name, token in holds:
                    await self.ledger.hold(name, token, self.ledger.lease)
            except StoreAway as away:
                log.warning("ledger.away", reason=str(away), claims=len(claimed))
            except Exception:  # a bug of ours: all that runs here would be taken for lost
                log.exception("ledger.failed", claims=len(claimed))
            await asyncio.sleep(self.settings.worker.lease.total_seconds() / 3)

    async def drain(self, patience: timedelta) -> None:
        """Let what runs finish; what is not done by then goes back to the broker, whole and unharmed."""
        self._draining.set()
        self.turnstile.close()
        self.suspects.close()
        await self._settled(patience)
        for job in list(self.jobs.values()):
            job.stop("drained")
        await self._settled(GIVING_BACK)

    async def _settled(self, patience: timedelta) -> None:
        waiting = [job.settled for job in self.jobs.values()]
        if waiting:
            await asyncio.wait(waiting, timeout=patience.total_seconds())

    def _later(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._side.add(task)
        task.add_done_callback(self._side.discard)

    def _on_cancelled(self, job: _Job) -> None:
        """Celery ended the job: by an operator's revoke, which is an outcome, or with the process, which is none."""
        if self.revoked(job.ticket.command.id):
            error = Expired("An operator revoked the command.")
            journey = job.ticket.delivery.journey
            self._later(_void(self._discard(job, error, attempt=journey.attempt, started=journey.started)))


_PARKED: Final = {
    Ending.DEFERRED: "command.deferred",
    Ending.RETRIED: "command.retried",
    Ending.POSTPONED: "command.postponed",
}


def _as_error(told: Mapping[str, Any]) -> RelayError:
    """Take up the error of a kept event again, for its dead letter."""
    error = RelayError(str(told["message"]), status=told.get("status"), response=told.get("response"))
    error.kind = str(told["kind"])  # type: ignore[misc] # one error, of the kind it had
    return error


def _moved(ticket: Ticket, **changes: Any) -> Ticket:
    return Ticket(
        delivery=ticket.delivery.moved(**changes),
        command=ticket.command,
        operation=ticket.operation,
        connection=ticket.connection,
        data=ticket.data,
    )


async def _void(work: Awaitable[object]) -> None:
    await work


def _lived(job: _Job) -> Literal["sent", "ran", "held"]:
    """Say what a run did that its worker outlived."""
    if job.gateway is None:
        return "held"
    return "sent" if job.gateway.tally.http_requests else "ran"


def _reply(delivery: Delivery) -> str:
    """Who waits for the answer: one string for the ledger, empty where nobody does."""
    if delivery.reply_to is None:
        return ""
    return json.dumps([delivery.reply_to, delivery.properties.get("correlation_id")])


def utc_now() -> datetime:
    """Read the clock (aware, UTC)."""
    return datetime.now(UTC)

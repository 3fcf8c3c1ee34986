"""
The schedule: `[[schedules]]` of the settings, run by Celery's beat with RedBeat on the state store.

Any number of beats may run. One holds RedBeat's lock and leads; the others look for it every five seconds, answer pings
meanwhile and take over when it is free, thirty seconds after its holder fell silent. A beat that loses the lock stands
by, it does not end. What a tick publishes is the same whoever publishes it (`worker.ticks`), so that two leaders for a
moment do no harm.

    planrelay:beat:<name>       hash   definition: when it ticks; meta: which ticks are settled, which one was run last
    planrelay:beat::schedule    zset   name → when it comes due (UNIX time)
    planrelay:beat::lock        string the leader's token
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import structlog
from redbeat.schedulers import RedBeatScheduler, get_redis
from redis import Redis
from redis.exceptions import LockError, RedisError

from worker import broker, ticks
from worker.app import broker_url, is_amqp_url, state_url, transport_options
from worker.bridge import process_loop
from worker.errors import BadCommand
from worker.events import Outgoing, Publisher, PublishFailed
from worker.ledger import Ledger
from worker.message import CLOUDEVENT
from worker.store import Store, StoreAway, connect
from worker.task import utc_now
from worker.topology import COMMANDS, work_queue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from config.settings import Schedule, Settings
    from worker.app import Relay

log = structlog.get_logger("planrelay.schedule")

PREFIX: Final = "planrelay:beat:"
PUBLISH_PATIENCE: Final = timedelta(seconds=15)
"""For the broker's confirm: less than the lock's thirty seconds."""

STORE_PATIENCE: Final = 5.0
"""Seconds in which the state store must answer beat."""

SHORTEST_SLEEP: Final = 0.01

Outcome = Literal["published", "skipped", "missed"]
_SAID: Final[Mapping[Outcome, str]] = {
    "published": "schedule.published",
    "skipped": "schedule.skipped",
    "missed": "schedule.missed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What is kept of a schedule between looks. Instants are ticks, but for `published_at`."""

    since: datetime
    """Ticks up to this one are settled."""
    run: datetime | None = None
    """The last tick that was run."""
    published_at: datetime | None = None
    outcome: Outcome | None = None
    """What became of the last settled tick: `published`, `skipped` (its last run was unfinished), `missed`."""

    def dump(self) -> str:
        """Write as JSON."""
        return json.dumps(
            {
                "since": self.since.isoformat(),
                "run": self.run.isoformat() if self.run else None,
                "published_at": self.published_at.isoformat() if self.published_at else None,
                "outcome": self.outcome,
            }
        )

    @classmethod
    def load(cls, text: str) -> Memory:
        """Read what `dump` wrote."""
        raw = json.loads(text)
        moments = {name: datetime.fromisoformat(raw[name]) for name in ("since", "run", "published_at") if raw[name]}
        return cls(outcome=raw["outcome"], **moments)


class Memories:
    """The memories of all schedules, in RedBeat's keys. Raises redis's errors. `redis`: synchronous, decoding."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis

    def load(self, schedule: Schedule) -> Memory | None:
        """Give a schedule's memory; None where there is none, or it is of other ticks than the schedule has now."""
        definition, meta = self._redis.hmget(PREFIX + schedule.name, "definition", "meta")
        if definition != _definition(schedule) or meta is None:
            return None
        try:
            return Memory.load(meta)
        except (ValueError, KeyError, TypeError):
            return None

    def save(self, schedule: Schedule, memory: Memory, due: datetime | None) -> None:
        """Keep a schedule's memory, and when it comes due."""
        key = PREFIX + schedule.name
        with self._redis.pipeline() as pipe:
            pipe.hset(key, mapping={"definition": _definition(schedule), "meta": memory.dump()})
            if due is None:
                pipe.zrem(f"{PREFIX}:schedule", key)
            else:
                pipe.zadd(f"{PREFIX}:schedule", {key: due.timestamp()})
            pipe.execute()

    def forget_others(self, schedules: Iterable[Schedule]) -> list[str]:
        """Remove what is kept of schedules that the settings don't name any more; gives their names."""
        kept = {PREFIX + schedule.name for schedule in schedules}
        gone = [key for key in self._redis.scan_iter(f"{PREFIX}[^:]*", count=1000) if key not in kept]
        if gone:
            with self._redis.pipeline() as pipe:
                pipe.zrem(f"{PREFIX}:schedule", *gone)
                pipe.delete(*gone)
                pipe.execute()
        return sorted(key.removeprefix(PREFIX) for key in gone)


def _definition(schedule: Schedule) -> str:
    return json.dumps({"cron": schedule.cron, "timezone": schedule.timezone})


def message(schedule: Schedule, id: str, at: datetime, user: str | None) -> Outgoing:
    """Give the message of a scheduled command; `user` is the publishing connection's own, which RabbitMQ validates."""
    properties: dict[str, Any] = {"content_type": CLOUDEVENT, "delivery_mode": 2, "message_id": id}
    if user is not None:
        properties["user_id"] = user
    body = json.dumps(ticks.command(schedule, id, at), separators=(",", ":")).encode()
    return Outgoing(exchange=COMMANDS, routing_key=schedule.type, body=body, properties=properties)


@dataclass(frozen=True, slots=True)
class Entry:
    """A schedule as beat's own code expects an entry."""

    schedule: Schedule

    @property
    def name(self) -> str:
        """The schedule's name."""
        return self.schedule.name


class Desk:
    """What a leading beat works with: the way to the broker, and what it asks the ledger."""

    def __init__(self, settings: Settings, systems: Iterable[str], *, patience: timedelta = PUBLISH_PATIENCE) -> None:
        self._patience = patience.total_seconds()
        self._loop = process_loop()
        self._url = broker_url(settings)
        self._options = transport_options(amqp=is_amqp_url(self._url))
        self._max_age = settings.retry.max_age
        self._publisher = Publisher(self._url, systems=tuple(systems), options=self._options, name="beat")
        self._publisher.start(self._loop.loop)
        self._store = Store(connect(state_url(settings)))
        self._ledger = Ledger(self._store, owner="beat", lease=settings.worker.lease)

    def publish(self, schedule: Schedule, id: str, at: datetime) -> None:
        """Publish a schedule's command, confirmed; raises `PublishFailed` or `TimeoutError`."""
        if not self._publisher.ready.wait(self._patience):
            raise TimeoutError(self._publisher.last_error or "the broker does not answer")
        out = message(schedule, id, at, self._publisher.user)

        async def publish() -> None:
            async with asyncio.timeout(self._patience):
                await self._publisher.publish(out)

        self._loop.wait_for(publish())

    def unfinished(self, schedule: Schedule, memory: Memory, now: datetime) -> bool:
        """
        Whether the last run of a schedule has no outcome yet; raises `StoreAway`.

        A command that no worker has taken yet is unknown to the ledger: it counts as unfinished while its queue holds
        anything, and no longer than a command may live. Otherwise one that was refused would stop its schedule.
        """
        if memory.run is None:
            return False
        found = self._loop.wait_for(self._ledger.find(ticks.command_id(schedule, memory.run)))
        states = [each["state"] for each in found if each.get("source") == f"{ticks.SOURCE}{schedule.name}"]
        if states:
            return any(state not in {"done", "dead"} for state in states)
        if memory.published_at is None or now - memory.published_at > self._max_age:
            return False
        with broker.connected(self._url, self._options) as connection:
            depth = broker.depth(connection, work_queue(schedule.type.partition(".")[0]))
        return depth is not None and depth.messages > 0

    def close(self) -> None:
        """Close the ways to broker and ledger."""
        self._publisher.stop()
        self._loop.wait_for(self._store.close())


class Scheduler(RedBeatScheduler):
    """RedBeat with the settings' schedules, and a lock that may be lost and found."""

    lock: Any = None
    lock_key: str | None
    _maybe_due_kwargs: ClassVar[Mapping[str, Any]] = {}  # RedBeat's would connect to the broker, for ever if need be

    def __init__(
        self,
        app: Relay,
        *,
        clock: Callable[[], datetime] = utc_now,
        patience: timedelta = PUBLISH_PATIENCE,
        **options: Any,
    ) -> None:
        self._entries: dict[str, Entry] = {}
        self._desk: Desk | None = None
        self._clock = clock
        self._patience = patience
        self._standing_by = False
        app.redbeat_redis = Redis.from_url(
            state_url(app.settings), decode_responses=True, socket_timeout=STORE_PATIENCE
        )
        super().__init__(app, **options)
        # RedBeat's own waiting for the lock would keep a second beat from answering pings: see `tick`.
        self._lock_name, self.lock_key = self.lock_key, None

    def setup_schedule(self) -> None:
        """Take up the schedules that make sense; the others are said, and stop nobody else."""
        operations = self.app.slices.operations
        for schedule in self.app.settings.schedules:
            operation = operations.get(schedule.type)
            try:
                if operation is None:
                    raise BadCommand(f"type {schedule.type!r} is no command; `planrelay operations` lists them.")
                operation.validate(schedule.data)
            except BadCommand as error:
                log.error("schedule.invalid", schedule=schedule.name, reason=error.message)  # noqa: TRY400 - a fact, no traceback
            else:
                self._entries[schedule.name] = Entry(schedule)

    @property
    def schedule(self) -> Mapping[str, Entry]:
        """The schedules by name."""
        return self._entries

    @property
    def info(self) -> str:
        """What beat says of itself when it starts."""
        names = [schedule.name for schedule in self.app.settings.schedules]
        return f"       . schedules -> {', '.join(names) or 'none'}"

    def tick(self, min: Callable[..., Any] = min, **_: Any) -> float:  # noqa: A002 - RedBeat's signature
        """Run what is due, if this beat leads; gives the seconds until the next look."""
        try:
            if not self._lead():
                return float(self.max_interval)
            return float(super().tick(min=min))
        except (RedisError, StoreAway, OSError) as error:
            log.warning("beat.store_away", reason=str(error))
            return float(self.max_interval)

    def maybe_due(self, entry: Entry, **_: Any) -> float:
        """Run a schedule if it is due; gives the seconds until it is, whatever went wrong with it."""
        try:
            return self._run_due(entry.schedule)
        except (RedisError, StoreAway):
            raise
        except (PublishFailed, TimeoutError, OSError) as error:
            log.warning("schedule.not_published", schedule=entry.name, reason=str(error))
        except Exception:
            log.exception("schedule.bug", schedule=entry.name)
        return float(self.max_interval)

    def _run_due(self, schedule: Schedule) -> float:
        now = self._clock()
        memories = Memories(get_redis(self.app))
        memory = memories.load(schedule)
        if memory is None:
            memory = Memory(since=now)
            found = ticks.look(schedule, since=now, now=now)
            memories.save(schedule, memory, found.next)
            log.info("schedule.taken_up", schedule=schedule.name, next=_iso(found.next))
        else:
            found = ticks.look(schedule, since=memory.since, now=now)
        if found.settled is not None:
            outcome = self._settle(schedule, memory, found, now)
            memory = replace(memory, since=found.settled, outcome=outcome)
            if outcome == "published":
                memory = replace(memory, run=found.tick, published_at=now)
            memories.save(schedule, memory, found.next)
            log.info(_SAID[outcome], schedule=schedule.name, tick=_iso(found.settled), next=_iso(found.next))
        if found.next is None:
            return float(self.max_interval)
        return max((found.next - self._clock()).total_seconds(), SHORTEST_SLEEP)

    def _settle(self, schedule: Schedule, memory: Memory, found: ticks.Look, now: datetime) -> Outcome:
        if found.tick is None:
            return "missed"
        if self._desk is None:
            self._desk = Desk(self.app.settings, self.app.slices.systems, patience=self._patience)
        if schedule.overlap == "skip" and self._desk.unfinished(schedule, memory, now):
            return "skipped"
        self._desk.publish(schedule, ticks.command_id(schedule, found.tick), found.tick)
        return "published"

    def _lead(self) -> bool:
        """Keep the lock, or take it if it is free; raises redis's errors."""
        if self.lock is not None:
            try:
                self.lock.reacquire()
            except LockError:  # somebody else has it, or it ran out while this process stood still
                log.warning("beat.lock_lost")
                self.lock = None
            else:
                return True
        lock = get_redis(self.app).lock(self._lock_name, timeout=self.lock_timeout, thread_local=False)
        if lock.acquire(blocking=False):
            self.lock, self._standing_by = lock, False
            log.info("beat.leads", schedules=sorted(self._entries))
            for name in Memories(get_redis(self.app)).forget_others(self.app.settings.schedules):
                log.info("schedule.forgotten", schedule=name)
            return True
        if not self._standing_by:
            self._standing_by = True
            log.info("beat.stands_by")
        return False

    def close(self) -> None:
        """Let go of the lock, so that another beat takes over at once; may be called twice."""
        desk, self._desk = self._desk, None
        try:
            super().close()
        except (RedisError, OSError) as error:
            log.warning("beat.lock_kept", reason=str(error))
            self.lock = None
        if desk is not None:
            desk.close()


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()

"""
Parked commands on Valkey: they wait in the state store until they are due, held by no worker.

    planrelay:parked         hash    parking ticket → queue, newline, message
    planrelay:parked:due     zset    parking ticket → the server's clock (ms) when it is due
    planrelay:parked:index   zset    parking tickets in order, to find one by its command's key
    planrelay:parked:bell    list    a token when somebody parked a command that is due before all others
    planrelay:parked:clock   string  the server's clock (ms) when somebody last looked

A ticket is the command's key and a digest of the message: the same copy parked twice is one. The wait is counted by the
server's clock alone, so that no difference between two machines' clocks makes a command come early; where that clock is
set back, all that waits is due earlier by as much. RabbitMQ needs none of this: its delayed-delivery ladder holds
parked commands.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import structlog
from redis.exceptions import RedisError

from worker.queues import PRELUDE, envelope
from worker.store import Script, Store, StoreAway

if TYPE_CHECKING:
    from worker.events import Outgoing

log = structlog.get_logger("planrelay.parking")

LONGEST_SLEEP: Final = timedelta(seconds=1)
"""How late a command can be whose bell was heard by a worker that then died."""
AWAY_PAUSE: Final = timedelta(milliseconds=500)
AT_ONCE: Final = 100
"""Commands moved by one call of the script: others shall not wait for it long."""

_NAMES: Final = """
local PARKED, DUE, INDEX = 'planrelay:parked', 'planrelay:parked:due', 'planrelay:parked:index'
local BELL, CLOCK = 'planrelay:parked:bell', 'planrelay:parked:clock'
"""

_TIME: Final = """
local function time_here()
  local time, seen = now(), tonumber(redis.call('GET', CLOCK) or 0)
  if time < seen then  -- the clock was set back
    for _, ticket in ipairs(redis.call('ZRANGE', DUE, 0, -1)) do redis.call('ZINCRBY', DUE, time - seen, ticket) end
  end
  redis.call('SET', CLOCK, string.format('%.0f', time))
  return time
end
"""

_PARK: Final = Script.of(
    PRELUDE
    + _NAMES
    + _TIME
    + """
local ticket, parked, wait = ARGV[1], ARGV[2], tonumber(ARGV[3])
local due = time_here() + wait
redis.call('HSET', PARKED, ticket, parked)
redis.call('ZADD', DUE, due, ticket)
redis.call('ZADD', INDEX, 0, ticket)
if redis.call('ZRANGE', DUE, 0, 0)[1] == ticket and redis.call('LLEN', BELL) == 0 then redis.call('LPUSH', BELL, '') end
return due
"""
)

_MOVE: Final = Script.of(
    PRELUDE
    + _NAMES
    + _TIME
    + r"""
if redis.call('ZCARD', DUE) == 0 then return {0, -1} end
local moved, time = 0, time_here()
for _, ticket in ipairs(redis.call('ZRANGEBYSCORE', DUE, '-inf', time, 'LIMIT', 0, ARGV[1])) do
  local parked = redis.call('HGET', PARKED, ticket)
  if parked then put(parked:match('^([^\n]*)\n(.*)$')) end
  redis.call('HDEL', PARKED, ticket)
  redis.call('ZREM', DUE, ticket)
  redis.call('ZREM', INDEX, ticket)
  moved = moved + 1
end
local first = redis.call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
if not first[2] then redis.call('DEL', CLOCK) end
return {moved, first[2] and math.max(0, first[2] - time) or -1}
"""
)

_COUNT: Final = Script.of(
    _NAMES
    + "local first = redis.call('ZRANGE', DUE, 0, 0, 'WITHSCORES') return {redis.call('ZCARD', DUE), first[2] or ''}"
)

_FIND: Final = Script.of(
    _NAMES
    + """
local found = {}
for _, ticket in ipairs(redis.call('ZRANGEBYLEX', INDEX, '[' .. ARGV[1] .. ':', '(' .. ARGV[1] .. ';')) do
  found[#found + 1] = {redis.call('ZSCORE', DUE, ticket), redis.call('HGET', PARKED, ticket)}
end
return found
"""
)


@dataclass(frozen=True, slots=True)
class Waiting:
    """How much is parked."""

    count: int
    next_due: datetime | None


@dataclass(frozen=True, slots=True)
class Parked:
    """One parked copy of a command: where it goes when, and its headers."""

    queue: str
    due: datetime
    headers: dict[str, Any]


async def park(store: Store, message: Outgoing, *, key: str, queue: str, wait: timedelta) -> datetime:
    """
    Keep the message for `wait`, then put it into `queue`; return when that will be, by the server's clock.

    `key` is the command's key in the ledger. It is written when this returns: now the original may be acknowledged.
    Raises StoreAway.
    """
    properties = dict(message.properties)
    parked = envelope(
        message.body,
        exchange=message.exchange,
        routing_key=message.routing_key,
        content_type=properties.pop("content_type", None),
        content_encoding=properties.pop("content_encoding", None),
        headers=message.headers,
        properties=properties,
    )
    ticket = f"{key}:{hashlib.sha256(parked.encode()).hexdigest()[:32]}"
    # Rounded up: never early.
    milliseconds = math.ceil(max(wait, timedelta()) / timedelta(milliseconds=1))
    due = await store.call(_PARK, [], [ticket, f"{queue}\n{parked}", milliseconds])
    return _instant(due)


async def move_due(store: Store) -> tuple[int, timedelta | None]:
    """
    Put what is due into its queues, each command at once and whole.

    Returns how many were moved, and how long it is until the next one is due (None: nothing is parked). Any number of
    workers may do this at the same time. Raises StoreAway.
    """
    moved, left = await store.call(_MOVE, [], [AT_ONCE])
    return int(moved), None if int(left) < 0 else timedelta(milliseconds=int(left))


async def mover(store: Store, stop: asyncio.Event) -> None:
    """Move what is due, when it is due, until `stop` is set (it may take a second to notice); one in each worker."""
    task = asyncio.current_task()
    # redis-py may swallow a cancel that comes as it answers: whoever stops a worker must not wait for ever.
    while not (stop.is_set() or (task is not None and task.cancelling())):
        try:
            _, left = await move_due(store)
            pause = LONGEST_SLEEP if left is None else min(left, LONGEST_SLEEP)
            if pause:
                # Sleeps until then, or until something is parked that is due before. 0 would mean for ever.
                await store.redis.blpop(["planrelay:parked:bell"], timeout=max(pause.total_seconds(), 0.001))
        except (StoreAway, RedisError, OSError) as error:
            log.warning("parking.waiting_for_store", error=str(error))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), AWAY_PAUSE.total_seconds())


async def waiting(store: Store) -> Waiting:
    """Count what is parked. Raises StoreAway."""
    count, first = await store.call(_COUNT, [], [])
    return Waiting(int(count), _instant(first) if first else None)


async def find(store: Store, key: str) -> list[Parked]:
    """Find the parked copies of a command by its key in the ledger, the one due first first. Raises StoreAway."""
    found = []
    for due, parked in await store.call(_FIND, [], [key]):
        queue, _, message = parked.partition(b"\n")
        found.append(Parked(queue.decode(), _instant(due), json.loads(message)["headers"]))
    return sorted(found, key=lambda each: each.due)


def _instant(milliseconds: bytes | int) -> datetime:
    return datetime.fromtimestamp(float(milliseconds) / 1000, UTC)

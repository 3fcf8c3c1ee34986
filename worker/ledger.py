"""
What each command has done so far: the reason why a command that comes twice takes effect once.

One hash per command in the state store, under its key (a digest of connection, type, source and idempotency key or
id). `claim` gives a run to one worker for the length of a lease; `step` and `intent` write down what a redelivery must
not redo; `finish` keeps the result event, so that a repeated command is answered and not run.

States: `queued → running → done | parked | dead`, `parked → running`. A worker that died leaves `running` with a lease
that runs out. **Generation** counts the parked copies of a command: a copy older than the ledger's is a leftover of a
crash between the confirmed park and the ack, and is passed over.

All times in here are the store's own (`TIME`), so the workers' clocks don't matter. Where that clock is set back, what
then lies in the future begins anew: a lease lasts for its term, a request counts as sent now.

A store that is emptied under a running fleet costs nothing that is done twice: each worker keeps a copy of what it has
claimed and writes it down again where it is gone; parked commands carry their notes along (`Ledger.notes`). `born` is
when the store was first seen empty: a young ledger that doesn't know a command may have forgotten it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

import structlog

from worker.store import Script, Store, StoreAway

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

log = structlog.get_logger("planrelay.ledger")

__all__ = ["Claim", "ClaimLost", "Elsewhere", "Finished", "Key", "Ledger", "Mismatch", "Stale", "StoreAway"]

BORN: Final = "planrelay:ledger:born"

ALIVE: Final = "planrelay:ledger:alive"
"""Sorted set: each worker, by its last sign of life. Who stops in order is taken out."""

REMEMBERED: Final = timedelta(hours=1)
"""How long a worker's death is remembered."""

SUSPECT: Final = 2
"""Lost runs that count from which a command may be what ends its workers: it runs apart from other such commands."""

LOST_RUNS: Final = 4
"""Lost runs that count after which a command is taken for what ends its workers: the fifth delivery tells it."""

TRIAL: Final = timedelta(seconds=10)
"""How long it is kept aside before that, and a lease until deaths show: if workers go on dying, it was another."""

KEPT: Final = timedelta(days=7)
"""How long the ledger remembers a command after its last change."""


class ClaimLost(Exception):
    """Another worker holds this command now: whatever this run would still write is void."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """How the ledger knows a command: `digest` is its key, `data` the digest of what it asks; the rest is to show."""

    digest: str
    data: str
    id: str
    source: str
    type: str
    connection: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Leave to run the command now. `lost`: runs that ended with their worker, as far as they count against it."""

    lost: int
    run: int
    steps: Mapping[str, Any] = field(default_factory=dict)
    intents: Mapping[str, timedelta] = field(default_factory=dict)
    """Requests that may have taken effect, each with its age."""
    late: bool = False
    """Whether the run waits before it can do anything: it may have ended its worker only once `begin` has been told."""
    trial: timedelta = timedelta(0)
    """How long it is still to be kept aside, before it is taken for what ends its workers."""
    early: timedelta = timedelta(0)
    """How much of its wait a parked copy had still to come, by the store's clock."""
    new: bool = False
    """Whether the ledger knew nothing of the command."""
    ledger_age: timedelta = timedelta.max
    """How long the ledger has been there without a break."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The command has its outcome: this event tells it. `told` says that the dead letter is confirmed too."""

    event: bytes
    dead: bool
    told: bool


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Another worker runs it; its lease ends in `remaining` unless it renews it."""

    remaining: timedelta


@dataclass(frozen=True, slots=True)
class Stale:
    """A copy that is older than the ledger; `reply` is who waits for the answer of the copy that counts."""

    reply: str


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The same key was used with other data."""


_NOW = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"

# How long a running command is still its worker's: for its term at most, where the clock was set back.
_LEFT = """
local function left_of(key, lease, term)
  local left = tonumber(lease) - now
  if left > tonumber(term or left) then
    left = tonumber(term)
    redis.call('HSET', key, 'lease', now + left)
  end
  return left
end
"""

# What a lost run counts: docs/decisions.md, "What ends a worker". `begun`: 0 it stands at the gate, 1 it may be what
# ends its worker, 2 it waits for its turn alone. `holders` are the workers that died with it, each with when.
_CLAIM = Script.of(
    _NOW
    + _LEFT
    + """
local owner, gen, data, lease, ttl = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), ARGV[5]
local waits, suspect, most, trial = ARGV[13] == '1', tonumber(ARGV[14]), tonumber(ARGV[15]), tonumber(ARGV[16])
local old = redis.call('HMGET', KEYS[1], 'state', 'owner', 'lease', 'gen', 'lost', 'data', 'event', 'run', 'told',
  'reply', 'begun', 'missed', 'holders', 'doubt', 'excused', 'term', 'wait', 'changed')
local state, run, early = old[1], tonumber(ARGV[12]), 0
local lost, missed, holders, doubt, excuses = 0, 0, '', nil, 0
local born = redis.call('GET', KEYS[3])
if not born then born = now redis.call('SET', KEYS[3], now) end
if state then
  if old[6] ~= data then return {'mismatch'} end
  if state == 'done' or state == 'dead' then return {state, old[7], old[9] or ''} end
  if gen < tonumber(old[4]) then return {'stale', old[10] or ''} end
  run = tonumber(old[8])
  lost, missed = tonumber(old[5]), tonumber(old[12] or 0)
  if lost + missed > 0 then holders, doubt, excuses = old[13] or '', tonumber(old[14] or ''), tonumber(old[15] or 0) end
  if state == 'running' and old[2] ~= owner then
    local left = left_of(KEYS[1], old[3], old[16])
    if left > 0 then return {'elsewhere', left} end
    if old[11] == '0' then missed = missed + 1 elseif old[11] == '1' then lost = lost + 1 end
    holders = holders .. ' ' .. old[2] .. '@' .. (tonumber(old[3]) - lease)
    doubt = nil
  end
  if state == 'parked' and gen == tonumber(old[4]) then
    local wait = tonumber(old[17] or 0)
    early = tonumber(old[18]) + wait - now
    if early < 0 or early > wait then early = 0 end  -- more than all of it: the clock was set back
  end
end
local count, blame, left = lost + missed, 0, 0
if count > 0 then
  local known, times = {}, {}
  holders = string.gsub(holders, '@(%d+)', function(at)  -- in the future where the clock was set back
    return '@' .. string.format('%.0f', math.min(tonumber(at), now))
  end)
  for name, at in string.gmatch(holders, '(%S+)@(%d+)') do known[name] = true times[#times + 1] = tonumber(at) end
  local others, dead = 0, redis.call('ZRANGE', KEYS[4], times[1] or now, now - lease, 'BYSCORE', 'WITHSCORES')
  for i = 1, #dead, 2 do
    local other = not known[dead[i]]
    for _, at in ipairs(times) do other = other and math.abs(tonumber(dead[i + 1]) - at) > lease / 3 end
    if other then others = others + 1 end
  end
  excuses = math.max(excuses, others)  -- deaths are forgotten sooner than lost runs
  blame = math.max(count - 2 * excuses, math.floor(count / 3), 0)
  doubt = blame >= most and math.min(doubt or now, now) or nil  -- in the future where the clock was set back
  left = doubt and math.max(doubt + trial - now, 0) or 0
end
local begun = 1
if blame >= suspect then begun = 2 elseif waits then begun = 0 end
redis.call('HSET', KEYS[1], 'state', 'running', 'owner', owner, 'lease', now + lease, 'term', lease, 'gen', gen,
  'lost', lost, 'data', data, 'run', run, 'begun', begun, 'missed', missed, 'holders', holders, 'doubt', doubt or '',
  'excused', excuses, 'changed', now)
redis.call('HDEL', KEYS[1], 'wait')
if not state then
  redis.call('HSET', KEYS[1], 'id', ARGV[6], 'source', ARGV[7], 'type', ARGV[8], 'connection', ARGV[9],
    'received', ARGV[10], 'reply', ARGV[11])
  for i = 17, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
  redis.call('SADD', KEYS[2], KEYS[1])
  redis.call('PEXPIRE', KEYS[2], ttl)
end
redis.call('PEXPIRE', KEYS[1], ttl)
local answer = {'run', blame, run, now, state and 0 or 1, now - born, begun == 0 and 1 or 0, left, early}
if state or #ARGV > 16 then
  local all = redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    local kind = string.sub(all[i], 1, 2)
    if kind == 'i:' and tonumber(all[i + 1]) > now then  -- the clock was set back: as if it were sent now
      all[i + 1] = string.format('%.0f', now)
      redis.call('HSET', KEYS[1], all[i], all[i + 1])
    end
    if kind == 's:' or kind == 'i:' then answer[#answer + 1] = all[i] answer[#answer + 1] = all[i + 1] end
  end
end
return answer
"""
)

# Each worker's last sign of life: who gave none for the length of a lease, and did not take leave, has died.
_RENEW = Script.of(
    _NOW
    + """
redis.call('ZADD', KEYS[1], now, ARGV[1])
for _, other in ipairs(redis.call('ZRANGE', KEYS[1], '(' .. string.format('%.0f', now), '+inf', 'BYSCORE')) do
  redis.call('ZADD', KEYS[1], now, other)  -- the clock was set back
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[3]))
local gone = {}
for i = 1, #KEYS - 1 do
  local key = KEYS[i + 1]
  local held = redis.call('HMGET', key, 'state', 'owner')
  if held[1] == 'running' and held[2] == ARGV[1] then
    redis.call('HSET', key, 'lease', now + tonumber(ARGV[2]))
  elseif not held[1] then
    gone[#gone + 1] = -i
  else
    gone[#gone + 1] = i
  end
end
return gone
"""
)

_LEAVE = Script.of("return redis.call('ZREM', KEYS[1], ARGV[1])")

# A field of the run: written only by the worker that holds the claim. -1: the ledger knows nothing of the command.
WRITE = Script.of(
    _NOW
    + """
local held = redis.call('HMGET', KEYS[1], 'state', 'owner')
if not held[1] then return -1 end
if held[1] ~= 'running' or held[2] ~= ARGV[1] then return 0 end
if ARGV[3] == '' then redis.call('HDEL', KEYS[1], ARGV[2])
elseif ARGV[3] == 'now' then redis.call('HSET', KEYS[1], ARGV[2], now)
else redis.call('HSET', KEYS[1], ARGV[2], ARGV[3]) end
return now
"""
)

# The first outcome stands: a run that lost its claim and still reached an end must not overwrite what was told.
FINISH = Script.of(
    _NOW
    + """
local old = redis.call('HMGET', KEYS[1], 'state', 'event')
if old[1] == 'done' or old[1] == 'dead' then return old[2] end
if not old[1] then
  redis.call('HSET', KEYS[1], 'data', ARGV[6], 'id', ARGV[7], 'source', ARGV[8], 'type', ARGV[9],
    'connection', ARGV[10], 'run', ARGV[11], 'gen', 0, 'lost', 0)
  redis.call('SADD', KEYS[2], KEYS[1])
  redis.call('PEXPIRE', KEYS[2], ARGV[5])
end
redis.call('HSET', KEYS[1], 'state', ARGV[1], 'event', ARGV[2],
  'attempts', ARGV[3], 'deferrals', ARGV[4], 'changed', now)
redis.call('HDEL', KEYS[1], 'owner', 'lease', 'term', 'until', 'wait')
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return ARGV[2]
"""
)

PARK = Script.of(
    _NOW
    + """
local held = redis.call('HMGET', KEYS[1], 'state', 'owner')
if not held[1] then return -1 end
if held[1] ~= 'running' or held[2] ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'state', ARGV[2], 'gen', ARGV[3], 'attempts', ARGV[4], 'deferrals', ARGV[5],
  'until', now + tonumber(ARGV[6]), 'wait', ARGV[6], 'reason', ARGV[7], 'error', ARGV[8], 'changed', now)
redis.call('HDEL', KEYS[1], 'owner', 'lease', 'term')
if ARGV[10] ~= 'held' then redis.call('HSET', KEYS[1], 'missed', 0) end
if ARGV[10] == 'sent' then redis.call('HSET', KEYS[1], 'lost', 0) end
redis.call('PEXPIRE', KEYS[1], ARGV[9])
return 1
"""
)

TOLD = Script.of("if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'told', 1) end return 1")

# Copies that nobody has taken up, though the command has no outcome: for each its generation and run.
_WAITING = Script.of(
    _NOW
    + _LEFT
    + """
local waiting = {}
for i, key in ipairs(KEYS) do
  local held = redis.call('HMGET', key, 'state', 'gen', 'run', 'lease', 'term')
  local open = held[1] and held[1] ~= 'done' and held[1] ~= 'dead'
  local ours = open and tonumber(held[2]) <= tonumber(ARGV[2 * i - 1]) and held[3] == ARGV[2 * i]
  waiting[i] = (ours and not (held[1] == 'running' and left_of(key, held[4], held[5]) > 0)) and 1 or 0
end
return waiting
"""
)

# A command that has no outcome yet keeps its run; what is of this run (not its steps and intents) starts afresh.
_REPLAY = Script.of(
    _NOW
    + _LEFT
    + """
local old = redis.call('HMGET', KEYS[1], 'state', 'run', 'data', 'lease', 'term')
local state, run = old[1], tonumber(old[2])
if not state then return 0 end
if old[3] ~= ARGV[1] then return -1 end
if state == 'done' or (state == 'running' and left_of(KEYS[1], old[4], old[5]) > 0) then return run end
if state == 'dead' then run = run + 1 end
redis.call('HSET', KEYS[1], 'state', 'queued', 'run', run, 'gen', 0, 'lost', 0, 'missed', 0,
  'attempts', 0, 'deferrals', 0, 'received', now, 'changed', now)
redis.call('HDEL', KEYS[1], 'event', 'told', 'error', 'until', 'reason', 'owner', 'lease', 'term', 'wait')
return run
"""
)

_HOLD = Script.of(
    """
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then
  local left = redis.call('PTTL', KEYS[1])
  if left > tonumber(ARGV[2]) then  -- the clock was set back
    left = ARGV[2]
    redis.call('PEXPIRE', KEYS[1], left)
  end
  return {0, tonumber(left)}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {1, 0}
"""
)

_LET_GO = Script.of("if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0")

_RECALL = Script.of("return redis.call('GET', KEYS[1])")

_MADE = Script.of("redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 1")

_REMEMBER = Script.of("redis.call('SET', KEYS[1], ARGV[1]) return 1")


def milliseconds(wait: timedelta) -> int:
    """Give a wait in whole milliseconds, as the store counts them."""
    return round(wait / timedelta(milliseconds=1))


@dataclass(slots=True)
class _Held:
    """What this worker has claimed, and wrote down since: enough to write it all again."""

    key: Key
    claim: list[Any]
    fields: dict[str, str]


class Ledger:
    """The fleet's memory of commands, as one worker (`owner`) reads and writes it. Every call may raise `StoreAway`."""

    def __init__(self, store: Store, *, owner: str, lease: timedelta, kept: timedelta = KEPT) -> None:
        self._store = store
        self.owner = owner
        self.lease = lease
        self._ttl = milliseconds(kept)
        self._held: dict[str, _Held] = {}

    async def claim(
        self,
        key: Key,
        *,
        generation: int,
        received_ms: int,
        reply: str,
        run: int,
        waits: bool = False,
        notes: Mapping[str, str] | None = None,
    ) -> Claim | Finished | Elsewhere | Stale | Mismatch:
        """
        Take the command for this worker, or say why not.

        `run` and `notes` (what an earlier run had written down) count only where the ledger knows nothing. `waits`: the
        run will stand at the gate before it sends anything.
        """
        claim = [
            self.owner,
            generation,
            key.data,
            milliseconds(self.lease),
            self._ttl,
            key.id,
            key.source,
            key.type,
            key.connection,
            received_ms,
            reply,
            run,
            int(waits),
            SUSPECT,
            LOST_RUNS,
            milliseconds(TRIAL + self.lease),
        ]
        answer = await self._claim(key, claim, notes or {})
        match answer[0]:
            case b"run":
                fields = {
                    name.decode(): value.decode() for name, value in zip(answer[9::2], answer[10::2], strict=True)
                }
                self._held[key.digest] = _Held(key, claim, fields)
                return _claim(answer, fields)
            case b"done" | b"dead":
                return Finished(event=answer[1], dead=answer[0] == b"dead", told=answer[2] == b"1")
            case b"elsewhere":
                return Elsewhere(timedelta(milliseconds=answer[1]))
            case b"stale":
                return Stale(answer[1].decode())
            case _:
                return Mismatch()

    async def _claim(self, key: Key, claim: list[Any], notes: Mapping[str, str]) -> list[Any]:
        written = [part for pair in notes.items() for part in pair]
        answer: list[Any] = await self._store.call(
            _CLAIM, [_command(key.digest), _ids(key.id), BORN, ALIVE], claim + written
        )
        return answer

    async def renew(self, digests: Sequence[str]) -> list[str]:
        """Lengthen this worker's lease and those of these commands; gives those that are no longer this worker's."""
        answer = await self._store.call(
            _RENEW,
            [ALIVE, *map(_command, digests)],
            [self.owner, milliseconds(self.lease), milliseconds(REMEMBERED)],
        )
        gone = [digests[i - 1] for i in answer if i > 0]
        for digest in (digests[-i - 1] for i in answer if i < 0):
            try:
                await self._restore(digest)
            except ClaimLost:
                gone.append(digest)
        return gone

    async def leave(self) -> None:
        """Take leave: a worker that ends in order has not died."""
        await self._store.call(_LEAVE, [ALIVE], [self.owner])

    async def _restore(self, digest: str) -> None:
        """The store was emptied: write down again what is claimed here; raises `ClaimLost` if another was faster."""
        held = self._held.get(digest)
        if held is None:
            raise ClaimLost(digest)
        answer = await self._claim(held.key, held.claim, held.fields)
        if answer[0] != b"run":
            raise ClaimLost(digest)
        key = held.key
        log.warning("ledger.restored", command_id=key.id, type=key.type, connection=key.connection)

    def notes(self, digest: str) -> Mapping[str, str]:
        """Give what was written down of a command that is claimed here: a parked copy carries it along."""
        held = self._held.get(digest)
        return {} if held is None else held.fields

    def forget(self, digest: str) -> None:
        """The command's run has ended here."""
        self._held.pop(digest, None)

    async def begin(self, digest: str) -> None:
        """Say that a run that waited begins now: from here on it may be what ends its worker."""
        if not await self._insist(WRITE, digest, [self.owner, "begun", "1"]):
            raise ClaimLost(digest)

    async def write_step(self, digest: str, name: str, value: Any) -> None:
        """Keep what a step gave; a redelivery gets it instead of doing the step again."""
        await self._write(digest, f"s:{name}", json.dumps(value, separators=(",", ":")))

    async def write_intent(self, digest: str, name: str) -> None:
        """Say, before it is sent, that a request which must not be sent twice is about to be."""
        await self._write(digest, f"i:{name}", "now")

    async def clear_intent(self, digest: str, name: str) -> None:
        """Say that the request certainly took no effect."""
        await self._write(digest, f"i:{name}", "")

    async def write_made(self, digest: str, connection: str, identity: str) -> None:
        """Say which command made a vendor's object, so that no other command takes it for its own."""
        await self._store.call(_MADE, [f"planrelay:made:{connection}:{identity}"], [digest, self._ttl])

    async def maker(self, connection: str, identity: str) -> str | None:
        """Give the key of the command that made a vendor's object, None where the ledger doesn't know."""
        made: bytes | None = await self._store.call(_RECALL, [f"planrelay:made:{connection}:{identity}"], [])
        return None if made is None else made.decode()

    async def _write(self, digest: str, field_name: str, value: str) -> None:
        at = await self._insist(WRITE, digest, [self.owner, field_name, value])
        if not at:
            raise ClaimLost(digest)
        if (held := self._held.get(digest)) is None:
            return
        if value:
            held.fields[field_name] = str(at) if value == "now" else value
        else:
            held.fields.pop(field_name, None)

    async def _insist(self, script: Script, digest: str, args: list[Any]) -> int:
        """Call a script on a command that is claimed here; where the ledger forgot it, it is told again first."""
        answer = int(await self._store.call(script, [_command(digest)], args))
        if answer < 0:
            await self._restore(digest)
            answer = int(await self._store.call(script, [_command(digest)], args))
        return max(answer, 0)

    async def finish(self, key: Key, *, dead: bool, event: bytes, attempts: int, deferrals: int, run: int) -> bytes:
        """Keep the outcome and its event; gives the event that stands (the first one told)."""
        about = [key.data, key.id, key.source, key.type, key.connection, run]
        stands: bytes = await self._store.call(
            FINISH,
            [_command(key.digest), _ids(key.id)],
            ["dead" if dead else "done", event, attempts, deferrals, self._ttl, *about],
        )
        return stands

    async def told(self, digest: str) -> None:
        """Say that the failure's event and dead letter are confirmed: a repeat gets the event alone."""
        await self._store.call(TOLD, [_command(digest)], [])

    async def park(
        self,
        digest: str,
        *,
        generation: int,
        attempts: int,
        deferrals: int,
        wait: timedelta,
        reason: str,
        error: str,
        lived: Literal["sent", "ran", "held"] = "sent",
    ) -> bool:
        """
        Say that a newer copy waits in the broker; False where another worker has taken over meanwhile.

        It waits for `wait` from now on, 0: it is in its queue.
        `lived` is what the run did without ending its worker: it sent requests, it only came as far as the gate, or it
        did nothing. Lost runs before it are forgiven so far.
        """
        state, waits = "parked" if wait > timedelta(0) else "queued", milliseconds(wait)
        args = [self.owner, state, generation, attempts, deferrals, waits, reason, error, self._ttl, lived]
        try:
            return bool(await self._insist(PARK, digest, args))
        except ClaimLost:
            return False

    async def waiting(self, copies: Sequence[tuple[str, int, int]]) -> list[bool]:
        """Say of each copy (key, generation, run) whether its command waits for it: nobody runs it, none is newer."""
        args = [part for _, generation, run in copies for part in (generation, run)]
        return [bool(each) for each in await self._store.call(_WAITING, [_command(c[0]) for c in copies], args)]

    async def replay(self, digest: str, data: str) -> int | Mismatch | None:
        """
        Let a command run anew, its attempts counted from the start; gives the number of the run its copy is to carry.

        A dead command gets a new run. One that has no outcome yet (the broker gave it up) keeps its run, and so does
        one that is done: its copy is answered with the event that stands. `data` is the digest of what the copy asks:
        where the ledger knows other data under this key, it is a `Mismatch`. None: the ledger knows nothing of it.
        """
        run = int(await self._store.call(_REPLAY, [_command(digest)], [data]))
        return Mismatch() if run < 0 else run or None

    async def hold(self, name: str, token: str, length: timedelta) -> timedelta | None:
        """Take or renew a fleet-wide hold; None when held by `token`, else how long the other's may last."""
        got, left = await self._store.call(_HOLD, [f"planrelay:hold:{name}"], [token, milliseconds(length)])
        return None if got else timedelta(milliseconds=max(left, 0))

    async def let_go(self, name: str, token: str) -> None:
        """End a hold, if it is still `token`'s."""
        await self._store.call(_LET_GO, [f"planrelay:hold:{name}"], [token])

    async def recall(self, name: str) -> Any:
        """Give what `remember` kept under this name, or None."""
        value = await self._store.call(_RECALL, [f"planrelay:memory:{name}"], [])
        return None if value is None else json.loads(value)

    async def remember(self, name: str, value: Any) -> None:
        """Keep a small JSON value between commands: a watermark, a tenant's vocabulary."""
        await self._store.call(_REMEMBER, [f"planrelay:memory:{name}"], [json.dumps(value, separators=(",", ":"))])

    async def find(self, command_id: str) -> list[dict[str, str]]:
        """Everything known of the commands with this id (ids are unique per source and connection only)."""
        keys: set[Any] = await self._store.redis.smembers(_ids(command_id))
        found = []
        for key in sorted(keys):
            fields: dict[Any, Any] = await self._store.redis.hgetall(key)
            if fields:
                known = {name.decode(): value.decode(errors="replace") for name, value in fields.items()}
                found.append({"key": key.decode().removeprefix("planrelay:command:"), **known})
        return found


def _command(digest: str) -> str:
    return f"planrelay:command:{digest}"


def _ids(command_id: str) -> str:
    return f"planrelay:id:{command_id}"


def _claim(answer: list[Any], fields: Mapping[str, str]) -> Claim:
    _, lost, run, now, new, age, late, trial, early, *_ = answer
    steps: dict[str, Any] = {}
    intents: dict[str, timedelta] = {}
    for name, value in fields.items():
        kind, _, what = name.partition(":")
        if kind == "s":
            steps[what] = json.loads(value)
        else:
            intents[what] = timedelta(milliseconds=max(now - int(value), 0))
    return Claim(
        lost=lost,
        run=run,
        steps=steps,
        intents=intents,
        new=bool(new),
        late=bool(late),
        trial=timedelta(milliseconds=trial),
        early=timedelta(milliseconds=early),
        ledger_age=timedelta(milliseconds=age),
    )

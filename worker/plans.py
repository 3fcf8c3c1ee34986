"""
Plans: what a command would change, kept until somebody decides.

`units.sync` and `users.reconcile` work out a plan before they write. One that trips a brake is *held*: it is kept
here, whole, until `planrelay plan approve` or `reject`. Approving publishes the plan's own command again, with its
id in the data; that run applies the plan as it was shown, or holds a new one where the vendor's data have moved on.

In the state store a plan is a hash `planrelay:plan:<id>`, its items a list of compressed chunks beside it: a plan of a
hundred thousand people costs a few megabytes and is never in memory whole. Both are kept for thirty days after their
last change. Calls raise `StoreAway` where the store can't be reached, `BadCommand` for what can't be decided.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from redis.exceptions import RedisError

from worker.errors import BadCommand
from worker.store import Script, Store, StoreAway

KEPT: Final = timedelta(days=30)
"""How long a plan is kept after its last change."""

CHUNK: Final = 250
"""Items that are compressed together: a chunk is packed within a few milliseconds."""

SOURCE: Final = "/planrelay/plan"
"""The `source` of the command that applies an approved plan."""

_INDEX: Final = "planrelay:plans"


class PlanState(StrEnum):
    """Where a plan stands. `planned` was only asked to be shown; `held` tripped a brake."""

    PLANNED = "planned"
    HELD = "held"
    APPROVED = "approved"
    REJECTED = "rejected"
    APPLIED = "applied"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """
    A plan, without its items. `data` is that of the command that made it, of `type` on `connection`.

    `summary` counts what the items would do; `reasons` says which brakes it tripped, one sentence each.
    """

    id: str
    type: str
    connection: str
    data: Mapping[str, Any]
    created_at: datetime
    summary: Mapping[str, Any]
    reasons: tuple[str, ...] = ()
    state: PlanState = PlanState.PLANNED
    decided_by: str | None = None
    """Who approved or rejected it."""
    decided_at: datetime | None = None
    items: int = field(default=0, compare=False)
    """How many items it has."""

    def show(self) -> dict[str, Any]:
        """Give the plan as JSON, for people: without its data, which may be large."""
        return {
            "id": self.id,
            "type": self.type,
            "connection": self.connection,
            "state": self.state.value,
            "created_at": self.created_at.isoformat(),
            "summary": dict(self.summary),
            "reasons": list(self.reasons),
            "decided_by": self.decided_by,
            "decided_at": self.decided_at.isoformat() if self.decided_at else None,
            "items": self.items,
        }

    def command(self) -> dict[str, Any]:
        """Give the CloudEvent that applies the plan; the same one each time, so that approving twice applies once."""
        return {
            "specversion": "1.0",
            "id": f"plan-{self.id}",
            "source": SOURCE,
            "type": self.type,
            "connection": self.connection,
            "datacontenttype": "application/json",
            "data": {**self.data, "mode": "apply", "plan_id": self.id},
        }


def plan_id(digest: str) -> str:
    """Give the id of the plan that the command with this ledger key makes: the same after a redelivery."""
    return hashlib.sha256(f"plan:{digest}".encode()).hexdigest()[:12]


# The state is a field of its own: a decision changes it only from a state that allows it.
_DECIDE: Final = Script.of(
    """
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return '' end
if string.find(ARGV[1], ',' .. state .. ',', 1, true) then
  redis.call('HSET', KEYS[1], 'state', ARGV[2])
  if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], 'decided_by', ARGV[3], 'decided_at', ARGV[4]) end
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
  redis.call('PEXPIRE', KEYS[1] .. ':items', ARGV[5])
end
return state
"""
)


class Plans:
    """The plans that the fleet keeps."""

    def __init__(self, store: Store, *, kept: timedelta = KEPT) -> None:
        self._store = store
        self._redis: Any = store.redis  # its answers are typed as text or bytes; without decoding they are bytes
        self._ttl = round(kept / timedelta(milliseconds=1))

    async def keep(self, plan: Plan, items: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]]) -> Plan:
        """Keep a plan with its items, in place of one with the same id; gives it with the number of its items."""
        redis, key = self._redis, _key(plan.id)
        count = 0
        try:
            await redis.delete(key, f"{key}:items")
            async for chunk in _chunks(items):
                await redis.rpush(f"{key}:items", _pack(chunk))
                await redis.pexpire(f"{key}:items", self._ttl)
                count += len(chunk)
            fields: dict[str, Any] = {
                "state": plan.state.value,
                "type": plan.type,
                "connection": plan.connection,
                "created_at": plan.created_at.isoformat(),
                "items": count,
                "rest": _pack({"data": plan.data, "summary": plan.summary, "reasons": plan.reasons}),
            }
            async with redis.pipeline(transaction=True) as pipe:
                pipe.hset(key, mapping=fields)
                pipe.pexpire(key, self._ttl)
                pipe.zadd(_INDEX, {plan.id: plan.created_at.timestamp()})
                await pipe.execute()
        except (RedisError, OSError) as error:
            raise StoreAway(f"The plan could not be kept: {error}") from error
        return replace(plan, items=count)

    async def load(self, id: str) -> Plan:
        """Give one plan; raises `BadCommand` where there is none (or no more)."""
        try:
            fields = await self._redis.hgetall(_key(id))
        except (RedisError, OSError) as error:
            raise StoreAway(f"The plan could not be read: {error}") from error
        if not fields:
            raise _unknown(id)
        return _plan(id, {name.decode(): value for name, value in fields.items()})

    async def items(self, id: str) -> AsyncIterator[dict[str, Any]]:
        """Give a plan's items in order, a chunk in memory at a time."""
        index = 0
        while True:
            try:
                packed = await self._redis.lindex(f"{_key(id)}:items", index)
            except (RedisError, OSError) as error:
                raise StoreAway(f"The plan could not be read: {error}") from error
            if packed is None:
                return
            for item in _unpack(packed):
                yield item
            index += 1

    async def list(self, state: PlanState | None = None) -> list[Plan]:
        """Give the plans that are kept, the newest first."""
        redis = self._redis
        try:
            ids = [id.decode() for id in await redis.zrevrange(_INDEX, 0, -1)]
            async with redis.pipeline(transaction=False) as pipe:
                for id in ids:
                    pipe.hgetall(_key(id))
                found = dict(zip(ids, await pipe.execute(), strict=True))
            forgotten = [id for id, fields in found.items() if not fields]
            if forgotten:
                await redis.zrem(_INDEX, *forgotten)
        except (RedisError, OSError) as error:
            raise StoreAway(f"The plans could not be read: {error}") from error
        plans = [_plan(id, {n.decode(): v for n, v in fields.items()}) for id, fields in found.items() if fields]
        return [plan for plan in plans if state is None or plan.state is state]

    async def approve(self, id: str, *, by: str, now: datetime) -> Plan:
        """
        Approve a plan that is held (or was only asked to be shown); whoever approves then publishes its `command()`.

        Approving again changes nothing and gives the plan as it was approved: publish its command again, if the first
        publishing failed. A plan that was rejected or applied raises `BadCommand`.
        """
        return await self._decide(id, (PlanState.PLANNED, PlanState.HELD), PlanState.APPROVED, by, now)

    async def reject(self, id: str, *, by: str, now: datetime) -> Plan:
        """Reject a plan that is held (or was only asked to be shown): it can't be applied any more."""
        return await self._decide(id, (PlanState.PLANNED, PlanState.HELD), PlanState.REJECTED, by, now)

    async def applied(self, id: str) -> Plan:
        """Say that a plan has been applied, whether it needed approval or not; a rejection that came too late, too."""
        allowed = (PlanState.PLANNED, PlanState.APPROVED, PlanState.REJECTED)
        return await self._decide(id, allowed, PlanState.APPLIED, "", None)

    async def _decide(
        self, id: str, allowed: tuple[PlanState, ...], to: PlanState, by: str, now: datetime | None
    ) -> Plan:
        states = "," + ",".join(allowed) + ","
        at = now.isoformat() if now else ""
        was = (await self._store.call(_DECIDE, [_key(id)], [states, to.value, by, at, self._ttl])).decode()
        if not was:
            raise _unknown(id)
        if was not in {*allowed, to}:
            raise BadCommand(f"Plan {id} is {was} and can't be {to.value} any more.")
        return await self.load(id)


def _key(id: str) -> str:
    return f"planrelay:plan:{id}"


def _unknown(id: str) -> BadCommand:
    return BadCommand(f"There is no plan {id!r} (plans are kept {KEPT.days} days): see `planrelay plan list`.")


def _pack(value: Any) -> bytes:
    return zlib.compress(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(), 3)


def _unpack(packed: bytes) -> Any:
    return json.loads(zlib.decompress(packed))


async def _chunks(
    items: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
) -> AsyncIterator[list[Mapping[str, Any]]]:
    chunk: list[Mapping[str, Any]] = []
    async for item in items if isinstance(items, AsyncIterable) else _stream(items):
        chunk.append(item)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


async def _stream(items: Iterable[Mapping[str, Any]]) -> AsyncIterator[Mapping[str, Any]]:
    for item in items:
        yield item


def _plan(id: str, fields: Mapping[str, bytes]) -> Plan:
    rest = _unpack(fields["rest"])
    decided_at = fields.get("decided_at")
    decided_by = fields.get("decided_by")
    return Plan(
        id=id,
        type=fields["type"].decode(),
        connection=fields["connection"].decode(),
        data=rest["data"],
        created_at=datetime.fromisoformat(fields["created_at"].decode()),
        summary=rest["summary"],
        reasons=tuple(rest["reasons"]),
        state=PlanState(fields["state"].decode()),
        decided_by=decided_by.decode() if decided_by else None,
        decided_at=datetime.fromisoformat(decided_at.decode()) if decided_at else None,
        items=int(fields["items"]),
    )

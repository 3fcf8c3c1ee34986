r"""
Queues in Valkey: how they lie there, and the scripts that move messages between them.

    <queue>                    list    messages; new ones come in on the left, the next one goes out on the right
    planrelay:bell:<queue>     list    at most one token; whoever waits for messages waits for this
    planrelay:queues           hash    declared queue → JSON [exchange, routing key] of its dead letters, or ""
    planrelay:temporary        hash    queue that dies with its listener → milliseconds it may stay unused
    planrelay:used:<queue>     string  a temporary queue's sign of life; it expires
    planrelay:workers          hash    owner → the server's clock (ms) at its last beat
    planrelay:unacked:<owner>  hash    delivery tag → queue, newline, message
    _kombu.binding.<exchange>  set     kombu's own binding tables: routing key, pattern, queue

A message is kombu's envelope in JSON, preceded by a decimal count once it has been delivered before: `2{"body": …}`.
(Lua would spoil the JSON by decoding and encoding it: [] becomes {}, big integers lose digits.)

Each script is atomic, and each keeps one invariant: **a queue that holds messages has a token in its bell, or
somebody who took the token is about to take messages**. A token that is lost with its taker costs a second, because
consumers look once a second anyhow; never a message.

A consumer owns what it took until it acknowledges or is found dead, however long that is: there is no visibility
timeout. Dead is who did not beat for longer than another consumer's patience, which watches without a break and by
its own clock (`worker.owners`): neither a server that was away nor a laptop that slept makes the living look dead.

The keys are worked out inside the scripts: one Valkey or Redis, version 6.2 or later, not a cluster.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

PRELUDE: Final = r"""
local QUEUES, TEMPORARY, WORKERS = 'planrelay:queues', 'planrelay:temporary', 'planrelay:workers'
local SEPARATOR = '\6\22'

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function ring(queue)
  local bell = 'planrelay:bell:' .. queue
  if redis.call('LLEN', bell) == 0 then redis.call('LPUSH', bell, '') end
end

local function put(queue, message)
  redis.call('LPUSH', queue, message)
  ring(queue)
end

-- A temporary queue whose listener is gone: nobody will ever read it, so it must not grow.
local function abandoned(queue)
  if redis.call('HEXISTS', TEMPORARY, queue) == 0 then return false end
  if redis.call('EXISTS', 'planrelay:used:' .. queue) == 1 then return false end
  redis.call('DEL', queue, 'planrelay:bell:' .. queue)
  redis.call('HDEL', TEMPORARY, queue)
  redis.call('HDEL', QUEUES, queue)
  return true
end

local function declared(queue)
  return not abandoned(queue) and redis.call('HEXISTS', QUEUES, queue) == 1
end

local function words(key)
  local found = {}
  for word in (key .. '.'):gmatch('([^.]*)%.') do found[#found + 1] = word end
  return found
end

-- As AMQP has it: * is one word, # any number of words, none included.
local function matches(pattern, key, i, j)
  if i > #pattern then return j > #key end
  if pattern[i] == '#' then
    return matches(pattern, key, i + 1, j) or (j <= #key and matches(pattern, key, i, j + 1))
  end
  return j <= #key and (pattern[i] == '*' or pattern[i] == key[j]) and matches(pattern, key, i + 1, j + 1)
end

-- Puts the message into each queue the exchange leads to, once; returns into how many.
local function route(exchange, key, kind, message)
  if exchange == '' then
    if not declared(key) then return 0 end
    put(key, message)
    return 1
  end
  local bindings, reached, count, asked = '_kombu.binding.' .. exchange, {}, 0, words(key)
  for _, binding in ipairs(redis.call('SMEMBERS', bindings)) do
    local pattern, queue = binding:match('^(.-)' .. SEPARATOR .. '.-' .. SEPARATOR .. '(.*)$')
    if pattern and not reached[queue]
       and (pattern == key or (kind ~= 'direct' and matches(words(pattern), asked, 1, 1))) then
      if declared(queue) then
        reached[queue], count = true, count + 1
        put(queue, message)
      else
        redis.call('SREM', bindings, binding)
        redis.call('SREM', '_kombu.binding_permanent.' .. exchange, binding)
      end
    end
  end
  return count
end

-- Back to the head of its queue, one delivery more on its count.
local function give_back(held)
  local queue, count, message = held:match('^([^\n]*)\n(%d*)(.*)$')
  redis.call('RPUSH', queue, ((tonumber(count) or 0) + 1) .. message)
  ring(queue)
end
"""

PUT: Final = PRELUDE + "return route(ARGV[1], ARGV[2], ARGV[3], ARGV[4])"
"""exchange, routing key, "topic" or "direct", message → into how many queues it went."""

DECLARE: Final = (
    PRELUDE
    + r"""
local queue, dead, unused = ARGV[1], ARGV[2], ARGV[3]
redis.call('HSET', QUEUES, queue, dead)
if unused == '' then
  redis.call('HDEL', TEMPORARY, queue)
else
  redis.call('HSET', TEMPORARY, queue, unused)
  redis.call('SET', 'planrelay:used:' .. queue, '', 'PX', unused)
end
"""
)
"""queue, where its dead letters go as JSON or "", milliseconds a temporary queue may stay unused or "" → nothing."""

TAKE: Final = (
    PRELUDE
    + r"""
local owner, tag, room, bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local unacked, answer, known = 'planrelay:unacked:' .. owner, {}, false

-- Asked again, because the last answer was lost on its way: the same answer.
local held = redis.call('HGET', unacked, tag)
while held do
  answer[#answer + 1], answer[#answer + 2] = tag, held
  tag = tag + 1
  held = redis.call('HGET', unacked, tag)
end
if #answer > 0 then return answer end

local open = {}
for i = 5, #ARGV, 2 do
  if redis.call('HEXISTS', QUEUES, ARGV[i]) == 0 then return redis.error_reply('GONE ' .. ARGV[i]) end
  open[#open + 1] = i
end
while #open > 0 and room > 0 and bytes > 0 do
  local still = {}
  for _, i in ipairs(open) do
    if room <= 0 or bytes <= 0 then break end
    local message = redis.call('RPOP', ARGV[i])
    if message then
      held = ARGV[i] .. '\n' .. message
      if ARGV[i + 1] == 'ack' then
        known = known or redis.call('HSETNX', WORKERS, owner, now())
        redis.call('HSET', unacked, tag, held)
        answer[#answer + 1], answer[#answer + 2] = tag, held
        tag = tag + 1
      else
        answer[#answer + 1], answer[#answer + 2] = 0, held
      end
      room, bytes = room - 1, bytes - #message
      still[#still + 1] = i
    end
  end
  open = still
end
for i = 5, #ARGV, 2 do
  if redis.call('LLEN', ARGV[i]) > 0 then ring(ARGV[i]) end
  local unused = redis.call('HGET', TEMPORARY, ARGV[i])
  if unused then redis.call('SET', 'planrelay:used:' .. ARGV[i], '', 'PX', unused) end
end
return answer
"""
)
"""owner, next delivery tag, messages, bytes, then for each queue, in the order of their turns, its name and "ack" or
"no_ack" → for each message taken its delivery tag (0: not to be acknowledged), and queue, newline, message.

Answers GONE if a queue is no longer declared: it was deleted, or the server was emptied.
"""

RETURN: Final = (
    PRELUDE
    + r"""
local unacked = 'planrelay:unacked:' .. ARGV[1]
local held = redis.call('HGET', unacked, ARGV[2])
if not held then return 0 end
redis.call('HDEL', unacked, ARGV[2])
give_back(held)
return 1
"""
)
"""owner, delivery tag → 1, or 0 if it was no longer the owner's."""

REJECT: Final = (
    PRELUDE
    + r"""
local unacked = 'planrelay:unacked:' .. ARGV[1]
local held = redis.call('HGET', unacked, ARGV[2])
if not held then return 0 end
local dead = redis.call('HGET', QUEUES, (held:match('^([^\n]*)\n')))
if dead and dead ~= '' then
  local exchange, key = unpack(cjson.decode(dead))
  if route(exchange, key, 'topic', ARGV[3]) == 0 then
    return redis.error_reply('NOROUTE no queue for dead letters: exchange "' .. exchange .. '", key "' .. key .. '"')
  end
end
redis.call('HDEL', unacked, ARGV[2])
return 1
"""
)
"""owner, delivery tag, the message as a dead letter → 1, or 0 if it was no longer the owner's."""

BEAT: Final = (
    PRELUDE
    + r"""
for _, queue in ipairs(redis.call('HKEYS', TEMPORARY)) do abandoned(queue) end
redis.call('HSET', WORKERS, ARGV[1], now())
return redis.call('HGETALL', WORKERS)
"""
)
"""owner → every owner and its last beat."""

GIVE_BACK: Final = (
    PRELUDE
    + r"""
local owner, seen = ARGV[1], ARGV[2]
if seen ~= '' and redis.call('HGET', WORKERS, owner) ~= seen then return -1 end
local unacked, tags = 'planrelay:unacked:' .. owner, {}
for _, tag in ipairs(redis.call('HKEYS', unacked)) do tags[#tags + 1] = tonumber(tag) end
table.sort(tags, function(a, b) return a > b end)
for _, tag in ipairs(tags) do give_back(redis.call('HGET', unacked, tag)) end
redis.call('DEL', unacked)
redis.call('HDEL', WORKERS, owner)
return #tags
"""
)
"""owner, its last beat as the caller saw it ("": the caller is the owner) → messages given back, or -1: it lives."""

DELETE: Final = (
    PRELUDE
    + r"""
redis.call('DEL', ARGV[1], 'planrelay:bell:' .. ARGV[1], 'planrelay:used:' .. ARGV[1])
redis.call('HDEL', QUEUES, ARGV[1])
redis.call('HDEL', TEMPORARY, ARGV[1])
"""
)
"""queue → nothing. Its bindings are the caller's."""


def bell(queue: str) -> str:
    """Name the list to wait at for messages of `queue`."""
    return f"planrelay:bell:{queue}"


def envelope(
    body: bytes,
    *,
    exchange: str,
    routing_key: str,
    content_type: str | None,
    content_encoding: str | None = None,
    headers: Mapping[str, Any],
    properties: Mapping[str, Any],
) -> str:
    """
    Wrap a message the way kombu's virtual transports do, in JSON.

    `properties` are AMQP's by kombu's names (`correlation_id`, `reply_to`, …). Equal messages give equal strings.
    """
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": content_encoding,
            "content-type": content_type,
            "headers": dict(headers),
            "properties": {
                "delivery_mode": 2,
                "priority": 0,
                **properties,
                "body_encoding": "base64",
                "delivery_info": {"exchange": exchange, "routing_key": routing_key},
                "delivery_tag": "",
            },
        }
    )


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as it was taken."""

    tag: int
    """What to acknowledge it by; 0: not to be acknowledged."""
    queue: str
    count: int
    """How often it had been delivered before."""
    message: bytes


def deliveries(answer: list[Any]) -> list[Delivery]:
    """Read what `TAKE` answers."""
    found = []
    for tag, held in zip(answer[::2], answer[1::2], strict=True):
        queue, _, message = held.partition(b"\n")
        digits = len(message) - len(message.lstrip(b"0123456789"))
        found.append(Delivery(int(tag), queue.decode(), int(message[:digits] or 0), message[digits:]))
    return found

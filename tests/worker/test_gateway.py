"""The way from a slice to its system: what is sent, what is waited for here, and what goes up."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from config.connections import Override
from tests.worker.http_side import LOCK, MAKE, READ, Side, http_side, no
from tests.worker.raw_server import Conversation
from tests.worker.waiting import until as eventually
from worker.errors import (
    Busy,
    DeadlineExceeded,
    Forbidden,
    Invalid,
    NotFound,
    NotSent,
    RateLimited,
    RelayError,
    Unanswered,
    Unavailable,
)
from worker.gateway import Gateway
from worker.rest import Endpoint


@pytest.fixture
async def side() -> AsyncIterator[Side]:
    """Give a scripted vendor on a socket, and what talks to it."""
    async with http_side() as side:
        yield side


def until(seconds: float) -> Mapping[str, datetime]:
    """Give a deadline."""
    return {"deadline": datetime.now(UTC) + timedelta(seconds=seconds)}


async def hang_up(said: Conversation) -> None:
    """Take the request and close the connection."""
    said.hang_up()


async def silent(said: Conversation) -> None:
    """Take the request and say nothing."""
    await said.reader.read()


# What is sent


async def test_a_request_goes_to_the_base_url_with_prefix_path_and_credentials(side: Side) -> None:
    """Base URL + prefix + filled path; the system's headers, the request's own in their place, the credentials."""
    gateway = side.gateway()

    response = await gateway.send(READ, path={"id": "a/b"}, headers={"x-client": "request"})

    (said,) = side.server.asked
    assert response.object() == {}
    assert said.target == "GET /api/things/a%2Fb"
    assert said.header("Accept") == "application/json"
    assert said.header("X-Client") == "request"
    assert said.header("Authorization") == "Basic " + base64.b64encode(b"zoe:pw").decode()


async def test_the_connection_overrides_method_path_and_prefix(side: Side) -> None:
    """What the built-in knowledge assumes, the operator's configuration corrects."""
    operations = {"thing.create": Override(method="PUT", path="/v2/things")}
    connection = side.connection(api_prefix="", operations=operations)

    await Gateway(side.wire(), connection).send(MAKE, json={})

    assert side.targets == ["PUT /v2/things"]


@pytest.mark.parametrize("path", ["//evil.example/x", "/..//evil.example", "/%2F%2Fevil.example"])
async def test_no_path_leaves_the_connections_host(side: Side, path: str) -> None:
    """However a path looks, the request and its credentials go to the base URL's host."""
    connection = side.connection(api_prefix="", operations={"thing.create": Override(path=path)})

    await Gateway(side.wire(), connection).send(MAKE, json={})

    assert len(side.server.asked) == 1


async def test_a_path_without_a_slash_is_refused(side: Side) -> None:
    """`api.acme.com` + `.evil.com` would be another host."""
    endpoint = Endpoint(name="x", method="GET", path=".evil.example/x", evidence="seed", source="-", replayable=True)

    with pytest.raises(Invalid, match="must begin with a slash"):
        await Gateway(side.wire(), side.connection(api_prefix="")).send(endpoint)

    assert side.server.asked == []


@pytest.mark.parametrize("status", ["200 OK", "201 Created", "202 Accepted", "204 No Content"])
async def test_every_2xx_is_a_success(side: Side, status: str) -> None:
    """Vendors answer 200 and 201 as they please."""
    side.otherwise = (status, b"", [])

    assert (await side.gateway().send(READ, path={"id": "1"})).status == int(status[:3])


# Refusals go up


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, Invalid), (403, Forbidden), (404, NotFound), (410, NotFound), (422, Invalid)],
)
async def test_a_refusal_goes_up_at_once(side: Side, status: int, error: type[RelayError]) -> None:
    """What trying again can't change is sent once and raised with the vendor's words."""
    side.otherwise = no(status)
    gateway = side.gateway()

    with pytest.raises(error, match="because") as caught:
        await gateway.send(READ, path={"id": "1"})

    assert caught.value.status == status
    assert len(side.server.asked) == 1
    assert (gateway.tally.attempt, gateway.tally.deferrals, gateway.tally.http_requests) == (1, 0, 1)


# Waits that the vendor asks for


async def test_a_short_retry_after_is_waited_for_here(side: Side) -> None:
    """A 429 within `inline_wait` costs a deferral, no attempt; it is never early, and late by its jitter at most."""
    side.script = [no(429, "Retry-After: 1")]
    gateway = side.gateway()

    await gateway.send(READ, path={"id": "1"})

    assert 1.0 <= side.gaps[0] <= 1.35
    assert (gateway.tally.attempt, gateway.tally.deferrals, gateway.tally.http_requests) == (1, 1, 2)
    assert side.seen.retries == [("vendor", "rate_limited")]


async def test_an_idle_connection_keeps_a_retry_after_of_three_seconds(side: Side) -> None:
    """429 with Retry-After: 3 on an idle connection: the second request comes after 3.0 s, and before 3.6 s."""
    side.script = [no(429, "Retry-After: 3")]
    gateway = Gateway(side.wire(inline_wait=timedelta(seconds=5)), side.connection())

    await gateway.send(READ, path={"id": "1"})

    assert 3.0 <= side.gaps[0] <= 3.6
    assert gateway.tally.deferrals == 1


async def test_a_503_with_retry_after_is_a_deferral_too(side: Side) -> None:
    """A 5xx that says when is waited for like a 429."""
    side.script = [no(503, "Retry-After: 1")]
    gateway = side.gateway()

    await gateway.send(READ, path={"id": "1"})

    assert (gateway.tally.attempt, gateway.tally.deferrals) == (1, 1)


async def test_a_long_retry_after_goes_up_and_closes_the_gate(side: Side) -> None:
    """The command is to be parked; who comes next is told by the gate, without a request."""
    side.script = [no(429, "Retry-After: 30")]
    wire, connection = side.wire(), side.connection()

    with pytest.raises(RateLimited) as vendors:
        await Gateway(wire, connection).send(READ, path={"id": "1"})
    began = time.monotonic()
    with pytest.raises(RateLimited, match="gate of acme is closed") as gates:
        await Gateway(wire, connection).send(READ, path={"id": "2"})

    assert vendors.value.status == 429
    assert vendors.value.after is not None
    assert timedelta(seconds=29.5) < vendors.value.after <= timedelta(seconds=30)
    assert gates.value.status is None
    assert gates.value.after is not None
    assert gates.value.after >= timedelta(seconds=29.5)
    assert time.monotonic() - began < 1
    assert len(side.server.asked) == 1
    assert side.seen.closed == {"acme": True}


async def test_a_closed_gate_is_no_other_connections_business(side: Side) -> None:
    """One connection that is limited never slows another."""
    side.script = [no(429, "Retry-After: 30")]
    wire = side.wire()
    with pytest.raises(RateLimited):
        await Gateway(wire, side.connection()).send(READ, path={"id": "1"})

    await Gateway(wire, side.connection(name="other")).send(READ, path={"id": "1"})

    assert len(side.server.asked) == 2


async def test_connections_with_one_limit_key_share_one_gate(side: Side) -> None:
    """What the vendor counts together is closed together."""
    side.script = [no(429, "Retry-After: 30")]
    wire = side.wire()
    with pytest.raises(RateLimited):
        await Gateway(wire, side.connection(limit_key="tenant")).send(READ, path={"id": "1"})

    with pytest.raises(RateLimited, match="gate of tenant"):
        await Gateway(wire, side.connection(name="other", limit_key="tenant")).send(READ, path={"id": "1"})


async def test_a_429_without_retry_after_goes_up_and_closes_the_gate_for_five_seconds(side: Side) -> None:
    """Where the vendor does not say when, the floor is 5 s."""
    side.script = [no(429)]
    wire, connection = side.wire(), side.connection()

    with pytest.raises(RateLimited) as caught:
        await Gateway(wire, connection).send(READ, path={"id": "1"})
    with pytest.raises(RateLimited) as gates:
        await Gateway(wire, connection).send(READ, path={"id": "2"})

    assert caught.value.after is None
    assert gates.value.after is not None
    assert gates.value.after >= timedelta(seconds=4.5)
    assert len(side.server.asked) == 1


async def test_a_retry_after_of_zero_does_not_hammer(side: Side) -> None:
    """0 means "allowed now", but our own shortest wait applies, and after a few of them the command is parked."""
    side.otherwise = no(429, "Retry-After: 0")
    gateway = Gateway(side.wire(backoff_initial=timedelta(seconds=0.2)), side.connection())

    with pytest.raises(RateLimited):
        await gateway.send(READ, path={"id": "1"})

    assert len(side.server.asked) <= 4
    assert all(gap >= 0.2 for gap in side.gaps)


async def test_a_wait_for_a_request_that_is_not_replayable_goes_up(side: Side) -> None:
    """A create is not sent again from here, however short the wait: whoever keeps its intent decides."""
    side.script = [no(429, "Retry-After: 1")]

    with pytest.raises(RateLimited):
        await side.gateway().send(MAKE, json={})

    assert len(side.server.asked) == 1


async def test_a_busy_object_is_waited_for_without_closing_the_gate(side: Side) -> None:
    """A locked report holds up its own command only."""
    side.script = [no(503, "Retry-After: 1")]
    wire, connection = side.wire(), side.connection()
    gateway = Gateway(wire, connection)

    locked = asyncio.create_task(gateway.send(LOCK))
    await asyncio.sleep(0.2)
    await Gateway(wire, connection).send(READ, path={"id": "1"})
    await locked

    assert side.targets == ["POST /api/lock", "GET /api/things/1", "POST /api/lock"]
    assert side.gaps[0] < 0.6
    assert gateway.tally.deferrals == 1


async def test_a_busy_object_without_a_time_goes_up(side: Side) -> None:
    """How long a lock lasts is not guessed here."""
    side.script = [no(409)]

    with pytest.raises(Busy):
        await side.gateway().send(LOCK)


async def test_waiting_at_a_closed_gate_counts_like_being_parked_for_it(side: Side) -> None:
    """A command that finds the gate closed for a moment waits in the call, and that is one deferral."""
    side.script = [no(429, "Retry-After: 1")]
    wire, connection = side.wire(), side.connection()
    first, second = Gateway(wire, connection), Gateway(wire, connection)

    refused = asyncio.create_task(first.send(READ, path={"id": "1"}))
    await eventually(lambda: side.seen.closed.get("acme"))
    await second.send(READ, path={"id": "2"})
    await refused

    assert (first.tally.deferrals, second.tally.deferrals) == (1, 1)
    assert side.times[1] - side.times[0] >= 1.0
    assert side.seen.waits[0][0] == "acme"


# Failures


async def test_a_5xx_is_tried_again_after_a_backoff_and_costs_an_attempt(side: Side) -> None:
    """A 500 without Retry-After is retried here while the backoff is short."""
    side.script = [no(500), no(502)]
    gateway = side.gateway()

    await gateway.send(READ, path={"id": "1"})

    assert (gateway.tally.attempt, gateway.tally.deferrals, gateway.tally.http_requests) == (3, 0, 3)
    assert 0.02 <= side.gaps[0] <= 0.3
    assert side.seen.retries == [("vendor", "unavailable")] * 2


async def test_a_408_with_a_time_waits_for_it_and_costs_an_attempt(side: Side) -> None:
    """What it asks for is kept like any other wait; it is no deferral all the same."""
    side.script = [no(408, "Retry-After: 1")]
    gateway = side.gateway()

    await gateway.send(READ, path={"id": "1"})

    assert side.gaps[0] >= 1.0
    assert (gateway.tally.attempt, gateway.tally.deferrals, gateway.tally.http_requests) == (2, 0, 2)


async def test_the_attempts_of_a_command_are_an_end(side: Side) -> None:
    """A command on its last attempt is not tried again here."""
    side.otherwise = no(500)
    gateway = Gateway(side.wire(max_attempts=3), side.connection(), attempt=2)

    with pytest.raises(Unavailable):
        await gateway.send(READ, path={"id": "1"})

    assert gateway.tally.attempt == 3
    assert len(side.server.asked) == 2


async def test_a_long_backoff_goes_up(side: Side) -> None:
    """What would wait longer than `inline_wait` is parked."""
    side.otherwise = no(500)
    gateway = Gateway(side.wire(backoff_initial=timedelta(seconds=30)), side.connection())

    with pytest.raises(Unavailable):
        await gateway.send(READ, path={"id": "1"})

    assert (gateway.tally.attempt, len(side.server.asked)) == (1, 1)


async def test_an_unanswered_replayable_request_is_sent_again(side: Side) -> None:
    """Where twice does no harm, a cut connection is retried."""
    side.script = [hang_up]
    gateway = side.gateway()

    await gateway.send(READ, path={"id": "1"})

    assert (gateway.tally.attempt, gateway.tally.http_requests) == (2, 2)
    assert side.seen.requests[0] == ("vendor", "acme", "GET", None)
    assert side.seen.retries == [("vendor", "unanswered")]


@pytest.mark.parametrize("answer", [hang_up, no(500), no(503, "Retry-After: 1")])
async def test_a_request_that_is_not_replayable_is_never_sent_twice(side: Side, answer: Any) -> None:
    """Unanswered, or answered 5xx with or without a time: it may have taken effect."""
    side.script = [answer]

    with pytest.raises((Unanswered, Unavailable)):
        await side.gateway().send(MAKE, json={})

    assert len(side.server.asked) == 1


async def test_what_was_not_sent_is_tried_again_whatever_it_is(side: Side) -> None:
    """A connection that could not be made sent nothing; it costs attempts and counts no request."""
    connection = side.connection(base_url="http://planrelay.invalid")
    gateway = Gateway(side.wire(max_attempts=3), connection)

    with pytest.raises(NotSent):
        await gateway.send(MAKE, json={})

    assert (gateway.tally.attempt, gateway.tally.http_requests) == (3, 0)
    assert side.seen.retries == [("vendor", "not_sent")] * 2


async def test_one_request_waits_here_a_few_times_at_most(side: Side) -> None:
    """A vendor that always says "in a moment" gets its command parked, not a worker's slot for half an hour."""
    side.otherwise = no(503)
    gateway = Gateway(side.wire(max_attempts=50, backoff_ceiling=timedelta(seconds=0.05)), side.connection())

    with pytest.raises(Unavailable):
        await gateway.send(READ, path={"id": "1"})

    assert len(side.server.asked) == 4


async def test_a_spent_retry_budget_parks_retries(side: Side) -> None:
    """A vendor that is down gets probes, not load: beyond a share of the requests, retries are deferred."""
    side.otherwise = no(500)
    wire, connection = side.wire(max_attempts=50), side.connection()

    async def one() -> RelayError:
        try:
            await Gateway(wire, connection).send(READ, path={"id": "1"})
        except RelayError as error:
            return error
        raise AssertionError

    errors = await asyncio.gather(*(one() for _ in range(100)))

    spent = [error for error in errors if isinstance(error, RateLimited) and "retry budget" in error.message]
    assert len(side.server.asked) < 100 + 0.2 * 100 + 10 + 3 * (side.times[-1] - side.times[0] + 1)
    assert len(spent) > 50
    assert len({error.after for error in spent}) > 40


# Deadlines


async def test_the_deadline_shrinks_the_timeout(side: Side) -> None:
    """A request may take what is left of its command's time, not its whole own timeout; the deadline is the reason."""
    side.otherwise = silent
    gateway = side.gateway(**until(0.4))

    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await gateway.send(MAKE, json={})

    assert 0.3 < time.monotonic() - began < 2


async def test_after_the_deadline_nothing_is_sent(side: Side) -> None:
    """A command whose time is up ends."""
    with pytest.raises(DeadlineExceeded):
        await side.gateway(**until(-1)).send(READ, path={"id": "1"})

    assert side.server.asked == []


async def test_no_wait_outlasts_the_deadline(side: Side) -> None:
    """A wait that would end after the deadline goes up at once."""
    side.script = [no(429, "Retry-After: 1")]

    began = time.monotonic()
    with pytest.raises(RateLimited):
        await side.gateway(**until(0.5)).send(READ, path={"id": "1"})

    assert time.monotonic() - began < 0.4


# Downloads


async def test_a_download_holds_its_slot_until_it_is_left(side: Side) -> None:
    """A long download is a request in flight; when it ends, the next begins."""
    side.otherwise = ("200 OK", b"x" * 100_000, [])
    wire, connection = side.wire(), side.connection(max_in_flight=1)

    async with Gateway(wire, connection).stream(READ, path={"id": "1"}) as download:
        other = asyncio.create_task(Gateway(wire, connection).send(READ, path={"id": "2"}))
        body = b"".join([chunk async for chunk in download.chunks()])
        await asyncio.sleep(0.1)
        during = len(side.server.asked)
    await other

    assert (len(body), during, len(side.server.asked)) == (100_000, 1, 2)


async def test_a_refused_download_raises_the_vendors_words(side: Side) -> None:
    """A download's refusal is one like any other, short waits included."""
    side.script = [no(429, "Retry-After: 1"), no(404)]
    gateway = side.gateway()

    with pytest.raises(NotFound, match="because"):
        async with gateway.stream(READ, path={"id": "1"}):
            raise AssertionError("there is nothing to read")

    assert gateway.tally.deferrals == 1
    assert side.gaps[0] >= 1.0


async def test_a_download_cut_short_is_not_begun_again_here(side: Side) -> None:
    """Once its bytes have been handed out, only the command can begin again."""

    async def cut(said: Conversation) -> None:
        await said.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort")
        said.hang_up()

    side.script = [cut]

    async def read() -> None:
        async with side.gateway().stream(READ, path={"id": "1"}) as download:
            async for _ in download.chunks():
                pass

    with pytest.raises(Unanswered):
        await read()

    assert len(side.server.asked) == 1


async def test_an_error_of_the_reader_is_not_taken_for_the_vendors(side: Side) -> None:
    """What the slice raises while it reads a download goes up unchanged, and nothing is sent again."""
    with pytest.raises(Unavailable, match="mine"):
        async with side.gateway().stream(READ, path={"id": "1"}):
            raise Unavailable("mine", status=500)

    assert len(side.server.asked) == 1


# Points


async def test_the_points_left_are_told(side: Side) -> None:
    """`X-Rate-Limit-Remaining` of a success reaches whoever watches."""
    side.otherwise = ("200 OK", b"{}", ["X-Rate-Limit-Remaining: 42"])

    await side.gateway().send(READ, path={"id": "1"})

    assert side.seen.points == {"acme": 42}


@pytest.mark.parametrize("value", ["", "many", "-1", "1e3", "4.5", "9" * 40])
async def test_points_that_are_no_number_are_as_if_they_were_absent(side: Side, value: str) -> None:
    """A header that makes no sense holds nobody up."""
    side.otherwise = ("200 OK", b"{}", [f"X-Rate-Limit-Remaining: {value}"])
    wire, connection = side.wire(), side.connection()

    await asyncio.gather(*(Gateway(wire, connection).send(READ, path={"id": "1"}) for _ in range(5)))

    assert side.seen.points == {"acme": None}

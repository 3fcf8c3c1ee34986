"""Signing in on the way: tokens obtained, renewed once for all, and given up on."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from tests.worker.http_side import MAKE, READ, Side, http_side, no
from tests.worker.raw_server import Conversation
from worker.auth import CLIENT_CREDENTIALS, ClientCredentials
from worker.errors import Forbidden, NotSent, RateLimited, Unauthorized
from worker.gateway import Gateway, Wire

FLOW = ClientCredentials("id", "secret", replace(CLIENT_CREDENTIALS, path="/token"))


class SignIn:
    """A vendor that gives `t1`, `t2`, … and accepts those that are still good."""

    def __init__(self) -> None:
        self.given = 0
        self.calls = 0
        self.revoked: set[str] = set()
        self.on_call: Callable[[int], None] = lambda _: None

    async def answer(self, said: Conversation) -> None:
        """Answer a token call or another."""
        if said.target.endswith("/token"):
            self.given += 1
            token = f"t{self.given}"
            await asyncio.sleep(0.02)
            await said.answer("200 OK", json.dumps({"id_token": token, "expires_in": 600}).encode())
            return
        self.calls += 1
        self.on_call(self.calls)
        await asyncio.sleep(0.005)
        sent = (said.header("Authorization") or "").removeprefix("Bearer ")
        if sent.startswith("t") and sent not in self.revoked:
            await said.answer()
        else:
            await said.answer("401 Unauthorized", b'{"message": "token expired"}')


@pytest.fixture
async def side() -> AsyncIterator[Side]:
    """Give a scripted vendor on a socket, and what talks to it."""
    async with http_side() as side:
        yield side


@pytest.fixture
def vendor(side: Side) -> SignIn:
    """Give a vendor with tokens."""
    vendor = SignIn()
    side.otherwise = vendor.answer
    return vendor


@pytest.fixture
def wire(side: Side) -> Wire:
    """Give a process's HTTP side that signs in for a token."""
    return side.wire(flow=FLOW)


async def test_the_token_call_goes_first_and_is_counted(side: Side, vendor: SignIn, wire: Wire) -> None:
    """The first command makes two requests, the next one."""
    first, second = (Gateway(wire, side.connection()) for _ in range(2))

    await first.send(READ, path={"id": "1"})
    await second.send(READ, path={"id": "2"})

    assert side.targets == ["POST /api/token", "GET /api/things/1", "GET /api/things/2"]
    assert (first.tally.http_requests, second.tally.http_requests) == (2, 1)
    assert side.server.asked[0].header("X-Client") is None, "the system's headers are not the token URL's"
    assert side.server.asked[1].header("Authorization") == "Bearer t1"


async def test_a_token_that_dies_under_200_calls_is_renewed_once(side: Side, vendor: SignIn, wire: Wire) -> None:
    """200 concurrent calls, the token revoked midway: one renewal, no failed call, no attempt or deferral counted."""

    def die(call: int) -> None:
        if call == 60:
            vendor.revoked.add("t1")

    vendor.on_call = die
    connection = side.connection(max_in_flight=20)
    gateways = [Gateway(wire, connection) for _ in range(200)]

    answers = await asyncio.gather(*(each.send(READ, path={"id": "1"}) for each in gateways))

    assert {answer.status for answer in answers} == {200}
    assert vendor.given == 2
    assert {(each.tally.attempt, each.tally.deferrals) for each in gateways} == {(1, 0)}
    assert sum(each.tally.http_requests for each in gateways) == len(side.server.asked)


async def test_a_create_is_sent_again_after_a_401(side: Side, vendor: SignIn, wire: Wire) -> None:
    """A request that was refused for its token was not applied: it may be sent again, whatever it is."""
    await Gateway(wire, side.connection()).send(READ, path={"id": "1"})
    vendor.revoked.add("t1")

    await Gateway(wire, side.connection()).send(MAKE, json={})

    assert side.targets[-3:] == ["POST /api/things", "POST /api/token", "POST /api/things"]


async def test_a_second_401_is_final(side: Side, vendor: SignIn, wire: Wire) -> None:
    """A fresh token that is refused too ends the command, and the next ones don't ask for more tokens."""
    vendor.revoked.update({"t1", "t2", "t3"})

    for _ in range(3):
        with pytest.raises(Unauthorized, match="answered 401: token expired"):
            await Gateway(wire, side.connection()).send(READ, path={"id": "1"})

    assert vendor.given == 2
    assert vendor.calls == 4


async def test_a_403_is_no_reason_for_a_new_token(side: Side, wire: Wire) -> None:
    """Forbidden is about rights, not about the token."""
    side.script = [("200 OK", b'{"id_token": "t1"}', []), no(403)]

    with pytest.raises(Forbidden):
        await Gateway(wire, side.connection()).send(READ, path={"id": "1"})

    assert len(side.server.asked) == 2


async def test_fixed_credentials_are_sent_once(side: Side) -> None:
    """A 401 to Basic is final at once."""
    side.otherwise = no(401)

    with pytest.raises(Unauthorized, match="because"):
        await side.gateway().send(READ, path={"id": "1"})

    assert len(side.server.asked) == 1


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_refused_credentials_cause_one_request(side: Side, wire: Wire, status: int) -> None:
    """The token URL's refusal ends every command of the connection for a while, without another request."""
    side.otherwise = no(status)

    results = await asyncio.gather(
        *(Gateway(wire, side.connection()).send(READ, path={"id": "1"}) for _ in range(20)), return_exceptions=True
    )

    assert len(side.server.asked) == 1
    assert all(isinstance(result, Unauthorized) and "credentials of acme" in result.message for result in results)


async def test_a_token_url_that_is_down_is_asked_again_for_a_create(side: Side, vendor: SignIn, wire: Wire) -> None:
    """Without a token the create was never sent: its command is retried."""
    side.script = [no(500)]
    gateway = Gateway(wire, side.connection())

    await gateway.send(MAKE, json={})

    assert side.targets == ["POST /api/token", "POST /api/token", "POST /api/things"]
    assert gateway.tally.attempt == 2


async def test_a_token_url_that_stays_down_leaves_the_create_unsent(side: Side, wire: Wire) -> None:
    """What goes up says that nothing was sent."""
    side.otherwise = no(500)

    with pytest.raises(NotSent, match="No token"):
        await Gateway(wire, side.connection()).send(MAKE, json={})

    assert set(side.targets) == {"POST /api/token"}


async def test_a_limited_token_url_closes_the_gate(side: Side, wire: Wire) -> None:
    """The vendor's word counts whatever was asked."""
    side.script = [no(429, "Retry-After: 30")]

    for _ in range(3):
        with pytest.raises(RateLimited):
            await Gateway(wire, side.connection()).send(MAKE, json={})

    assert len(side.server.asked) == 1


async def test_a_connection_that_cannot_sign_in_is_unauthorized(side: Side) -> None:
    """Settings that are missing are named, and nothing is sent."""
    wire = side.wire()

    def incomplete(_: object) -> ClientCredentials:
        raise ValueError("client_id is missing")

    wire.systems = {"vendor": replace(wire.systems["vendor"], auth=incomplete)}

    with pytest.raises(Unauthorized, match="acme can't sign in: client_id is missing"):
        await Gateway(wire, side.connection()).send(READ, path={"id": "1"})

    assert side.server.asked == []


async def test_a_sign_in_with_one_slot_does_not_wait_for_itself(side: Side, vendor: SignIn, wire: Wire) -> None:
    """The token call never needs a slot while its command holds one."""
    connection = side.connection(max_in_flight=1)

    await asyncio.gather(*(Gateway(wire, connection).send(READ, path={"id": "1"}) for _ in range(5)))

    assert vendor.given == 1

"""A connection's token in a process: one renewal for all who need it, ahead of its end and after a refusal."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from tests.worker.waiting import until
from worker.auth import Basic, ClientCredentials, Flow
from worker.errors import (
    ContractBroken,
    Forbidden,
    Invalid,
    NotFound,
    NotSent,
    RateLimited,
    RelayError,
    Unanswered,
    Unauthorized,
    Unavailable,
)
from worker.rest import Headers, Request, Response
from worker.tokens import FAILED_FOR, REFUSED_FOR, Tokens


class Vendor:
    """A token URL: gives `t1`, `t2`, … each living `lifetime` seconds, or raises what it is told to."""

    def __init__(self, lifetime: float = 600) -> None:
        self.now = 1000.0
        self.lifetime = lifetime
        self.given = 0
        self.asked = 0
        self.failing: RelayError | None = None
        self.open = asyncio.Event()
        self.open.set()

    def clock(self) -> float:
        """Give the time of this test."""
        return self.now

    async def fetch(self, request: Request) -> Response:
        """Answer a token request."""
        assert request.form == {"grant_type": "client_credentials"}
        self.asked += 1
        await self.open.wait()
        if self.failing is not None:
            raise self.failing
        self.given += 1
        body = json.dumps({"id_token": f"t{self.given}", "expires_in": self.lifetime}).encode()
        return Response(status=200, headers=Headers({}), body=body)

    def tokens(self, flow: Flow | None = None) -> Tokens:
        """Give a connection's tokens."""
        return Tokens(
            flow or ClientCredentials("id", "secret"),
            name="acme",
            now=lambda: datetime(2026, 5, 20, tzinfo=UTC),
            rng=Random(1),
            clock=self.clock,
        )


async def test_a_token_is_obtained_once_and_used_again() -> None:
    """The second call asks nobody."""
    vendor = Vendor()
    tokens = vendor.tokens()

    assert await tokens.authorization(vendor.fetch) == "Bearer t1"
    assert await tokens.authorization(vendor.fetch) == "Bearer t1"
    assert vendor.asked == 1


async def test_calls_that_come_together_share_one_token_call() -> None:
    """200 calls without a token make one token call."""
    vendor = Vendor()
    tokens = vendor.tokens()

    given = await asyncio.gather(*(tokens.authorization(vendor.fetch) for _ in range(200)))

    assert set(given) == {"Bearer t1"}
    assert vendor.asked == 1


async def test_a_token_is_renewed_ahead_of_its_end_without_anybody_waiting() -> None:
    """Near its end the old token still serves while the new one is fetched."""
    vendor = Vendor(lifetime=600)
    tokens = vendor.tokens()
    await tokens.authorization(vendor.fetch)

    vendor.now += 600 - 60 * 0.99
    vendor.open.clear()
    assert await tokens.authorization(vendor.fetch) == "Bearer t1"
    vendor.open.set()
    await until(lambda: vendor.given == 2)

    assert await tokens.authorization(vendor.fetch) == "Bearer t2"
    assert vendor.asked == 2


async def test_the_renewal_ahead_has_jitter() -> None:
    """Workers that got their tokens together do not renew them together."""
    dues = set()
    for seed in range(20):
        vendor = Vendor(lifetime=600)
        tokens = Tokens(
            ClientCredentials("i", "s"),
            name="acme",
            now=lambda: datetime(2026, 5, 20, tzinfo=UTC),
            rng=Random(seed),
            clock=vendor.clock,
        )
        await tokens.authorization(vendor.fetch)
        while vendor.asked < 2:
            vendor.now += 1
            await tokens.authorization(vendor.fetch)
            await asyncio.sleep(0)  # the renewal is a task of its own
        dues.add(1600 - vendor.now)
        await tokens.close()

    assert all(59 <= due <= 91 for due in dues)
    assert len(dues) > 10


async def test_a_renewal_ahead_that_fails_leaves_the_old_token_and_tries_again_later() -> None:
    """A token URL that is away for a moment stops nobody while the old token lives."""
    vendor = Vendor(lifetime=600)
    tokens = vendor.tokens()
    await tokens.authorization(vendor.fetch)

    vendor.now += 560
    vendor.failing = Unavailable("away", status=503)
    for _ in range(5):
        assert await tokens.authorization(vendor.fetch) == "Bearer t1"
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert vendor.asked == 2

    vendor.failing = None
    vendor.now += 10
    await tokens.authorization(vendor.fetch)
    await until(lambda: vendor.given == 2)


async def test_a_token_past_its_end_is_not_used() -> None:
    """Whoever comes after the end waits for the new one."""
    vendor = Vendor(lifetime=600)
    tokens = vendor.tokens()
    await tokens.authorization(vendor.fetch)

    vendor.now += 601

    assert await tokens.authorization(vendor.fetch) == "Bearer t2"


async def test_of_all_refused_calls_the_first_renews() -> None:
    """A 401 renews only if the token that was used is still the current one."""
    vendor = Vendor()
    tokens = vendor.tokens()
    used = await tokens.authorization(vendor.fetch)

    given = await asyncio.gather(*(tokens.replaced(used, vendor.fetch) for _ in range(200)))
    late = await tokens.replaced(used, vendor.fetch)

    assert {*given, late} == {"Bearer t2"}
    assert vendor.asked == 2


async def test_fixed_credentials_have_no_replacement() -> None:
    """What a 401 says of Basic is final."""
    vendor = Vendor()
    tokens = vendor.tokens(Basic("u", "p"))
    used = await tokens.authorization(vendor.fetch)

    assert await tokens.replaced(used, vendor.fetch) is None
    assert vendor.asked == 0


async def test_a_renewal_in_vain_is_not_repeated_for_a_while() -> None:
    """Where fresh tokens are refused too, refusals stop causing token calls."""
    vendor = Vendor()
    tokens = vendor.tokens()
    used = await tokens.authorization(vendor.fetch)
    used = await tokens.replaced(used, vendor.fetch) or ""
    tokens.in_vain()

    assert await tokens.replaced(used, vendor.fetch) is None
    assert vendor.asked == 2

    vendor.now += REFUSED_FOR + 1
    assert await tokens.replaced(used, vendor.fetch) == "Bearer t3"


@pytest.mark.parametrize(
    "refusal",
    [
        Unauthorized("no", status=401),
        Invalid("no", status=400),
        Forbidden("no", status=403),
        NotFound("no", status=404),
    ],
)
async def test_refused_credentials_cause_no_storm(refusal: RelayError) -> None:
    """After a refusal by the token URL every call fails as `unauthorized` at once, without asking again for a while."""
    vendor = Vendor()
    vendor.failing = refusal
    tokens = vendor.tokens()

    results = await asyncio.gather(*(tokens.authorization(vendor.fetch) for _ in range(50)), return_exceptions=True)
    with pytest.raises(Unauthorized, match="refuses the credentials of acme") as caught:
        await tokens.authorization(vendor.fetch)

    assert all(isinstance(result, Unauthorized) for result in results)
    assert caught.value.status == refusal.status
    assert vendor.asked == 1

    vendor.failing = None
    vendor.now += REFUSED_FOR + 1
    assert await tokens.authorization(vendor.fetch) == "Bearer t1"


async def test_an_answer_that_is_no_token_is_asked_for_once_in_a_while() -> None:
    """A token URL that answers with a web page is not asked by every command."""
    vendor = Vendor()
    vendor.failing = ContractBroken("no JSON", status=200)
    tokens = vendor.tokens()

    for _ in range(5):
        with pytest.raises(ContractBroken):
            await tokens.authorization(vendor.fetch)
    assert vendor.asked == 1

    vendor.failing = None
    vendor.now += FAILED_FOR + 1
    assert await tokens.authorization(vendor.fetch) == "Bearer t1"


async def test_a_renewal_ahead_that_is_refused_leaves_the_old_token_while_it_lives() -> None:
    """A token URL that says no for a moment costs no command that has a token; it is asked again a minute later."""
    vendor = Vendor(lifetime=600)
    tokens = vendor.tokens()
    await tokens.authorization(vendor.fetch)

    vendor.now += 545
    vendor.failing = Forbidden("no", status=403)
    for _ in range(40):
        vendor.now += 1
        assert await tokens.authorization(vendor.fetch) == "Bearer t1"
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert vendor.asked == 2

    vendor.now += 20
    with pytest.raises(Unauthorized):
        await tokens.authorization(vendor.fetch)


async def test_a_token_that_was_refused_is_not_used_again() -> None:
    """Its replacement was refused, too: whoever comes next is told so, and sends nothing with the dead one."""
    vendor = Vendor(lifetime=600)
    tokens = vendor.tokens()
    used = await tokens.authorization(vendor.fetch)

    vendor.failing = Unauthorized("no", status=401)
    with pytest.raises(Unauthorized):
        await tokens.replaced(used, vendor.fetch)
    with pytest.raises(Unauthorized):
        await tokens.authorization(vendor.fetch)
    assert vendor.asked == 2


@pytest.mark.parametrize(
    ("failure", "seen"),
    [
        (Unanswered("cut"), NotSent),
        (NotSent("refused"), NotSent),
        (Unavailable("down", status=500), NotSent),
        (Unavailable("down", status=503, after=timedelta(seconds=9)), RateLimited),
        (RateLimited("slow", status=429, after=timedelta(seconds=9)), RateLimited),
    ],
)
async def test_without_a_token_nothing_was_sent(failure: RelayError, seen: type[RelayError]) -> None:
    """A token URL that fails says nothing of the caller's own request: that was certainly not sent."""
    vendor = Vendor()
    vendor.failing = failure
    tokens = vendor.tokens()

    with pytest.raises(seen) as caught:
        await tokens.authorization(vendor.fetch)

    assert type(caught.value) is seen
    assert getattr(caught.value, "after", None) == getattr(failure, "after", None)


async def test_a_caller_that_gives_up_does_not_take_the_token_from_the_others() -> None:
    """The first caller's deadline ends its own wait, not the renewal."""
    vendor = Vendor()
    vendor.open.clear()
    tokens = vendor.tokens()
    first = asyncio.create_task(tokens.authorization(vendor.fetch))
    second = asyncio.create_task(tokens.authorization(vendor.fetch))
    await until(lambda: vendor.asked)

    first.cancel()
    vendor.open.set()

    assert await second == "Bearer t1"
    assert vendor.asked == 1
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_every_caller_gets_an_error_of_its_own() -> None:
    """One failed renewal raises in many places; their tracebacks do not pile up on one exception."""
    vendor = Vendor()
    vendor.failing = Unavailable("down", status=500)
    tokens = vendor.tokens()

    results: list[Any] = await asyncio.gather(
        *(tokens.authorization(vendor.fetch) for _ in range(3)), return_exceptions=True
    )

    assert len({id(result) for result in results}) == 3
    assert {result.message for result in results} == {"No token: down"}

"""One run of one command: what it does at most once, and what it says when it could not."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from tests.tasks.bench import NOW, BenchLedger
from worker.errors import Paused, Unavailable
from worker.ledger import Claim
from worker.run import Run


async def nothing_there() -> None:
    """Look, and find nothing."""


def make_run(ledger: BenchLedger, **more: Any) -> Run:
    """Make a run of one command."""
    http, retry = SimpleNamespace(request_timeout=timedelta(seconds=60)), SimpleNamespace(max_attempts=6)
    host: Any = SimpleNamespace(ledger=ledger, settings=SimpleNamespace(http=http, retry=retry))
    some: Any = SimpleNamespace(name="tower")
    run: dict[str, Any] = {"attempt": 1, "claim": Claim(lost=0, run=1), **more}
    return Run(command=some, connection=some, gateway=some, host=host, started=NOW, digest="k", **run)


async def test_a_create_that_was_never_answered_well_tells_how_it_was_answered_last() -> None:
    """After the last attempt nothing is sent any more, and the failure has the vendor's words and status."""
    said = "POST /api/units was answered 500."
    run = make_run(BenchLedger({}), attempt=7, last_error=said, last_status=500)
    with pytest.raises(Unavailable) as caught:
        await run.once("create", nothing_there, nothing_there)
    assert (caught.value.message, caught.value.status) == (said, 500)


@pytest.mark.parametrize(
    ("status", "kept"), [(403, False), (429, False), (200, True), (201, True), (500, True), (503, True), (None, True)]
)
@pytest.mark.parametrize("find", [nothing_there, None])
async def test_a_pause_that_may_have_come_after_the_effect_is_looked_up_by_a_replay(
    status: int | None, kept: bool, find: Callable[[], Awaitable[Any]] | None
) -> None:
    """Only a 4xx says that nothing was made; after any other status the intent stands, and the error is the pause."""
    ledger = BenchLedger({})

    async def send() -> None:
        raise Paused("suspended", status=status)

    with pytest.raises(Paused):
        await make_run(ledger).once("create", send, find)
    assert ("create" in ledger.intents["k"]) is kept


async def test_a_replay_finds_what_was_made_in_spite_of_a_pause() -> None:
    """It looks before it sends again; where nothing can be looked up, the replay is the decision to send."""

    async def send() -> dict[str, str]:
        return {"id": "second"}

    async def find() -> dict[str, str]:
        return {"id": "first"}

    replayed = Claim(lost=0, run=2, intents={"create": timedelta(hours=1)})
    looked, sent = (make_run(BenchLedger({}), claim=replayed) for _ in range(2))

    assert (await looked.once("create", send, find)).value == {"id": "first"}
    assert (await sent.once("create", send, None)).value == {"id": "second"}

"""One run of one command: what it does at most once, and what it says when it could not."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.tasks.bench import NOW, BenchLedger
from worker.errors import Unavailable
from worker.ledger import Claim
from worker.run import Run


async def nothing_there() -> None:
    """Look, and find nothing."""


async def test_a_create_that_was_never_answered_well_tells_how_it_was_answered_last() -> None:
    """After the last attempt nothing is sent any more, and the failure has the vendor's words and status."""
    retry = SimpleNamespace(max_attempts=6)
    host: Any = SimpleNamespace(ledger=BenchLedger({}), settings=SimpleNamespace(retry=retry))
    said = "POST /api/units was answered 500."
    some: Any = SimpleNamespace(name="tower")
    run = Run(
        command=some,
        connection=some,
        gateway=some,
        host=host,
        attempt=7,
        started=NOW,
        digest="k",
        claim=Claim(lost=0, run=1),
        last_error=said,
        last_status=500,
    )
    with pytest.raises(Unavailable) as caught:
        await run.once("create", nothing_there, nothing_there)
    assert (caught.value.message, caught.value.status) == (said, 500)

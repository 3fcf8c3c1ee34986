"""Lists in pages: given whole, however often the reading is cut short."""

from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import RateLimited, Unanswered
from worker.ledger import Claim
from worker.rest import Headers, Response
from worker.run import Postpone, Run
from worker.sweep import sweep

LAST = 5


class Numbers:
    """Pages of one number each, 1 to 5."""

    def __init__(self) -> None:
        self.cursor: int | None = 1

    def take(self, body: bytes) -> list[int]:
        """Take a page in."""
        number = int(body)
        self.cursor = number + 1 if number < LAST else None
        return [number]


class Command:
    """One command's steps, and the runs that it takes."""

    def __init__(self) -> None:
        self.steps: dict[str, Any] = {}
        self.asked: list[int] = []

    def run(self) -> Run:
        """Begin a run."""
        host: Any = SimpleNamespace(ledger=self, now=lambda: datetime(2026, 5, 1, tzinfo=UTC), draining=False)
        nothing: Any = None
        return Run(
            command=nothing,
            connection=nothing,
            gateway=nothing,
            host=host,
            attempt=1,
            started=host.now(),
            digest="d",
            claim=Claim(lost=0, run=1, steps=dict(self.steps)),
        )

    async def write_step(self, digest: str, name: str, value: Any) -> None:
        """Keep a step."""
        self.steps[name] = value

    async def read(self, fail: Callable[[int], Exception | None], name: str = "list") -> list[int]:
        """Read the list in one run; `fail` gives what happens at a page."""

        async def fetch(cursor: int) -> Response:
            self.asked.append(cursor)
            error = fail(cursor)
            if error is not None:
                raise error
            return Response(status=200, headers=Headers([]), body=str(cursor).encode())

        return [row async for page in sweep(self.run(), name, Numbers(), fetch) for row in page]


def at(*pages: int, error: Exception) -> Callable[[int], Exception | None]:
    """Fail once at each of these pages."""
    left = set(pages)

    def fail(page: int) -> Exception | None:
        if page in left:
            left.discard(page)
            return error
        return None

    return fail


def never(page: int) -> None:
    """Fail at no page."""


async def test_a_reading_that_nothing_stops_writes_nothing() -> None:
    """All pages in order, and not a step."""
    command = Command()

    assert await command.read(never) == [1, 2, 3, 4, 5]
    assert command.steps == {}


async def test_a_reading_goes_on_with_the_page_it_did_not_get() -> None:
    """What was read is given again without being asked for."""
    command = Command()
    with pytest.raises(RateLimited):
        await command.read(at(4, error=RateLimited("gate")))

    assert await command.read(never) == [1, 2, 3, 4, 5]
    assert command.asked == [1, 2, 3, 4, 4, 5]


async def test_a_failure_after_progress_is_no_attempt() -> None:
    """A page that came is progress; a page that fails without any is counted."""
    command = Command()
    fails = at(3, error=Unanswered("cut"))

    with pytest.raises(Postpone, match="unfinished"):
        await command.read(fails)
    with pytest.raises(Unanswered):
        await command.read(at(3, error=Unanswered("cut")))


async def test_a_list_that_was_read_to_its_end_is_read_anew() -> None:
    """The next reading under the same name must see what has changed since."""
    command = Command()
    with pytest.raises(RateLimited):
        await command.read(at(2, error=RateLimited("gate")))
    await command.read(never)
    command.asked.clear()

    await command.read(never)

    assert command.asked == [1, 2, 3, 4, 5]


async def test_lists_of_one_command_are_kept_apart() -> None:
    """Each under its name."""
    command = Command()
    with pytest.raises(RateLimited):
        await command.read(at(2, error=RateLimited("gate")), "one")
    command.asked.clear()

    await command.read(never, "other")

    assert command.asked == [1, 2, 3, 4, 5]


@given(cuts=st.lists(st.integers(1, LAST), max_size=8))
async def test_any_cuts_give_every_page_once(cuts: list[int]) -> None:
    """Cut at any pages, in any order: the list is whole in the end, and no page that came is asked for twice."""
    command, came = Command(), list[int]()
    for cut in cuts:
        try:
            assert await command.read(at(cut, error=RateLimited("gate"))) == [1, 2, 3, 4, 5]
        except RateLimited:
            continue
        break
    else:
        came = await command.read(never)

    assert came in ([], [1, 2, 3, 4, 5])
    assert len(command.asked) <= LAST + len(cuts)

"""A vendor that answers from a script, and a process's HTTP side that talks to it."""

import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from pydantic import SecretStr

from config.connections import Connection
from config.settings import Http, Retry, Settings
from tests.worker.raw_server import Conversation, RawServer, raw_server
from worker.auth import Basic, Flow
from worker.command import System
from worker.gateway import Gateway, Wire
from worker.rest import Endpoint, Request
from worker.transport import Transport

READ = Endpoint(name="thing.read", method="GET", path="/things/{id}", evidence="seed", source="-", replayable=True)
MAKE = Endpoint(name="thing.create", method="POST", path="/things", evidence="seed", source="-", replayable=False)
LOCK = Endpoint(
    name="thing.lock",
    method="POST",
    path="/lock",
    evidence="seed",
    source="-",
    replayable=True,
    busy=frozenset({409, 423, 503}),
)

NOW = datetime(2026, 5, 20, 8, 0, tzinfo=UTC)


def a_request(method: str = "GET", **parts: Any) -> Request:
    """Make a request of no special endpoint."""
    endpoint = Endpoint(name="thing", method=method, path="/thing", evidence="seed", source="-", replayable=False)
    return endpoint.request(**parts)


def a_transport(**changes: Any) -> Transport:
    """Make a transport with short timeouts."""
    settings: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=2),
        "request_timeout": timedelta(seconds=5),
        "max_response": 1_000_000,
        "now": lambda: NOW,
    }
    return Transport(**{**settings, **changes})


Answer = tuple[str, bytes, list[str]]


def ok(value: Any = None, *headers: str) -> Answer:
    """Make a success."""
    return "200 OK", json.dumps(value if value is not None else {}).encode(), list(headers)


def no(status: int, *headers: str) -> Answer:
    """Make a refusal."""
    return f"{status} No", b'{"message": "because"}', list(headers)


class Seen:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, str, int | None]] = []
        self.retries: list[tuple[str, str]] = []
        self.waits: list[tuple[str, timedelta]] = []
        self.closed: dict[str, bool] = {}
        self.points: dict[str, float | None] = {}

    def request(self, system: str, connection: str, method: str, status: int | None, spent: timedelta) -> None:
        """Remember a request."""
        assert spent > timedelta(0)
        self.requests.append((system, connection, method, status))

    def retry(self, system: str, reason: str) -> None:
        """Remember a retry."""
        self.retries.append((system, reason))

    def gate(self, limit_key: str, *, closed: bool, points: float | None = None) -> None:
        """Remember how a gate stands."""
        self.closed[limit_key] = closed
        self.points[limit_key] = points

    def gate_wait(self, limit_key: str, waited: timedelta) -> None:
        """Remember a wait."""
        self.waits.append((limit_key, waited))


class Side:
    """A vendor that answers from a script, and a process's HTTP side that talks to it."""

    def __init__(self, server: RawServer) -> None:
        self.server = server
        self.script: list[Answer | Callable[[Conversation], Awaitable[None]]] = []
        self.otherwise: Answer | Callable[[Conversation], Awaitable[None]] = ok()
        self.times: list[float] = []
        self.seen = Seen()
        self.wires: list[Wire] = []

    async def answer(self, said: Conversation) -> None:
        """Give the next answer of the script."""
        self.times.append(time.monotonic())
        answer = self.script.pop(0) if self.script else self.otherwise
        if callable(answer):
            await answer(said)
        else:
            status, body, headers = answer
            await said.answer(status, body, *headers)

    def connection(self, **changes: Any) -> Connection:
        """Give a connection to the vendor."""
        fields: dict[str, Any] = {
            "name": "acme",
            "system": "vendor",
            "base_url": self.server.url,
            "username": "zoe",
            "password": SecretStr("pw"),
        }
        return Connection(**{**fields, **changes})

    def wire(self, *, http: Http | None = None, flow: Flow | None = None, **retry: Any) -> Wire:
        """Give a process's HTTP side."""
        system = System(
            name="vendor",
            auth=lambda connection: flow or Basic(connection.username or "", "pw"),
            cheapest=READ,
            headers={"Accept": "application/json", "X-Client": "system"},
            default_prefix="/api",
        )
        settings = Settings(
            http=http or Http(request_timeout=timedelta(seconds=5)),
            retry=Retry(**{"backoff_initial": timedelta(milliseconds=50), **retry}),
        )
        wire = Wire(
            settings=settings,
            systems={"vendor": system},
            redis=None,
            worker_id="w1",
            observer=self.seen,
            clock=lambda: datetime.now(UTC),
            rng=Random(7),
        )
        self.wires.append(wire)
        return wire

    def gateway(self, **how: Any) -> Gateway:
        """Give a command's gateway of its own process."""
        return Gateway(self.wire(), self.connection(), **how)

    @property
    def gaps(self) -> list[float]:
        """Give the seconds between requests."""
        return [later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)]

    @property
    def targets(self) -> list[str]:
        """Give what was asked."""
        return [said.target for said in self.server.asked]


@contextlib.asynccontextmanager
async def http_side() -> AsyncIterator[Side]:
    """Give a scripted vendor on a socket, and what talks to it."""
    sides: list[Side] = []

    async def answering(said: Conversation) -> None:
        await sides[0].answer(said)

    async with raw_server(answering) as server:
        side = Side(server)
        sides.append(side)
        yield side
        for wire in side.wires:
            await wire.close()

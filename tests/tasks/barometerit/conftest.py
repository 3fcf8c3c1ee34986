"""What the tests of barometerIT share: a tenant of the sandbox behind a real gateway, whose exchanges are kept."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pydantic import SecretStr

import tasks.barometerit.tasks
from config.connections import Connection
from config.settings import Http, Retry, Settings
from sandbox import Sandbox
from tasks.barometerit import SYSTEM
from tests.tasks.bench import Bench
from worker.artifacts import Artifacts
from worker.gateway import Gateway
from worker.rest import Endpoint, Response
from worker.transport import Download
from worker.wire import Wire

VENDOR = "barometerit"


class Unobserved:
    """An observer that counts nothing."""

    def request(self, system: str, connection: str, method: str, status: int | None, spent: timedelta) -> None: ...
    def retry(self, system: str, reason: str) -> None: ...
    def gate(self, limit_key: str, *, closed: bool, points: float | None = None) -> None: ...
    def gate_wait(self, limit_key: str, waited: timedelta) -> None: ...


@dataclass
class Exchange:
    """One request, and its answer if it was a whole one."""

    endpoint: Endpoint
    parts: dict[str, Any]
    response: Response | None = None


class Recording:
    """A gateway that keeps what goes over it."""

    def __init__(self, gateway: Gateway, exchanges: list[Exchange]) -> None:
        self._gateway = gateway
        self._exchanges = exchanges
        self.connection = gateway.connection
        self.tally = gateway.tally

    async def send(self, endpoint: Endpoint, **parts: Any) -> Response:
        """Send, and keep the exchange."""
        exchange = Exchange(endpoint, parts)
        self._exchanges.append(exchange)
        exchange.response = await self._gateway.send(endpoint, **parts)
        return exchange.response

    @asynccontextmanager
    async def stream(self, endpoint: Endpoint, **parts: Any) -> AsyncGenerator[Download, None]:
        """Stream, and keep the request."""
        self._exchanges.append(Exchange(endpoint, parts))
        async with self._gateway.stream(endpoint, **parts) as download:
            yield download


@dataclass
class Tenant:
    """One tenant of the sandbox, and a bench whose commands go there."""

    sandbox: Sandbox
    bench: Bench
    home: Path
    wire: Wire
    exchanges: list[Exchange] = field(default_factory=list)

    def connect(self, **more: Any) -> None:
        """Connect the bench, with more settings of the connection."""
        connection = Connection(
            name="bench",
            system=VENDOR,
            username="svc-relay",
            password=SecretStr("sandbox-password"),
            **{"base_url": self.sandbox.base_url(VENDOR), **more},
        )
        self.bench.connection = connection
        self.bench.make_gateway = lambda: Recording(Gateway(self.wire, connection), self.exchanges)

    async def do(self, type: str, data: dict[str, Any], **said: Any) -> dict[str, Any]:
        """Run one command."""
        return await self.bench.do(f"{VENDOR}.{type}", data, **said)

    def configure(self, **switches: Any) -> None:
        """Set switches of the stand-in."""
        self.sandbox.configure(VENDOR, **switches)

    def seed(self, collection: str, count: int = 1, **with_: Any) -> list[str]:
        """Put objects there."""
        return self.sandbox.seed(VENDOR, collection, count, **with_)

    def put(self, **entity: Any) -> str:
        """Put one entity there, as given."""
        (bn,) = self.sandbox.seed(VENDOR, "entities", objects=[entity])
        return bn

    def entity(self, bn: str) -> dict[str, Any]:
        """Give an entity as it is at the vendor."""
        return next(one for one in self.sandbox.state(VENDOR, "entities") if one["bn"] == bn)

    def operations(self) -> list[str]:
        """Give what was asked for, in order."""
        return [one.operation for one in self.sandbox.journal.entries(vendor=VENDOR)]

    def file(self, name: str) -> Path:
        """Give the path of an artifact."""
        return self.home / "out" / name


@pytest.fixture
async def tenant(tmp_path: Path) -> AsyncIterator[Tenant]:
    """Give a tenant of a sandbox of its own."""
    async with Sandbox() as sandbox:
        retry = Retry(backoff_initial=timedelta(milliseconds=10), backoff_ceiling=timedelta(milliseconds=20))
        settings = Settings(http=Http(request_timeout=timedelta(seconds=5)), retry=retry)
        wire = Wire(
            settings=settings,
            systems={VENDOR: SYSTEM},
            redis=None,
            worker_id="test",
            observer=Unobserved(),
            clock=lambda: datetime.now(UTC),
            rng=Random(1),
        )
        bench = Bench(tasks.barometerit.tasks)
        bench.artifacts = Artifacts(("./out/",), cwd=tmp_path)
        tenant = Tenant(sandbox, bench, tmp_path, wire)
        tenant.connect()
        yield tenant
        await wire.close()

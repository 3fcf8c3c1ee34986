"""
A bench for slices: real commands, real `Run`s, real clients; only the wire is made up.

    bench = Bench(tasks.planpoint.tasks, fields={"status": "availability"})
    bench.wire = app                         app(request) -> Response | raises an error of the tree
    result = await bench.do("planpoint.unit.read", {"id": …})
    result = await bench.do(…, key="1")      the same key again is a redelivery: steps and intents are as it left them
    bench.sent                               every request so far
    bench.memory                             what the connection remembers between commands
    bench.plans, bench.artifacts             real ones, where a test needs them
    bench.clock, bench.attempt               gives the present instant; the number of the attempt that runs
    bench.make_gateway                           gives each run its gateway, a real one where the wire is to be real

`Gateway` and `Ledger` are stood in for by their smallest honest kin: requests are answered by a function, the ledger's
record is a dict. `answer` makes answers.
"""

import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

from worker.command import Operation, System
from worker.errors import RelayError, Unanswered
from worker.gateway import Tally
from worker.ledger import Claim
from worker.rest import Endpoint, Headers, Request, Response, raise_for_status
from worker.run import Run

NOW = datetime(2026, 5, 20, 8, 0, tzinfo=UTC)
Wire = Callable[[Request], Response | Awaitable[Response]]


def answer(body: Any, status: int = 200, **headers: str) -> Response:
    """Make a vendor's answer with a JSON body (or bytes as they are)."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(status=status, headers=Headers(headers), body=raw)


class WireGateway:
    """Sends requests to a function; keeps them."""

    def __init__(self, bench: "Bench") -> None:
        self._bench = bench
        self.connection = bench.connection
        self.tally = Tally()

    async def send(self, endpoint: Endpoint, **said: Any) -> Response:
        override = self.connection.operations.get(endpoint.name)
        if override is not None:
            endpoint = endpoint.overridden(override.method, override.path)
        request = endpoint.request(**said)
        self._bench.sent.append(request)
        response = self._bench.wire(request)
        try:
            return raise_for_status(response if isinstance(response, Response) else await response, endpoint)
        except RelayError as error:
            raise (self._bench.system.final and self._bench.system.final(error)) or error from None


class BenchLedger:
    """The record of each command as dicts, in JSON and back like the real one's."""

    lease = timedelta(seconds=30)

    def __init__(self, memory: dict[str, Any]) -> None:
        self.steps: dict[str, dict[str, Any]] = {}
        self.intents: dict[str, dict[str, timedelta]] = {}
        self.made: dict[str, str] = {}
        self.memory = memory

    async def write_step(self, digest: str, name: str, value: Any) -> None:
        self.steps.setdefault(digest, {})[name] = json.loads(json.dumps(value))

    async def write_intent(self, digest: str, name: str) -> None:
        self.intents.setdefault(digest, {})[name] = timedelta(hours=1)  # old enough to be resolved at once

    async def clear_intent(self, digest: str, name: str) -> None:
        self.intents.get(digest, {}).pop(name, None)

    async def hold(self, name: str, token: str, length: timedelta) -> timedelta | None:
        return None

    async def let_go(self, name: str, token: str) -> None:
        return None

    async def write_made(self, digest: str, connection: str, identity: str) -> None:
        self.made[identity] = digest

    async def maker(self, connection: str, identity: str) -> str | None:
        return self.made.get(identity)

    async def recall(self, name: str) -> Any:
        return self.memory.get(name.partition(":")[2])

    async def remember(self, name: str, value: Any) -> None:
        self.memory[name.partition(":")[2]] = json.loads(json.dumps(value))


class Bench:
    """Runs a slice's commands on one connection against a made-up wire."""

    def __init__(self, tasks: ModuleType, **connection: Any) -> None:
        self.module = tasks
        self.system: System = import_module(str(tasks.__package__)).SYSTEM
        self.operations = {one.type: one for one in vars(tasks).values() if isinstance(one, Operation)}
        self.connection: Any = SimpleNamespace(
            **{
                "name": "bench",
                "limit_key": "bench",
                "base_url": "https://vendor.example",
                "fields": {},
                "operations": {},
                **connection,
            }
        )
        self.wire: Wire = lambda request: answer({"message": "nothing here"}, 404)
        self.sent: list[Request] = []
        self.memory: dict[str, Any] = {}
        self.ledger: Any = BenchLedger(self.memory)
        self.artifacts: Any = None
        self.plans: Any = None
        self.draining = False
        self.clock: Callable[[], datetime] = lambda: NOW
        self.attempt = 1
        self.settings: Any = SimpleNamespace(
            http=SimpleNamespace(request_timeout=timedelta(seconds=60)),
            retry=SimpleNamespace(max_attempts=6),
            schedules=(),
        )
        self.make_gateway: Callable[[], Any] = lambda: WireGateway(self)
        self._commands = 0

    async def do(
        self, type: str, data: Mapping[str, Any], *, key: str | None = None, source: str = "/test"
    ) -> dict[str, Any]:
        """Run one command; gives its result as the event would carry it, or raises what the run raised."""
        self._commands += 1
        operation = self.operations[type]
        return await self._run(operation, operation.validate(data), key or f"command-{self._commands}", source)

    async def _run(self, operation: Operation, data: Any, key: str, source: str) -> dict[str, Any]:
        claim = Claim(lost=0, run=1, steps=self.ledger.steps.get(key, {}), intents=self.ledger.intents.get(key, {}))
        command: Any = SimpleNamespace(id=key, source=source, type=operation.type, key=key, connection="bench")
        gateway: Any = self.make_gateway()
        run = Run(
            command=command,
            connection=self.connection,
            gateway=gateway,
            host=self,
            attempt=self.attempt,
            started=self.now(),
            digest=key,
            claim=claim,
        )
        result: dict[str, Any] = json.loads(json.dumps(await operation.body(run, data)))
        return result

    def paths(self) -> list[str]:
        """Give what was sent, as `METHOD path`."""
        return [f"{request.method} {request.path}" for request in self.sent]

    # What the engine lends to a run.

    def now(self) -> datetime:
        return self.clock()

    async def emit(self, run: Run, type: str, data: Mapping[str, Any], id: str) -> None:
        raise AssertionError("no slice tested here emits events")

    @contextlib.contextmanager
    def holding(self, name: str, token: str) -> Iterator[None]:
        yield


def cut(
    wire: Callable[[Request], Response], *, after_effect: bool = True, method: str = "POST", nth: int = 1
) -> Callable[[Request], Response]:
    """Let the nth request of a method take effect or not, and never be answered; the others go through."""
    left = [nth]

    def app(request: Request) -> Response:
        if request.method == method:
            left[0] -= 1
            if left[0] == 0:
                if after_effect:
                    wire(request)
                raise Unanswered("The connection was cut.")
        return wire(request)

    return app

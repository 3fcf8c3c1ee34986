"""The server: takes requests apart by tenant and vendor, lets faults strike, keeps the journal, is controlled."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from aiohttp import BodyPartReader, web

from sandbox.barometerit import Barometerit, BarometeritSwitches
from sandbox.control import control
from sandbox.faults import Asked, Fault, Faults
from sandbox.journal import BODY_LIMIT, Entry, Journal, redacted
from sandbox.planpoint import Planpoint, PlanpointSwitches
from sandbox.planview_admin import PlanviewAdmin, PlanviewAdminSwitches
from sandbox.stand_in import StandIn, Tokens, filled
from sandbox.switches import Switches, changed, shown
from sandbox.transmit import cut_off, held, transmit
from sandbox.wire import JSON, Answer, Call, Object, Operation, Refusal, encode

VENDORS: Mapping[str, tuple[type[StandIn], type[Switches]]] = {
    "barometerit": (Barometerit, BarometeritSwitches),
    "planview_admin": (PlanviewAdmin, PlanviewAdminSwitches),
    "planpoint": (Planpoint, PlanpointSwitches),
}
BODY_MAXIMUM = 32 * 1024 * 1024
"""Bytes of a request's body that are read, uploads excepted."""
_UPLOAD_BLOCK = 256 * 1024


class World:
    """What the stand-ins are, apart from the wire: tenants with their switches and objects, faults, and the journal."""

    def __init__(
        self,
        *,
        quota: JSON = None,
        latency: JSON = None,
        seed: int = 0,
        journal_limit: int = 200_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.faults = Faults(seed)
        self.journal = Journal(journal_limit)
        self.clock = clock
        self.rng = random.Random(seed)
        everywhere: Object = {} if latency is None else {"latency": latency}
        self._first: dict[str, Object] = {
            vendor: {**everywhere, **({"quota": quota} if vendor == "planview_admin" and quota is not None else {})}
            for vendor in VENDORS
        }
        self._defaults: dict[str, Switches] = {}
        self._stand_ins: dict[tuple[str, str], StandIn] = {}
        self._set_defaults()

    def stand_in(self, vendor: str, tenant: str = "default") -> StandIn:
        """The vendor for that tenant, made if it isn't there yet."""
        found = self._stand_ins.get((vendor, tenant))
        if found is None:
            self._known(vendor)
            if not tenant:
                raise ValueError("tenant must be a text that isn't empty")
            found = VENDORS[vendor][0](tenant, self._defaults[vendor], self.clock)
            self._stand_ins[(vendor, tenant)] = found
        return found

    def configure(self, vendor: str, tenant: str | None = None, **switches: JSON) -> Object:
        """Sets switches of one tenant, or of all and those to come; gives the switches."""
        self._known(vendor)
        if tenant is not None:
            stand_in = self.stand_in(vendor, tenant)
            stand_in.switches = changed(stand_in.switches, switches)
            return shown(stand_in.switches)
        defaults = changed(self._defaults[vendor], switches)
        for (one, _), stand_in in self._stand_ins.items():
            if one == vendor:
                stand_in.switches = changed(stand_in.switches, switches)
        self._defaults[vendor] = defaults
        return shown(defaults)

    def configuration(self, vendor: str, tenant: str = "default") -> Object:
        """Every switch of a tenant and its value."""
        return shown(self.stand_in(vendor, tenant).switches)

    def seed(
        self,
        vendor: str,
        collection: str,
        count: int | None = None,
        objects: Iterable[Mapping[str, JSON]] | None = None,
        tenant: str = "default",
        **with_: JSON,
    ) -> list[str]:
        """Adds objects without a request; their ids, in order."""
        return self.stand_in(vendor, tenant).seed(collection, filled(count, objects), with_)

    def state(
        self, vendor: str, collection: str, tenant: str = "default", first: int = 0, count: int | None = None
    ) -> list[Object]:
        """Copies of a collection's objects, in order of creation."""
        return self.stand_in(vendor, tenant).state(collection, first, count)

    def count(self, vendor: str, collection: str, tenant: str = "default") -> int:
        """How many objects a collection has."""
        return len(self.stand_in(vendor, tenant).collection(collection))

    def duplicates(self, vendor: str | None = None, tenant: str | None = None) -> list[Object]:
        """One item for each natural key that several objects have: vendor, tenant, collection, key, ids."""
        return [
            {"vendor": one, "tenant": of, "collection": name, "key": key, "ids": ids}
            for (one, of), stand_in in self._stand_ins.items()
            if vendor in (None, one) and tenant in (None, of)
            for name, collection in stand_in.collections.items()
            for key, ids in collection.duplicates()
        ]

    def invalidate_tokens(self, vendor: str, tenant: str = "default") -> None:
        """Refuses every token that this vendor handed out so far."""
        tokens = getattr(self.stand_in(vendor, tenant), "tokens", None)
        if not isinstance(tokens, Tokens):
            raise ValueError(f"{vendor} hands out no tokens")  # noqa: TRY004  # it is the argument that is wrong
        tokens.invalidate()

    def digest(self, asset_bn: str, tenant: str = "default") -> Object:
        """What a report snapshot's download is to be: bytes, sha256, rows, columns."""
        stand_in = self.stand_in("barometerit", tenant)
        assert isinstance(stand_in, Barometerit)  # noqa: S101  # VENDORS says so
        return stand_in.digest(asset_bn)

    def reset(self) -> None:
        """Forgets state, switches, faults and the journal; what hangs is let go."""
        self._stand_ins.clear()
        self._set_defaults()
        self.faults.clear()
        self.faults.release()
        self.journal.clear()

    def summary(self) -> Object:
        """Which tenants there are, what they hold, and how much is under way."""
        tenants: dict[str, Object] = {}
        for (vendor, tenant), stand_in in self._stand_ins.items():
            sizes = {name: len(collection) for name, collection in stand_in.collections.items()}
            tenants.setdefault(tenant, {})[vendor] = sizes
        traffic = {"seen": self.journal.seen(), "in_flight": self.journal.in_flight(), "peak": self.journal.peak()}
        return {"vendors": list(VENDORS), "tenants": tenants, "requests": traffic, "faults": self.faults.rules()}

    def _known(self, vendor: str) -> None:
        if vendor not in VENDORS:
            raise ValueError(f"there is no vendor {vendor!r}; there are {', '.join(VENDORS)}")

    def _set_defaults(self) -> None:
        for vendor, (_, switches) in VENDORS.items():
            self._defaults[vendor] = changed(switches(), self._first[vendor])


class Sandbox(World):
    """The stand-ins on a port of the running loop; the package's page shows how to use it."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, **world: Any) -> None:
        super().__init__(**world)
        self.host = host
        self.port = port
        self._web: web.Server | None = None
        self._listener: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://{self.host}:{self.port}"

    def base_url(self, vendor: str, tenant: str = "default") -> str:
        """The base URL of a vendor's tenant."""
        self._known(vendor)
        return f"{self.url}/{vendor}" if tenant == "default" else f"{self.url}/t/{tenant}/{vendor}"

    async def start(self) -> None:
        """Begins to listen; the port stays the same after a `stop`."""
        loop = asyncio.get_running_loop()
        self._web = web.Server(self._handle, access_log=None, keepalive_timeout=75.0, request_factory=_request)
        self._listener = await loop.create_server(self._web, self.host, self.port, backlog=4096)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stops to listen and ends every connection; state, faults and journal stay."""
        if self._listener is None or self._web is None:
            return
        self._listener.close()
        self.faults.release()
        await self._web.shutdown(timeout=0.1)
        await self._listener.wait_closed()
        self._listener = self._web = None

    # A request's way

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.rel_url.path
        if path.startswith("/_sandbox"):
            return await control(self, request, path.removeprefix("/_sandbox"))
        tenant, vendor, rest = _address(path)
        if vendor not in VENDORS:
            message = f"no vendor here: /{', /'.join(VENDORS)}, each also as /t/<tenant>/…, and /_sandbox/"
            return web.Response(status=404, body=encode({"message": message}), content_type="application/json")
        stand_in = self.stand_in(vendor, tenant)
        entry = self.journal.open(
            vendor, tenant, request.method, rest, request.rel_url.query_string, request.headers.items()
        )
        try:
            return await self._respond(stand_in, request, entry)
        except Exception:
            # aiohttp answers 500 and logs the traceback; the journal tells it from a scripted one.
            entry.status, entry.fault = 500, "bug"
            raise
        finally:
            self.journal.close(entry)

    async def _respond(self, stand_in: StandIn, request: web.BaseRequest, entry: Entry) -> web.StreamResponse:
        wanted: Operation | None = None
        refusal: Refusal | None = None
        ident = ""
        try:
            wanted, ident = stand_in.routes.find(request.method, stand_in.locate(entry.path))
            entry.operation = wanted.name
        except Refusal as error:
            refusal = error
        effects: list[Any] = []
        entry.effects = effects
        call = Call(
            method=request.method,
            path=entry.path,
            ident=ident,
            query=request.rel_url.query,
            headers=request.headers,
            body=b"",
            now=0.0,
            effects=effects,
        )
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if wanted is not None and wanted.upload:
            call.upload = lambda: _uploaded(request)
        elif request.body_exists:
            call.body = await request.read()
            text = call.body[:BODY_LIMIT].decode(errors="replace")
            entry.body = redacted(text)
        fault = self._strike(entry) if self.faults.active else None
        if fault is None:
            return await transmit(request, await self._serve(stand_in, call, wanted, refusal), entry)
        return await self._go_wrong(fault, stand_in, call, (wanted, refusal), request, entry)

    def _strike(self, entry: Entry) -> Fault | None:
        asked = Asked(entry.vendor, entry.tenant, entry.method, entry.path, entry.operation, entry.body)
        fault = self.faults.strike(asked)
        entry.fault = fault.kind if fault else None
        return fault

    async def _serve(self, stand_in: StandIn, call: Call, wanted: Operation | None, refusal: Refusal | None) -> Answer:
        """What the vendor answers, after its latency; a refusal comes as late as an answer would."""
        try:
            if refusal is not None or wanted is None:
                raise refusal or Refusal(404, "there is nothing here")
            call.now = self.clock()
            headers = stand_in.admit(call, wanted)
            latency = stand_in.switches.latency
            if latency.high:
                await asyncio.sleep(latency.draw(self.rng))
                call.now = self.clock()
            answer = wanted.handle(stand_in, call)
            if not isinstance(answer, Answer):
                answer = await answer
            return Answer(answer.status, answer.body, {**answer.headers, **headers}) if headers else answer
        except Refusal as error:
            return stand_in.refuse(error)

    async def _go_wrong(
        self,
        fault: Fault,
        stand_in: StandIn,
        call: Call,
        found: tuple[Operation | None, Refusal | None],
        request: web.BaseRequest,
        entry: Entry,
    ) -> web.StreamResponse:
        """The fault's way: what strikes before the vendor acts, the act, what strikes after."""
        late = fault.after_effect or fault.kind in ("truncate", "short", "malformed")
        answer = await self._serve(stand_in, call, *found) if late else None
        if fault.delay:
            await asyncio.sleep(fault.delay.total_seconds())
        match fault.kind:
            case "reset":
                return cut_off(request, reset=True)
            case "status":
                scripted = _scripted(stand_in, fault)
                return await transmit(request, scripted, entry)
            case "hang":
                if not await held(request, self.faults.released):
                    return cut_off(request, reset=False)
        if answer is None:
            answer = await self._serve(stand_in, call, *found)
        return await transmit(request, answer, entry, fault, self.faults.released)


def _request(*parts: Any) -> web.BaseRequest:
    message, payload, protocol, writer, task = parts
    return web.BaseRequest(
        message, payload, protocol, writer, task, asyncio.get_running_loop(), client_max_size=BODY_MAXIMUM
    )


def _address(path: str) -> tuple[str, str, str]:
    """Tenant, vendor and the path behind them."""
    if path.startswith("/t/"):
        _, _, tenant, rest = (*path.split("/", 3), "")[:4]
    else:
        tenant, rest = "default", path[1:]
    vendor, _, behind = rest.partition("/")
    return tenant or "default", vendor, f"/{behind}"


def _scripted(stand_in: StandIn, fault: Fault) -> Answer:
    if fault.body is not None:
        return Answer(fault.status, fault.body, {"Content-Type": stand_in.json_type, **fault.headers})
    return stand_in.refuse(Refusal(fault.status, "the sandbox was told to answer so", headers=fault.headers))


async def _uploaded(request: web.BaseRequest) -> AsyncIterator[tuple[str, bytes]]:
    """The pieces of an upload, each with the file's name, "" for a bare body, or "=" and the name of another part."""
    if not request.content_type.startswith("multipart/"):
        async for block in request.content.iter_chunked(_UPLOAD_BLOCK):
            yield "", block
        return
    async for part in await request.multipart():
        if isinstance(part, BodyPartReader):
            name = part.filename or f"={part.name}"
            while block := await part.read_chunk(_UPLOAD_BLOCK):
                yield name, block

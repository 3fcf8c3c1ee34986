"""The sandbox from where no loop runs: on a loop in a thread, or in a process of its own, with `Sandbox`'s methods."""

import asyncio
import inspect
import json
import os
import select
import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from operator import attrgetter
from types import TracebackType
from typing import Any, Self, cast
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from sandbox.control import ADDRESSES, entries
from sandbox.faults import Faults
from sandbox.journal import Journal
from sandbox.server import Sandbox
from sandbox.wire import JSON, Object

START_LIMIT = timedelta(seconds=20)
"""How long a thread or a process may take to serve."""


class _Far(ABC):
    """A sandbox that is reached by method name."""

    url: str

    def __init__(self) -> None:
        self.faults = cast("Faults", _Part(self._call, "faults"))
        self.journal = cast("Journal", _Part(self._call, "journal"))

    @abstractmethod
    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Calls the sandbox's method of that dotted name."""

    def base_url(self, vendor: str, tenant: str = "default") -> str:
        """The base URL of a vendor's tenant."""
        return f"{self.url}/{vendor}" if tenant == "default" else f"{self.url}/t/{tenant}/{vendor}"

    def configure(self, vendor: str, tenant: str | None = None, **switches: JSON) -> Object:
        """Sets switches of one tenant, or of all and those to come; gives the switches."""
        return cast("Object", self._call("configure", vendor, tenant, **switches))

    def configuration(self, vendor: str, tenant: str = "default") -> Object:
        """Every switch of a tenant and its value."""
        return cast("Object", self._call("configuration", vendor, tenant))

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
        given = None if objects is None else list(objects)
        return cast("list[str]", self._call("seed", vendor, collection, count, given, tenant, **with_))

    def state(
        self, vendor: str, collection: str, tenant: str = "default", first: int = 0, count: int | None = None
    ) -> list[Object]:
        """Copies of a collection's objects, in order of creation."""
        return cast("list[Object]", self._call("state", vendor, collection, tenant, first, count))

    def count(self, vendor: str, collection: str, tenant: str = "default") -> int:
        """How many objects a collection has."""
        return cast("int", self._call("count", vendor, collection, tenant))

    def duplicates(self, vendor: str | None = None, tenant: str | None = None) -> list[Object]:
        """One item for each natural key that several objects have: vendor, tenant, collection, key, ids."""
        return cast("list[Object]", self._call("duplicates", vendor, tenant))

    def invalidate_tokens(self, vendor: str, tenant: str = "default") -> None:
        """Refuses every token that this vendor handed out so far."""
        self._call("invalidate_tokens", vendor, tenant)

    def digest(self, asset_bn: str, tenant: str = "default") -> Object:
        """What a report snapshot's download is to be: bytes, sha256, rows, columns."""
        return cast("Object", self._call("digest", asset_bn, tenant))

    def reset(self) -> None:
        """Forgets state, switches, faults and the journal; what hangs is let go."""
        self._call("reset")

    def summary(self) -> Object:
        """Which tenants there are, what they hold, and how much is under way."""
        return cast("Object", self._call("summary"))


class _Part:
    """`faults` or `journal` of a far sandbox."""

    def __init__(self, call: Callable[..., Any], name: str) -> None:
        self._call = call
        self._name = name

    def __getattr__(self, method: str) -> Callable[..., Any]:
        name = f"{self._name}.{method}"

        def far(*args: Any, **kwargs: Any) -> Any:
            return self._call(name, *args, **kwargs)

        return far


class SandboxThread(_Far):
    """A sandbox on a loop of its own in a thread; every method runs on that loop, so none races with a request."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._options = options
        self._serving = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sandbox: Sandbox | None = None
        self._over: asyncio.Event | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="sandbox", daemon=True)
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._serving.wait(START_LIMIT.total_seconds()) or self._error is not None:
            raise RuntimeError("the sandbox did not start") from self._error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._over is not None:
            self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        async def ask() -> Any:
            found = attrgetter(name)(self._sandbox)
            return found(*args, **kwargs) if callable(found) else found

        assert self._loop is not None, "enter the sandbox first"  # noqa: S101  # a slip of the test that uses it
        return asyncio.run_coroutine_threadsafe(ask(), self._loop).result()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(self._serve())
        except BaseException as error:  # noqa: BLE001  # it is raised again where the thread was started
            self._error = error
        finally:
            self._serving.set()

    async def _serve(self) -> None:
        self._over = asyncio.Event()
        async with Sandbox(**self._options) as sandbox:
            self._loop = asyncio.get_running_loop()
            self._sandbox = sandbox
            self.url = sandbox.url
            self._serving.set()
            await self._over.wait()


class SandboxProcess(_Far):
    """A sandbox in a process of its own, reached through the control API."""

    def __init__(self, *, environment: Mapping[str, str] | None = None, **options: Any) -> None:
        super().__init__()
        given = {"port": 0, **options}
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value is not None]
        self._command = [sys.executable, "-m", "sandbox", "--attached", *flags]
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(  # noqa: S603  # this interpreter, this package
            self._command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=self._environment
        )
        assert self._process.stdout is not None  # noqa: S101  # it is a pipe
        ready, _, _ = select.select([self._process.stdout], [], [], START_LIMIT.total_seconds())
        said = self._process.stdout.readline() if ready else ""
        if not said.startswith("sandbox http"):
            self._process.kill()
            self._process.communicate()
            raise RuntimeError(f"the sandbox did not start: {said.strip() or 'it said nothing'}")
        self.url = said.split()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is None or process.stdout is None or process.stdin is None:
            return
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stdin.close()

    @property
    def pid(self) -> int:
        """The process's id, to measure or to kill it."""
        assert self._process is not None, "enter the sandbox first"  # noqa: S101  # a slip of whoever uses it
        return self._process.pid

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        said = _named(name, args, kwargs)
        address = ADDRESSES["faults.remove" if name == "faults.clear" else name]
        url = f"{self.url}/_sandbox{address.path}"
        body = None
        if address.method == "POST":
            body = json.dumps(said, default=_seconds).encode()
        elif said:
            url += "?" + urlencode({key: value for key, value in said.items() if value is not None})
        request = Request(url, body, method=address.method)  # noqa: S310  # our own sandbox, over HTTP
        try:
            with urlopen(request) as answer:  # noqa: S310  # the same
                value = json.load(answer)
        except HTTPError as error:
            with error:
                raise ValueError(json.load(error)["error"]) from None
        return entries(value) if name == "journal.entries" else value


def _named(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Object:
    """The arguments by name, as the control API takes them."""
    part, dot, method = name.rpartition(".")
    signature = inspect.signature(getattr({"faults": Faults, "journal": Journal}[part] if dot else Sandbox, method))
    named: Object = {}
    for parameter, value in signature.bind(None, *args, **kwargs).arguments.items():
        if signature.parameters[parameter].kind is inspect.Parameter.VAR_KEYWORD:
            named.update(value)
        elif parameter != "self":
            named[parameter] = value
    return named


def _seconds(value: object) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    raise TypeError(f"{value!r} can't be sent as JSON")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Makes uvloop's loops where it is installed, else asyncio's."""
    try:
        import uvloop  # noqa: PLC0415  # an extra
    except ImportError:
        return asyncio.new_event_loop
    return cast("Callable[[], asyncio.AbstractEventLoop]", uvloop.new_event_loop)


def serve(
    *,
    port: int = 8765,
    attached: bool = False,
    announce: Callable[[str], object] | None = None,
    **options: Any,
) -> None:
    """
    Serves until SIGINT or SIGTERM; blocks. Options are those of `Sandbox`.

    `attached`: also until standard input ends, so that it doesn't outlive who started it with a pipe. `announce` gets
    each line about where the vendors are (else they are written to standard output); ValueError for an option that
    makes no sense.
    """
    say = announce or _say
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(Sandbox(port=port, **options), say, attached=attached))


async def _serve(sandbox: Sandbox, say: Callable[[str], object], *, attached: bool) -> None:
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for one in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(one, over.set)
    if attached:
        # Whoever started it writes nothing: the pipe becomes readable when that process ends, however it ends.
        loop.add_reader(sys.stdin.fileno(), over.set)
    async with sandbox:
        for line in _directions(sandbox):
            say(line)
        await over.wait()


def _directions(sandbox: Sandbox) -> list[str]:
    return [
        f"sandbox {sandbox.url}",
        f"  barometerIT      {sandbox.base_url('barometerit')}  user svc-relay, password sandbox-password",
        f"  Planview Admin   {sandbox.base_url('planview_admin')}  client sandbox-client, secret sandbox-secret",
        f"  Planpoint        {sandbox.base_url('planpoint')}  token sandbox-token",
        f"  control          {sandbox.url}/_sandbox/",
    ]


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()

"""The sandbox from outside: over HTTP, in a thread, in a process, on the command line."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import aiohttp
import pytest

from sandbox import Sandbox, SandboxProcess, SandboxThread
from sandbox.control import ROUTES
from tests.sandbox.conftest import Client, until

Far = SandboxThread | SandboxProcess


def status_of(far: Far, path: str, method: str = "GET") -> int:
    """The status that Planpoint answers with."""
    request = Request(
        far.base_url("planpoint") + path, method=method, headers={"Authorization": "Bearer sandbox-token"}
    )
    try:
        with urlopen(request) as answer:
            return int(answer.status)
    except HTTPError as error:
        with error:
            return error.code


@pytest.fixture(scope="module", params=[SandboxThread, SandboxProcess])
def far(request: pytest.FixtureRequest) -> Iterator[Far]:
    """A sandbox where the test's loop isn't."""
    with request.param(seed=7) as sandbox:
        yield sandbox


def test_far_state(far: Far) -> None:
    """A far sandbox is seeded, served, read back, counted and reset like one at hand."""
    far.reset()
    unit = far.seed("planpoint", "units", objects=[{"name": "U1"}, {"name": "U1"}])[0]
    assert status_of(far, f"/api/units/{unit}") == 200
    assert (far.count("planpoint", "units"), far.state("planpoint", "units", first=1, count=1)[0]["name"]) == (2, "U1")
    (double,) = far.duplicates("planpoint")
    assert len(double["ids"]) == 2
    assert far.configure("planpoint", tenant="x", latency="5ms")["latency"] == "0.005s"
    assert far.configuration("planpoint")["latency"] == "0s"
    assert far.summary()["tenants"]["default"]["planpoint"]["units"] == 2
    far.reset()
    assert status_of(far, f"/api/units/{unit}") == 404


def test_far_faults_and_journal(far: Far) -> None:
    """Rules and journal of a far sandbox answer as those at hand."""
    far.reset()
    rule = far.faults.add("status", status=502, operation="project.*", times=2)
    assert [status_of(far, "/api/projects/mine") for _ in range(3)] == [502, 502, 201]
    assert [one["fired"] for one in far.faults.rules()] == [2]
    far.faults.remove(rule)
    far.faults.mix(throttled=1, unavailable=0, reset=0, vendor="planpoint")
    assert status_of(far, "/api/projects/mine") == 429
    far.faults.clear()
    far.faults.release()
    assert far.journal.counts() == {"502": 2, "201": 1, "429": 1}
    assert [entry.fault for entry in far.journal.entries(limit=2)] == [None, "status"]
    assert (far.journal.count(status=502), far.journal.in_flight(), far.journal.peak("planpoint")) == (2, 0, 1)
    seen = far.journal.seen()
    far.journal.clear()
    assert (far.journal.entries(), far.journal.seen()) == ([], seen)


def test_far_report(far: Far) -> None:
    """The digest of a snapshot can be asked for from afar."""
    far.reset()
    report = far.seed("barometerit", "reports", count=1)[0]
    headers = {
        "Authorization": "Basic c3ZjLXJlbGF5OnNhbmRib3gtcGFzc3dvcmQ=",
        "Accept": "*/*",
        "Content-Type": "text/csv",
    }
    url = f"{far.base_url('barometerit')}/api/c/reports/{report}"
    with urlopen(Request(url, b"", headers=headers)) as answer:
        assert answer.status == 200
    assert far.digest(far.state("barometerit", "assets")[0]["bn"])["rows"] == 1_000


def test_far_errors(far: Far) -> None:
    """What makes no sense is a ValueError with the same sentence everywhere."""
    with pytest.raises(ValueError, match="has no collection 'onits'"):
        far.seed("planpoint", "onits", count=1)
    with pytest.raises(ValueError, match="did you mean 'latency'"):
        far.configure("planpoint", latancy="1s")
    with pytest.raises(ValueError, match="there is no vendor 'planpaint'"):
        far.count("planpaint", "units")
    with pytest.raises(ValueError, match="kind must be one of"):
        far.faults.add("explode")  # type: ignore[arg-type]  # the claim
    with pytest.raises(ValueError, match="hands out no tokens"):
        far.invalidate_tokens("barometerit")


async def test_http(sandbox: Sandbox, ask: Client) -> None:
    """The control API takes arguments in the body, and in the query for GET and DELETE."""
    control = f"{sandbox.url}/_sandbox"
    body = {"vendor": "planpoint", "collection": "projects", "count": 3, "namespace": "acme"}
    async with ask.session.post(f"{control}/seed", json=body) as answer:
        ids = await answer.json()
    query = "vendor=planpoint&collection=projects&first=1&count=1"
    async with ask.session.get(f"{control}/state?{query}") as answer:
        assert [one["_id"] for one in await answer.json()] == ids[1:2]
    await ask("planpoint", "GET", "/api/nowhere")
    async with ask.session.get(f"{control}/journal?status=404&answered=true") as answer:
        (entry,) = await answer.json()
    assert (entry["path"], entry["arrived_at"][:2]) == ("/api/nowhere", "20")
    async with ask.session.delete(f"{control}/journal") as answer:
        assert answer.status == 200
    assert sandbox.journal.entries() == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("GET", "/nothing", None, 404, "POST /_sandbox/configure"),
        ("POST", "/seed", b"[]", 400, "JSON object"),
        ("POST", "/seed", b"{", 400, "Expecting"),
        ("POST", "/seed", b'{"vendor": "planpoint"}', 400, "collection"),
        ("POST", "/seed", b'{"vendor": "planpoint", "collection": "units"}', 400, "count or objects"),
        ("POST", "/seed", b'{"vendor": "planpoint", "collection": "units", "count": -1}', 400, "count"),
        ("POST", "/seed", b'{"vendor": "planpoint", "collection": "units", "count": 1, "colour": 1}', 400, "colour"),
        ("POST", "/configure", b'{"vendor": "planpoint", "generation": "C"}', 400, "generation must be one of"),
        ("GET", "/count?vendor=planpoint&collection=units&first=x", None, 400, "invalid literal"),
        ("DELETE", "/faults?id=77", None, 400, "no rule 77"),
        ("GET", "/digest?asset_bn=040U00000000", None, 400, "no asset"),
    ],
)
async def test_http_errors(
    method: str, path: str, body: bytes | None, status: int, message: str, sandbox: Sandbox, ask: Client
) -> None:
    """What the control API can't do is answered with a sentence that says why."""
    async with ask.session.request(method, f"{sandbox.url}/_sandbox{path}", data=body) as answer:
        assert (answer.status, message in (await answer.json())["error"]) == (status, True)


async def test_every_route_leads_somewhere(sandbox: Sandbox, ask: Client) -> None:
    """No route of the control API names a method that isn't there."""
    for method, path in ROUTES:
        async with ask.session.request(method, f"{sandbox.url}/_sandbox{path}") as answer:
            assert answer.status in (200, 400), (method, path)


async def test_no_vendor_at_this_path(sandbox: Sandbox, ask: Client) -> None:
    """A path without a vendor is 404, and the message names those there are."""
    async with ask.session.get(f"{sandbox.url}/nobody/api") as answer:
        assert (answer.status, "/planpoint" in (await answer.json())["message"]) == (404, True)


async def test_stop_and_start(sandbox: Sandbox, ask: Client) -> None:
    """Stopped, the port refuses connections; started again, it is the same port with the same state."""
    unit = sandbox.seed("planpoint", "units", count=1)[0]
    url = sandbox.url
    await sandbox.stop()
    with pytest.raises(aiohttp.ClientConnectorError):
        await ask("planpoint", "GET", f"/api/units/{unit}")
    await sandbox.start()
    assert sandbox.url == url
    assert (await ask("planpoint", "GET", f"/api/units/{unit}")).status == 200


async def test_stop_ends_what_is_under_way(sandbox: Sandbox, ask: Client) -> None:
    """A stop waits for nobody: a call under way loses its connection within a second."""
    sandbox.configure("planpoint", latency="30s")
    asked = asyncio.create_task(ask("planpoint", "GET", "/api/projects/mine"))
    await until(sandbox.journal.in_flight)
    began = time.monotonic()
    await sandbox.stop()
    assert time.monotonic() - began < 1.5
    with pytest.raises(aiohttp.ClientError):
        await asked


async def test_options(ask: Client) -> None:
    """The quota is Planview Admin's, the latency everybody's, drawn evenly from a span, for tenants to come too."""
    async with Sandbox(quota="50/2s", latency="20ms-40ms") as sandbox:
        assert sandbox.configuration("planview_admin", "later")["quota"] == "50/2s"
        assert sandbox.configuration("planpoint")["quota"] is None
        assert {sandbox.configuration(vendor)["latency"] for vendor in ("planpoint", "barometerit")} == {"0.02s-0.04s"}
        began = time.monotonic()
        async with ask.session.get(f"{sandbox.base_url('planpoint')}/api/units/none", headers=AUTH) as answer:
            assert answer.status == 404
        assert time.monotonic() - began >= 0.02


AUTH = {"Authorization": "Bearer sandbox-token"}


def test_options_that_make_no_sense() -> None:
    """A quota or a latency that can't be read is refused with the rule."""
    with pytest.raises(ValueError, match="quota must be points and a period"):
        Sandbox(quota="fifty")
    with pytest.raises(ValueError, match="latency must be a duration"):
        Sandbox(latency="slow")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_command_line(how: signal.Signals) -> None:
    """`python -m sandbox` says where it serves, how to reach each vendor, and ends cleanly with a signal."""
    command = [sys.executable, "-m", "sandbox", "--port=0", "--quota=9/1s", "--latency=1ms"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(5)]
        assert said[0].startswith("sandbox http://127.0.0.1:")
        assert all(name in "".join(said) for name in ("/barometerit", "/planview_admin", "/planpoint", "/_sandbox/"))
        process.send_signal(how)
        assert process.wait(10) == 0


def test_attached_process_ends_with_its_parent() -> None:
    """A sandbox that is attached ends when the pipe to it does, so a killed test leaves none behind."""
    command = [sys.executable, "-m", "sandbox", "--port=0", "--attached"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline().startswith("sandbox http")
        process.stdin.close()
        assert process.wait(10) == 0


def test_command_line_errors() -> None:
    """An option that makes no sense is one sentence and status 2."""
    command = [sys.executable, "-m", "sandbox", "--port=0", "--quota=lots"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "quota must be points and a period" in ended.stderr


def test_process_that_cannot_start() -> None:
    """A process that doesn't serve is an error with what it said."""
    with pytest.raises(RuntimeError, match="did not start"), SandboxProcess(quota="lots"):
        pass


def test_thread_that_cannot_start() -> None:
    """A thread that doesn't serve is an error, with the reason as its cause."""
    with pytest.raises(RuntimeError, match="did not start") as caught, SandboxThread(quota="lots"):
        pass
    assert "quota" in str(caught.value.__cause__)

"""Each kind of fault, seen by a client on the other end of a socket."""

import asyncio
import errno
import json
import socket
import time
from collections import Counter
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp
import pytest

from sandbox import Sandbox, SandboxThread
from sandbox.faults import Asked, Fault, Faults
from tests.sandbox.conftest import BASIC, Client, until

PROJECTS = "/api/projects"


async def create(ask: Client, name: str = "New") -> Any:
    """Creates a project; the reply."""
    return await ask("planpoint", "POST", PROJECTS, json={"name": name})


async def drained(response: aiohttp.ClientResponse, into: bytearray) -> None:
    """Reads what comes, until it ends or breaks off."""
    async for block in response.content.iter_any():
        into += block


async def raw_request(sandbox: Sandbox, path: str = "/planpoint/api/projects/mine") -> bytes:
    """The bytes of one answer, read from a plain socket until it ends."""
    reader, writer = await asyncio.open_connection(sandbox.host, sandbox.port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sandbox-token\r\n\r\n".encode())
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


async def test_status_before_the_effect(sandbox: Sandbox, ask: Client) -> None:
    """A scripted status comes with its headers, and nothing was made."""
    sandbox.faults.add("status", status=503, headers={"Retry-After": 7}, method="POST")
    reply = await create(ask)
    assert (reply.status, reply.headers["Retry-After"], sandbox.count("planpoint", "projects")) == (503, "7", 0)
    assert "message" in reply.json


async def test_status_after_the_effect(sandbox: Sandbox, ask: Client) -> None:
    """A 500 after the effect hides a project that was made; the journal knows its id."""
    sandbox.faults.add("status", status=500, after_effect=True, method="POST")
    assert (await create(ask)).status == 500
    (made,) = sandbox.state("planpoint", "projects")
    assert sandbox.journal.entries()[-1].effects == [("created", "projects", made["_id"])]


@pytest.mark.parametrize(("body", "sent"), [("<html>", b"<html>"), ({"a": 1}, b'{"a":1}')])
async def test_status_with_a_body(body: Any, sent: bytes, sandbox: Sandbox, ask: Client) -> None:
    """A scripted body is sent as it is, or as JSON."""
    sandbox.faults.add("status", status=502, body=body)
    assert (await create(ask)).body == sent


@pytest.mark.parametrize(("after_effect", "made"), [(False, 0), (True, 1)])
async def test_reset(after_effect: bool, made: int, sandbox: Sandbox) -> None:
    """A reset is ECONNRESET on the client's socket, before the effect or after it."""
    sandbox.faults.add("reset", after_effect=after_effect, method="POST")
    reader, writer = await asyncio.open_connection(sandbox.host, sandbox.port)
    body = b'{"name":"New"}'
    head = f"POST /planpoint/api/projects HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    writer.write(head.encode() + b"Authorization: Bearer sandbox-token\r\n\r\n" + body)
    with pytest.raises(ConnectionResetError) as caught:
        await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert caught.value.errno == errno.ECONNRESET
    assert sandbox.count("planpoint", "projects") == made
    entry = sandbox.journal.entries()[-1]
    assert (entry.status, entry.fault) == (None, "reset")


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_truncated_body(end: Literal["close", "reset"], sandbox: Sandbox, ask: Client) -> None:
    """A truncated body announces its whole length, sends a part, and ends: the client finds it incomplete."""
    sandbox.faults.add("truncate", fraction=0.5, end=end)
    with pytest.raises(aiohttp.ClientError):
        await create(ask)
    assert sandbox.count("planpoint", "projects") == 1


async def test_truncated_to_the_byte(sandbox: Sandbox) -> None:
    """Exactly the fraction of the announced bytes is sent."""
    sandbox.seed("planpoint", "projects", count=10)
    sandbox.faults.add("truncate", fraction=0.3)
    head, _, body = (await raw_request(sandbox)).partition(b"\r\n\r\n")
    length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
    assert len(body) == int(length * 0.3)


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.99])
async def test_truncated_download(framing: str, fraction: float, sandbox: Sandbox, ask: Client) -> None:
    """A report's download breaks off at the fraction, framed by length or in chunks."""
    sandbox.configure("barometerit", report_framing=framing)
    report = sandbox.seed("barometerit", "reports", count=1, size=2_000_000)[0]
    kind = {"Content-Type": "text/csv"}
    bn = (await ask("barometerit", "POST", f"/api/c/reports/{report}", headers=kind)).json["assetBn"]
    sandbox.faults.add("truncate", fraction=fraction, operation="report.download")
    url = f"{sandbox.base_url('barometerit')}/api/c/reports/{bn}"
    got = bytearray()
    async with ask.session.get(url, headers={"Authorization": BASIC}) as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await drained(response, got)
    assert len(got) <= int(sandbox.digest(bn)["bytes"] * fraction) == sandbox.journal.entries()[-1].sent


async def test_body_that_stalls(sandbox: Sandbox) -> None:
    """A body that hangs half-way keeps its connection open, and ends when it is released."""
    sandbox.seed("planpoint", "projects", count=10)
    sandbox.faults.add("truncate", fraction=0.5, end="hang")
    answer = asyncio.create_task(raw_request(sandbox))
    await until(lambda: sandbox.journal.entries()[-1:] and sandbox.journal.entries()[-1].sent)
    assert not (await asyncio.wait((answer,), timeout=0.2))[0]
    sandbox.faults.release()
    assert b"Content-Length" in await answer


def test_reset_from_another_loop() -> None:
    """A reset is a reset on uvloop too, where a transport doesn't show its socket."""
    with SandboxThread() as sandbox:
        sandbox.faults.add("reset")
        at = urlsplit(sandbox.url)
        with socket.create_connection((at.hostname, at.port)) as client:
            client.settimeout(10)
            client.sendall(b"GET /planpoint/api/projects/mine HTTP/1.1\r\nHost: x\r\n\r\n")
            with pytest.raises(ConnectionResetError):
                client.recv(1)


async def test_short_body(sandbox: Sandbox, ask: Client) -> None:
    """A short body is framed as if it were whole: only its content shows that something is missing."""
    sandbox.faults.add("short", fraction=0.5)
    reply = await create(ask)
    assert (reply.status, int(reply.headers["Content-Length"])) == (201, len(reply.body))
    with pytest.raises(json.JSONDecodeError):
        json.loads(reply.body)


async def test_malformed_body(sandbox: Sandbox, ask: Client) -> None:
    """A malformed body has the status and the content type of a good one and is no JSON."""
    sandbox.faults.add("malformed")
    reply = await create(ask)
    assert (reply.status, reply.headers["Content-Type"]) == (201, "application/json; charset=utf-8")
    with pytest.raises(ValueError, match=r"."):
        json.loads(reply.body)
    assert sandbox.count("planpoint", "projects") == 1


@pytest.mark.parametrize("after_effect", [False, True])
async def test_delay(after_effect: bool, sandbox: Sandbox, ask: Client) -> None:
    """A delay comes before the effect, or between the effect and the answer."""
    sandbox.faults.add("delay", delay="300ms", after_effect=after_effect)
    began = time.monotonic()
    asked = asyncio.create_task(create(ask))
    await until(sandbox.journal.in_flight)
    await asyncio.sleep(0.05)  # well within the delay
    assert sandbox.count("planpoint", "projects") == int(after_effect)
    assert (await asked).status == 201
    assert time.monotonic() - began >= 0.3


async def test_hang_until_released(sandbox: Sandbox, ask: Client) -> None:
    """What hangs is answered, and takes effect, once it is released."""
    sandbox.faults.add("hang", times=1)
    asked = asyncio.create_task(create(ask))
    await until(sandbox.journal.in_flight)
    done, _ = await asyncio.wait((asked,), timeout=0.2)
    assert (done, sandbox.count("planpoint", "projects")) == (set(), 0)
    sandbox.faults.release()
    assert (await asked).status == 201


@pytest.mark.parametrize(("after_effect", "made"), [(False, 0), (True, 1)])
async def test_hang_until_the_client_goes(after_effect: bool, made: int, sandbox: Sandbox, ask: Client) -> None:
    """When its client goes away a hanging request is over: without effect, or with it if it hung after it."""
    sandbox.faults.add("hang", after_effect=after_effect)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(create(ask), 0.2)
    await until(lambda: not sandbox.journal.in_flight())
    assert sandbox.count("planpoint", "projects") == made


@pytest.mark.parametrize(
    ("rule", "struck"),
    [
        ({"nth": 2}, [False, True, False, False]),
        ({"nth": [1, 4]}, [True, False, False, True]),
        ({"skip": 2}, [False, False, True, True]),
        ({"times": 2}, [True, True, False, False]),
        ({"skip": 1, "times": 1}, [False, True, False, False]),
        ({"path": r"/projects$"}, [True] * 4),
        ({"path": r"/units"}, [False] * 4),
        ({"operation": "project.*"}, [True] * 4),
        ({"operation": "unit.*"}, [False] * 4),
        ({"vendor": "planpoint", "tenant": "default", "method": "POST"}, [True] * 4),
        ({"vendor": "barometerit"}, [False] * 4),
        ({"tenant": "acme"}, [False] * 4),
        ({"body_matches": "P[13]"}, [False, True, False, True]),
    ],
)
async def test_which_requests_are_struck(rule: Any, struck: list[bool], sandbox: Sandbox, ask: Client) -> None:
    """A rule strikes those requests that it matches and counts, and no others."""
    sandbox.faults.add("status", status=500, **rule)
    assert [(await create(ask, f"P{number}")).status == 500 for number in range(4)] == struck


async def test_first_rule_that_fires_decides(sandbox: Sandbox, ask: Client) -> None:
    """Rules are tried in order; one that is used up leaves the request to the next."""
    sandbox.faults.add("status", status=500, times=1)
    second = sandbox.faults.add("status", status=502)
    assert [(await create(ask)).status for _ in range(2)] == [500, 502]
    assert [(rule["matched"], rule["fired"]) for rule in sandbox.faults.rules()] == [(2, 1), (1, 1)]
    sandbox.faults.remove(second)
    assert (await create(ask)).status == 201


def drawn(faults: Faults, count: int) -> list[Fault | None]:
    """What befalls so many requests."""
    asked = Asked("planpoint", "default", "GET", "/api/units/1", "unit.read", "")
    return [faults.strike(asked) for _ in range(count)]


def test_probability_is_seeded() -> None:
    """The same seed strikes the same requests, about as many as the probability says."""
    runs = []
    for _ in range(2):
        faults = Faults(seed=3)
        faults.add("status", probability=0.2)
        runs.append([fault is not None for fault in drawn(faults, 2_000)])
    assert runs[0] == runs[1]
    assert 330 < sum(runs[0]) < 470


def test_mix() -> None:
    """The mix draws 429 with Retry-After, 503 and resets in its shares, the latter two before and after the effect."""
    faults = Faults(seed=1)
    faults.mix()
    struck = Counter(
        (fault.kind, fault.status if fault.kind == "status" else None, fault.after_effect) if fault else None
        for fault in drawn(faults, 10_000)
    )
    assert 900 < struck[("status", 429, False)] < 1_100
    assert ("status", 429, True) not in struck
    for late in (True, False):
        assert 200 < struck[("status", 503, late)] < 300
        assert 30 < struck[("reset", None, late)] < 75


def test_mix_is_reproducible() -> None:
    """The nth request of a mix meets the same fate in every run with one seed, and another with another."""
    runs = []
    for seed in (5, 5, 6):
        faults = Faults()
        faults.mix(seed=seed)
        runs.append([fault and (fault.kind, fault.status) for fault in drawn(faults, 500)])
    assert runs[0] == runs[1] != runs[2]


async def test_mix_answers_with_retry_after(sandbox: Sandbox, ask: Client) -> None:
    """A mix of nothing but 429 answers so, with the Retry-After it was given."""
    sandbox.faults.mix(throttled=1, unavailable=0, reset=0, retry_after=3, vendor="planpoint")
    reply = await create(ask)
    assert (reply.status, reply.headers["Retry-After"]) == (429, "3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "explode"}, "kind must be one of status"),
        ({"kind": "truncate", "fraction": 1}, "fraction"),
        ({"kind": "truncate", "end": "sigh"}, "end must be"),
        ({"kind": "status", "status": 99}, "status must be"),
        ({"kind": "status", "colour": "red"}, "can't match colour"),
        ({"kind": "status", "path": "("}, "path must be a regular expression"),
        ({"kind": "status", "probability": 2}, "probability"),
        ({"kind": "delay", "delay": "soon"}, "duration"),
    ],
)
def test_rules_that_make_no_sense(arguments: Any, message: str) -> None:
    """A rule that can't be is refused with a sentence that names what is wrong."""
    with pytest.raises(ValueError, match=message):
        Faults().add(**arguments)


def test_mix_that_makes_no_sense() -> None:
    """Shares over 1 are refused."""
    with pytest.raises(ValueError, match="shares"):
        Faults().mix(throttled=0.7, unavailable=0.7)

"""barometerIT's reports in the sandbox: generation, locks, downloads, ranges, sizes, documents."""

import asyncio
import csv
import hashlib
import io
import json
import time
import xml.etree.ElementTree as ET
from typing import Any

import aiohttp
import pytest

from sandbox import Sandbox
from tests.sandbox.conftest import BASIC, Client, Reply, until

ANY = {"Accept": "*/*"}


async def generated(ask: Client, report: str, kind: str = "text/csv") -> Reply:
    """Asks for a snapshot."""
    return await ask(
        "barometerit", "POST", f"/api/c/reports/{report}", headers={"Content-Type": f"{kind};charset=UTF-8"}
    )


async def asset(sandbox: Sandbox, ask: Client, kind: str = "text/csv", **traits: Any) -> str:
    """The BN of a snapshot of a new report."""
    report = sandbox.seed("barometerit", "reports", count=1, **traits)[0]
    return str((await generated(ask, report, kind)).json["assetBn"])


async def download(ask: Client, bn: str, query: str = "", **headers: str) -> Reply:
    """Downloads a snapshot."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await ask("barometerit", "GET", f"/api/c/reports/{bn}{query}", headers={**ANY, **named})


@pytest.mark.parametrize(
    ("kind", "form"), [("text/csv", "CSV"), ("application/json", "JSON"), ("application/xml", "XML")]
)
async def test_content_type_selects_the_format(kind: str, form: str, sandbox: Sandbox, ask: Client) -> None:
    """The request's Content-Type is the snapshot's format, and all rows and columns are in it."""
    report = sandbox.seed("barometerit", "reports", count=1, rows=1_100, columns=9)[0]
    said = (await generated(ask, report, kind)).json
    assert said["fileFormat"] == form
    body = (await download(ask, said["assetBn"])).body.decode()
    if form == "CSV":
        rows = list(csv.reader(io.StringIO(body, newline=""), strict=True))
        assert rows[0][:7] == [
            "BAROMETER_NO",
            "NAME",
            "DESCRIPTION",
            "DOMAIN",
            "CONTENT_STATUS",
            "CONTACTS",
            "FIELD_10",
        ]
        assert (len(rows), {len(row) for row in rows}) == (1_101, {9})
        assert len({row[0] for row in rows}) == 1_101
    elif form == "JSON":
        objects = json.loads(body)
        assert (len(objects), {len(one) for one in objects}) == (1_100, {9})
        assert {"barometerNo", "contentStatus", "contacts", "field10"} <= set(objects[0])
    else:
        root = ET.fromstring(body)
        assert (len(root), {len(row) for row in root}) == (1_100, {9})


async def test_other_formats_are_refused(sandbox: Sandbox, ask: Client) -> None:
    """Any other Content-Type is 415."""
    report = sandbox.seed("barometerit", "reports", count=1)[0]
    assert (await generated(ask, report, "application/pdf")).status == 415


async def test_unknown_report(ask: Client) -> None:
    """A report nobody made is 404."""
    assert (await generated(ask, "042400000001")).status == 404


@pytest.mark.parametrize("status", [409, 423, 503])
async def test_a_report_is_locked_while_it_is_generated(status: int, sandbox: Sandbox, ask: Client) -> None:
    """A second snapshot of the same report is refused, of another report not; afterwards it is possible again."""
    sandbox.configure("barometerit", report_time="400ms", report_busy=status, report_busy_retry_after="2s")
    first, second = sandbox.seed("barometerit", "reports", count=2)
    assert (await generated(ask, first)).status == 200
    busy = await generated(ask, first)
    assert (busy.status, busy.headers["Retry-After"]) == (status, "2")
    assert (await generated(ask, second)).status == 200
    deadline = time.monotonic() + 5
    while (await generated(ask, first)).status != 200:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    made = sandbox.state("barometerit", "assets")
    assert len(made) == 3


@pytest.mark.parametrize(
    ("switch", "status", "empty"), [("404", 404, False), ("202", 202, False), ("204", 204, True), ("empty", 200, True)]
)
async def test_not_ready_yet(switch: str, status: int, empty: bool, sandbox: Sandbox, ask: Client) -> None:
    """Until a snapshot is ready the download answers as switched; then it is there."""
    sandbox.configure("barometerit", report_time="300ms", report_not_ready=switch)
    bn = await asset(sandbox, ask)
    reply = await download(ask, bn)
    assert (reply.status, not reply.body) == (status, empty)
    deadline = time.monotonic() + 5
    while not (reply := await download(ask, bn)).body.startswith(b"BAROMETER_NO"):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    assert reply.status == 200


async def test_answer_when_ready(sandbox: Sandbox, ask: Client) -> None:
    """The POST can be told to answer once the snapshot is there; meanwhile the report is locked."""
    sandbox.configure("barometerit", report_time="300ms", report_answer="when_ready")
    report = sandbox.seed("barometerit", "reports", count=1)[0]
    first = asyncio.create_task(generated(ask, report))
    await until(lambda: sandbox.state("barometerit", "assets"))
    assert (await generated(ask, report)).status == 409
    assert (await download(ask, (await first).json["assetBn"])).status == 200


async def test_delete_asset(sandbox: Sandbox, ask: Client) -> None:
    """deleteAsset=true gives the data once; a second read is 404."""
    bn = await asset(sandbox, ask)
    assert [(await download(ask, bn, "?deleteAsset=true")).status for _ in range(2)] == [200, 404]
    assert sandbox.journal.entries(operation="report.download")[0].effects == [("deleted", "assets", bn)]


async def test_size(sandbox: Sandbox, ask: Client) -> None:
    """The size step tells the bytes of the download, or as many more as it is told to."""
    bn = await asset(sandbox, ask)
    path = f"/api/c/reports/{bn}/size"
    length = len((await download(ask, bn)).body)
    assert (await ask("barometerit", "GET", path)).json == {"assetBn": bn, "size": length}
    sandbox.configure("barometerit", report_size_delta=-1)
    assert (await ask("barometerit", "GET", path)).json["size"] == length - 1
    sandbox.configure("barometerit", report_size_path=False)
    assert (await ask("barometerit", "GET", path)).status == 404


@pytest.mark.parametrize(("framing", "header"), [("length", "Content-Length"), ("chunked", "Transfer-Encoding")])
async def test_framing(framing: str, header: str, sandbox: Sandbox, ask: Client) -> None:
    """A download comes with its length, or in chunks without; the bytes are the digest's."""
    sandbox.configure("barometerit", report_framing=framing)
    bn = await asset(sandbox, ask, rows=3_000)
    reply = await download(ask, bn)
    assert header in reply.headers
    assert ("Content-Length" in reply.headers) is (framing == "length")
    assert sandbox.digest(bn) == {
        "bytes": len(reply.body),
        "sha256": hashlib.sha256(reply.body).hexdigest(),
        "rows": 3_000,
        "columns": 7,
    }


@pytest.mark.parametrize(
    ("switch", "kind", "expected"),
    [
        ("text/plain", "text/csv", "text/plain;charset=UTF-8"),
        ("by_format", "text/csv", "text/csv;charset=UTF-8"),
        ("by_format", "application/xml", "application/xml;charset=UTF-8"),
    ],
)
async def test_content_type_of_downloads(switch: str, kind: str, expected: str, sandbox: Sandbox, ask: Client) -> None:
    """A download is text/plain as the vendor's overview says, or its format; Accept must allow it."""
    sandbox.configure("barometerit", report_content_type=switch)
    bn = await asset(sandbox, ask, kind)
    assert (await download(ask, bn)).headers["Content-Type"] == expected
    assert (await download(ask, bn, Accept="application/json")).status == 406


async def test_ranges_are_off_by_default(sandbox: Sandbox, ask: Client) -> None:
    """Nobody documents ranges: a Range header gives the whole, without a validator."""
    bn = await asset(sandbox, ask)
    reply = await download(ask, bn, Range="bytes=5-9")
    assert (reply.status, "ETag" in reply.headers, "Accept-Ranges" in reply.headers) == (200, False, False)


@pytest.mark.parametrize(
    ("header", "cut"),
    [
        ("bytes=0-99", slice(0, 100)),
        ("bytes=70000-", slice(70_000, None)),
        ("bytes=-300", slice(-300, None)),
        ("bytes=100-99999999", slice(100, None)),
    ],
)
async def test_ranges(header: str, cut: slice, sandbox: Sandbox, ask: Client) -> None:
    """Switched on, one range gives exactly those bytes with 206 and Content-Range."""
    sandbox.configure("barometerit", report_ranges=True, report_etag="strong")
    bn = await asset(sandbox, ask, rows=2_000)
    whole = await download(ask, bn)
    part = await download(ask, bn, Range=header, If_Range=whole.headers["ETag"])
    first, last, _ = cut.indices(len(whole.body))
    assert part.status == 206
    assert part.body == whole.body[cut]
    assert part.headers["Content-Range"] == f"bytes {first}-{last - 1}/{len(whole.body)}"


@pytest.mark.parametrize(
    ("etag", "condition", "header", "status"),
    [
        ("strong", '"other"', "bytes=5-", 200),
        ("weak", None, "bytes=5-", 206),
        ("weak", "same", "bytes=5-", 200),
        ("strong", "same", "bytes=5-9,20-29", 200),
        ("strong", "same", "lines=5-9", 200),
        ("strong", "same", "bytes=9-5", 200),
        ("strong", "same", "bytes=99999999-", 416),
    ],
)
async def test_ranges_that_are_not_served(
    etag: str, condition: str | None, header: str, status: int, sandbox: Sandbox, ask: Client
) -> None:
    """Another or a weak validator, several ranges or nonsense give the whole; one beyond the end is 416."""
    sandbox.configure("barometerit", report_ranges=True, report_etag=etag)
    bn = await asset(sandbox, ask)
    validator = (await download(ask, bn)).headers["ETag"] if condition == "same" else condition
    headers = {"Range": header, **({"If_Range": validator} if validator else {})}
    assert (await download(ask, bn, **headers)).status == status


async def test_snapshots_differ(sandbox: Sandbox, ask: Client) -> None:
    """Two snapshots of one report have the same shape and other bytes, so a mixture of them shows."""
    report = sandbox.seed("barometerit", "reports", count=1)[0]
    bodies = [(await download(ask, (await generated(ask, report)).json["assetBn"])).body for _ in range(2)]
    assert bodies[0] != bodies[1]
    assert bodies[0].count(b"\n") == bodies[1].count(b"\n")


async def test_rate(sandbox: Sandbox, ask: Client) -> None:
    """A rate in bytes a second holds the download back."""
    sandbox.configure("barometerit", report_rate=2_000_000)
    bn = await asset(sandbox, ask, size=1_000_000)
    began = time.monotonic()
    length = len((await download(ask, bn)).body)
    assert time.monotonic() - began > 0.9 * length / 2_000_000


async def test_sizes_in_bytes(sandbox: Sandbox, ask: Client) -> None:
    """A report seeded by size comes out within one row of it in a hundred."""
    bn = await asset(sandbox, ask, size=2_000_000)
    assert abs(sandbox.digest(bn)["bytes"] - 2_000_000) < 20_000


async def test_big_reports_are_not_held(sandbox: Sandbox, ask: Client) -> None:
    """A 3 GB report is announced at once and begins to flow; who leaves early costs nothing."""
    bn = await asset(sandbox, ask, size=3_000_000_000)
    url = f"{sandbox.base_url('barometerit')}/api/c/reports/{bn}"
    async with ask.session.get(url, headers={"Authorization": BASIC}) as response:
        assert abs(int(response.headers["Content-Length"]) - 3_000_000_000) < 30_000_000
        got = 0
        async for block in response.content.iter_chunked(65_536):
            got += len(block)
            if got > 20_000_000:
                break
    await until(lambda: not sandbox.journal.in_flight("barometerit"))
    assert sandbox.journal.entries()[-1].sent < 100_000_000


async def test_documents(sandbox: Sandbox, ask: Client) -> None:
    """A file comes in as the body or as a form's part, counted and hashed as it flows, and becomes an AST entity."""
    data = b"A,B\n" * 500_000
    headers = {"Content-Type": "text/csv"}
    raw = await ask("barometerit", "POST", "/api/c/documents?name=a.csv", data=io.BytesIO(data), headers=headers)
    form = aiohttp.FormData({"name": "b.csv"})
    form.add_field("file", io.BytesIO(data), filename="x.csv", content_type="text/csv")
    posted = await ask("barometerit", "POST", "/api/c/documents", data=form, headers={"Content-Type": "auto"})
    assert [one.json["size"] for one in (raw, posted)] == [2_000_000] * 2
    documents = sandbox.state("barometerit", "documents")
    assert [one["name"] for one in documents] == ["a.csv", "b.csv"]
    assert {one["sha256"] for one in documents} == {hashlib.sha256(data).hexdigest()}
    assert sandbox.state("barometerit", "entities")[0]["entityDiscriminator"] == "AST"


async def test_expect_continue(ask: Client) -> None:
    """A client that waits for 100 Continue before it sends a body gets it."""
    url = "/api/c/documents?name=a.csv"
    headers = {"Content-Type": "text/csv"}
    reply = await ask("barometerit", "POST", url, data=b"A,B\n", headers=headers, expect100=True)
    assert (reply.status, reply.json["size"]) == (200, 4)


async def test_documents_need_a_name(ask: Client) -> None:
    """A document without a name is 400."""
    headers = {"Content-Type": "text/csv"}
    assert (await ask("barometerit", "POST", "/api/c/documents", data=b"x", headers=headers)).status == 400

"""Reports, one command at a time: generated once, waited for, verified, published whole or not at all."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest

from tests.tasks.barometerit.conftest import Tenant
from worker.errors import BadCommand, Busy, ContractBroken, NotFound, RelayError, Unanswered
from worker.unfinished import Unfinished

EXPORT = "report.export"


@pytest.fixture
def report(tenant: Tenant) -> str:
    """Put a report there, of 2,000 rows and 7 columns."""
    (bn,) = tenant.seed("reports", rows=2000)
    return bn


def asked(report: str, **more: Any) -> dict[str, Any]:
    """Give an export's data."""
    return {"report_bn": report, "destination": "out/capacity.csv", **more}


def generated(tenant: Tenant) -> int:
    """Count the snapshots that were made."""
    return tenant.sandbox.count("barometerit", "assets")


def left(tenant: Tenant) -> list[str]:
    """Give what is in the destination's directory, hidden names included."""
    return sorted(path.name for path in tenant.file("").iterdir())


# What an export gives


@pytest.mark.parametrize("format", ["csv", "json", "xml"])
async def test_an_export_is_the_snapshot_to_the_byte(tenant: Tenant, report: str, format: str) -> None:
    """In each format; result and manifest say what was saved."""
    result = await tenant.do(EXPORT, {"report_bn": report, "destination": f"out/capacity.{format}"})

    told = tenant.sandbox.digest(result["asset_bn"])
    content = tenant.file(f"capacity.{format}").read_bytes()
    assert hashlib.sha256(content).hexdigest() == result["sha256"] == told["sha256"]
    assert len(content) == result["bytes"] == told["bytes"]
    assert (result["format"], result["size_checked"]) == (format, True)
    if format == "csv":
        assert (result["rows"], result["columns"]) == (2000, 7)
    manifest = json.loads(tenant.file(f"capacity.{format}.manifest.json").read_text())
    assert manifest["sha256"] == result["sha256"]
    assert manifest["asset_bn"] == result["asset_bn"]
    assert manifest["report_bn"] == report
    assert manifest["attempts"] == 1
    assert datetime.fromisoformat(manifest["generated_at"]) <= datetime.fromisoformat(manifest["saved_at"])
    assert left(tenant) == [f"capacity.{format}", f"capacity.{format}.manifest.json"]


async def test_the_format_is_the_content_type(tenant: Tenant, report: str) -> None:
    """Asked for by the request's Content-Type, whatever the destination is called."""
    await tenant.do(EXPORT, {"report_bn": report, "destination": "out/capacity.txt", "format": "xml"})

    assert tenant.file("capacity.txt").read_text().startswith("<?xml")
    (exchange,) = [one for one in tenant.exchanges if one.endpoint.name == "report.generate"]
    assert exchange.parts["headers"]["Content-Type"] == "application/xml;charset=UTF-8"


async def test_names_are_filled_once(tenant: Tenant, report: str) -> None:
    """Date, time and ids, in the destination and in the document's name."""
    template = "out/{report_bn}/{asset_bn}-{date}-{time}.csv"
    result = await tenant.do(EXPORT, {"report_bn": report, "destination": template, "upload_as": "{date} {report_bn}"})

    assert result["destination"] == f"out/{report}/{result['asset_bn']}-2026-05-20-080000.csv"
    (document,) = tenant.sandbox.state("barometerit", "documents")
    assert document["name"] == f"2026-05-20 {report}"
    assert document["sha256"] == result["sha256"]
    assert result["document"]["bn"] == document["bn"]


async def test_the_snapshot_is_removed_only_once_the_file_is_verified(tenant: Tenant, report: str) -> None:
    """By a second read, and only where the command says so."""
    result = await tenant.do(EXPORT, asked(report, delete_asset=True))
    downloads = tenant.sandbox.journal.entries(operation="report.download")

    assert [one.query for one in downloads] == ["", "deleteAsset=true"]
    assert result["asset_deleted"]
    assert generated(tenant) == 0


async def test_a_snapshot_that_cannot_be_removed_is_a_warning(tenant: Tenant, report: str) -> None:
    """The file is saved: the command has done what it is for."""
    tenant.sandbox.faults.add("status", operation="report.download", status=403, skip=1)

    result = await tenant.do(EXPORT, asked(report, delete_asset=True))

    assert not result["asset_deleted"]
    assert "could not be removed" in result["warnings"][0]


# Before anything is sent


@pytest.mark.parametrize(
    "destination",
    ["../out.csv", "/etc/out.csv", "elsewhere/x.csv", "ftp://host/x.csv", "out/", "out/{who}.csv", "out/{bn}.csv"],
)
async def test_a_destination_that_cannot_be_is_refused_before_anything_is_sent(
    tenant: Tenant, report: str, destination: str
) -> None:
    """Also one whose braces nothing fills in."""
    for type, data in ((EXPORT, {"report_bn": report}), ("report.download", {"asset_bn": "040U00000001"})):
        with pytest.raises(BadCommand, match="destination"):
            await tenant.do(type, {**data, "destination": destination})
    assert tenant.operations() == []


async def test_a_symlink_that_leads_out_is_refused_before_anything_is_sent(tenant: Tenant, report: str) -> None:
    """Wherever it stands in the path."""
    tenant.home.joinpath("out").mkdir()
    tenant.file("away").symlink_to(tenant.home.parent)

    with pytest.raises(BadCommand, match="destination"):
        await tenant.do(EXPORT, asked(report, destination="out/away/x.csv"))
    assert tenant.operations() == []


# Not ready, locked


@pytest.mark.parametrize("sign", ["404", "202", "204", "empty"])
async def test_a_snapshot_that_is_not_ready_is_waited_for(tenant: Tenant, report: str, sign: str) -> None:
    """Each way of saying "not yet" is a deferral, a second at least; then the same snapshot is fetched."""
    tenant.configure(report_time="1m", report_not_ready=sign)
    with pytest.raises(Busy) as raised:
        await tenant.do(EXPORT, asked(report), key="k")
    assert raised.value.after == timedelta(seconds=1)
    assert left(tenant) == []

    tenant.sandbox.clock = lambda: datetime.now(UTC).timestamp() + 61
    result = await tenant.do(EXPORT, asked(report), key="k")

    assert result["rows"] == 2000
    assert generated(tenant) == 1


async def test_looks_become_rarer(tenant: Tenant, report: str) -> None:
    """A quarter of the time so far, a minute at most."""
    start = datetime(2026, 5, 20, 8, 0, tzinfo=UTC)
    tenant.configure(report_time="1d")
    waits = []
    for seconds in (0, 20, 100, 2000):
        tenant.bench.clock = lambda seconds=seconds: start + timedelta(seconds=seconds)  # type: ignore[misc] # bound now
        with pytest.raises(Busy) as raised:
            await tenant.do(EXPORT, asked(report), key="k")
        assert raised.value.after is not None
        waits.append(raised.value.after.total_seconds())
    assert waits == [1, 5, 25, 60]


async def test_a_snapshot_that_never_comes_is_not_found(tenant: Tenant, report: str) -> None:
    """After `ready_within` the command fails, and the report is free for others."""
    tenant.configure(report_time="1d")
    with pytest.raises(NotFound, match="ready_within"):
        await tenant.do(EXPORT, asked(report, ready_within=0))
    with pytest.raises(NotFound, match="ready_within"):
        await tenant.do("report.download", {"asset_bn": "040U0000000X", "destination": "out/x.csv", "ready_within": 0})
    tenant.configure(report_time="0s")
    tenant.sandbox.clock = lambda: datetime.now(UTC).timestamp() + 90_000
    assert (await tenant.do(EXPORT, asked(report)))["rows"] == 2000


@pytest.mark.parametrize("status", [409, 423, 503])
async def test_a_locked_report_is_busy(tenant: Tenant, report: str, status: int) -> None:
    """Whatever it is answered with; its gate stays open for everything else."""
    tenant.configure(report_time="1m", report_busy=status)
    await tenant.do("report.generate", {"report_bn": report})

    with pytest.raises(Busy):
        await tenant.do(EXPORT, asked(report))
    assert (await tenant.do("entity.read", {"bn": report}))["bn"] == report


async def test_others_wait_without_asking_while_one_generates(tenant: Tenant, report: str) -> None:
    """The second export of a report sends nothing until the first one's snapshot is ready."""
    tenant.configure(report_time="1m")
    with pytest.raises(Busy):
        await tenant.do(EXPORT, asked(report), key="first")
    before = tenant.operations()
    with pytest.raises(Busy, match="for another command"):
        await tenant.do(EXPORT, asked(report), key="second")
    assert tenant.operations() == before

    tenant.sandbox.clock = lambda: datetime.now(UTC).timestamp() + 61
    await tenant.do(EXPORT, asked(report), key="first")
    tenant.configure(report_time="0s")
    assert (await tenant.do(EXPORT, asked(report), key="second"))["rows"] == 2000


async def test_a_command_that_is_gone_holds_nobody_up_for_long(tenant: Tenant, report: str) -> None:
    """What does not come back to look loses its turn after a few minutes."""
    tenant.configure(report_time="1m")
    with pytest.raises(Busy):
        await tenant.do(EXPORT, asked(report), key="gone")
    tenant.configure(report_time="0s")
    tenant.sandbox.clock = lambda: datetime.now(UTC).timestamp() + 61
    later = datetime(2026, 5, 20, 8, 5, tzinfo=UTC)
    tenant.bench.clock = lambda: later

    assert (await tenant.do(EXPORT, asked(report), key="next"))["rows"] == 2000


async def test_a_snapshot_made_before_a_crash_is_taken_up(tenant: Tenant, report: str) -> None:
    """Cut off between the answer and the ledger: what the fleet remembers of it is enough."""
    tenant.configure(report_time="1m")
    with pytest.raises(Busy):
        await tenant.do(EXPORT, asked(report), key="k")
    tenant.bench.ledger.steps.clear()
    tenant.sandbox.clock = lambda: datetime.now(UTC).timestamp() + 61

    await tenant.do(EXPORT, asked(report), key="k")

    assert generated(tenant) == 1


# What goes wrong on the way


async def broken(tenant: Tenant, report: str, **more: Any) -> RelayError:
    """Run an export that fails; nothing is under the final name. Gives its error."""
    with pytest.raises(RelayError) as raised:
        await tenant.do(EXPORT, asked(report, **more), key="k")
    assert not [name for name in left(tenant) if not name.startswith(".")]
    return raised.value


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_cut_download_is_fetched_again(
    tenant: Tenant, report: str, framing: str, fraction: float, end: Literal["close", "reset"]
) -> None:
    """Wherever it is cut and however: nothing under the final name, then all of the same snapshot."""
    tenant.configure(report_framing=framing)
    tenant.sandbox.faults.add("truncate", operation="report.download", fraction=fraction, end=end, times=1)

    assert isinstance(await broken(tenant, report), Unanswered)
    assert left(tenant) == []
    result = await tenant.do(EXPORT, asked(report), key="k")

    assert result["sha256"] == tenant.sandbox.digest(result["asset_bn"])["sha256"]
    assert generated(tenant) == 1


@pytest.mark.parametrize("format", ["csv", "json", "xml"])
@pytest.mark.parametrize("size", [True, False])
async def test_a_short_body_with_a_clean_end_is_fetched_again(
    tenant: Tenant, report: str, format: str, size: bool
) -> None:
    """Framed as if whole: the size tells, and where nobody knows it, the format does."""
    tenant.configure(report_size_path=size)
    tenant.sandbox.faults.add("short", operation="report.download", fraction=0.5, times=1)

    assert isinstance(await broken(tenant, report, format=format), Unanswered)
    result = await tenant.do(EXPORT, asked(report, format=format), key="k")

    assert result["bytes"] == tenant.sandbox.digest(result["asset_bn"])["bytes"]
    assert result["size_checked"] is size
    assert generated(tenant) == 1


async def test_a_size_that_differs_is_fetched_again_and_then_the_vendors(tenant: Tenant, report: str) -> None:
    """Twice it may be the way; the third time the same difference is the vendor's, and the error names a remedy."""
    tenant.configure(report_size_delta=5)
    assert isinstance(await broken(tenant, report), Unanswered)
    tenant.bench.attempt = 2
    assert isinstance(await broken(tenant, report), Unanswered)
    tenant.bench.attempt = 3
    error = await broken(tenant, report)

    assert isinstance(error, ContractBroken)
    assert "3 times" in error.message
    assert "check_size" in error.message
    assert (await tenant.do(EXPORT, asked(report, check_size=False)))["rows"] == 2000


async def test_a_size_that_is_right_the_second_time_is_enough(tenant: Tenant, report: str) -> None:
    """The command ends done, with the same snapshot."""
    tenant.configure(report_size_delta=5)
    await broken(tenant, report)
    tenant.configure(report_size_delta=0)

    assert (await tenant.do(EXPORT, asked(report), key="k"))["rows"] == 2000
    assert generated(tenant) == 1


@pytest.mark.parametrize(
    ("format", "body", "charset"),
    [
        ("csv", "A,B\n1,2,3\n", "UTF-8"),
        ("csv", "A,B\n1,2\n3,4", "UTF-8"),
        ("csv", "A,B\n1,2\n", "UTF-16"),
        ("json", '[{"a": 1},', "UTF-8"),
        ("xml", "<rows><row>", "UTF-8"),
    ],
)
async def test_a_file_that_is_not_whole_is_never_published(
    tenant: Tenant, report: str, format: str, body: str, charset: str
) -> None:
    """Rows of another width, no final newline, another encoding than told, no end."""
    headers = {"Content-Type": f"text/plain;charset={charset}"}
    tenant.sandbox.faults.add("status", operation="report.download", status=200, body=body, headers=headers)

    assert "not whole" in (await broken(tenant, report, format=format, check_size=False)).message


async def test_an_encoding_that_is_told_is_kept(tenant: Tenant, report: str) -> None:
    """A snapshot in another encoding than UTF-8 is checked in its own, and saved as it came."""
    headers = {"Content-Type": "text/plain;charset=ISO-8859-1"}
    body = "A,B\n1,Zürich\n"
    tenant.sandbox.faults.add("status", operation="report.download", status=200, body=body, headers=headers)

    result = await tenant.do(EXPORT, asked(report, check_size=False))

    assert (result["rows"], result["columns"]) == (1, 2)
    assert tenant.file("capacity.csv").read_bytes() == body.encode()


async def test_a_download_goes_on_where_it_was_cut(tenant: Tenant) -> None:
    """With a strong ETag: only what is missing is asked for, and the file is the same to the byte."""
    (report,) = tenant.seed("reports", size=8_000_000)
    tenant.configure(report_etag="strong", report_ranges=True)
    tenant.sandbox.faults.add("truncate", operation="report.download", fraction=0.75, times=1)
    await broken(tenant, report)

    result = await tenant.do(EXPORT, asked(report), key="k")

    first, second = tenant.sandbox.journal.entries(operation="report.download")
    assert second.status == 206
    assert second.sent < first.sent / 2
    assert result["continued_at"] > 4_000_000
    assert result["sha256"] == tenant.sandbox.digest(result["asset_bn"])["sha256"]
    assert result["rows"] == tenant.sandbox.digest(result["asset_bn"])["rows"]


@pytest.mark.parametrize(("etag", "ranges"), [("weak", True), ("none", True), ("strong", False)])
async def test_without_a_strong_validator_it_begins_anew(tenant: Tenant, etag: str, ranges: bool) -> None:
    """A weak ETag, or none, is no promise that the rest fits (RFC 9110, 13.1.5); and a vendor may not do ranges."""
    (report,) = tenant.seed("reports", size=4_000_000)
    tenant.configure(report_etag=etag, report_ranges=ranges)
    tenant.sandbox.faults.add("truncate", operation="report.download", fraction=0.75, times=1)
    await broken(tenant, report)

    result = await tenant.do(EXPORT, asked(report), key="k")

    assert tenant.sandbox.journal.entries(operation="report.download")[-1].status == 200
    assert "continued_at" not in result
    assert result["sha256"] == tenant.sandbox.digest(result["asset_bn"])["sha256"]


async def test_a_file_that_was_all_there_needs_no_more_than_a_byte(tenant: Tenant, report: str) -> None:
    """Killed after the last byte and before the file had its name: nothing is fetched twice."""
    tenant.configure(report_etag="strong", report_ranges=True, report_time="1m")
    with pytest.raises(Busy):
        await tenant.do(EXPORT, asked(report), key="k")
    tenant.sandbox.clock = lambda: datetime.now(UTC).timestamp() + 61
    (asset,) = (one["bn"] for one in tenant.sandbox.state("barometerit", "assets"))
    copy = await tenant.do("report.download", {"asset_bn": asset, "destination": "out/copy.csv"})
    killed = Unfinished(tenant.bench.artifacts.check("out/capacity.csv"), resume_key=f"k:{asset}")
    killed.restart(f'"{asset}-{copy["bytes"]:x}"')
    killed.write([tenant.file("copy.csv").read_bytes()])
    killed.close(keep=True)

    result = await tenant.do(EXPORT, asked(report), key="k")

    last = tenant.sandbox.journal.entries(operation="report.download")[-1]
    assert (last.status, last.sent) == (206, 1)
    assert result["sha256"] == copy["sha256"]


async def test_a_file_that_is_longer_than_the_snapshot_is_begun_anew(tenant: Tenant, report: str) -> None:
    """What is here is not what is there: 416, and the whole is fetched."""
    tenant.configure(report_etag="strong", report_ranges=True)
    made = await tenant.do("report.generate", {"report_bn": report})
    told = tenant.sandbox.digest(made["asset_bn"])
    killed = Unfinished(tenant.bench.artifacts.check("out/capacity.csv"), resume_key=f"k:{made['asset_bn']}")
    killed.restart(f'"{made["asset_bn"]}-{told["bytes"]:x}"')
    killed.write([b"x" * (told["bytes"] + 10)])
    killed.close(keep=True)

    data = {"asset_bn": made["asset_bn"], "destination": "out/capacity.csv"}
    result = await tenant.do("report.download", data, key="k")

    assert [one.status for one in tenant.sandbox.journal.entries(operation="report.download")] == [416, 200]
    assert result["sha256"] == told["sha256"]


async def test_a_size_that_is_not_told_is_no_error(tenant: Tenant, report: str) -> None:
    """That there is such an operation is documented, where it is is not."""
    for fault in (
        {"status": 404},
        {"status": 403},
        {"status": 200, "body": '{"bytes": 7}'},
        {"status": 200, "body": ""},
    ):
        tenant.sandbox.faults.clear()
        tenant.sandbox.faults.add("status", operation="report.size", **fault)
        assert (await tenant.do(EXPORT, asked(report)))["size_checked"] is False


async def test_a_repeated_run_fetches_nothing_again(tenant: Tenant, report: str) -> None:
    """Saved is a step: cut off after it, the redelivery goes on from there."""
    first = await tenant.do(EXPORT, asked(report), key="k")
    before = tenant.operations()

    assert await tenant.do(EXPORT, asked(report), key="k") == first
    assert tenant.operations() == before


async def test_a_snapshot_of_somebody_else_is_downloaded(tenant: Tenant, report: str) -> None:
    """`report.generate`, then `report.size`, then `report.download`."""
    made = await tenant.do("report.generate", {"report_bn": report, "format": "json"})
    size = await tenant.do("report.size", {"asset_bn": made["asset_bn"]})
    asset = made["asset_bn"]
    saved = await tenant.do("report.download", {"asset_bn": asset, "destination": "out/{asset_bn}.json"})

    assert saved["bytes"] == size["size"] == tenant.sandbox.digest(asset)["bytes"]
    assert saved["format"] == "json"


async def test_the_vendor_may_say_which_format_it_is(tenant: Tenant, report: str) -> None:
    """A media type of its own verifies the file as what it is, whatever it is called."""
    tenant.configure(report_content_type="by_format")
    made = await tenant.do("report.generate", {"report_bn": report, "format": "xml"})

    saved = await tenant.do("report.download", {"asset_bn": made["asset_bn"], "destination": "out/x.csv"})

    assert saved["format"] == "xml"

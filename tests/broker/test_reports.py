"""Reports through real workers: one generation at a time, and a final name that holds the whole file or nothing."""

from __future__ import annotations

import hashlib
import resource
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.fleet import command, eventually
from tests.worker.test_artifacts_s3 import start as start_s3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox import SandboxThread
    from tests.fleet import Fleet

EXPORT = "barometerit.report.export"
VENDOR = "barometerit"
MB = 1_000_000


def reports(sandbox: SandboxThread, count: int = 1, *, size: int, tenant: str = "default") -> list[str]:
    """Put reports there whose snapshots have about so many bytes as CSV."""
    return sandbox.seed(VENDOR, "reports", count, tenant=tenant, size=size)


def export(report: str, name: str, connection: str = "acme-bit", **data: Any) -> dict[str, Any]:
    """Make a command that exports a report to a file of that name."""
    return command(EXPORT, connection, {"report_bn": report, "destination": f"var/artifacts/{name}", **data})


def generations(sandbox: SandboxThread, tenant: str = "default") -> int:
    """Count the snapshots that were generated."""
    return sandbox.count(VENDOR, "assets", tenant)


def is_snapshot(path: Path, sandbox: SandboxThread, result: dict[str, Any], tenant: str = "default") -> bool:
    """Tell whether a file is a snapshot to the byte, as the vendor has it."""
    told: str = sandbox.digest(result["asset_bn"], tenant)["sha256"]
    return hashlib.sha256(path.read_bytes()).hexdigest() == told == str(result["sha256"])


FAULTS: dict[str, dict[str, Any]] = {
    "cut at 10 %": {"kind": "truncate", "operation": "report.download", "fraction": 0.1, "end": "close"},
    "cut at 50 %": {"kind": "truncate", "operation": "report.download", "fraction": 0.5, "end": "reset"},
    "cut at 99 %": {"kind": "truncate", "operation": "report.download", "fraction": 0.99, "end": "reset"},
    "short with a clean end": {"kind": "short", "operation": "report.download", "fraction": 0.5},
    "another size": {"kind": "status", "operation": "report.size", "status": 200, "body": '{"size": 7}'},
}


def test_whatever_happens_to_downloads_the_files_are_whole(
    make_fleet: Callable[..., Fleet], sandbox: SandboxThread
) -> None:
    """Cut, short, of another size: nothing under the final name until it is whole; one retry, one snapshot."""
    fleet = make_fleet()
    fleet.start()
    for number, (what, fault) in enumerate(FAULTS.items(), 1):
        sandbox.faults.add(times=1, **fault)
        (report,) = reports(sandbox, size=3 * MB)
        path = fleet.home / "var" / "artifacts" / f"{number}.csv"
        (sent,) = fleet.send_all([export(report, path.name)])
        eventually(path.exists, what=f"a file after {what}")
        first_seen = path.stat().st_size
        data = fleet.wait(sent)["data"]

        assert data["attempts"] == 2, what
        assert is_snapshot(path, sandbox, data["result"]), what
        assert first_seen == data["result"]["bytes"], what
        assert generations(sandbox) == number, what


def test_a_worker_killed_in_the_middle_leaves_nothing_and_another_finishes(
    make_fleet: Callable[..., Fleet], sandbox: SandboxThread
) -> None:
    """SIGKILL while downloading: the next worker goes on where that may be, else begins anew; one snapshot each."""
    base = {"system": VENDOR, "username": "svc-relay", "password": "sandbox-password"}
    others = {"plain": {**base, "base_url": sandbox.base_url(VENDOR, "plain")}}
    fleet = make_fleet(connections=others)
    (first,) = fleet.start()
    sandbox.configure(VENDOR, report_rate=4 * MB)
    sandbox.configure(VENDOR, "default", report_etag="strong", report_ranges=True)
    continued, anew = reports(sandbox, size=12 * MB) + reports(sandbox, size=12 * MB, tenant="plain")
    ids = fleet.send_all([export(continued, "continued.csv"), export(anew, "anew.csv", "plain")])
    eventually(
        lambda: sum(one.sent > 5 * MB for one in sandbox.journal.entries(operation="report.download")) == 2,
        what="two downloads under way",
    )

    first.kill()
    left = {path.name for path in (fleet.home / "var" / "artifacts").iterdir()}
    assert not {name for name in left if not name.startswith(".planrelay-")}
    sandbox.configure(VENDOR, report_rate=None)
    fleet.start()
    results = [fleet.wait(one, within=40)["data"]["result"] for one in ids]

    artifacts = fleet.home / "var" / "artifacts"
    assert results[0]["continued_at"] > 2 * MB
    assert "continued_at" not in results[1]
    assert is_snapshot(artifacts / "continued.csv", sandbox, results[0])
    assert is_snapshot(artifacts / "anew.csv", sandbox, results[1], "plain")
    assert (generations(sandbox), generations(sandbox, "plain")) == (1, 1)
    assert sorted(path.name for path in artifacts.iterdir()) == sorted(
        f"{name}.csv{ending}" for name in ("anew", "continued") for ending in ("", ".manifest.json")
    )


def test_a_full_disk_fails_the_command_and_says_so(make_fleet: Callable[..., Fleet], sandbox: SandboxThread) -> None:
    """No room for the file: nothing is left of it, one snapshot was generated, and smaller files still come."""
    fleet = make_fleet()
    (worker,) = fleet.start()
    large, small = reports(sandbox, size=20 * MB) + reports(sandbox, size=1 * MB)
    resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (8 * MB, 8 * MB))

    failed = fleet.wait(fleet.send_all([export(large, "large.csv")])[0])
    done = fleet.wait(fleet.send_all([export(small, "small.csv")])[0])

    assert failed["type"].endswith(".failed")
    assert "no room left" in failed["data"]["error"]["message"]
    assert done["type"].endswith(".succeeded")
    assert generations(sandbox) == 2
    left = sorted(path.name for path in (fleet.home / "var" / "artifacts").iterdir())
    assert left == ["small.csv", "small.csv.manifest.json"]


def test_ten_exports_of_one_report_generate_one_after_another(
    make_fleet: Callable[..., Fleet], sandbox: SandboxThread
) -> None:
    """Over two workers: no snapshot is begun while another is made, nobody asks in vain, and all ten get their own."""
    fleet = make_fleet()
    sandbox.configure(VENDOR, report_time="300ms")
    fleet.start(2)
    (report,) = reports(sandbox, size=MB // 10)

    ids = fleet.send_all([export(report, "{asset_bn}.csv") for _ in range(10)])
    results = [fleet.wait(one, within=60)["data"] for one in ids]

    asked = sandbox.journal.entries(operation="report.generate")
    assert [one.status for one in asked] == [200] * 10
    begun = sorted(one.arrived for one in asked)
    assert all(later - earlier > 0.3 for earlier, later in pairwise(begun))
    assert len({one["result"]["asset_bn"] for one in results}) == 10
    assert {one["attempts"] for one in results} == {1}
    for one in results:
        assert is_snapshot(fleet.home / one["result"]["destination"], sandbox, one["result"])


@pytest.fixture
def s3(free_port: int) -> Iterator[Any]:
    """Give an S3 that speaks HTTP on a socket."""
    server = start_s3(free_port)
    yield server
    server.stop()


def test_a_report_of_200_mb_goes_to_s3(make_fleet: Callable[..., Fleet], sandbox: SandboxThread, s3: Any) -> None:
    """In parts, to the byte, with its manifest; no unfinished upload is left."""
    fleet = make_fleet(artifacts={"allowed": ["s3://bucket/reports/"]}, http={"request_timeout": "20s"})
    environment = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    fleet.start(env={**environment, "AWS_ENDPOINT_URL": s3.url})
    (report,) = reports(sandbox, size=200 * MB)
    destination = "s3://bucket/reports/{report_bn}.csv"

    sent = fleet.send(EXPORT, "acme-bit", {"report_bn": report, "destination": destination})
    event = fleet.wait(sent, within=100)

    assert event["type"].endswith(".succeeded"), event
    result = event["data"]["result"]
    assert result["destination"] == f"s3://bucket/reports/{report}.csv"
    content = s3.ask("GET", f"/bucket/reports/{report}.csv")
    assert len(content) == result["bytes"] > 190 * MB
    assert hashlib.sha256(content).hexdigest() == sandbox.digest(result["asset_bn"])["sha256"]
    assert f"reports/{report}.csv.manifest.json</Key>" in s3.ask("GET", "/bucket?list-type=2").decode()
    assert s3.uploads() == []

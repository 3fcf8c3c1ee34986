"""
A report brought home by one worker, against `curl -o` from the same server, in alternating rounds.

    .venv/bin/python benchmarks/report_download.py [--megabytes 300] [--rounds 3] [--no-memory]

The server is the sandbox, in a process of its own: once held to 100 MB/s, once as fast as it can. The worker does what
`barometerit.report.download` always does: message, ledger, request, size, SHA-256, every row's width, fsync, final
name, manifest. Times are by the clock: of the command from publishing to its result event, of curl from start to end.

Then the memory: how far the worker's resident memory grows over downloads of 30 MB, 300 MB and 3 GB. Last the profile:
what each part of the work costs alone, on the same bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from config.settings import load_settings
from sandbox import SandboxProcess
from tasks.barometerit.endpoints import REPORT_DOWNLOAD
from worker import embedded, valkey
from worker.client import Client
from worker.csv_check import CsvCheck
from worker.transport import Transport

MB = 1_000_000
LOGIN = "svc-relay:sandbox-password"
HELD = 100 * MB
CHUNK = 256 * 1024


class Rig:
    """A server, a worker and a client of their own."""

    def __init__(self, home: Path, sandbox: SandboxProcess) -> None:
        self.home = home
        self.sandbox = sandbox
        base = self.sandbox.base_url("barometerit")
        config = home / "planrelay.toml"
        config.write_text(f"""
data_dir = "{home}/var"
[worker]
include = ["tasks.barometerit"]
metrics_port = 0
[artifacts]
allowed = ["file://{home}/out/"]
[connections.bit]
system = "barometerit"
base_url = "{base}"
username = "svc-relay"
password = "sandbox-password"
""")
        self.settings = load_settings(config, {})
        valkey.register()
        environ = {**os.environ, "PLANRELAY_CONFIG": str(config)}
        command = [sys.executable, "-m", "celery", "-A", "worker", "worker", "-n", "bench@%h"]
        log = (home / "worker.log").open("wb")
        self.worker = subprocess.Popen(command, cwd=Path(__file__).parents[1], env=environ, stdout=log, stderr=log)
        self.client = Client(self.settings)
        (home / "out").mkdir()

    def close(self) -> None:
        """End everything."""
        self.client.close()
        self.worker.terminate()
        self.worker.wait(60)
        embedded.stop(self.settings.data_dir)

    def snapshot(self, megabytes: int) -> str:
        """Generate a snapshot of about so many MB; gives its BN."""
        (report,) = self.sandbox.seed("barometerit", "reports", 1, size=megabytes * MB)
        made = self.client.call("barometerit.report.generate", connection="bit", data={"report_bn": report}, timeout=60)
        asset: str = made["data"]["result"]["asset_bn"]
        return asset

    def hold(self, rate: int | None) -> None:
        """Hold the server to so many bytes a second."""
        self.sandbox.configure("barometerit", report_rate=rate)

    def address(self, asset: str) -> str:
        """Where a snapshot is."""
        return f"{self.sandbox.base_url('barometerit')}/api/c/reports/{asset}"

    def planrelay(self, asset: str) -> tuple[float, int]:
        """Download by a command; gives seconds and bytes."""
        path = self.home / "out" / "relay.csv"
        os.sync()  # what the one before has left to be done on the disk is not this one's
        began = time.perf_counter()
        event = self.client.call(
            "barometerit.report.download",
            connection="bit",
            data={"asset_bn": asset, "destination": f"file://{path}"},
            timeout=600,
        )
        spent = time.perf_counter() - began
        if not event["type"].endswith(".succeeded"):
            raise SystemExit(event)
        path.unlink()
        return spent, event["data"]["result"]["bytes"]

    def curl(self, asset: str) -> tuple[float, int]:
        """Download by curl; gives seconds and bytes."""
        path = self.home / "out" / "curl.csv"
        os.sync()
        began = time.perf_counter()
        subprocess.run(
            ["curl", "-s", "-S", "--fail", "-u", LOGIN, "-H", "Accept: */*", "-o", path, self.address(asset)],
            check=True,
        )
        spent = time.perf_counter() - began
        size = path.stat().st_size
        path.unlink()
        return spent, size


def compare(rig: Rig, asset: str, rounds: int) -> None:
    """Take turns, and print medians and their ratio."""
    print(f"{'server':>10} {'planrelay':>12} {'curl':>12} {'ratio':>7} {'wanted':>8} {'worker':>14}")
    for name, rate, wanted in (("100 MB/s", HELD, 0.8), ("unlimited", None, 0.5)):
        rig.hold(rate)
        speeds: dict[str, list[float]] = {"planrelay": [], "curl": []}
        used = processor(rig.worker.pid)
        for round_ in range(rounds):
            ways: list[tuple[str, Callable[[str], tuple[float, int]]]] = [
                ("planrelay", rig.planrelay),
                ("curl", rig.curl),
            ]
            for way, run in ways if round_ % 2 else ways[::-1]:
                spent, size = run(asset)
                speeds[way].append(size / spent / MB)
        ours, theirs = (statistics.median(speeds[way]) for way in ("planrelay", "curl"))
        used = (processor(rig.worker.pid) - used) / rounds
        print(
            f"{name:>10} {ours:>7.0f} MB/s {theirs:>7.0f} MB/s {ours / theirs:>7.2f} {'>= ' + str(wanted):>8} "
            f"{used:>6.2f} s of CPU"
        )
    rig.hold(None)


@contextlib.contextmanager
def watched(pid: int) -> Iterator[Callable[[], tuple[float, float]]]:
    """Watch a process's resident memory; gives MB at the beginning and at the highest."""
    seen = [resident(pid)]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            seen.append(resident(pid))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield lambda: (seen[0], max(seen))
    stop.set()
    thread.join()


def resident(pid: int) -> float:
    """Read a process's resident memory in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MB


def processor(pid: int) -> float:
    """Read the seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(rig: Rig) -> None:
    """Print how far the worker grows with what it downloads."""
    print(f"\n{'download':>10} {'before':>10} {'highest':>10} {'growth':>10}   (wanted: < 40 MB, flat)")
    first = resident(rig.worker.pid)
    for megabytes in (30, 300, 3000):
        asset = rig.snapshot(megabytes)
        with watched(rig.worker.pid) as growth:
            rig.planrelay(asset)
        before, highest = growth()
        print(f"{megabytes:>7} MB {before:>7.1f} MB {highest:>7.1f} MB {highest - first:>7.1f} MB")


def profile(rig: Rig, asset: str) -> None:
    """Print what each part costs alone."""
    request = urllib.request.Request(
        rig.address(asset), headers={"Authorization": "Basic " + b64encode(LOGIN.encode()).decode(), "Accept": "*/*"}
    )
    with urllib.request.urlopen(request) as answer:
        data = answer.read()
    chunks = [data[at : at + 1024 * 1024] for at in range(0, len(data), 1024 * 1024)]
    print(f"\nthe parts alone, on {len(data) / MB:.0f} MB:")
    parts: list[tuple[str, Callable[[], None]]] = [
        ("receive (HTTP, no more)", lambda: asyncio.run(receive(rig, asset))),
        ("SHA-256", lambda: digest(chunks)),
        ("rows, widths, encoding", lambda: check(chunks)),
        ("write", lambda: write(rig.home / "out" / "plain", chunks, last=False)),
        ("write and make it last", lambda: write(rig.home / "out" / "plain", chunks, last=True)),
    ]
    for name, part in parts:
        times, used = [], time.process_time()
        for _ in range(3):
            began = time.perf_counter()
            part()
            times.append(time.perf_counter() - began)
        spent, used = statistics.median(times), (time.process_time() - used) / 3
        print(f"{name:>26} {spent:>7.2f} s {len(data) / spent / MB:>7.0f} MB/s {used:>7.2f} s of CPU")


async def receive(rig: Rig, asset: str) -> None:
    """Read a download and do nothing with it."""
    second = timedelta(seconds=60)
    transport = Transport(
        connect_timeout=second, request_timeout=second, max_response=MB, now=lambda: datetime.now(UTC)
    )
    headers = {"Authorization": "Basic " + b64encode(LOGIN.encode()).decode(), "Accept": "*/*"}
    request = REPORT_DOWNLOAD.request(path={"asset_bn": asset}, headers=headers)
    async with transport.stream(request, rig.address(asset)) as download:
        async for _ in download.chunks():
            pass
    await transport.close()


def digest(chunks: list[bytes]) -> None:
    """Hash."""
    sha256 = hashlib.sha256()
    for chunk in chunks:
        sha256.update(chunk)


def check(chunks: list[bytes]) -> None:
    """Look at every row."""
    csv = CsvCheck()
    for chunk in chunks:
        csv.feed(chunk)
    if csv.finish().problem:
        raise SystemExit(csv.finish().problem)


def write(path: Path, chunks: list[bytes], *, last: bool) -> None:
    """Write a file."""
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
        if last:
            file.flush()
            os.fsync(file.fileno())
    path.unlink()


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-memory", action="store_true")
    said = parser.parse_args()
    with SandboxProcess() as sandbox, tempfile.TemporaryDirectory() as folder:
        rig = Rig(Path(folder), sandbox)
        try:
            rig.planrelay(rig.snapshot(1))  # warm
            asset = rig.snapshot(said.megabytes)
            compare(rig, asset, said.rounds)
            if not said.no_memory:
                memory(rig)
            profile(rig, asset)
        finally:
            rig.close()


if __name__ == "__main__":
    main()

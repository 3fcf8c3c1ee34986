import asyncio
import hashlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from worker.artifacts import BLOCK, Artifacts
from worker.csv_check import CsvCheck
from worker.errors import ContractBroken, Invalid, NotFound, StorageFailed, StorageRefused
from worker.storage import PART

MIB = 1024 * 1024


@dataclass
class S3:
    """A moto server, spoken to without a client library so that what it holds is seen as it is."""

    process: subprocess.Popen[bytes]
    url: str

    def ask(self, method: str, path: str) -> bytes:
        """Send one request and give the body."""
        with urllib.request.urlopen(urllib.request.Request(self.url + path, method=method), timeout=30) as answer:
            body: bytes = answer.read()
            return body

    def holds(self, key: str) -> bool:
        """Whether there is such an object."""
        try:
            self.ask("HEAD", f"/bucket/{key}")
        except urllib.error.HTTPError:
            return False
        return True

    def uploads(self) -> list[str]:
        """List the multipart uploads that were begun and neither completed nor aborted."""
        return re.findall("<UploadId>(.*?)</UploadId>", self.ask("GET", "/bucket?uploads").decode())

    def stop(self) -> None:
        """End the server."""
        self.process.terminate()
        self.process.wait(30)


def start(port: int) -> S3:
    """Start a moto server with an empty bucket."""
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server = S3(process, f"http://127.0.0.1:{port}")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError):
            server.ask("PUT", "/bucket")
            return server
        time.sleep(0.05)
    server.stop()
    raise TimeoutError("moto's server did not start.")


@pytest.fixture
def s3(free_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """Give an S3 that speaks HTTP on a socket, and the environment that leads there."""
    server = start(free_port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    yield server
    server.stop()


@pytest.fixture
def artifacts(s3: S3, tmp_path: Path) -> Artifacts:
    """Give artifacts that may write under one prefix of the bucket."""
    return Artifacts(["s3://bucket/reports/"], cwd=tmp_path)


async def write(
    artifacts: Artifacts,
    data: bytes,
    *,
    to: str,
    before: Callable[[], object] = lambda: None,
    error: Exception | None = None,
) -> str:
    """Write a CSV piece by piece and give its digest; `before` happens, or `error` is raised, ahead of publishing."""
    async with artifacts.writer(to, check=CsvCheck) as writer:
        for at in range(0, len(data), 65_536):
            await writer.write(data[at : at + 65_536])
        before()
        if error is not None:
            raise error
        return (await writer.publish({"asset_bn": "04A000000001"})).sha256


async def test_objects_are_published_whole(artifacts: Artifacts, s3: S3) -> None:
    """A large one in parts, a small and an empty one in one piece; each with its manifest, and with no upload left."""
    large = b"a,b\n" * (3 * PART // 4 + 1)
    for name, data in {"large.csv": large, "small & ümläut.csv": b"a,b\n1,2\n"}.items():
        digest = await write(artifacts, data, to=f"s3://bucket/reports/2026/{name}")
        stored = await artifacts.read(f"s3://bucket/reports/2026/{name}", max_bytes=len(data))
        assert hashlib.sha256(stored).hexdigest() == digest == hashlib.sha256(data).hexdigest()
    manifest = json.loads(await artifacts.read("s3://bucket/reports/2026/large.csv.manifest.json", max_bytes=BLOCK))
    assert manifest["bytes"] == len(large)
    assert manifest["rows"] == len(large) // 4 - 1
    async with artifacts.writer("s3://bucket/reports/empty.jsonl") as writer:
        await writer.publish()
    assert await artifacts.read("s3://bucket/reports/empty.jsonl", max_bytes=0) == b""
    assert s3.uploads() == []


async def test_nothing_is_there_before_it_is_published(artifacts: Artifacts, s3: S3) -> None:
    """With several parts sent, the final name holds nothing; then it holds everything."""
    async with artifacts.writer("s3://bucket/reports/a.bin") as writer:
        for _ in range(4 * PART // BLOCK):
            await writer.write(bytes(BLOCK))
        assert s3.uploads() != []
        assert not s3.holds("reports/a.bin")
        await writer.publish()
    assert s3.holds("reports/a.bin")


@pytest.mark.parametrize("size", [100, 3 * PART])
async def test_leaving_without_publishing_leaves_nothing(artifacts: Artifacts, s3: S3, size: int) -> None:
    """The multipart upload is aborted, whether the body raised or the file was found wrong."""
    with pytest.raises(ZeroDivisionError):
        await write(artifacts, b"a,b\n" * (size // 4), to="s3://bucket/reports/a.csv", error=ZeroDivisionError())
    with pytest.raises(ContractBroken):
        await write(artifacts, b"a,b\n" * (size // 4) + b"1", to="s3://bucket/reports/a.csv")
    assert not s3.holds("reports/a.csv")
    assert s3.uploads() == []


async def test_a_cancelled_upload_is_aborted(artifacts: Artifacts, s3: S3) -> None:
    """In whatever request the cancellation finds it."""
    several = asyncio.Event()

    async def forever() -> None:
        async with artifacts.writer("s3://bucket/reports/a.bin") as writer:
            while True:
                await writer.write(bytes(BLOCK))
                if writer.bytes > 3 * PART:
                    several.set()

    task = asyncio.create_task(forever())
    await several.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not s3.holds("reports/a.bin")
    assert s3.uploads() == []


async def test_a_restart_begins_another_upload(artifacts: Artifacts, s3: S3) -> None:
    """What was sent before is aborted and not part of what is published."""
    async with artifacts.writer("s3://bucket/reports/a.bin") as writer:
        await writer.write(bytes(3 * PART))
        await writer.restart('"etag"')
        await writer.write(b"anew")
        await writer.publish()
    assert await artifacts.read("s3://bucket/reports/a.bin", max_bytes=100) == b"anew"
    assert s3.uploads() == []


async def test_a_bucket_that_is_not_there_is_refused(s3: S3, tmp_path: Path) -> None:
    """No wait can mend it: the operator is told."""
    artifacts = Artifacts(["s3://nowhere"], cwd=tmp_path)
    with pytest.raises(StorageRefused, match="bucket is gone"):
        await write(artifacts, b"a,b\n", to="s3://nowhere/a.csv")


async def test_a_store_that_is_away_may_come_back(artifacts: Artifacts, s3: S3) -> None:
    """In the middle of an upload or before it, that is a failure that the next attempt may not see."""
    with pytest.raises(StorageFailed, match="could not write 's3://bucket/reports"):
        await write(artifacts, b"a,b\n" * (3 * PART // 4), to="s3://bucket/reports/a.csv", before=s3.stop)
    with pytest.raises(StorageFailed):
        await artifacts.read("s3://bucket/reports/a.csv", max_bytes=100)


async def test_no_signature_gets_into_an_error(artifacts: Artifacts, s3: S3) -> None:
    """What a store says is cut to its first line, without queries."""
    s3.stop()
    with pytest.raises(StorageFailed) as caught:
        await write(artifacts, b"a,b\n", to="s3://bucket/reports/a.csv")
    assert "secret" not in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 500


async def test_reading_has_its_limits(artifacts: Artifacts) -> None:
    """Nothing there is not found; more than may be read is refused."""
    with pytest.raises(NotFound, match="rows_url"):
        await artifacts.read("s3://bucket/reports/none.csv", max_bytes=100, field="rows_url")
    await write(artifacts, b"a,b\n" * 100, to="s3://bucket/reports/a.csv")
    with pytest.raises(Invalid, match="more than 100 bytes"):
        await artifacts.read("s3://bucket/reports/a.csv", max_bytes=100)


async def test_200_mebibytes_in_constant_memory(artifacts: Artifacts, s3: S3) -> None:
    """A report of 200 MiB goes up in parts, whole; the memory it takes is that of a few parts."""
    await write(artifacts, b"a,b\n" * (8 * PART // 4), to="s3://bucket/reports/warm.csv")
    row = b"%09d," + b"x" * 50 + b",some text,more text\n"
    digest = hashlib.sha256()
    before = resident()
    size, peak, sent, number = 200 * MIB, 0, 0, 0
    async with artifacts.writer("s3://bucket/reports/large.csv", check=CsvCheck, size=size) as writer:
        while sent < size:
            chunk = b"".join([row % (number + each) for each in range(1000)])
            number += 1000
            digest.update(chunk)
            await writer.write(chunk)
            sent += len(chunk)
            peak = max(peak, resident())
        published = await writer.publish()
    assert (published.bytes, published.sha256) == (sent, digest.hexdigest())
    stored = hashlib.sha256()
    async for chunk in artifacts.stream("s3://bucket/reports/large.csv"):
        stored.update(chunk)
    assert stored.hexdigest() == digest.hexdigest()
    assert peak - before < 48 * MIB


def resident() -> int:
    """Give this process's resident memory in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

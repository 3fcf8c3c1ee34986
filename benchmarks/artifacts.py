"""
What it costs to write an artifact: our writer, with and without the CSV check, against hashing and writing plainly.

    python benchmarks/artifacts.py [--megabytes 300] [--rounds 5] [--memory] [--profile]

Every way writes the same CSV in chunks of 64 KiB, hashes it and makes it last (fsync); they take turns in each round.
Prints the median of each by the clock and by processor time (which other processes on the machine disturb less) and the
ratios to the plain way. `--memory` then writes 30 MB, 300 MB and 3 GB and prints how far the resident memory grew.
`--profile` shows where the time of one check goes.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import hashlib
import os
import pstats
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from worker.artifacts import Artifacts
from worker.csv_check import CsvCheck

CHUNK = 64 * 1024
PLAIN = "hash + write, plain"
HEADING = b"BAROMETER_NO,NAME,DESCRIPTION,DOMAIN,CONTENT_STATUS,CONTACTS,FIELD_10,FIELD_11\r\n"


def sample(*, quoted: bool) -> bytes:
    """Make 16 MiB of a report's rows."""
    dice = random.Random(1)
    cell = b'"%s"' if quoted else b"%s"
    rows = []
    size = 0
    while size < 16 * 1024 * 1024:
        rows.append(b",".join(cell % (b"x" * dice.randint(3, 25)) for _ in range(8)) + b"\r\n")
        size += len(rows[-1])
    return b"".join(rows)


def chunks(data: bytes, megabytes: int) -> Iterator[bytes]:
    """Give about so many MB of it after the heading, whole rows in all."""
    yield HEADING
    for _ in range(max(1, round(megabytes * 1e6 / len(data)))):
        for at in range(0, len(data), CHUNK):
            yield data[at : at + CHUNK]


async def plain(folder: Path, data: bytes, megabytes: int) -> int:
    """Hash and write in a thread, as a script would."""

    def work() -> int:
        digest = hashlib.sha256()
        size = 0
        with (folder / "plain.csv").open("wb") as file:
            for chunk in chunks(data, megabytes):
                digest.update(chunk)
                size += file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        return size

    return await asyncio.to_thread(work)


async def ours(folder: Path, data: bytes, megabytes: int, *, check: bool) -> int:
    """Write through the worker's writer."""
    artifacts = Artifacts(["./"], cwd=folder)
    async with artifacts.writer("ours.csv", check=CsvCheck if check else None) as writer:
        for chunk in chunks(data, megabytes):
            await writer.write(chunk)
        return (await writer.publish()).bytes


async def check_only(folder: Path, data: bytes, megabytes: int) -> int:  # noqa: ARG001 - nothing is written
    """Look at the bytes alone, in the blocks that a writer hands over."""
    check = CsvCheck()
    size = 0
    for _ in range(max(1, round(megabytes * 1e6 / len(data)))):
        for at in range(0, len(data), 1 << 20):
            check.feed(data[at : at + (1 << 20)])
        size += len(data)
    if check.finish().problem:
        raise ValueError("The sample is no CSV.")
    return size


def resident() -> int:
    """Give the resident memory in bytes."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def grow(folder: Path, data: bytes, megabytes: int) -> int:
    """Write through the writer and give how far the resident memory grew at most."""
    artifacts = Artifacts(["./"], cwd=folder)
    before = peak = resident()
    async with artifacts.writer("ours.csv", check=CsvCheck) as writer:
        for number, chunk in enumerate(chunks(data, megabytes)):
            await writer.write(chunk)
            if number % 16 == 0:
                peak = max(peak, resident())
        await writer.publish()
    return max(peak, resident()) - before


def ratio(speeds: dict[str, list[float]], way: str) -> str:
    """Give a way's median speed, and how often the plain way's that is."""
    speed = statistics.median(speeds[way])
    return f"{speed:.0f} ({speed / statistics.median(speeds[PLAIN]):.2f})"


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--profile", action="store_true")
    asked = parser.parse_args()
    bare, quoted = sample(quoted=False), sample(quoted=True)
    ways: dict[str, Callable[[Path], Coroutine[Any, Any, int]]] = {
        PLAIN: partial(plain, data=bare, megabytes=asked.megabytes),
        "writer": partial(ours, data=bare, megabytes=asked.megabytes, check=False),
        "writer + CSV check": partial(ours, data=bare, megabytes=asked.megabytes, check=True),
        "writer + CSV check, all quoted": partial(ours, data=quoted, megabytes=asked.megabytes, check=True),
        "CSV check alone": partial(check_only, data=bare, megabytes=asked.megabytes),
        "CSV check alone, all quoted": partial(check_only, data=quoted, megabytes=asked.megabytes),
    }
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        by_clock: dict[str, list[float]] = {way: [] for way in ways}
        by_processor: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(asked.rounds):
            for way, run in ways.items():
                clock, processor = time.perf_counter(), time.process_time()
                size = asyncio.run(run(folder)) / 1e6
                by_clock[way].append(size / (time.perf_counter() - clock))
                by_processor[way].append(size / (time.process_time() - processor))
        print(f"{'MB/s (x plain)':32} {'by the clock':>16} {'by processor time':>20}")
        for way in ways:
            print(f"{way:32} {ratio(by_clock, way):>16} {ratio(by_processor, way):>20}")
        if asked.memory:
            asyncio.run(grow(folder, bare, 30))  # warm
            for megabytes in (30, 300, 3000):
                print(f"memory, {megabytes:5} MB: + {asyncio.run(grow(folder, bare, megabytes)) / 1e6:.1f} MB")
        if asked.profile:
            profile = cProfile.Profile()
            profile.runcall(asyncio.run, check_only(folder, bare, asked.megabytes))
            pstats.Stats(profile).sort_stats("tottime").print_stats(8)


if __name__ == "__main__":
    main()

import asyncio
import errno
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest

from worker.artifacts import BLOCK, FLUSH, Artifacts, Partial, Published, Writer
from worker.csv_check import CsvCheck
from worker.errors import (
    BadCommand,
    ContractBroken,
    Invalid,
    NotFound,
    RelayError,
    StorageFailed,
    StorageFull,
    StorageRefused,
    Unanswered,
)
from worker.storage import storage_errors

ETAG = '"version-1"'
CSV = b"a,b\n" + b"1,2\n" * 1000


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Give the allowed folder."""
    folder = tmp_path / "artifacts"
    folder.mkdir()
    return folder


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    """Give artifacts in a folder of their own."""
    return Artifacts(["artifacts/"], cwd=tmp_path)


def names(place: Path) -> list[str]:
    """List what is in a folder, hidden files included."""
    return sorted(path.name for path in place.iterdir())


async def write(
    artifacts: Artifacts,
    *chunks: bytes,
    to: str = "artifacts/a.csv",
    before: Callable[[], object] = lambda: None,
    error: BaseException | None = None,
    **options: Any,
) -> Published:
    """Write a file; `before` happens before it is published, unless `error` is raised then."""
    async with artifacts.writer(to, **options) as writer:
        await writer.restart(ETAG)
        for chunk in chunks:
            await writer.write(chunk)
        before()
        if error is not None:
            raise error
        return await writer.publish()


async def test_a_file_is_published_whole(artifacts: Artifacts, place: Path) -> None:
    """Bytes, count and digest are those that were written, in however many pieces; directories are made."""
    data = os.urandom(3 * BLOCK + 17)
    async with artifacts.writer("artifacts/deep/er/a.bin") as writer:
        for at in range(0, len(data), 70_001):
            await writer.write(memoryview(data)[at : at + 70_001])
        published = await writer.publish()
    assert (place / "deep/er/a.bin").read_bytes() == data
    assert (published.bytes, published.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert names(place / "deep/er") == ["a.bin"]


async def test_nothing_is_under_the_final_name_before(artifacts: Artifacts, place: Path) -> None:
    """While a file is written, whoever looks sees what was there before."""
    (place / "a.csv").write_bytes(b"old")
    async with artifacts.writer("artifacts/a.csv") as writer:
        for _ in range(4):
            await writer.write(bytes(BLOCK))
            assert (place / "a.csv").read_bytes() == b"old"
        await writer.publish()
    assert (place / "a.csv").stat().st_size == 4 * BLOCK


async def test_an_empty_file_can_be_published(artifacts: Artifacts, place: Path) -> None:
    """No rows are a result too."""
    async with artifacts.writer("artifacts/a.jsonl") as writer:
        await writer.publish()
    assert (place / "a.jsonl").read_bytes() == b""


async def test_leaving_without_publishing_leaves_nothing(artifacts: Artifacts, place: Path) -> None:
    """Neither the file nor what it was written under stays, whether the body ended or raised."""
    async with artifacts.writer("artifacts/a.bin") as writer:
        await writer.write(bytes(3 * BLOCK))
    with pytest.raises(ZeroDivisionError):
        await write(artifacts, bytes(3 * BLOCK), error=ZeroDivisionError())
    assert names(place) == []


async def test_a_cancelled_writer_leaves_nothing(artifacts: Artifacts, place: Path) -> None:
    """Cancelled in the middle of a write, it waits for its thread and cleans up."""
    started = asyncio.Event()

    async def forever() -> None:
        async with artifacts.writer("artifacts/a.bin") as writer:
            started.set()
            await write_forever(writer)

    task = asyncio.create_task(forever())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert names(place) == []


async def test_a_file_keeps_to_the_umask(artifacts: Artifacts, place: Path) -> None:
    """Who may read it is for the operator's umask to say, as for any other file."""
    before = os.umask(0o027)
    try:
        async with artifacts.writer("artifacts/a.csv") as writer:
            await writer.publish()
    finally:
        os.umask(before)
    assert stat.S_IMODE((place / "a.csv").stat().st_mode) == 0o640


async def test_two_writers_of_one_place_do_not_mix(artifacts: Artifacts, place: Path) -> None:
    """Each has a file of its own, and the one that publishes last is there."""
    async with artifacts.writer("artifacts/a.bin") as one, artifacts.writer("artifacts/a.bin") as two:
        await one.write(b"1" * BLOCK)
        await two.write(b"2" * BLOCK)
        await one.publish()
        await two.publish()
    assert (place / "a.bin").read_bytes() == b"2" * BLOCK
    assert names(place) == ["a.bin"]


async def test_memory_is_constant(artifacts: Artifacts) -> None:
    """However long the file, a writer holds a few blocks."""
    chunk = bytes(BLOCK // 4)
    tracemalloc.start()
    try:
        async with artifacts.writer("artifacts/a.bin") as writer:
            for _ in range(4 * 64):
                await writer.write(chunk)
            peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * BLOCK


async def test_the_loop_goes_on_while_a_file_is_written(artifacts: Artifacts) -> None:
    """Hashing, checking and writing happen elsewhere: other coroutines get their turn all the time."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    async with artifacts.writer("artifacts/a.csv", check=CsvCheck) as writer:
        for _ in range(16):
            await writer.write(b"1,2\n" * (BLOCK // 4))
        await writer.publish()
    task.cancel()
    assert turns > 100


async def test_the_check_is_part_of_what_is_published(artifacts: Artifacts) -> None:
    """Rows and columns come with it."""
    async with artifacts.writer("artifacts/a.csv", check=CsvCheck) as writer:
        await writer.write(CSV)
        published = await writer.publish()
    assert (published.rows, published.columns) == (1000, 2)


async def test_a_file_that_is_not_whole_is_not_published(artifacts: Artifacts, place: Path) -> None:
    """What the check finds breaks the contract, and nothing is there."""
    with pytest.raises(ContractBroken, match="cut short"):
        await write(artifacts, CSV[:-1], check=CsvCheck)
    assert names(place) == []


async def test_a_manifest_stands_beside(artifacts: Artifacts, place: Path) -> None:
    """It holds what was published and what the caller adds."""
    async with artifacts.writer("artifacts/a.csv", check=CsvCheck) as writer:
        await writer.write(CSV)
        published = await writer.publish({"asset_bn": "04A000000001", "attempts": 2})
    assert json.loads((place / "a.csv.manifest.json").read_bytes()) == {
        "destination": "artifacts/a.csv",
        "bytes": len(CSV),
        "sha256": published.sha256,
        "rows": 1000,
        "columns": 2,
        "asset_bn": "04A000000001",
        "attempts": 2,
    }
    assert names(place) == ["a.csv", "a.csv.manifest.json"]


async def test_a_restart_throws_away_what_was_written(artifacts: Artifacts, place: Path) -> None:
    """Digest, count and check begin anew with the bytes that follow."""
    async with artifacts.writer("artifacts/a.csv", check=CsvCheck) as writer:
        await writer.write(b"x" * (3 * BLOCK))
        await writer.restart()
        await writer.write(CSV)
        published = await writer.publish()
    assert (published.bytes, published.rows) == (len(CSV), 1000)
    assert published.sha256 == hashlib.sha256(CSV).hexdigest()
    assert (place / "a.csv").read_bytes() == CSV


async def test_a_finished_file_takes_no_more(artifacts: Artifacts) -> None:
    """What was verified is what is published."""
    async with artifacts.writer("artifacts/a.csv") as writer:
        await writer.finish()
        with pytest.raises(ValueError, match="finished"):
            await writer.write(b"more")


async def test_a_template_must_be_filled_first(artifacts: Artifacts) -> None:
    """A check passes a template, a writer does not."""
    artifacts.check("artifacts/{date}.csv")
    with pytest.raises(BadCommand, match="Fill it"):
        artifacts.writer("artifacts/{date}.csv")


# --- Symlinks and directories that change meanwhile ------------------------------------------------------------------


async def test_a_directory_exchanged_for_a_symlink_gets_nothing(
    artifacts: Artifacts, place: Path, tmp_path: Path
) -> None:
    """Swapped in while the file was written, the link is seen at publishing, and nothing lands where it leads."""
    outside = tmp_path / "outside"
    outside.mkdir()

    def exchange() -> None:
        (place / "sub").rename(tmp_path / "moved")
        (place / "sub").symlink_to(outside)

    with pytest.raises(BadCommand):
        await write(artifacts, CSV, to="artifacts/sub/a.csv", before=exchange)
    assert names(outside) == names(tmp_path / "moved") == []


async def test_another_directory_in_its_place_is_noticed(artifacts: Artifacts, place: Path, tmp_path: Path) -> None:
    """A real directory instead of the one that was opened is no place to publish to either."""

    def exchange() -> None:
        (place / "sub").rename(tmp_path / "moved")
        (place / "sub").mkdir()

    with pytest.raises(BadCommand, match="exchanged"):
        await write(artifacts, CSV, to="artifacts/sub/a.csv", before=exchange)
    assert names(place / "sub") == names(tmp_path / "moved") == []


async def test_a_symlink_in_the_files_own_place_is_replaced(artifacts: Artifacts, place: Path, tmp_path: Path) -> None:
    """One that was put there after the check is not followed: the name is given to the new file."""
    (tmp_path / "secret").write_bytes(b"untouched")
    async with artifacts.writer("artifacts/a.csv") as writer:
        await writer.write(CSV)
        (place / "a.csv").symlink_to(tmp_path / "secret")
        await writer.publish()
    assert (tmp_path / "secret").read_bytes() == b"untouched"
    assert (place / "a.csv").read_bytes() == CSV
    assert not (place / "a.csv").is_symlink()


async def test_a_directory_in_the_files_own_place_is_refused(artifacts: Artifacts, place: Path) -> None:
    """It stays as it is, and the error asks for another name."""
    with pytest.raises(BadCommand, match="Choose another name"):
        await write(artifacts, CSV, before=(place / "a.csv").mkdir)
    assert names(place) == ["a.csv"]


# --- No room, no rights ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resume_key", [None, "key"])
def test_no_room_left_is_said_and_cleaned_up(tmp_path: Path, resume_key: str | None) -> None:
    """A limit on file size that is met in the middle ends as StorageFull, and what was written is removed."""
    script = """
        import asyncio, resource, sys
        from pathlib import Path
        from worker.artifacts import Artifacts
        from worker.errors import StorageFull

        async def main():
            resource.setrlimit(resource.RLIMIT_FSIZE, (5 << 20, 5 << 20))
            try:
                artifacts = Artifacts(["artifacts/"], cwd=Path(sys.argv[1]))
                async with artifacts.writer("artifacts/a", resume_key=%r) as writer:
                    await writer.restart('"etag"')
                    for _ in range(64):
                        await writer.write(bytes(1 << 20))
                    await writer.publish()
            except StorageFull as error:
                print(error.kind, error)

        asyncio.run(main())
    """
    said = run_python(script % resume_key, str(tmp_path))
    assert said.startswith("unavailable destination: could not write 'artifacts/a': no room left")
    assert "Make room" in said
    assert names(tmp_path / "artifacts") == []


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, StorageFull),
        (errno.EDQUOT, StorageFull),
        (errno.EACCES, StorageRefused),
        (errno.EROFS, StorageRefused),
        (errno.EIO, StorageFailed),
        (errno.ESTALE, StorageFailed),
        (errno.ENAMETOOLONG, BadCommand),
    ],
)
def test_what_the_system_says_has_its_place_in_the_tree(
    artifacts: Artifacts, number: int, error: type[RelayError]
) -> None:
    """No room and no rights are final, a failing disk is not; each names the destination."""
    with pytest.raises(error, match=r"artifacts/a\.csv"), storage_errors(artifacts.check("artifacts/a.csv"), "write"):
        raise OSError(number, os.strerror(number))


def test_a_block_that_failed_is_never_left_out(tmp_path: Path) -> None:
    """Whoever goes on after an error gets it again and publishes nothing; a restart makes it good."""
    script = """
        import asyncio, resource, sys
        from pathlib import Path
        from worker.artifacts import Artifacts
        from worker.errors import StorageFull

        async def main():
            resource.setrlimit(resource.RLIMIT_FSIZE, (5 << 20, 5 << 20))
            async with Artifacts(["artifacts/"], cwd=Path(sys.argv[1])).writer("artifacts/a") as writer:
                for size in [1 << 20] * 16 + [0]:
                    try:
                        await (writer.write(bytes(size)) if size else writer.publish())
                    except StorageFull:
                        print("full")
                await writer.restart()
                await writer.write(b"anew")
                print((await writer.publish()).bytes)

        asyncio.run(main())
    """
    said = run_python(script, str(tmp_path)).split()
    assert said[-1] == "4"
    assert set(said[:-1]) == {"full"}
    assert len(said) > 2
    assert (tmp_path / "artifacts/a").read_bytes() == b"anew"


async def test_a_write_that_was_interrupted_is_never_left_out(artifacts: Artifacts, place: Path) -> None:
    """A time limit around a write leaves a file that cannot be published as if nothing had happened."""
    async with artifacts.writer("artifacts/a.bin") as writer:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(write_forever(writer), 0.05)
        with suppress(StorageFailed):
            await writer.publish()
            assert (place / "a.bin").stat().st_size == writer.bytes


async def write_forever(writer: Writer) -> None:
    """Write until somebody stops it."""
    while True:
        await writer.write(bytes(BLOCK))


# --- Going on after a crash ------------------------------------------------------------------------------------------


def run_python(script: str, *args: str) -> str:
    """Run a script in a process of its own and give what it printed."""
    command = [sys.executable, "-c", textwrap.dedent(script), *args]
    return subprocess.run(command, cwd=Path(__file__).parents[2], check=True, capture_output=True, text=True).stdout


async def test_what_did_not_reach_the_disk_is_told_though_only_once(
    artifacts: Artifacts, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells of it once: to a flush in the middle, and no more when the file is to be made to last."""
    real = os.fsync
    told: list[int] = []

    def fsync(fd: int) -> None:
        real(fd)
        if not told:
            told.append(fd)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageFailed):
        await write(artifacts, *[b"a,b\n" * (BLOCK // 4)] * (2 * FLUSH // BLOCK))
    assert told
    assert names(place) == []


async def test_what_did_not_reach_the_disk_is_not_continued(
    artifacts: Artifacts, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody hears of it again, so a cut that comes before anybody heeds it must leave nothing to go on from."""
    told = threading.Event()

    def fsync(fd: int) -> None:
        told.set()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async def cut_off() -> None:
        async with artifacts.writer("artifacts/a.bin", resume_key="key") as writer:
            await writer.restart(ETAG)
            for _ in range(FLUSH // BLOCK):
                await writer.write(bytes(BLOCK))
            assert await asyncio.to_thread(told.wait, 10)
            raise Unanswered("cut")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(Unanswered):
        await cut_off()
    assert names(place) == []


async def test_one_slow_disk_holds_up_no_other(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush that waits for its turn behind those of a slow disk is not waited for."""
    real, may_end, busy = os.fsync, threading.Event(), threading.Semaphore(0)

    def fsync(fd: int) -> None:
        if threading.current_thread().name.startswith("artifacts-flush"):
            busy.release()
            assert may_end.wait(20)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    async with artifacts.writer("artifacts/a.bin") as one, artifacts.writer("artifacts/b.bin") as two:
        for _ in range(FLUSH // BLOCK):
            await asyncio.gather(one.write(bytes(BLOCK)), two.write(bytes(BLOCK)))
        for _ in range(2):
            assert await asyncio.to_thread(busy.acquire, timeout=10)
        try:
            async with asyncio.timeout(10):
                assert (await write(artifacts, *[bytes(BLOCK)] * (2 * FLUSH // BLOCK), to="artifacts/c.bin")).bytes
        finally:
            may_end.set()


async def test_a_slow_disk_holds_up_the_end_and_not_the_writing(
    artifacts: Artifacts, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one flush is at work, writing goes on; the file is not let go of before it has ended."""
    real, may_end, at_work = os.fsync, threading.Event(), threading.Event()

    def fsync(fd: int) -> None:
        at_work.set()
        assert may_end.wait(10)
        real(fd)  # the descriptor is still this file's

    monkeypatch.setattr(os, "fsync", fsync)
    async with artifacts.writer("artifacts/a.bin") as writer:
        for _ in range(4 * FLUSH // BLOCK):
            await writer.write(bytes(BLOCK))
        await writer.finish()
        assert at_work.wait(10)
        assert [(place / name).stat().st_size for name in names(place)] == [4 * FLUSH]
        leaving = asyncio.create_task(writer.restart())
        await asyncio.sleep(0.1)
        assert not leaving.done()
        may_end.set()
        await leaving


KILLED = """
    import asyncio, os, signal, sys
    from pathlib import Path
    from worker.artifacts import Artifacts

    async def main():
        async with Artifacts(["artifacts/"], cwd=Path(sys.argv[1])).writer("artifacts/a.csv", resume_key=%r) as writer:
            await writer.restart(%r)
            for _ in range(24):
                await writer.write(b"a,b\\n" * (1 << 18))
            os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(main())
"""


def kill_a_writer(tmp_path: Path, resume_key: str | None, validator: str | None) -> None:
    """Let a process write 24 MiB, more than waits in memory, and die."""
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run_python(KILLED % (resume_key, validator), str(tmp_path))
    assert caught.value.returncode == -signal.SIGKILL


@pytest.mark.parametrize("after", [0.02, 0.05, 0.11, 0.17])
def test_killed_anywhere_the_name_holds_a_whole_file(tmp_path: Path, after: float) -> None:
    """A process that publishes one version after another is killed: what is there is one of them, whole."""
    script = """
        import asyncio, sys
        from pathlib import Path
        from worker.artifacts import Artifacts

        async def main():
            artifacts = Artifacts(["artifacts/"], cwd=Path(sys.argv[1]))
            for version in range(10_000):
                async with artifacts.writer("artifacts/a.bin") as writer:
                    for _ in range(3):
                        await writer.write(bytes([version % 256]) * (1 << 20))
                    await writer.publish()
                print(version, flush=True)

        asyncio.run(main())
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(after)
        process.kill()
    data = (tmp_path / "artifacts/a.bin").read_bytes()
    assert data == data[:1] * (3 << 20)


async def test_a_killed_writer_can_be_continued(artifacts: Artifacts, place: Path, tmp_path: Path) -> None:
    """The next writer with its key goes on where it was; digest and check see every byte."""
    kill_a_writer(tmp_path, "key", ETAG)
    async with artifacts.writer("artifacts/a.csv", resume_key="key", check=CsvCheck) as writer:
        assert writer.partial is not None
        assert writer.partial.validator == ETAG
        assert BLOCK < writer.partial.offset <= 24 * BLOCK
        rest = b"a,b\n" * ((25 * BLOCK - writer.partial.offset) // 4)
        await writer.write(rest)
        published = await writer.publish()
    whole = b"a,b\n" * (25 * BLOCK // 4)
    assert (place / "a.csv").read_bytes() == whole
    assert published.sha256 == hashlib.sha256(whole).hexdigest()
    assert (published.bytes, published.rows) == (len(whole), len(whole) // 4 - 1)
    assert names(place) == ["a.csv"]


async def test_nothing_more_to_come_is_a_whole_file_too(artifacts: Artifacts, place: Path, tmp_path: Path) -> None:
    """Killed after the last byte, the next writer publishes what is there."""
    kill_a_writer(tmp_path, "key", ETAG)
    async with artifacts.writer("artifacts/a.csv", resume_key="key") as writer:
        assert writer.partial is not None
        published = await writer.publish()
    assert published.sha256 == hashlib.sha256((place / "a.csv").read_bytes()).hexdigest()
    assert published.bytes == (place / "a.csv").stat().st_size


async def test_another_version_is_begun_anew(artifacts: Artifacts, place: Path, tmp_path: Path) -> None:
    """Where the vendor sends the whole of something else, nothing of the old stays."""
    kill_a_writer(tmp_path, "key", ETAG)
    async with artifacts.writer("artifacts/a.csv", resume_key="key") as writer:
        await writer.restart('"version-2"')
        await writer.write(CSV)
        await writer.publish()
    assert (place / "a.csv").read_bytes() == CSV


@pytest.mark.parametrize("validator", [None, 'W/"weak"'])
async def test_without_a_strong_validator_nothing_is_continued(
    artifacts: Artifacts, place: Path, tmp_path: Path, validator: str | None
) -> None:
    """Bytes of a version that cannot be named exactly are not built upon."""
    kill_a_writer(tmp_path, "key", validator)
    async with artifacts.writer("artifacts/a.csv", resume_key="key") as writer:
        assert writer.partial is None
        assert writer.bytes == 0
        await writer.write(CSV)
        await writer.publish()
    assert (place / "a.csv").read_bytes() == CSV


@pytest.mark.parametrize(("left_by", "resume_key"), [(None, None), (None, "key"), ("key", None), ("key", "other")])
async def test_what_killed_writers_left_is_swept(
    artifacts: Artifacts, place: Path, tmp_path: Path, left_by: str | None, resume_key: str | None
) -> None:
    """The next writer to the same place removes what it cannot continue."""
    kill_a_writer(tmp_path, left_by, ETAG)
    assert names(place)
    async with artifacts.writer("artifacts/a.csv", resume_key=resume_key) as writer:
        assert writer.partial is None
        await writer.publish()
    assert names(place) == ["a.csv"]


async def test_what_living_writers_write_is_not_swept(artifacts: Artifacts, place: Path) -> None:
    """Another writer to the same place comes and goes; the first one's file is untouched."""
    async with artifacts.writer("artifacts/a.csv", resume_key="key") as first:
        await first.restart(ETAG)
        await first.write(CSV)
        async with artifacts.writer("artifacts/a.csv", resume_key="key") as second:
            assert second.partial is None
            await second.write(b"second")
            await second.publish()
        assert (place / "a.csv").read_bytes() == b"second"
        await first.publish()
    assert (place / "a.csv").read_bytes() == CSV
    assert names(place) == ["a.csv"]


async def test_what_is_left_for_other_places_stays_for_a_week(
    artifacts: Artifacts, place: Path, tmp_path: Path
) -> None:
    """A command parked for a day finds its file again; for what is older than a week nobody comes back."""
    kill_a_writer(tmp_path, "key", ETAG)
    left = names(place)
    async with artifacts.writer("artifacts/other.csv") as writer:
        await writer.publish()
    assert names(place) == [*left, "other.csv"]
    for name in left:
        os.utime(place / name, (0, 0))
    async with artifacts.writer("artifacts/other.csv") as writer:
        await writer.publish()
    assert names(place) == ["other.csv"]


@pytest.mark.parametrize("error", [Unanswered(), asyncio.CancelledError(), RuntimeError("parked")])
async def test_a_cut_leaves_what_there_is_for_the_next_attempt(artifacts: Artifacts, error: BaseException) -> None:
    """A lost connection, a cancellation and a parked run keep the bytes that came."""
    with pytest.raises(type(error)):
        await write(artifacts, bytes(BLOCK), bytes(BLOCK), resume_key="key", error=error)
    async with artifacts.writer("artifacts/a.csv", resume_key="key") as writer:
        assert writer.partial in {Partial(BLOCK, ETAG), Partial(2 * BLOCK, ETAG)}


@pytest.mark.parametrize("error", [ContractBroken(), StorageFull(), BadCommand()])
async def test_a_wrong_file_is_not_continued(artifacts: Artifacts, place: Path, error: RelayError) -> None:
    """What was found wrong, or found no room, is removed."""
    with pytest.raises(type(error)):
        await write(artifacts, bytes(2 * BLOCK), resume_key="key", error=error)
    assert names(place) == []


def rewrite_note(place: Path, text: str) -> None:
    """Replace the note beside an unfinished file."""
    (note,) = place.glob("*.json")
    note.write_text(text)


async def test_a_restart_of_the_machine_ends_it(artifacts: Artifacts, place: Path, tmp_path: Path) -> None:
    """What was only in memory then may be missing: a file noted before another start is not continued."""
    kill_a_writer(tmp_path, "key", ETAG)
    rewrite_note(place, json.dumps({"validator": ETAG, "boot": "another"}))
    async with artifacts.writer("artifacts/a.csv", resume_key="key") as writer:
        assert writer.partial is None


async def test_a_damaged_note_ends_it(artifacts: Artifacts, place: Path, tmp_path: Path) -> None:
    """A note that cannot be read vouches for nothing."""
    kill_a_writer(tmp_path, "key", ETAG)
    rewrite_note(place, '{"validator": ')
    async with artifacts.writer("artifacts/a.csv", resume_key="key") as writer:
        assert writer.partial is None


# --- Reading ---------------------------------------------------------------------------------------------------------


async def test_a_file_is_read(artifacts: Artifacts, place: Path) -> None:
    """Whole, or piece by piece."""
    data = os.urandom(2 * BLOCK + 3)
    (place / "a b.bin").write_bytes(data)
    assert await artifacts.read("artifacts/a b.bin", max_bytes=len(data)) == data
    assert await artifacts.read(f"file://{place}/a%20b.bin", max_bytes=len(data)) == data
    async with aclosing(artifacts.stream("artifacts/a b.bin")) as chunks:
        assert len(await anext(chunks)) <= BLOCK


async def test_a_file_too_large_is_refused(artifacts: Artifacts, place: Path) -> None:
    """The limit is a rule of the command's, named with its field."""
    (place / "a.csv").write_bytes(bytes(1001))
    with pytest.raises(Invalid, match=r"rows_url: .* more than 1,000 bytes"):
        await artifacts.read("artifacts/a.csv", max_bytes=1000, field="rows_url")


async def test_nothing_there_is_not_found(artifacts: Artifacts) -> None:
    """The field says whose fault it is."""
    with pytest.raises(NotFound, match="roster_url: there is nothing at"):
        await artifacts.read("artifacts/sub/a.csv", max_bytes=1000, field="roster_url")


async def test_only_files_are_read(artifacts: Artifacts, place: Path) -> None:
    """A named pipe would keep a thread for ever."""
    os.mkfifo(place / "pipe.csv")
    with pytest.raises(BadCommand, match="no regular file"):
        await artifacts.read("artifacts/pipe.csv", max_bytes=1000)


async def test_a_symlink_that_leads_out_is_not_read(artifacts: Artifacts, place: Path, tmp_path: Path) -> None:
    """Neither one that is there at the check nor one that comes between check and opening."""
    (tmp_path / "secret").write_bytes(b"secret")
    source = artifacts.check("artifacts/a.csv")
    (place / "a.csv").symlink_to(tmp_path / "secret")
    for asked in (source, "artifacts/a.csv"):
        with pytest.raises(BadCommand):
            await artifacts.read(asked, max_bytes=1000)


async def test_what_is_read_may_be_written(artifacts: Artifacts, place: Path) -> None:
    """A stream goes into a writer as it is."""

    async def copy(chunks: AsyncIterator[bytes]) -> None:
        async with artifacts.writer("artifacts/b.csv") as writer:
            async for chunk in chunks:
                await writer.write(chunk)
            await writer.publish()

    (place / "a.csv").write_bytes(CSV)
    await copy(artifacts.stream("artifacts/a.csv"))
    assert (place / "b.csv").read_bytes() == CSV

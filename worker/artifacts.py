"""
Files and object stores: streamed in, verified on the way, published at once or not at all.

A command writes through a `Writer`. Nothing is under the final name until `publish` has returned; then the whole file
is. Local files are written under a hidden name, made to last and renamed (`worker.unfinished`); object stores get a
multipart upload that is completed or aborted. Memory is constant: a few blocks at a time are hashed, checked and
written in threads (`worker.lanes`). Knows no vendor.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import obstore

from worker import destinations
from worker.destinations import Allowed, Destination, open_directory
from worker.errors import (
    BadCommand,
    ContractBroken,
    DeadlineExceeded,
    Invalid,
    RelayError,
    StorageError,
    TransportError,
    Waitable,
)
from worker.formats import Check, Findings
from worker.lanes import Block, Lane, drained
from worker.storage import Stores, Upload, storage_errors
from worker.unfinished import Unfinished

BLOCK: Final = 1024 * 1024
"""Bytes that are handed to the threads together; a writer holds about ten such blocks at most."""

FLUSH: Final = 16 * 1024 * 1024
"""Bytes of a local file that are made to last beside the writing, so that little of it is left to do at its end."""

_THREADS: Final = 8
_FLUSHING: Final = 2  # threads that may wait for a disk
_WRITE_PATIENCE: Final = 5.0  # seconds; a request cut short may leave an upload that nobody knows of
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What now stands under its final name. `rows` (without the heading) and `columns` where a check counted them."""

    destination: str
    bytes: int
    sha256: str
    rows: int | None = None
    columns: int | None = None


@dataclass(frozen=True, slots=True)
class Partial:
    """What a killed writer left: the first `offset` bytes of the version that the strong `validator` names."""

    offset: int
    validator: str


class Artifacts:
    """The places that `[artifacts].allowed` names, to write to and to read from."""

    def __init__(self, allowed: Sequence[str], *, cwd: Path) -> None:
        self._allowed = Allowed(allowed, cwd=cwd)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="artifacts")
        self._flushing = ThreadPoolExecutor(_FLUSHING, thread_name_prefix="artifacts-flush")
        self._stores = Stores()

    def check(self, destination: str, *, field: str = "destination") -> Destination:
        """
        Give the place that a destination names, or raise `BadCommand` with the field, the rule and the remedy.

        Refused: outside `[artifacts].allowed`, `..`, symlinks that lead out, unknown schemes, directories, encoded dots
        and slashes, control characters, braces that `fill` does not know. Looks at the disk, sends nothing.
        """
        return self._allowed.check(destination, field=field)

    @staticmethod
    def fill(template: str, *, now: datetime, tz: str, **ids: str) -> str:
        """Fill `{date}`, `{time}` and the given ids into a destination, as `worker.destinations.fill` does."""
        return destinations.fill(template, now=now, tz=tz, **ids)

    def writer(
        self,
        destination: str | Destination,
        *,
        check: Callable[[], Check] | None = None,
        size: int | None = None,
        resume_key: str | None = None,
    ) -> Writer:
        """
        Make a writer, to be used by `async with`.

        `check` makes what looks at the bytes on their way (`worker.csv_check.CsvCheck`). `size`, where known, makes
        an object store's parts large enough for it. With a `resume_key` (the command's ledger key) a local file that a
        killed or cut-off run left can be continued: see `Writer.partial`.
        """
        place = destination if isinstance(destination, Destination) else self.check(destination)
        if not place.is_filled:
            raise BadCommand(f"{place.field}: {place.given!r} still holds braces. Fill it first.")
        sink = (
            _File(self, place, resume_key)
            if place.scheme == "file"
            else Upload(self._stores.open(place), place, size=size)
        )
        return Writer(self, place, sink, check=check)

    async def read(self, source: str | Destination, *, max_bytes: int, field: str = "source") -> bytes:
        """Give the whole of a file; raises `NotFound`, and `Invalid` for more than `max_bytes`."""
        return b"".join([chunk async for chunk in self.stream(source, max_bytes=max_bytes, field=field)])

    async def stream(
        self, source: str | Destination, *, max_bytes: int | None = None, field: str = "source"
    ) -> AsyncGenerator[bytes, None]:
        """Give a file piece by piece; raises `NotFound`, and `Invalid` as soon as it proves larger than `max_bytes`."""
        place = source if isinstance(source, Destination) else self.check(source, field=field)
        seen = 0
        async with aclosing(self._local(place) if place.scheme == "file" else self._remote(place)) as chunks:
            async for chunk in chunks:
                seen += len(chunk)
                if max_bytes is not None and seen > max_bytes:
                    raise Invalid(f"{place.field}: {place.given!r} has more than {max_bytes:,} bytes. Divide it.")
                yield chunk

    async def _local(self, place: Destination) -> AsyncGenerator[bytes, None]:
        with storage_errors(place, "read"):
            fd = await self.in_thread(_open_file, place)
            try:
                while chunk := await self.in_thread(os.read, fd, BLOCK):
                    yield chunk
            finally:
                os.close(fd)

    async def _remote(self, place: Destination) -> AsyncGenerator[bytes, None]:
        with storage_errors(place, "read"):
            answer = await obstore.get_async(self._stores.open(place), place.key)
            async for chunk in answer.stream(min_chunk_size=BLOCK):
                yield bytes(chunk)

    async def in_thread(self, work: Callable[..., _T], *args: Any) -> _T:
        """Do blocking work in one of the artifacts' threads; a cancellation waits until it is done."""
        return await _uninterrupted(asyncio.get_running_loop().run_in_executor(self._threads, work, *args))

    def flush(self, file: Unfinished) -> Future[None]:
        """Have what is written of a file made to last, by a thread that does nothing else."""
        return self._flushing.submit(file.flush)


class Writer:
    """
    One file on its way: `write` it, look at it (`finish`), `publish` it.

    Leaving without `publish` leaves nothing under the final name. Raises `StorageFull`, `StorageRefused` and
    `StorageFailed`; where there is no room, what was written is removed.
    """

    def __init__(
        self,
        artifacts: Artifacts,
        destination: Destination,
        sink: _File | Upload,
        *,
        check: Callable[[], Check] | None,
    ) -> None:
        self.destination = destination
        self.bytes = 0
        """Bytes so far, those that were there already included."""
        self.partial: Partial | None = None
        """
        What can be continued: ask for the rest (`Range: bytes=<offset>-`, `If-Range: <validator>`) and write it, or,
        where the vendor gives the whole instead, `restart` first. Writing at once goes on from `offset`.
        """
        self._artifacts = artifacts
        self._sink = sink
        self._make_check = check
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._findings: Findings | None = None
        self._reset()

    def _reset(self) -> None:
        self._hash = hashlib.sha256()
        self._check = None if self._make_check is None else self._make_check()
        self._looking, self._writing = Lane(self._look), Lane(self._write)
        self._there = 0  # bytes that are to be looked at before the first block
        self._waiting, self._waiting_bytes = [], 0
        self.bytes = 0

    async def __aenter__(self) -> Self:
        with storage_errors(self.destination, "write"):
            try:
                self.partial = await self._sink.open()
            except BaseException:
                await self._sink.close(keep=False)
                raise
        self.bytes = self.partial.offset if self.partial else 0
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        keep = self._findings is None and error is not None and _passing(error)
        await _uninterrupted(asyncio.ensure_future(self._leave(keep=keep)))

    async def _idle(self) -> None:
        """Wait until nothing is at work, whatever becomes of it."""
        await asyncio.gather(self._looking.stop(), self._writing.stop(patience=_WRITE_PATIENCE))

    async def _leave(self, *, keep: bool) -> None:
        if keep:
            with suppress(Exception):  # told already, or no more than fewer bytes to go on from
                await self._write_the_rest()
        await self._idle()
        with suppress(StorageError), storage_errors(self.destination, "write"):
            await self._sink.close(keep=keep)

    async def restart(self, validator: str | None = None) -> None:
        """
        Begin anew, and note the strong validator (`ETag`, `Last-Modified`) of what now follows.

        Without one, or with a weak one (`W/…`: RFC 9110 13.1.5 forbids it in If-Range), the file can't be continued.
        """
        await self._idle()
        strong = None if validator is None or validator.startswith("W/") else validator
        with storage_errors(self.destination, "write"):
            await self._sink.restart(strong)
        self.partial, self._findings = None, None
        self._reset()

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take the next bytes; waits only while the disk, or what looks at them, lags behind by several blocks."""
        if self._findings is not None:
            raise ValueError("This file is finished: restart it, or open another.")
        data = bytes(chunk)  # no copy where it is bytes already
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        self.bytes += len(data)
        if self._waiting_bytes >= BLOCK:
            await self._hand_over()

    async def finish(self) -> Findings:
        """Write what is left and tell what the check found; no more can be written then."""
        if self._findings is None:
            if self._waiting or self.partial is not None:
                await self._hand_over()
            await drained(self._looking, self._writing)
            self._findings = Findings() if self._check is None else await self._artifacts.in_thread(self._check.finish)
        return self._findings

    async def publish(self, manifest: Mapping[str, Any] | None = None) -> Published:
        """
        Give the file its name, then write `<name>.manifest.json` beside it where `manifest` is given.

        Raises `ContractBroken`, and publishes nothing, where the check found a problem. The manifest holds what is
        published and the caller's own facts (the asset's BN, times, attempts).
        """
        findings = await self.finish()
        if findings.problem is not None:
            raise ContractBroken(f"What the vendor sent for {self.destination.given} is not whole: {findings.problem}")
        published = Published(
            destination=self.destination.given,
            bytes=self.bytes,
            sha256=self._hash.hexdigest(),
            rows=findings.rows,
            columns=findings.columns,
        )
        with storage_errors(self.destination, "write"):
            await self._sink.publish()
        if manifest is not None:
            await self._publish_manifest(published, manifest)
        return published

    async def _publish_manifest(self, published: Published, manifest: Mapping[str, Any]) -> None:
        said = {name: getattr(published, name) for name in ("destination", "bytes", "sha256", "rows", "columns")}
        said = {name: value for name, value in said.items() if value is not None}
        async with self._artifacts.writer(self.destination.beside(".manifest.json")) as writer:
            await writer.write(json.dumps({**said, **manifest}, indent=2, ensure_ascii=False).encode() + b"\n")
            await writer.publish()

    async def _write_the_rest(self) -> None:
        if self._waiting and self.partial is None:
            self._writing.put(self._waiting)
        await self._writing.drained()

    async def _hand_over(self) -> None:
        await self._looking.room()
        await self._writing.room()
        if self.partial is not None:  # nobody restarted: these bytes go on from the ones that are there
            self._there, self.partial = self.partial.offset, None
        block, self._waiting, self._waiting_bytes = self._waiting, [], 0
        for lane in (self._looking, self._writing):  # nothing is awaited in between: both get it, or neither
            lane.put(block)

    async def _write(self, block: Block) -> None:
        with storage_errors(self.destination, "write"):
            await self._sink.write(block)

    async def _look(self, block: Block) -> None:
        size, self._there = self._there, 0
        if size:
            with storage_errors(self.destination, "write"):
                async for old in self._sink.there(size):
                    await self._artifacts.in_thread(self._hash_and_check, [old])
        await self._artifacts.in_thread(self._hash_and_check, block)

    def _hash_and_check(self, block: Block) -> None:
        for piece in block:
            self._hash.update(piece)
            if self._check is not None:
                self._check.feed(piece)


class _File:
    """A local file."""

    def __init__(self, artifacts: Artifacts, destination: Destination, resume_key: str | None) -> None:
        self._artifacts = artifacts
        self._destination = destination
        self._resume_key = resume_key
        self._file: Unfinished | None = None
        self._flush: Future[None] | None = None
        self._flushed = 0  # bytes that were there when the last flush began

    @property
    def _open(self) -> Unfinished:
        if self._file is None:
            raise ValueError("This writer is not open: use it by `async with`.")
        return self._file

    async def open(self) -> Partial | None:
        def make() -> None:
            self._file = Unfinished(self._destination, resume_key=self._resume_key)

        await self._artifacts.in_thread(make)
        file = self._open
        return Partial(file.size, file.validator) if file.validator is not None and file.size else None

    async def restart(self, validator: str | None) -> None:
        await self._quiet()
        self._flush, self._flushed = None, 0
        await self._artifacts.in_thread(self._open.restart, validator)

    async def there(self, size: int) -> AsyncGenerator[bytes, None]:
        """Give the first `size` bytes of what is there already."""
        blocks = self._open.blocks(size)
        while block := await self._artifacts.in_thread(next, blocks, b""):
            yield block

    async def write(self, block: Block) -> None:
        await self._artifacts.in_thread(self._open.write, block)
        if self._flush is None or self._flush.done():
            self._heed()
            if self._open.size - self._flushed >= FLUSH:
                self._flushed = self._open.size
                self._flush = self._artifacts.flush(self._open)

    async def publish(self) -> None:
        await self._quiet()
        self._heed()
        await self._artifacts.in_thread(self._open.publish)

    async def _quiet(self) -> None:
        """Wait until no flush is at work, however it ends; one that waits for its turn is called off."""
        if self._flush is not None and not self._flush.cancel():
            with suppress(OSError):
                await _uninterrupted(asyncio.wrap_future(self._flush))

    def _heed(self) -> None:
        """Raise what the last flush has raised: the kernel tells of bytes that it could not write only once."""
        if self._flush is not None and not self._flush.cancelled():
            self._flush.result()

    async def close(self, *, keep: bool) -> None:
        await self._quiet()  # its descriptor may be another file's tomorrow
        if self._file is not None:
            file, self._file = self._file, None
            await self._artifacts.in_thread(lambda: file.close(keep=keep))


def _passing(error: BaseException) -> bool:
    """Whether the next attempt may go on with what is there: cut off, parked or told to wait, not found wrong."""
    return isinstance(error, (TransportError, Waitable, DeadlineExceeded)) or not isinstance(error, RelayError)


def _open_file(place: Destination) -> int:
    directory = open_directory(place, create=False)
    try:
        # Not blocking: a named pipe without a writer would hold the thread for good.
        fd = os.open(place.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    finally:
        os.close(directory)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise BadCommand(f"{place.field}: {place.given!r} is no regular file. Name one.")
    return fd


async def _uninterrupted(work: Awaitable[_T]) -> _T:
    """Wait until the work is done, whatever comes; a cancellation takes effect then."""
    future = asyncio.ensure_future(work)
    cancelled = False
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        future.exception()  # seen, so that nobody misses it
        raise asyncio.CancelledError
    return future.result()

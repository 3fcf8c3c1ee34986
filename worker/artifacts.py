"""
Files and object stores: streamed in, verified on the way, published at once or not at all.

A command writes through a `Writer`. Nothing is under the final name until `publish` has returned; then the whole file
is. Local files are written under a hidden name, made to last and renamed (`worker.unfinished`); object stores get a
multipart upload that is completed or aborted. Memory is constant: one block fills while the one before is hashed,
checked and written in a thread. Knows no vendor.

S3, Google Cloud and Azure take their credentials and endpoints from the environment: `AWS_*`, `GOOGLE_*`, `AZURE_*`,
as obstore has them. A worker that is killed leaves an unfinished multipart upload there, which nobody sees and somebody
pays for: give the bucket a lifecycle rule that removes those.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, S3Store

from worker import destinations
from worker.destinations import Allowed, Destination, open_directory
from worker.errors import (
    BadCommand,
    ContractBroken,
    DeadlineExceeded,
    Invalid,
    NotFound,
    RelayError,
    StorageError,
    StorageFailed,
    StorageFull,
    StorageRefused,
    TransportError,
    Waitable,
)
from worker.formats import Check, Findings
from worker.unfinished import Unfinished

if TYPE_CHECKING:
    from obstore import AsyncWritableFile

BLOCK: Final = 1024 * 1024
"""Bytes that are handed to the thread at once; a writer holds two such blocks."""

PART: Final = 5 * 1024 * 1024
"""Bytes of one part of a multipart upload: the least that S3 takes. Four are on their way at once."""

MOST_PARTS: Final = 9_500
"""Parts that an upload of known size is cut into at most; S3 takes 10,000."""

_THREADS: Final = 8
_ABORT_PATIENCE: Final = 10.0  # seconds
_RETRY: Final = {"max_retries": 3, "retry_timeout": timedelta(seconds=60)}  # of one part: the store's own business
_CONTENT_TYPES: Final = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".xml": "application/xml",
}
_NO_ROOM: Final = re.compile(r"XMinioStorageFull|QuotaExceeded|\b507\b|InsufficientStorage", re.IGNORECASE)
_T = TypeVar("_T")
_Store = S3Store | GCSStore | AzureStore


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
        self._stores: dict[tuple[str, str], _Store] = {}

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

        `check` makes what looks at the bytes on their way (`worker.formats.CHECKS["csv"]`). `size`, where known, makes
        an object store's parts large enough for it. With a `resume_key` (the command's ledger key) a local file that a
        killed or cut-off run left can be continued: see `Writer.partial`.
        """
        place = destination if isinstance(destination, Destination) else self.check(destination)
        if not place.is_filled:
            raise BadCommand(f"{place.field}: {place.given!r} still holds braces. Fill it first.")
        return Writer(self, place, check=check, size=size, resume_key=resume_key)

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
            answer = await obstore.get_async(self.store(place), place.key)
            async for chunk in answer.stream(min_chunk_size=BLOCK):
                yield bytes(chunk)

    def store(self, place: Destination) -> _Store:
        """Give the object store of a bucket or container, set up from the environment once."""
        known = (place.scheme, place.root)
        if known not in self._stores:
            options: dict[str, Any] = {
                "client_options": {"timeout": "60s", "connect_timeout": "10s", "allow_http": _plain_http()},
                "retry_config": _RETRY,
            }
            make = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[place.scheme]
            try:
                self._stores[known] = make(place.root, **options)
            except (BaseError, ValueError) as error:
                raise StorageRefused(
                    f"{place.field}: the store of {place.given!r} cannot be opened: {_first_line(error)}. "
                    "Look at the worker's environment (AWS_…, GOOGLE_…, AZURE_…)."
                ) from None
        return self._stores[known]

    async def in_thread(self, work: Callable[..., _T], *args: Any) -> _T:
        """Do blocking work in one of the artifacts' threads; a cancellation waits until it is done."""
        return await _uninterrupted(asyncio.get_running_loop().run_in_executor(self._threads, work, *args))


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
        *,
        check: Callable[[], Check] | None,
        size: int | None,
        resume_key: str | None,
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
        self._make_check = check
        self._resume_key = resume_key
        self._sink: _File | _Upload = (
            _File(artifacts, destination, resume_key)
            if destination.scheme == "file"
            else _Upload(artifacts, destination, size)
        )
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._working: asyncio.Task[None] | None = None
        self._findings: Findings | None = None
        self._reset()

    def _reset(self) -> None:
        self._hash = hashlib.sha256()
        self._check = None if self._make_check is None else self._make_check()
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
        if self._working is not None:
            self._working.cancel()
            await asyncio.wait([self._working])
            if not self._working.cancelled():
                self._working.exception()  # seen: whoever throws the block away need not hear of it
            self._working = None

    async def _leave(self, *, keep: bool) -> None:
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
        """Take the next bytes; waits only while the block before last is still being written."""
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
            await self._settle()
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

    async def _hand_over(self) -> None:
        await self._settle()
        block = self._waiting[0] if len(self._waiting) == 1 else b"".join(self._waiting)
        self._waiting, self._waiting_bytes = [], 0
        self._working = asyncio.create_task(self._work(block))

    async def _settle(self) -> None:
        """Wait for the block at work. Its error is raised here, and ever again: without that block there is no file."""
        if self._working is not None:
            if self._working.cancelled():
                raise StorageFailed(f"{self.destination.field}: writing {self.destination.given!r} was interrupted.")
            await self._working
            self._working = None

    async def _work(self, block: bytes) -> None:
        with storage_errors(self.destination, "write"):
            if self.partial is not None:  # nobody restarted: these bytes go on from the ones that are there
                self.partial = None
                async for old in self._sink.there():
                    await self._look(old)
            await _all(self._look(block), self._sink.write(block))

    async def _look(self, block: bytes) -> None:
        # Hashing lets go of the interpreter at once, and so does writing; the check, which keeps it, begins last.
        hashing = self._artifacts.in_thread(self._hash.update, block)
        await (hashing if self._check is None else _all(hashing, self._artifacts.in_thread(self._check.feed, block)))


class _File:
    """A local file."""

    def __init__(self, artifacts: Artifacts, destination: Destination, resume_key: str | None) -> None:
        self._artifacts = artifacts
        self._destination = destination
        self._resume_key = resume_key
        self._file: Unfinished | None = None

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
        await self._artifacts.in_thread(self._open.restart, validator)

    async def there(self) -> AsyncGenerator[bytes, None]:
        """Give what is there already."""
        blocks = self._open.blocks()
        while block := await self._artifacts.in_thread(next, blocks, b""):
            yield block

    async def write(self, block: bytes) -> None:
        await self._artifacts.in_thread(self._open.write, block)

    async def publish(self) -> None:
        await self._artifacts.in_thread(self._open.publish)

    async def close(self, *, keep: bool) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            await self._artifacts.in_thread(lambda: file.close(keep=keep))


class _Upload:
    """An object, by multipart upload where it is larger than a part."""

    def __init__(self, artifacts: Artifacts, destination: Destination, size: int | None) -> None:
        self._artifacts = artifacts
        self._destination = destination
        self._part = max(PART, -(-(size or 0) // MOST_PARTS))
        self._upload: AsyncWritableFile | None = None
        self._published = False

    async def open(self) -> None:
        type = _CONTENT_TYPES.get(self._destination.ending, "application/octet-stream")
        self._upload = obstore.open_writer_async(
            self._artifacts.store(self._destination),
            self._destination.key,
            attributes={"Content-Type": type},
            buffer_size=self._part,
            max_concurrency=4,
        )

    async def restart(self, validator: str | None) -> None:  # noqa: ARG002 - an upload cannot be continued
        await self.close(keep=False)
        await self.open()

    async def there(self) -> AsyncGenerator[bytes, None]:
        """Give nothing: an upload cannot be continued."""
        for block in list[bytes]():
            yield block

    async def write(self, block: bytes) -> None:
        if self._upload is None:
            raise ValueError("This writer is not open: use it by `async with`.")
        await self._upload.write(block)

    async def publish(self) -> None:
        if self._upload is None:
            raise ValueError("This writer is not open: use it by `async with`.")
        await self._upload.close()
        self._published = True

    async def close(self, *, keep: bool) -> None:  # noqa: ARG002 - an upload cannot be continued
        upload, self._upload = self._upload, None
        if upload is not None and not self._published:
            # Aborts the multipart upload. One that failed while it was completed is closed already.
            with suppress(OSError, BaseError, TimeoutError):
                await asyncio.wait_for(upload.__aexit__(StorageFailed, None, None), _ABORT_PATIENCE)


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


@contextmanager
def storage_errors(place: Destination, doing: str) -> Iterator[None]:
    """Turn what the operating system or an object store says into an error of the tree."""
    what = f"{place.field}: could not {doing} {place.given!r}"
    try:
        yield
    except FileNotFoundError as error:
        if doing == "read":
            raise NotFound(f"{place.field}: there is nothing at {place.given!r}.") from error
        raise StorageRefused(f"{what}: its directory or bucket is gone. Make it, then replay the command.") from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise StorageRefused(f"{what}: the store refused the worker's credentials: {_first_line(error)}") from error
    except BaseError as error:
        if _NO_ROOM.search(str(error)):
            raise StorageFull(f"{what}: the store has no room left. Make room, then replay the command.") from error
        raise StorageFailed(f"{what}: {_first_line(error)}") from error
    except OSError as error:
        raise _os_error(error, place, what) from error


def _os_error(error: OSError, place: Destination, what: str) -> StorageError | BadCommand:
    said = error.strerror or str(error)
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return StorageFull(f"{what}: no room left ({said}). Make room, then replay the command.")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return StorageRefused(f"{what}: the worker may not ({said}). Give it the right, then replay the command.")
        case errno.ELOOP | errno.ENOTDIR | errno.EISDIR | errno.EEXIST | errno.ENOTEMPTY | errno.ENAMETOOLONG:
            return BadCommand(f"{place.field}: {place.given!r} can be no file ({said}). Choose another name.")
        case _:
            return StorageFailed(f"{what}: {said}.")


def _first_line(error: BaseException) -> str:
    """Give a store's own words without the debug output that follows, and without the signatures in its URLs."""
    return re.sub(r"\?\S*", "?…", str(error).strip().splitlines()[0])[:300] if str(error).strip() else repr(error)


def _plain_http() -> bool:
    """Whether the operator named an endpoint without TLS: a store of their own, or a stand-in."""
    return any(
        value.lower().startswith("http://")
        for name, value in os.environ.items()
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_"))
    )


async def _all(*work: Awaitable[None]) -> None:
    """Wait until everything is done, and raise the first error only then."""
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if outcome is not None:
            raise outcome


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

"""
Object stores, and what they and the disk say when they fail.

S3, Google Cloud and Azure take their credentials and endpoints from the environment: `AWS_*`, `GOOGLE_*`, `AZURE_*`, as
obstore has them. A worker that is killed leaves an unfinished multipart upload there, which nobody sees and somebody
pays for: give the bucket a lifecycle rule that removes those.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, S3Store

from worker.destinations import Destination
from worker.errors import BadCommand, NotFound, StorageError, StorageFailed, StorageFull, StorageRefused
from worker.lanes import Block

if TYPE_CHECKING:
    from obstore import AsyncWritableFile

PART: Final = 5 * 1024 * 1024
"""Bytes of one part of a multipart upload: the least that S3 takes. Four are on their way at once."""

MOST_PARTS: Final = 9_500
"""Parts that an upload of known size is cut into at most; S3 takes 10,000."""

_ABORT_PATIENCE: Final = 10.0  # seconds
_RETRY: Final = {"max_retries": 3, "retry_timeout": timedelta(seconds=60)}  # of one part: the store's own business
_CONTENT_TYPES: Final = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".xml": "application/xml",
}
_NO_ROOM: Final = re.compile(r"XMinioStorageFull|QuotaExceeded|\b507\b|InsufficientStorage", re.IGNORECASE)

Store = S3Store | GCSStore | AzureStore


class Stores:
    """The object stores in use, each set up once."""

    def __init__(self) -> None:
        self._stores: dict[tuple[str, str], Store] = {}

    def open(self, place: Destination) -> Store:
        """Give the store of a bucket or container; raises `StorageRefused` where the environment lacks something."""
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


class Upload:
    """
    An object on its way, in parts where it is larger than one.

    `size`, where known, makes the parts large enough for it.
    """

    def __init__(self, store: Store, destination: Destination, *, size: int | None) -> None:
        self._store = store
        self._destination = destination
        self._part = max(PART, -(-(size or 0) // MOST_PARTS))
        self._upload: AsyncWritableFile | None = None
        self._published = False

    async def open(self) -> None:
        """Begin; nothing is sent before there is a part's worth."""
        type = _CONTENT_TYPES.get(self._destination.ending, "application/octet-stream")
        self._upload = obstore.open_writer_async(
            self._store,
            self._destination.key,
            attributes={"Content-Type": type},
            buffer_size=self._part,
            max_concurrency=4,
        )

    async def restart(self, validator: str | None) -> None:  # noqa: ARG002 - an upload cannot be continued
        """Abort what was sent, and begin anew."""
        await self.close(keep=False)
        await self.open()

    async def there(self, size: int) -> AsyncGenerator[bytes, None]:  # noqa: ARG002 - the same
        """Give nothing: an upload cannot be continued."""
        for block in list[bytes]():
            yield block

    async def write(self, block: Block) -> None:
        """Take the next bytes; waits while four parts are on their way."""
        if self._upload is None:
            raise ValueError("This writer is not open: use it by `async with`.")
        await self._upload.write(b"".join(block))

    async def publish(self) -> None:
        """Complete the upload: now the object is there."""
        if self._upload is None:
            raise ValueError("This writer is not open: use it by `async with`.")
        await self._upload.close()
        self._published = True

    async def close(self, *, keep: bool) -> None:  # noqa: ARG002 - an upload cannot be continued
        """Abort what was not published."""
        upload, self._upload = self._upload, None
        if upload is not None and not self._published:
            # Aborts the multipart upload. One that failed while it was completed is closed already.
            with suppress(OSError, BaseError, TimeoutError):
                await asyncio.wait_for(upload.__aexit__(StorageFailed, None, None), _ABORT_PATIENCE)


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

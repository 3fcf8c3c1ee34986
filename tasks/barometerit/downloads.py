"""
A snapshot on its way to its destination: streamed, counted, checked, and published whole or not at all.

A file is published only when it has as many bytes as the answer and barometerIT say, and its format's check has found
nothing. What is wrong is fetched again, and what is wrong the same way three times is the vendor's own. A local file
that was cut off is continued where the snapshot has a strong ETag, else begun anew.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, get_args

from tasks.barometerit.snapshots import finished, unfinished
from tasks.barometerit.wire import MEDIA_TYPES, Format
from worker.csv_check import CsvCheck
from worker.errors import Busy, Conflict, ContractBroken, Forbidden, Invalid, NotFound, Unanswered, Unavailable
from worker.formats import Check, Findings, JsonCheck, XmlCheck

if TYPE_CHECKING:
    from tasks.barometerit.client import Barometerit
    from tasks.barometerit.models import Saving
    from tasks.barometerit.snapshots import Asset
    from worker.artifacts import Partial, Published, Writer
    from worker.destinations import Destination
    from worker.run import Run
    from worker.transport import Download

SAME_WAY: Final = 3
"""Downloads that are wrong in the same way, after which the vendor's file is taken to be so."""

BREATHS: Final = 64 * 1024 * 1024
"""Bytes between two moments at which a download that can be continued may be parked."""

OVERLAP: Final = 1
"""Bytes asked for again where a download goes on, so that there is something to send even where nothing is missing."""

_CHARSET: Final = re.compile(r"charset\s*=\s*\"?([\w.:-]+)", re.IGNORECASE)
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-\d+/(\d+)")
_PAGES: Final = frozenset({"text/html", "application/xhtml+xml"})
"""Media types of what tells people something, and of no report; heeded where the content itself does not tell."""

_CHECKS: Final[Mapping[Format, Callable[..., Check]]] = {
    "csv": CsvCheck,
    "json": partial(JsonCheck, opening=b"["),  # BIT-REP: an array; an object would be a message
    "xml": XmlCheck,
}


@dataclass(slots=True)
class Fetch:
    """One snapshot on its way to its destination."""

    run: Run
    barometerit: Barometerit
    asset: Asset
    destination: Destination
    wanted: Saving
    encoding: str = "utf-8"
    content_type: str = ""
    continued_at: int = 0
    size: int | None = None

    async def saved(self) -> dict[str, Any]:
        """Fetch, verify and publish; raises `Busy` where the snapshot is not ready."""
        artifacts = self.run.artifacts
        key = f"{self.run.command.key}:{self.asset.bn}"
        self.size = await self._told_size() if self.wanted.check_size else None
        async with artifacts.writer(self.destination, check=self._check, size=self.size, resume_key=key) as writer:
            await self._receive(writer)
            await self._verify(writer)
            published = await writer.publish(self._manifest())
        return self._told(published)

    # The bytes

    async def _receive(self, writer: Writer) -> None:
        partial = writer.partial
        try:
            async with self.barometerit.download(self.asset.bn, headers=_rest_of(partial)) as download:
                await self._take(writer, partial, download)
        except (NotFound, Busy) as error:
            raise await unfinished(self.run, self.asset, error) from None
        except Invalid as error:
            if error.status not in {412, 416} or partial is None:
                raise
            await writer.restart()  # it is shorter than what is here, or another version
            await self._receive(writer)

    async def _take(self, writer: Writer, partial: Partial | None, download: Download) -> None:
        if download.status in {202, 204}:
            raise Busy(after=download.after, status=download.status)
        total = await self._begin(writer, partial, download)
        resumable = _can_be_continued(download, self.destination)
        ready, breath = False, writer.bytes + BREATHS
        known = OVERLAP if self.continued_at else 0
        async for chunk in download.chunks():
            if not ready:
                ready = True
                await finished(self.run, self.asset)
            await writer.write(chunk[known:])
            known = max(known - len(chunk), 0)
            if writer.bytes >= breath:
                breath += BREATHS
                self.run.progress(writer.bytes, total)
                if resumable:
                    await self.run.breathe()
        if not ready:
            raise Busy
        if total is not None and writer.bytes != total:
            came = writer.bytes
            await writer.restart()  # it ended as if it were whole: nothing to build upon
            raise Unanswered(f"The snapshot {self.asset.bn} has {total} bytes, and {came} came.")

    async def _begin(self, writer: Writer, partial: Partial | None, download: Download) -> int | None:
        """Go on from what is there, or begin anew; gives the bytes that there are to be, where the answer tells."""
        self.content_type = download.headers.get("Content-Type", "")
        charset = _CHARSET.search(self.content_type)
        self.encoding = charset[1] if charset else "utf-8"
        as_it_is = download.headers.get("Content-Encoding", "identity").strip().lower() in {"", "identity"}
        if download.status == 206:
            rest = _rest(partial, download) if as_it_is else None
            if partial is None or rest is None:
                await writer.restart()
                raise Unanswered(f"A part of the snapshot {self.asset.bn} came that is not the one asked for.")
            self.continued_at = partial.offset
            return rest
        self.continued_at = 0
        await writer.restart(download.headers.get("ETag") if as_it_is else None)
        length = download.headers.get("Content-Length", "") if as_it_is else ""
        return int(length) if length.isascii() and length.isdigit() else None

    # Whether they are all, and as they should be

    def _check(self) -> Check:
        return _Late(self._format, lambda: self.encoding, lambda: self.size)

    def _format(self) -> Format | None:
        """How the file is verified: by what was asked for, else its media type, else the destination's ending."""
        told = next((format for format, known in MEDIA_TYPES.items() if known == self._media_type()), None)
        return self.asset.format or told or format_of(self.destination)

    def _media_type(self) -> str:
        return self.content_type.partition(";")[0].strip().lower()

    async def _verify(self, writer: Writer) -> None:
        found = await writer.finish()
        problem = found.problem
        # Any text is a CSV of one column, any line a heading; what has both more is a report whatever its label says.
        unproven = self._format() is None or found.columns == 1 or found.rows == 0
        if problem is None and unproven and self._media_type() in _PAGES:
            problem = f"It came as {self._media_type()}: a page, and no report."
        if problem is None and self.size is not None and self.size != writer.bytes:
            problem = f"barometerIT gives its size as {self.size} bytes, and {writer.bytes} came."
        if problem is None:
            return
        said = f"The snapshot {self.asset.bn} is not whole: {problem}"
        if await self._came_so_before(f"{writer.bytes} {problem}") >= SAME_WAY - 1:
            raise ContractBroken(f"{said} It came so {SAME_WAY} times.{self._remedy()}")
        raise Unanswered(said)

    async def _came_so_before(self, way: str) -> int:
        """Count the downloads that were wrong in this way, and this one: attempts may fail for other reasons."""
        mark = hashlib.sha256(way.encode()).hexdigest()[:16]
        before = sum(self.run.kept(f"wrong:{mark}:{nth}") is not None for nth in range(SAME_WAY))

        async def came() -> bool:
            return True

        await self.run.step(f"wrong:{mark}:{min(before, SAME_WAY - 1)}", came)
        return before

    def _remedy(self) -> str:
        if self.size is None:
            return ""
        return " If that size is no number of bytes, set check_size to false or the operation report.size right."

    async def _told_size(self) -> int | None:
        """
        Ask for the size, which is optional; None where there is no such operation (its path is assumed) or no number.

        Asked before the download, so that a vendor that wants us to wait says so before it has sent everything; and
        once, so that the attempts are left to the download.
        """
        try:
            return await self.barometerit.report_size(self.asset.bn, once=True)
        except Unavailable as error:
            if error.after is not None:
                raise
            said = error.message
        except (NotFound, Invalid, Forbidden, Conflict, ContractBroken, Busy, Unanswered) as error:
            said = error.message
        if self.run.log is not None:
            self.run.log.info("report.size_unknown", reason=said)
        return None

    # What is told of it

    def _manifest(self) -> dict[str, Any]:
        return {**self._facts(), "saved_at": self.run.now().isoformat(), "attempts": self.run.attempt}

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"asset_bn": self.asset.bn}
        if self.asset.report_bn is not None:
            facts |= {"report_bn": self.asset.report_bn, "generated_at": self.asset.since.isoformat()}
        if (format := self._format()) is not None:
            facts["format"] = format
        return {**facts, "content_type": self.content_type, "size_checked": self.size is not None}

    def _told(self, published: Published) -> dict[str, Any]:
        result: dict[str, Any] = {
            **self._facts(),
            "destination": published.destination,
            "bytes": published.bytes,
            "sha256": published.sha256,
            "manifest": f"{published.destination}.manifest.json",
        }
        if published.rows is not None:
            result |= {"rows": published.rows, "columns": published.columns}
        if self.continued_at:
            result["continued_at"] = self.continued_at
        return result


class _Late:
    """
    A check that is chosen when the first bytes come: only the answer's headers tell format and encoding.

    A last newline may be lacking (RFC 4180, 2.2) where barometerIT told how many bytes there are, and these came.
    """

    def __init__(
        self, format: Callable[[], Format | None], encoding: Callable[[], str], told: Callable[[], int | None]
    ) -> None:
        self._format = format
        self._encoding = encoding
        self._told = told
        self._bytes = 0
        self._check: Check | None = None

    def feed(self, data: bytes) -> None:
        """See the next bytes."""
        self._bytes += len(data)
        if self._check is None:
            format = self._format()
            self._check = _Unchecked() if format is None else _CHECKS[format](encoding=self._encoding())
        self._check.feed(data)

    def finish(self) -> Findings:
        """Tell what was found."""
        found = Findings() if self._check is None else self._check.finish()
        return replace(found, problem=None) if found.unended and self._bytes == self._told() else found


class _Unchecked:
    """The check of a format that nobody knows."""

    def feed(self, data: bytes) -> None:
        """See nothing."""

    def finish(self) -> Findings:
        """Find nothing."""
        return Findings()


def format_of(destination: Destination) -> Format | None:
    """Give the format that a destination's ending names."""
    return next((format for format in get_args(Format) if destination.ending == f".{format}"), None)


def _rest_of(partial: Partial | None) -> Mapping[str, str]:
    """Ask for what is missing, but only of the very same version (RFC 9110, 13.1.5 and 14.2)."""
    if partial is None:
        return {}
    return {"Range": f"bytes={partial.offset - OVERLAP}-", "If-Range": partial.validator}


def _rest(partial: Partial | None, download: Download) -> int | None:
    """
    Give the bytes of the whole, where an answer is the rest of the very version that was begun; else None.

    A server that knows Range and not If-Range sends the rest of whatever is there now (RFC 9110, 15.3.7.3).
    """
    came = _CONTENT_RANGE.fullmatch(download.headers.get("Content-Range", "").strip())
    if partial is None or came is None or download.headers.get("ETag") != partial.validator:
        return None
    return int(came[2]) if int(came[1]) == partial.offset - OVERLAP else None


def _can_be_continued(download: Download, destination: Destination) -> bool:
    """Whether a download that is parked now would go on later where it was."""
    etag = download.headers.get("ETag", "W/")
    return (
        destination.scheme == "file"
        and not etag.startswith("W/")
        and download.headers.get("Accept-Ranges", "").strip().lower() == "bytes"
    )

"""
Files that become documents in barometerIT: entities of type AST.

That there is such an upload is documented (barometerit.txt, "Reporting Service"), its path and form are not: taken to
be `POST /documents` with the file as a form's part (RFC 7578). What an interrupted upload made is found by its name
among the documents of these days.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from tasks.barometerit import creations, wire
from tasks.barometerit.endpoints import DOCUMENT_UPLOAD

if TYPE_CHECKING:
    from tasks.barometerit.client import Barometerit, Object, Written
    from worker.destinations import Destination
    from worker.run import Run

UPLOADING: Final = timedelta(minutes=10)
"""How long one upload may take."""

_CONTENT_TYPES: Final = {".csv": "text/csv", ".json": "application/json", ".xml": "application/xml"}


async def upload(run: Run, barometerit: Barometerit, name: str, source: Destination) -> Object:
    """Make a document of a file, at most once in effect; gives `bn`, `name`, `bytes`, `how`, `saved` and `proposed`."""

    async def length() -> int:
        return sum([len(chunk) async for chunk in run.artifacts.stream(source)])

    size = await run.step("size", length)  # asked first: what is not there is no upload

    async def send() -> Written:
        boundary = f"planrelay-{run.command.key[:40]}"
        part = barometerit.named(wire.DOCUMENT_FORM, DOCUMENT_UPLOAD).names["file"][0]
        head, tail = _head(boundary, part, name, source), f"\r\n--{boundary}--\r\n".encode()

        async def form() -> AsyncIterator[bytes]:
            yield head
            async for chunk in run.artifacts.stream(source):
                yield chunk
            yield tail

        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(head) + size + len(tail)),
        }
        return await barometerit.upload_document(form, headers, UPLOADING)

    made = await creations.make(
        run,
        noun="document",
        wanted={"name": name},
        match_on=None,
        default=("name",),
        look=creations.made_lately(run, barometerit, wire.DOCUMENT),
        send=send,
    )
    shown: Object = {key: made[key] for key in ("bn", "how", "saved", "proposed") if key in made}
    return {**shown, "name": name, "bytes": size}


def _head(boundary: str, part: str, name: str, source: Destination) -> bytes:
    """Begin a form with one file, whose name is the document's (RFC 7578, 4.2)."""
    kind = _CONTENT_TYPES.get(source.ending, "application/octet-stream")
    return (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(part)}"; filename="{_quoted(name)}"\r\n'
        f"Content-Type: {kind}\r\n\r\n"
    ).encode()


def _quoted(text: str) -> str:
    """Write a name as browsers do (WHATWG HTML, multipart/form-data): quotes and line ends percent-encoded."""
    return re.sub(r'["\r\n]', lambda found: f"%{ord(found[0]):02X}", text)

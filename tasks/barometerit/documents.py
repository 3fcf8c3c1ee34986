"""
Files that become documents in barometerIT: entities of type AST.

That there is such an upload is documented (barometerit.txt, "Reporting Service"), its path and form are not: taken to
be `POST /documents` with the file as a form's part (RFC 7578). What an interrupted upload made is found by its name
among the documents of these days.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from tasks.barometerit import models
from tasks.barometerit.client import DOCUMENT_UPLOAD
from tasks.barometerit.creations import made_lately, make

if TYPE_CHECKING:
    from tasks.barometerit.client import Barometerit, Object, Written
    from worker.destinations import Destination
    from worker.run import Run

LARGEST: Final = 64 * 1024 * 1024
"""Bytes of a file that is uploaded: it is held in memory while it is sent."""

_CONTENT_TYPES: Final = {".csv": "text/csv", ".json": "application/json", ".xml": "application/xml"}


async def upload(run: Run, barometerit: Barometerit, name: str, source: Destination) -> Object:
    """Make a document of a file, at most once in effect; gives `bn`, `name`, `bytes`, `how`, `saved` and `proposed`."""

    async def send() -> Written:
        content = await run.artifacts.read(source, max_bytes=LARGEST)
        part = barometerit.named(models.DOCUMENT_FORM, DOCUMENT_UPLOAD).names["file"][0]
        return await barometerit.upload_document(*form(part, name, source, content))

    wanted = {"name": name, "entity_discriminator": models.DOCUMENT}
    look = made_lately(run, barometerit, models.DOCUMENT)
    made = await make(run, noun="document", wanted=wanted, match_on=None, default=("name",), look=look, send=send)
    shown: dict[str, Any] = {"name": name}
    return {**shown, **{key: made[key] for key in ("bn", "how", "saved", "proposed") if key in made}}


def form(part: str, name: str, source: Destination, content: bytes) -> tuple[bytes, str]:
    """Give a form with one file, and its Content-Type: `name` is the file's name there (RFC 7578, 4.2)."""
    boundary = "planrelay-boundary"
    number = 0
    while boundary.encode() in content:
        number += 1
        boundary = f"planrelay-boundary-{number}"
    kind = _CONTENT_TYPES.get(source.ending, "application/octet-stream")
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(part)}"; filename="{_quoted(name)}"\r\n'
        f"Content-Type: {kind}\r\n\r\n"
    )
    return b"".join((head.encode(), content, f"\r\n--{boundary}--\r\n".encode())), (
        f"multipart/form-data; boundary={boundary}"
    )


def _quoted(text: str) -> str:
    """Write a name as browsers do (WHATWG HTML, multipart/form-data encoding): quotes and line ends percent-encoded."""
    return re.sub(r'["\r\n]', lambda found: f"%{ord(found[0]):02X}", text)

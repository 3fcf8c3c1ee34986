"""Puts an answer on the wire: whole, or broken as a fault says."""

import asyncio
import os
import socket
import struct
from collections.abc import Iterator

from aiohttp import web

from sandbox.faults import Fault
from sandbox.journal import Entry
from sandbox.wire import Answer, Stream

_BLOCK = 256 * 1024
_GARBAGE = b'{"_id": "65f0\xff, "records": [1, 2,, <html>'


def cut_off(request: web.BaseRequest, *, reset: bool) -> web.StreamResponse:
    """
    Ends the connection under the request's feet: with a TCP RST, or a FIN.

    The response it gives is never sent; aiohttp finds the connection closed and lets it be.
    """
    transport = request.transport
    if transport is not None and reset:
        # A linger time of 0 makes close() send a RST. The transport's own socket may not be reached (uvloop), but a
        # duplicate descriptor is the same socket.
        descriptor = transport.get_extra_info("socket").fileno()
        with socket.socket(fileno=os.dup(descriptor)) as twin:
            twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    elif transport is not None:
        transport.close()
    gone = web.Response()
    gone.force_close()
    return gone


async def held(request: web.BaseRequest, release: asyncio.Event) -> bool:
    """Holds a request until it is let go (True) or its client has gone (False)."""
    letting_go = asyncio.ensure_future(release.wait())
    try:
        while request.transport is not None:
            # aiohttp tells of a client that left by taking the transport away, and by no event.
            done, _ = await asyncio.wait((letting_go,), timeout=0.1)
            if done:
                return True
        return False
    finally:
        letting_go.cancel()


async def transmit(
    request: web.BaseRequest,
    answer: Answer,
    entry: Entry,
    fault: Fault | None = None,
    release: asyncio.Event | None = None,
) -> web.StreamResponse:
    """
    Sends the answer, mangled if the fault is one that mangles; writes status and bytes into the journal's entry.

    A truncated body that is to hang does so until `release`.
    """
    entry.status = answer.status
    body = answer.body
    match fault.kind if fault else None:
        case "malformed":
            body = fault.body if fault and fault.body is not None else _GARBAGE
        case "short" if fault:
            body = _shortened(body, fault.fraction)
        case "truncate" if fault:
            return await _truncated(request, answer, entry, fault, release)
    if isinstance(body, bytes):
        entry.sent = len(body)
        return web.Response(status=answer.status, body=body, headers=answer.headers)
    response = _head(answer, body.length, chunked=body.chunked)
    await response.prepare(request)
    await _pour(response, body, body.length, entry)
    if request.transport is None:
        return cut_off(request, reset=False)
    return response


def _head(answer: Answer, length: int, *, chunked: bool) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    if chunked:
        response.enable_chunked_encoding()
    else:
        response.content_length = length
    return response


def _shortened(body: bytes | Stream, fraction: float) -> bytes | Stream:
    if isinstance(body, bytes):
        return body[: int(len(body) * fraction)]
    return Stream(int(body.length * fraction), body.blocks, rate=body.rate, chunked=body.chunked)


async def _truncated(
    request: web.BaseRequest, answer: Answer, entry: Entry, fault: Fault, release: asyncio.Event | None
) -> web.StreamResponse:
    body = answer.body
    whole = Stream(len(body), lambda start, stop: iter((body[start:stop],))) if isinstance(body, bytes) else body
    response = _head(answer, whole.length, chunked=whole.chunked)
    response.force_close()
    await response.prepare(request)
    await _pour(response, whole, int(whole.length * fault.fraction), entry)
    if fault.end == "hang" and release is not None:
        await held(request, release)
    cut_off(request, reset=fault.end == "reset")
    return response


async def _pour(response: web.StreamResponse, body: Stream, stop: int, entry: Entry) -> None:
    """Sends the body's bytes up to `stop`, at its rate; ends early where the client has gone."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        for block in _pieces(body, stop):
            await response.write(block)
            entry.sent += len(block)
            if body.rate is not None and (ahead := entry.sent / body.rate - (loop.time() - began)) > 0:
                await asyncio.sleep(ahead)
    except ConnectionError:
        return


def _pieces(body: Stream, stop: int) -> Iterator[bytes]:
    for block in body.blocks(0, stop):
        if len(block) <= _BLOCK:
            yield block
        else:
            for start in range(0, len(block), _BLOCK):
                yield block[start : start + _BLOCK]

"""The control API: the sandbox's own methods over HTTP, under /_sandbox/."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from aiohttp import web

from sandbox.journal import Entry
from sandbox.wire import JSON, Object, encode

ROUTES: Mapping[tuple[str, str], str] = {
    ("GET", "/"): "summary",
    ("POST", "/configure"): "configure",
    ("GET", "/configuration"): "configuration",
    ("POST", "/seed"): "seed",
    ("GET", "/state"): "state",
    ("GET", "/count"): "count",
    ("GET", "/duplicates"): "duplicates",
    ("POST", "/tokens/invalidate"): "invalidate_tokens",
    ("GET", "/digest"): "digest",
    ("POST", "/reset"): "reset",
    ("GET", "/faults"): "faults.rules",
    ("POST", "/faults"): "faults.add",
    ("DELETE", "/faults"): "faults.remove",
    ("POST", "/faults/mix"): "faults.mix",
    ("POST", "/faults/release"): "faults.release",
    ("GET", "/journal"): "journal.entries",
    ("DELETE", "/journal"): "journal.clear",
    ("GET", "/journal/count"): "journal.count",
    ("GET", "/journal/counts"): "journal.counts",
    ("GET", "/journal/seen"): "journal.seen",
    ("GET", "/journal/in_flight"): "journal.in_flight",
    ("GET", "/journal/peak"): "journal.peak",
}
_NUMBERS = frozenset({"first", "count", "limit", "status", "since", "id"})
_FLAGS: Mapping[str, bool] = {"true": True, "false": False}


@dataclass(frozen=True)
class Address:
    """How a method is reached over HTTP."""

    method: str
    path: str


ADDRESSES: Mapping[str, Address] = {name: Address(*route) for route, name in ROUTES.items()}


async def control(sandbox: Any, request: web.BaseRequest, path: str) -> web.StreamResponse:
    """Answers one request of the control API; a 400 says in a sentence what is wrong."""
    name = ROUTES.get((request.method, path or "/"))
    if name is None:
        ways = ", ".join(f"{method} /_sandbox{way}" for method, way in ROUTES)
        return _json({"error": f"there is no {request.method} /_sandbox{path}; there are {ways}"}, 404)
    try:
        if name == "faults.remove" and "id" not in request.rel_url.query:
            name = "faults.clear"
        value = attrgetter(name)(sandbox)(**await _arguments(request))
    except (ValueError, TypeError) as error:
        return _json({"error": str(error)}, 400)
    if name == "journal.entries":
        value = [entry.to_json() for entry in value]
    return _json(value)


async def _arguments(request: web.BaseRequest) -> Object:
    if request.method == "POST":
        said = json.loads(await request.read() or b"{}")
        if not isinstance(said, dict):
            raise ValueError("the body must be a JSON object")  # answered like any other wrong argument
        return said
    return {name: _read(name, value) for name, value in request.rel_url.query.items()}


def _read(name: str, value: str) -> JSON:
    if name in _NUMBERS:
        return int(value)
    return _FLAGS.get(value.lower(), value) if name == "answered" else value


def _json(value: JSON, status: int = 200) -> web.Response:
    return web.Response(status=status, body=encode(value), content_type="application/json")


def entries(shown: list[Object]) -> list[Entry]:
    """The journal's entries as GET /_sandbox/journal shows them."""
    return [Entry.from_json(one) for one in shown]

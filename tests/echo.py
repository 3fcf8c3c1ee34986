"""A vendor that repeats what it was told: credentials and all, in the words of its refusals."""

from __future__ import annotations

import html
import json
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote_plus, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping


class EchoVendor:
    """
    Listens on a free port while the `with` block lasts.

    The first part of a path says how it answers: a status, `broken` (a success that is no JSON), `redirect`, `cut`
    (an answer that ends too early), `long` (a sentence with the secrets far down). `refused-…`, `failed-…` and
    `unreadable-…` do that to the sign-in; elsewhere a sign-in is given a token of its own, kept in `tokens`.
    """

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.asked: list[str] = []
        vendor = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                vendor.respond(self, body)

            do_GET = do_POST = answer  # noqa: N815 - the standard library's names

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def respond(self, request: BaseHTTPRequestHandler, body: str) -> None:
        """Answer as the path's first part says."""
        path = urlsplit(request.path).path
        how, _, rest = path[1:].partition("/")
        self.asked.append(path)
        form = "urlencoded" in request.headers.get("Content-Type", "")
        said = f"{request.headers.get('Authorization')} {body} {unquote_plus(body) if form else ''}"
        if rest.endswith(("token", "login")):
            match how.partition("-")[0]:
                case "refused":
                    return self._say(request, 401, self._words(said))
                case "failed":
                    return self._say(request, 500, self._words(said))
                case "unreadable":
                    return self._say(request, 200, f"<p>{said}</p>")
            token = f"session-{uuid.uuid4().hex}"
            self.tokens.append(token)
            return self._say(request, 200, json.dumps({"id_token": token, "access_token": token}))
        how = how.rpartition("-")[2]
        match how:
            case "broken":
                return self._say(request, 200, f"<html>{said}")
            case "redirect":
                return self._say(
                    request, 302, "", headers={"Location": f"https://elsewhere.example/?{said.rsplit(maxsplit=1)[-1]}"}
                )
            case "cut":
                return self._say(request, 500, self._words(said), short=True)
            case "long":
                return self._say(request, 400, self._words("x" * 480 + said + "y" * 9_000))
            case "429":
                return self._say(request, 429, self._words(said), headers={"Retry-After": "86400"})
        return self._say(request, int(how), self._words(said))

    def _words(self, said: str) -> str:
        return json.dumps({"message": f"Refused: {said}", "page": f"<p>{html.escape(said)}</p>", "inner": said})

    def _say(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        body: str,
        *,
        short: bool = False,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        raw = body.encode()
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, "".join(each for each in value if " " < each <= "~"))
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(raw) + (100 if short else 0)))
        request.end_headers()
        request.wfile.write(raw)
        if short:
            request.close_connection = True

"""
What a worker tells about itself: structured logs without secrets, metrics, and whether it is alive and ready.

Logs: one JSON object a line on standard error (a console renderer on a terminal), with Celery's, kombu's and aiohttp's
own records through the same pipe. Redaction is by key (`authorization`, `token`, …) and by value: wherever the text of
a configured secret, or of a token that a sign-in gave, turns up, in whatever field or traceback, as it is or encoded,
it is replaced. Tracebacks hold no local variables: those are full of secrets and of other people's data.

Metrics: contract §7, in a registry of their own. `Endpoints` serves `/metrics`, `/healthz` and `/readyz` from the loop
itself, so that a loop that stands still answers nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from datetime import timedelta
from html.entities import codepoint2name
from typing import Any, Final, Literal

import structlog
from aiohttp import web
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from worker.errors import kinds

# Else each counter and histogram brings a second series that nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call] # the library types most of itself, and not this

MASK: Final = "[redacted]"

_SECRET_KEYS: Final = re.compile(
    r"authorization|password|passwd|secret|token|cookie|api[-_]?key|stripe|credential", re.IGNORECASE
)
_SHORTEST_SECRET: Final = 4
"""Values shorter than this are not searched for: they would blank out innocent text."""


_TOKENS_KNOWN: Final = 200
"""Tokens that are remembered to be masked; the oldest is forgotten first, and has long ended by then."""

READY_PATIENCE: Final = 5.0
"""Seconds in which a worker must be able to say whether it is ready."""

_MESSAGE_KEPT: Final = 2_000
"""Characters of an error's message that are told: cut only once the secrets are out, so that no half of one stays."""


class Redactor:
    """Takes secrets out of anything that can be logged or told."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._configured = frozenset(secrets)
        self._learned: deque[str] = deque(maxlen=_TOKENS_KNOWN)
        self._pattern: re.Pattern[str] | None = None
        self._compile()

    def learn(self, secret: str) -> None:
        """Mask this one too from now on: what a sign-in gave, which no setting names."""
        if secret not in self._configured and secret not in self._learned:
            self._learned.append(secret)
            self._compile()

    def _compile(self) -> None:
        known = {secret for secret in (*self._configured, *self._learned) if len(secret) >= _SHORTEST_SECRET}
        written = map(_written, sorted(known, key=len, reverse=True))
        self._pattern = re.compile("|".join(written)) if known else None

    def message(self, text: str) -> str:
        """Give an error's message with every known secret masked, and then cut to what is told."""
        return self.text(text)[:_MESSAGE_KEPT]

    def text(self, text: str) -> str:
        """Give the text with every known secret masked."""
        return self._pattern.sub(MASK, text) if self._pattern is not None else text

    def value(self, value: Any) -> Any:
        """Give a JSON-like value with secrets masked, by key and by value."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {
                key: MASK if isinstance(key, str) and _SECRET_KEYS.search(key) and each else self.value(each)
                for key, each in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.value(each) for each in value]
        return value if value is None or isinstance(value, (int, float, bool)) else self.text(str(value))

    def __call__(self, _: Any, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        """Serve as a structlog processor."""
        return {key: MASK if _SECRET_KEYS.search(key) and value else self.value(value) for key, value in event.items()}


def _written(secret: str) -> str:
    """Give a pattern of how a text may stand in an answer that repeats it: as it is, or escaped, or escaped again."""
    return "".join(map(_letter, secret))


def _letter(letter: str) -> str:
    if letter.isascii() and letter.isalnum():
        return letter  # which nobody writes otherwise
    number = ord(letter)
    name = codepoint2name.get(number, f"#{number}")
    ways = (
        re.escape(letter),
        "".join(f"%(?:25)*{byte:02x}" for byte in letter.encode()),  # URLs and forms
        *(r"\\*".join(f"u{unit:04x}" for unit in _utf16(letter)), f"x{number:02x}"),  # JSON, Python
        f"&(?:amp;)*(?:#{number}|#x{number:x}|{name});",  # HTML
        *([r"\+"] if letter == " " else []),
    )
    return rf"\\*(?i:{'|'.join(ways)})"


def _utf16(letter: str) -> Iterator[int]:
    units = letter.encode("utf-16-be", "surrogatepass")
    return (int.from_bytes(units[at : at + 2], "big") for at in range(0, len(units), 2))


def configure_logging(redactor: Redactor, *, level: int = logging.INFO, terminal: bool | None = None) -> None:
    """Send every log record of the process, ours and the libraries', through one redacting pipe to standard error."""
    pretty = sys.stderr.isatty() if terminal is None else terminal
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.PositionalArgumentsFormatter(),
    ]
    # Turned into text or a structure ahead of the redactor: what a renderer made of it later would be shown as it is.
    errors: Any = (
        structlog.processors.format_exc_info
        if pretty
        else structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))
    )
    renderer: Any = (
        structlog.dev.ConsoleRenderer(
            colors=not os.environ.get("NO_COLOR"), exception_formatter=structlog.dev.plain_traceback
        )
        if pretty
        else structlog.processors.JSONRenderer(serializer=lambda obj, **_: json.dumps(obj, default=str))
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, errors, redactor, renderer],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    logging.captureWarnings(capture=True)
    for noisy in ("celery.worker.strategy", "celery.app.trace", "amqp", "kombu", "aiohttp.access"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
    # Our own lines skip the standard library's way, which costs as much as the rest of a command's settling.
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            errors,
            redactor,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


class Metrics:
    """The metrics of contract §7; also what the engine and the gateway tell their figures to."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        r = self.registry
        self._commands = Counter(
            "planrelay_commands", "Commands by outcome.", ["type", "connection", "outcome"], registry=r
        )
        self._duration = Histogram(
            "planrelay_command_duration_seconds",
            "From a command's first start to its outcome.",
            ["type"],
            registry=r,
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200),
        )
        self._in_flight = Gauge("planrelay_in_flight", "Commands being run.", ["connection"], registry=r)
        self._requests = Counter(
            "planrelay_http_requests",
            "Requests by status (`error` where no answer came).",
            ["system", "connection", "method", "status"],
            registry=r,
        )
        self._request_duration = Histogram(
            "planrelay_http_request_duration_seconds", "Until the whole answer is there.", ["system"], registry=r
        )
        self._points = Gauge(
            "planrelay_rate_limit_points_remaining", "Points left in the vendor's window.", ["limit_key"], registry=r
        )
        self._gate_closed = Gauge("planrelay_gate_closed", "1 while the gate is closed.", ["limit_key"], registry=r)
        self._gate_wait = Counter(
            "planrelay_gate_wait_seconds", "Time that requests waited for the gate.", ["limit_key"], registry=r
        )
        self._retries = Counter(
            "planrelay_retries", "Attempts and requests that are made again.", ["system", "reason"], registry=r
        )
        self._dead = Counter("planrelay_dead_letters", "Commands given up.", ["kind"], registry=r)
        for kind in kinds():  # a counter that begins with its first letter shows no increase, and alerts nobody
            self._dead.labels(kind)
        self._refused = Counter(
            "planrelay_publishes_refused",
            "Messages that the broker did not take: tried again, or an answer that nobody got.",
            ["to"],
            registry=r,
        )
        for to in ("exchange", "reply_to"):
            self._refused.labels(to)
        self._lag = Histogram(
            "planrelay_event_loop_lag_seconds",
            "How late the loop turns.",
            registry=r,
            buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5),
        )

    def command(self, type_: str, connection: str, outcome: str, spent: timedelta) -> None:
        """Count how a run ended; `spent` since the command's first start."""
        self._commands.labels(type_, connection, outcome).inc()
        if outcome in {"succeeded", "failed"}:
            self._duration.labels(type_).observe(spent.total_seconds())

    @contextlib.contextmanager
    def in_flight(self, connection: str) -> Iterator[None]:
        """Count a command as running for the block."""
        gauge = self._in_flight.labels(connection)
        gauge.inc()
        try:
            yield
        finally:
            gauge.dec()

    def request(self, system: str, connection: str, method: str, status: int | None, spent: timedelta) -> None:
        """Count one HTTP request; `status` None where no answer came."""
        self._requests.labels(system, connection, method, "error" if status is None else str(status)).inc()
        self._request_duration.labels(system).observe(spent.total_seconds())

    def retry(self, system: str, reason: str) -> None:
        """Count a request or a command that will be made again."""
        self._retries.labels(system, reason).inc()

    def gate_wait(self, limit_key: str, waited: timedelta) -> None:
        """Count time spent at a gate."""
        self._gate_wait.labels(limit_key).inc(max(waited.total_seconds(), 0))

    def gate(self, limit_key: str, *, closed: bool, points: float | None = None) -> None:
        """Say how a gate stands."""
        self._gate_closed.labels(limit_key).set(1 if closed else 0)
        if points is not None:
            self._points.labels(limit_key).set(points)

    def dead_letter(self, kind: str) -> None:
        """Count a dead letter."""
        self._dead.labels(kind).inc()

    def publish_refused(self, to: Literal["exchange", "reply_to"]) -> None:
        """Count a message that the broker did not take."""
        self._refused.labels(to).inc()

    def lag(self, late: timedelta) -> None:
        """Note how late the loop turned."""
        self._lag.observe(late.total_seconds())


Readiness = Callable[[], Awaitable[Mapping[str, str]]]
"""Gives what is not ready: name → reason; empty when all is well."""


class Endpoints:
    """`/metrics`, `/healthz` and `/readyz`, served by the worker's own loop."""

    def __init__(
        self, metrics: Metrics, readiness: Readiness, *, host: str, port: int, patience: float = READY_PATIENCE
    ) -> None:
        self._metrics = metrics
        self._readiness = readiness
        self._patience = patience
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen; a port that is taken (a second worker on this machine) is logged and left alone."""
        app = web.Application()
        app.router.add_get("/metrics", self._serve_metrics)
        app.router.add_get("/healthz", self._serve_health)
        app.router.add_get("/readyz", self._serve_readiness)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            structlog.get_logger("planrelay").warning(
                "telemetry.port_taken", host=self._host, port=self._port, reason=str(error)
            )

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _serve_health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _serve_readiness(self, _: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(self._patience):
                problems = dict(await self._readiness())
        except TimeoutError:
            problems = {"worker": f"it could not tell within {self._patience:g} s"}
        status = "ready" if not problems else "not ready"
        return web.json_response({"status": status, "problems": problems}, status=503 if problems else 200)

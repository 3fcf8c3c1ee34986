"""
Traces, where the extra `otel` is installed and wanted: from a command's `traceparent` to its result event.

Each run of a command is a span under the publisher's own (a new trace where it sent none), each request to a vendor a
span under the run's, each event that is published one too. The result event carries the publisher's `traceparent` on,
so that whoever reads it is in the same trace. Nothing is sent to a vendor: its systems are not part of ours.

Without the extra, or while nobody asked for traces (`OTEL_EXPORTER_OTLP_ENDPOINT`, or a provider that
`opentelemetry-instrument` set up), all of this costs a comparison.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import structlog

try:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    INSTALLED = True
except ImportError:  # the extra `otel` is not there
    INSTALLED = False

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

    from worker.message import Command
    from worker.rest import Endpoint

log = structlog.get_logger("planrelay")

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""OpenTelemetry's own variables: one of them says that traces are wanted, and where they go (OTLP over HTTP)."""


class Traced:
    """What the code that is traced says about it; says it to nobody where nothing is traced."""

    __slots__ = ("_span",)

    def __init__(self, span: Span | None) -> None:
        self._span = span

    def say(self, facts: Mapping[str, str | int | None], *, failed: str | None = None) -> None:
        """Add facts; `failed` is why it did not work."""
        if self._span is None:
            return
        self._span.set_attributes({name: value for name, value in facts.items() if value is not None})
        if failed is not None:
            self._span.set_status(trace.StatusCode.ERROR, failed)


_NOBODY: Final = Traced(None)


def start() -> Any:
    """
    Send spans where OpenTelemetry's own variables say, if they do; gives what `stop` takes.

    Call it in the process that works, never before a fork. A provider that is set already is left alone.
    """
    if not INSTALLED or _tracer() is not None or not any(os.environ.get(name) for name in ENDPOINTS):
        return None
    try:
        sdk, resources, exports, otlp = map(importlib.import_module, _SDK)
    except ImportError as error:
        log.warning("tracing.off", reason=f"{error}; install planrelay[otel]")
        return None
    name = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "planrelay"}
    provider = sdk.TracerProvider(resource=resources.Resource.create(name))
    provider.add_span_processor(exports.BatchSpanProcessor(otlp.OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider


_SDK: Final = (
    "opentelemetry.sdk.trace",
    "opentelemetry.sdk.resources",
    "opentelemetry.sdk.trace.export",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
)


def stop(provider: Any) -> None:
    """Send what is left, and end; blocks for as long as the collector takes."""
    if provider is not None:
        provider.shutdown()


@contextlib.contextmanager
def run(command: Command, *, attempt: int, broker: str) -> Iterator[Traced]:
    """Trace one run of a command, as a part of its publisher's trace."""
    tracer = _tracer()
    if tracer is None:
        yield _NOBODY
        return
    carried = {"traceparent": command.traceparent, "tracestate": command.tracestate}
    parent = TraceContextTextMapPropagator().extract({name: text for name, text in carried.items() if text})
    facts: dict[str, str | int] = {
        "messaging.system": broker,
        "messaging.operation.type": "process",
        "messaging.message.id": command.id,
        "cloudevents.event_id": command.id,
        "cloudevents.event_source": command.source,
        "cloudevents.event_type": command.type,
        "planrelay.connection": command.connection,
        "planrelay.attempt": attempt,
    }
    with _span(tracer, f"process {command.type}", trace.SpanKind.CONSUMER, facts, context=parent) as traced:
        yield traced


@contextlib.contextmanager
def request(endpoint: Endpoint, *, system: str, connection: str) -> Iterator[Traced]:
    """Trace one request to a vendor; its path is the template, without anybody's ids."""
    tracer = _tracer()
    if tracer is None:
        yield _NOBODY
        return
    facts = {
        "http.request.method": endpoint.method,
        "url.template": endpoint.path,
        "planrelay.endpoint": endpoint.name,
        "planrelay.system": system,
        "planrelay.connection": connection,
    }
    with _span(tracer, f"{endpoint.method} {endpoint.path}", trace.SpanKind.CLIENT, facts) as traced:
        yield traced


@contextlib.contextmanager
def telling(type_: str) -> Iterator[None]:
    """Trace the publishing of an event, until the broker has it."""
    tracer = _tracer()
    if tracer is None:
        yield
        return
    facts = {"messaging.operation.type": "send", "cloudevents.event_type": type_}
    with _span(tracer, f"send {type_}", trace.SpanKind.PRODUCER, facts):
        yield


@contextlib.contextmanager
def _span(
    tracer: Tracer, name: str, kind: Any, facts: Mapping[str, str | int], context: Any = None
) -> Iterator[Traced]:
    # An exception's text may hold what the vendor repeats of our secrets: its class is all that is recorded.
    with tracer.start_as_current_span(
        name, context=context, kind=kind, attributes=facts, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield Traced(span)
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(trace.StatusCode.ERROR)
            raise


def _tracer() -> Tracer | None:
    """Give the tracer, None while nobody listens to it."""
    if not INSTALLED or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    return trace.get_tracer("planrelay")

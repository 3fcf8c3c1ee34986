"""Traces: one from the publisher's `traceparent` to the result event, and nothing at all where nobody asked for it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.collector import Collector, attributes
from tests.fleet import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox import SandboxThread
    from tests.fleet import Fleet

TRACE, PUBLISHER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_a_publishers_trace_goes_through_queue_runs_and_requests_to_the_result_event(
    make_fleet: Callable[..., Fleet], sandbox: SandboxThread
) -> None:
    """Each run of a command, parked in between, is a span under its publisher's; requests and event under a run's."""
    unit = sandbox.seed("planpoint", "units", count=1)[0]
    sandbox.faults.add("status", status=429, headers={"Retry-After": "1"}, operation="unit.read", times=1)
    fleet = make_fleet(retry={"inline_wait": "0s"})
    with Collector() as collector:
        fleet.start(env=collector.environment)
        sent = fleet.send("planpoint.unit.read", "tower", {"id": unit}, traceparent=f"00-{TRACE}-{PUBLISHER}-01")
        event = fleet.wait(sent)
        spans = eventually(lambda: len(found := collector.spans()) == 5 and found, what="five spans")
    assert event["traceparent"] == f"00-{TRACE}-{PUBLISHER}-01"
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    runs = sorted(
        (span for span in spans if span.name == "process planpoint.unit.read"), key=lambda one: one.start_time_unix_nano
    )
    assert [span.parent_span_id.hex() for span in runs] == [PUBLISHER, PUBLISHER]
    assert [attributes(span)["planrelay.outcome"] for span in runs] == ["deferred", "done"]
    assert attributes(runs[1])["cloudevents.event_id"] == sent
    requests = {
        span.parent_span_id: attributes(span)["http.response.status_code"]
        for span in spans
        if span.name == "GET /api/units/{id}"
    }
    assert requests == {runs[0].span_id: 429, runs[1].span_id: 200}
    (told,) = [span for span in spans if span.name == "send planpoint.unit.read.succeeded"]
    assert told.parent_span_id == runs[1].span_id


PROGRAM = """
import asyncio, json
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from worker import tracing
from worker.message import Command
from worker.rest import Endpoint

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
command = Command(id="1", source="/s", type="vendor.thing.read", connection="acme", data={}, form="structured")
endpoint = Endpoint(name="thing.read", method="GET", path="/things/{id}", evidence="seed", source="-", replayable=True)

async def ask(status):
    with tracing.request(endpoint, system="vendor", connection="acme") as traced:
        await asyncio.sleep(0)
        if status is None:
            raise RuntimeError("the vendor repeats hunter2")
        traced.say({"http.response.status_code": status}, failed="answered 500" if status == 500 else None)

async def main():
    with tracing.run(command, attempt=2, broker="rabbitmq"):
        await asyncio.gather(ask(200), ask(500), ask(None), return_exceptions=True)

asyncio.run(main())
print(json.dumps([json.loads(span.to_json()) for span in exporter.get_finished_spans()]))
"""


def spans_of(program: str) -> list[dict[str, Any]]:
    """Run a program that sets up its own exporter, and give the spans it prints."""
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    spans: list[dict[str, Any]] = json.loads(run.stdout)
    return spans


def test_requests_side_by_side_belong_to_their_run_and_say_how_they_ended() -> None:
    """Concurrent requests are children of their command's span; what failed is marked, in no words but our own."""
    spans = spans_of(PROGRAM)
    run = next(span for span in spans if span["name"] == "process vendor.thing.read")
    asked = [span for span in spans if span is not run]
    assert run["parent_id"] is None
    assert {span["parent_id"] for span in asked} == {run["context"]["span_id"]}
    said = {
        (
            span["attributes"].get("http.response.status_code"),
            span["status"]["status_code"],
            span["attributes"].get("error.type"),
        )
        for span in asked
    }
    assert said == {(200, "UNSET", None), (500, "ERROR", None), (None, "ERROR", "RuntimeError")}
    assert "hunter2" not in json.dumps(spans)


WITHOUT = """
import sys
sys.modules["opentelemetry"] = None  # as if it were not installed
from worker import tracing
from worker.rest import Endpoint
endpoint = Endpoint(name="thing.read", method="GET", path="/", evidence="seed", source="-", replayable=True)
with tracing.request(endpoint, system="vendor", connection="acme") as traced, tracing.telling("x"):
    traced.say({"a": 1}, failed="it")
assert tracing.start() is None
tracing.stop(None)
print("[]")
"""


def test_without_the_extra_nothing_is_traced_and_nothing_breaks() -> None:
    """Where OpenTelemetry is not installed the same code runs, and asking for traces changes nothing."""
    assert spans_of(f"import os; os.environ['OTEL_EXPORTER_OTLP_ENDPOINT'] = 'http://127.0.0.1:1'\n{WITHOUT}") == []

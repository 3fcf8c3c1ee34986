"""What a worker tells about itself: metrics by name and label, readiness with its reasons, logs as lines of JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import urllib.error
import urllib.request
import warnings
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import structlog
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.faults.proxy import Proxy
from tests.fleet import eventually, free_port
from tests.worker.valkey import valkey_server
from worker.telemetry import Endpoints, Metrics, Redactor, configure_logging

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sandbox import SandboxThread
    from tests.fleet import Fleet

SECOND = timedelta(seconds=1)
PROMISED = {
    "planrelay_commands_total": {"type", "connection", "outcome"},
    "planrelay_command_duration_seconds": {"type"},
    "planrelay_in_flight": {"connection"},
    "planrelay_http_requests_total": {"system", "connection", "method", "status"},
    "planrelay_http_request_duration_seconds": {"system"},
    "planrelay_rate_limit_points_remaining": {"limit_key"},
    "planrelay_gate_closed": {"limit_key"},
    "planrelay_gate_wait_seconds_total": {"limit_key"},
    "planrelay_retries_total": {"system", "reason"},
    "planrelay_dead_letters_total": {"kind"},
    "planrelay_publishes_refused_total": {"to"},
    "planrelay_event_loop_lag_seconds": set(),
}
"""What other systems rely on."""


def ask(port: int, path: str) -> tuple[int, Any]:
    """Give an endpoint's status and JSON."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


def test_metrics_have_the_promised_names_and_labels_and_no_others() -> None:
    """Each metric once, with exactly its labels; nothing beside them but what every process tells."""
    metrics = Metrics()
    metrics.command("planpoint.unit.read", "tower", "succeeded", SECOND)
    metrics.request("planpoint", "tower", "GET", 200, SECOND)
    metrics.retry("planpoint", "unavailable")
    metrics.gate_wait("tower", SECOND)
    metrics.gate("tower", closed=True, points=3)
    metrics.lag(SECOND)
    metrics.publish_refused("reply_to")
    with metrics.in_flight("tower"):
        text = generate_latest(metrics.registry).decode()
    told: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name
            if family.type == "histogram":
                name = name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")
            told.setdefault(name, set()).update(set(sample.labels) - {"le"})
    assert {name: labels for name, labels in told.items() if not name.startswith("process_")} == PROMISED


async def test_a_worker_that_can_not_say_whether_it_is_ready_is_not() -> None:
    """Where the answer itself takes too long, /readyz says 503 and why, as JSON."""

    async def never() -> Mapping[str, str]:
        await asyncio.sleep(3600)
        return {}

    port = free_port()
    endpoints = Endpoints(Metrics(), never, host="127.0.0.1", port=port, patience=0.05)
    await endpoints.start()
    try:
        status, said = await asyncio.to_thread(ask, port, "/readyz")
        assert await asyncio.to_thread(ask, port, "/healthz") == (200, {"status": "ok"})
    finally:
        await endpoints.stop()
    assert status == 503
    assert said["status"] == "not ready"
    assert said["problems"]["worker"]


@pytest.fixture
def ways(amqp_url: str) -> Iterator[tuple[Proxy, Proxy]]:
    """Give the ways to RabbitMQ and to a state store of our own, to be cut."""
    parts = urlsplit(amqp_url)
    with (
        valkey_server() as valkey,
        Proxy((str(parts.hostname), parts.port or 5672)) as broker,
        Proxy(str(valkey.socket)) as store,
    ):
        yield broker, store


def test_a_worker_is_ready_while_broker_and_state_store_answer(
    amqp_url: str, ways: tuple[Proxy, Proxy], make_fleet: Callable[..., Fleet]
) -> None:
    """/readyz is 503 and names the broker or the state store, whichever is away, and 200 once both are back."""
    broker, store = ways
    url = amqp_url.replace(urlsplit(amqp_url).netloc.rpartition("@")[2], f"127.0.0.1:{broker.port}")
    fleet = make_fleet(url, state={"url": f"redis://127.0.0.1:{store.port}/0"})
    (worker,) = fleet.start()
    for away, name in ((store, "state"), (broker, "broker")):
        away.refuse(refusing=True)
        status, said = eventually(lambda: (found := ask(worker.port, "/readyz"))[0] == 503 and found)
        assert (status, said["status"]) == (503, "not ready")
        assert set(said["problems"]) == {name}
        assert said["problems"][name]
        assert ask(worker.port, "/healthz")[0] == 200
        away.refuse(refusing=False)
        eventually(lambda: ask(worker.port, "/readyz")[0] == 200, what=f"ready again after {name}")


@contextlib.contextmanager
def logs(capsys: pytest.CaptureFixture[str], *, terminal: bool = False) -> Iterator[list[Any]]:
    """Log as a worker does for the block; gives its lines (as they are on a terminal), which are there after it."""
    root, kept = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers, root.level
    quiet = {name: logging.getLogger(name).level for name in ("celery.worker.strategy", "kombu", "amqp")}
    lines: list[Any] = []
    logging.captureWarnings(capture=False)  # what another test left on has lost its hold of `warnings`
    configure_logging(Redactor(["s3cret-value"]), terminal=terminal)
    try:
        yield lines
    finally:
        logging.captureWarnings(capture=False)
        root.handlers = handlers
        root.setLevel(level)
        for name, before in quiet.items():
            logging.getLogger(name).setLevel(before)
        structlog.configure(**kept)
    printed = capsys.readouterr().err.splitlines()
    lines += printed if terminal else map(json.loads, printed)


def test_every_records_way_is_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """Ours, Celery's, kombu's, aiohttp's and Python's own warnings: a line of JSON each, without secrets."""
    with warnings.catch_warnings(), logs(capsys) as lines:
        warnings.simplefilter("always")
        structlog.get_logger("planrelay").warning("ours", said="s3cret-value")
        for name in ("celery.worker", "kombu.connection", "aiohttp.client"):
            logging.getLogger(name).warning("%s said %s", name, "s3cret-value")
        warnings.warn("s3cret-value\nover two lines", stacklevel=1)
    assert len(lines) == 5
    assert "s3cret" not in json.dumps(lines)
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_a_terminal_has_colours_unless_nobody_wants_them(
    no_color: str, coloured: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`NO_COLOR` is heeded, and secrets are out on a terminal, too."""
    monkeypatch.setenv("NO_COLOR", no_color)
    with logs(capsys, terminal=True) as lines:
        structlog.get_logger("planrelay").info("ours", said="s3cret-value")
        logging.getLogger("celery").warning("theirs s3cret-value")
    assert len(lines) == 2
    assert ["\x1b[" in line for line in lines] == [coloured] * 2
    assert all("[redacted]" in line for line in lines)


def test_a_traceback_is_a_structure_without_local_variables(capsys: pytest.CaptureFixture[str]) -> None:
    """Its class, its text and its frames, in our own records and in the libraries'; secrets are out of the text."""
    with logs(capsys) as lines:
        for log in (structlog.get_logger("planrelay").exception, logging.getLogger("celery").exception):
            try:
                half = "s3cret-value"[:6]
                raise ValueError(f"no s3cret-value {len(half)}")
            except ValueError:
                log("failed")
    assert len(lines) == 2
    for line in lines:
        (told,) = line["exception"]
        assert told["exc_type"] == "ValueError"
        assert told["exc_value"] == "no [redacted] 6"
        assert told["frames"]
        assert "s3cret" not in json.dumps(line)


def test_every_line_of_a_commands_life_says_whose_it_is(
    make_fleet: Callable[..., Fleet], sandbox: SandboxThread
) -> None:
    """One line at each edge, with the command's id, type, connection and attempt; also of one that is refused."""
    unit = sandbox.seed("planpoint", "units", count=1)[0]
    sandbox.faults.add("status", status=429, headers={"Retry-After": "1"}, operation="unit.read", times=1)
    fleet = make_fleet(retry={"inline_wait": "0s"})
    (worker,) = fleet.start()
    done = fleet.send("planpoint.unit.read", "tower", {"id": unit})
    fleet.wait(done)
    failed = fleet.send("planpoint.unit.read", "tower", {"id": "0123456789abcdef01234567"})
    fleet.wait(failed)
    refused = fleet.send("planpoint.unit.read", "tower", {"idd": unit})
    fleet.wait(refused)
    fleet.send("planpoint.unit.read", "tower", {"id": unit}, id=done)
    eventually(lambda: "command.repeated" in worker.log.read_text(), what=worker.tail())
    lines = [json.loads(line) for line in worker.log.read_text().splitlines() if line.startswith("{")]
    lives = [line for line in lines if line["event"].startswith("command.")]
    assert all(line["type"] == "planpoint.unit.read" and line["connection"] == "tower" for line in lives)
    told: dict[str, list[tuple[str, int]]] = {}
    for line in lives:
        told.setdefault(line["command_id"], []).append((line["event"].removeprefix("command."), line["attempt"]))
    deferred = [("started", 1), ("deferred", 1)]
    assert told[done][:2] == deferred
    assert told[done][-3:] == [("started", 1), ("done", 1), ("repeated", 1)]
    assert told[failed] == [("started", 1), ("discarded", 1)]
    assert told[refused] == [("refused", 1)]

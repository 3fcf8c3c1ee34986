"""
The demo: everything on this machine, real but for the vendors, with faults injected, in about a minute.

Stand-ins of the three APIs, an embedded Valkey and a worker, each a process of its own; a mixed load published as
another system would publish it; and an answer awaited for each command. One request in ten is answered 429 with
`Retry-After: 1`, one in twenty 503, one in a hundred is cut; half of those strike after the vendor has acted. Some
commands ask for what must fail. It ends well only if each ended as expected and nothing was made twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final, Self

import click
from kombu import Connection, Queue

from config.settings import Settings, load_settings
from sandbox import SandboxProcess
from worker import embedded, topology
from worker.app import Slices, broker_url, transport_options
from worker.bridge import process_loop
from worker.cli.screen import table
from worker.demo.book import Book
from worker.demo.load import Asked, Stock, make_load
from worker.events import Outgoing, Publisher
from worker.message import CLOUDEVENT

if TYPE_CHECKING:
    from types import FrameType

PATIENCE: Final = 240.0
"""Seconds for all answers; about forty are usual on two cores."""

LINE_EVERY: Final = 2.0
"""Seconds between two lines of progress where nobody watches a bar."""

TENANTS: Final = ("acme", "globex")
"""Each has a connection to each system, with objects, limits and a gate of its own."""

FAULTS: Final[Mapping[str, Any]] = {"throttled": 0.10, "retry_after": "1", "unavailable": 0.05, "reset": 0.01}


def run(count: int, *, seed: int) -> int:
    """Run the demo with so many commands; gives 0 if each ended as expected and nothing was made twice, else 1."""
    began = time.monotonic()
    rng = Random(seed)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_terminable())
        home = Path(tempfile.mkdtemp(prefix="planrelay-demo-"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        click.echo("Starting stand-ins of the three APIs, an embedded Valkey and a worker ...")
        vendors = stack.enter_context(SandboxProcess(latency="20ms-60ms", seed=seed))
        stocks = [_stock(vendors, tenant) for tenant in TENANTS]
        before = _objects(vendors)
        vendors.faults.mix(seed=seed, **FAULTS)
        settings = _configure(home, vendors)
        stack.callback(embedded.stop, settings.data_dir)
        worker = stack.enter_context(_worker(home))
        asked = make_load(count, stocks, rng)
        book = Book({each.id: each for each in asked})
        listener = stack.enter_context(_Listener(settings, book))
        click.echo(f"Publishing {count} commands for {len(TENANTS) * 3} connections.")
        listener.began = time.monotonic()
        process_loop().wait_for(_publish(settings, asked))
        _watch(book, worker, home)
        spent = time.monotonic() - listener.began
        wrong = book.surprises() + _made_wrong(vendors, asked, before)
        faults = vendors.journal.counts(by="fault")
        requests = vendors.journal.count()
        _report(book, wrong, spent=spent, requests=requests, faults=faults)
    click.echo(f"The whole of it took {time.monotonic() - began:.0f} s.")
    return 1 if wrong else 0


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """End by SIGTERM as by Ctrl-C, with everything put away; a second one does not cut that short."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop), signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)


def _stock(vendors: SandboxProcess, tenant: str) -> Stock:
    """Give a tenant something to read and to change."""
    (project,) = vendors.seed(
        "planpoint", "projects", 1, tenant=tenant, namespace=tenant, host_name=f"{tenant}.example"
    )
    (floor,) = vendors.seed("planpoint", "floors", 1, tenant=tenant, project=project)
    return Stock(
        tenant=tenant,
        entities=vendors.seed("barometerit", "entities", 40, tenant=tenant),
        reports=vendors.seed("barometerit", "reports", 2, tenant=tenant, rows=200),
        users=vendors.seed("planview_admin", "users", 40, tenant=tenant),
        project=project,
        floor=floor,
        units=vendors.seed("planpoint", "units", 40, tenant=tenant, floor=floor),
    )


_MADE_BY: Final = {
    "barometerit.entity.create": ("barometerit", "entities"),
    "planview_admin.user.create": ("planview_admin", "users"),
    "planpoint.unit.create": ("planpoint", "units"),
}


def _objects(vendors: SandboxProcess) -> Counter[tuple[str, str]]:
    """Count what there is at the vendors."""
    return Counter(
        {place: sum(vendors.count(*place, tenant=tenant) for tenant in TENANTS) for place in _MADE_BY.values()}
    )


def _made_wrong(vendors: SandboxProcess, asked: Sequence[Asked], before: Counter[tuple[str, str]]) -> list[str]:
    """Say what was made twice, or not at all."""
    wrong = [
        f"{each['vendor']} has {len(each['ids'])} {each['collection']} of the natural key {each['key']}."
        for each in vendors.duplicates()
    ]
    after = _objects(vendors)
    for type_, place in _MADE_BY.items():
        wanted = sum(1 for each in asked if each.type == type_ and each.fails is None)
        made = after[place] - before[place]
        if made != wanted:
            wrong.append(f"{wanted} {' '.join(place)} were to be made, and {made} were.")
    return wrong


def _configure(home: Path, vendors: SandboxProcess) -> Settings:
    """Write the demo's own settings; the caller's environment has no say."""
    lines = [
        f"data_dir = {json.dumps(str(home / 'var'))}",
        "[worker]",
        'lease = "5s"',
        'drain_timeout = "5s"',
        "metrics_port = 0",
        "[http]",
        'request_timeout = "3s"  # so that it is soon known what a create did that was cut off',
        "[retry]",
        'backoff_initial = "500ms"',
        'backoff_ceiling = "5s"',
    ]
    credentials = {
        "barometerit": 'username = "svc-relay"\npassword = "sandbox-password"',
        "planview_admin": 'client_id = "sandbox-client"\nclient_secret = "sandbox-secret"',
        "planpoint": 'token = "sandbox-token"',
    }
    for tenant in TENANTS:
        for system, secret in credentials.items():
            lines += [
                f"[connections.{tenant}-{system}]",
                f'system = "{system}"',
                f"base_url = {json.dumps(vendors.base_url(system, tenant))}",
                "max_in_flight = 16",
                secret,
            ]
    path = home / "planrelay.toml"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return load_settings(path, {})


@contextlib.contextmanager
def _worker(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run one worker; stopped warm at the end, and hard if that takes long."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PLANRELAY_")}
    environment["PLANRELAY_CONFIG"] = str(home / "planrelay.toml")
    here = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    with (home / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "worker.cli", "worker", "--hostname", "demo"],
            cwd=home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is ours to pass on
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _Listener:
    """Hears every result event from the moment it is entered."""

    def __init__(self, settings: Settings, book: Book) -> None:
        self._book = book
        self._connection = Connection(broker_url(settings), transport_options=transport_options(amqp=False))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo-listener", daemon=True)
        self.began = time.monotonic()

    def __enter__(self) -> Self:
        queue = Queue(
            f"planrelay-demo.{uuid.uuid4().hex}",
            topology.events_exchange(),
            routing_key="#",
            durable=False,
            auto_delete=True,
        )
        self._consumer = self._connection.Consumer(queue, accept=["json", CLOUDEVENT], no_ack=True)
        self._consumer.on_message = lambda message: self._book.hear(
            json.loads(message.body), time.monotonic() - self.began
        )
        self._consumer.consume()  # declared and bound: from here on nothing is missed
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(5)
        self._connection.release()

    def _run(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                self._connection.drain_events(timeout=0.2)


async def _publish(settings: Settings, asked: Sequence[Asked]) -> None:
    """Publish the load as it is, the wrong commands included; returns when the broker has all of it."""
    systems = tuple(Slices(settings.worker.include).systems)
    publisher = Publisher(broker_url(settings), systems=systems, options=transport_options(amqp=False), name="demo")
    publisher.start(asyncio.get_running_loop())
    try:
        await asyncio.gather(
            *(
                publisher.publish(
                    Outgoing(
                        exchange=topology.COMMANDS,
                        routing_key=each.type,
                        body=json.dumps(each.event).encode(),
                        properties={"content_type": CLOUDEVENT, "delivery_mode": 2, "message_id": each.id},
                    )
                )
                for each in asked
            )
        )
    finally:
        await asyncio.to_thread(publisher.stop)


def _watch(book: Book, worker: subprocess.Popen[bytes], home: Path) -> None:
    """Show how far it is until every command is answered, the patience is over or the worker is gone."""
    with _progress(len(book.asked)) as show:
        end = time.monotonic() + PATIENCE
        while not book.complete and time.monotonic() < end:
            if worker.poll() is not None:
                tail = "\n".join((home / "worker.log").read_text(errors="replace").splitlines()[-10:])
                raise click.ClickException(f"The worker ended with status {worker.returncode}; its last words:\n{tail}")
            show(book)
            time.sleep(0.1)
        show(book)


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[Book], None]]:
    if sys.stdout.isatty():
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415 - a terminal's alone

        columns = (
            BarColumn(),
            TextColumn("{task.completed} of {task.total}"),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
        )
        with Progress(*columns) as bar:
            task = bar.add_task("", total=total)
            yield lambda book: bar.update(task, completed=len(book.answers), description=_figures(book))
        return
    began = said = time.monotonic()

    def line(book: Book) -> None:
        nonlocal said
        if book.complete or time.monotonic() - said >= LINE_EVERY:
            said = time.monotonic()
            click.echo(f"{said - began:3.0f} s: {len(book.answers)} of {total} answered, {_figures(book)}")

    yield line


def _figures(book: Book) -> str:
    retries = book.total("attempts") - len(book.answers)
    return f"{book.total('deferrals')} waits that a vendor asked for, {retries} retries"


def _report(book: Book, wrong: Sequence[str], *, spent: float, requests: int, faults: Mapping[str, int]) -> None:
    click.echo()
    table(("type", "sent", "succeeded", "failed as expected", "attempts", "deferrals", "p50", "p95"), book.rows())
    click.echo()
    struck = sum(number for kind, number in faults.items() if kind not in {"None", "null", ""})
    click.echo(f"{requests} requests in {spent:.1f} s; {struck} of them met an injected fault.")
    if wrong:
        for sentence in wrong[:20]:
            click.echo(f"WRONG: {sentence}")
        if len(wrong) > 20:
            click.echo(f"WRONG: … and {len(wrong) - 20} more.")
        return
    click.echo("Every command ended as expected, and nothing was made twice.")
    click.echo()
    click.echo("Where to look next:")
    click.echo("  planrelay operations       every command type, with its HTTP method, path and evidence")
    click.echo("  planrelay schema TYPE      what a command's data must look like")
    click.echo("  planrelay sandbox          the stand-ins, to point planrelay.toml at")
    click.echo("  planrelay worker           a worker of your own; then planrelay send, status, show and dead")
    click.echo("  config/planrelay.example.toml and docs/how-it-works.md")

"""
The long runs: `make soak`. Everything that can be killed is, over and over, and the books must balance.

`SOAK=20m` is the length of the mixed run, `RATE=200` its commands a second, `SEED=1` its chance; `KILL_RUNS=3` says how
many runs of a thousand creates there are. The figures are printed; docs/reliability.md keeps some.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import statistics
import threading
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import kombu
import kombu.exceptions
import pytest

from config.values import parse_duration
from sandbox import SandboxProcess
from tests.faults.proxy import Proxy
from tests.faults.scenes import Supervisor, creates, nothing_lost_or_doubled
from tests.faults.test_kills import kill_run
from tests.fleet import SYSTEMS, Fleet, command, eventually
from worker import topology
from worker.store import SIDE_BY_SIDE
from worker.transport import KEEP_ALIVE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox import SandboxThread
    from tests.faults.rabbit import Rabbit
    from tests.faults.store import StateStore
    from tests.fleet import Worker

SEED = int(os.environ.get("SEED", "1"))
RATE = float(os.environ.get("RATE", "200"))
LENGTH = parse_duration(os.environ.get("SOAK", "20m")).total_seconds()
KILL_RUNS = int(os.environ.get("KILL_RUNS", "3"))
SENDERS = 2
STORE_CONNECTIONS = 2 * SIDE_BY_SIDE + 2
"""What a worker opens to the state store when it needs it, and keeps: for the ledger, the gates, /readyz and news."""

pytestmark = [pytest.mark.soak, pytest.mark.timeout(0)]


@pytest.mark.parametrize("seed", range(SEED, SEED + KILL_RUNS))
def test_a_thousand_creates_survive_kills(
    fleet_on: Callable[..., Fleet], sandbox: SandboxThread, seed: int, tell: Callable[[str], None]
) -> None:
    """1,000 creates, 3 workers, one killed every 2 s: 0 lost, 0 doubled."""
    began = time.monotonic()
    deaths = kill_run(fleet_on(http={"request_timeout": "2s"}), sandbox, creates_count=1000, seed=seed)
    tell(f"seed {seed}: 1,000 creates, {deaths} workers killed, {time.monotonic() - began:.0f} s, 0 lost, 0 doubled")


@pytest.mark.parametrize("seed", range(SEED, SEED + KILL_RUNS))
def test_a_thousand_creates_survive_rolling_restarts(
    fleet_on: Callable[..., Fleet], sandbox: SandboxThread, seed: int, tell: Callable[[str], None]
) -> None:
    """1,000 creates, 3 workers, redeployed one after the other until all is told: 0 lost, 0 doubled, none cut off."""
    rng = random.Random(seed)
    fleet = fleet_on(http={"request_timeout": "10s"})
    with thousand(fleet, sandbox) as (supervisor, left):
        while left():
            supervisor.redeploy()
            time.sleep(rng.uniform(0, 1))
    hows = Counter(event["data"]["result"]["how"] for event in fleet.events())
    tell(f"seed {seed}: 1,000 creates through {supervisor.deaths} redeploys, 0 lost, 0 doubled, {dict(hows)}")
    assert set(hows) == {"created"}


@pytest.mark.parametrize("seed", range(SEED, SEED + KILL_RUNS))
def test_a_thousand_creates_survive_outages(
    fleet_on: Callable[..., Fleet],
    sandbox: SandboxThread,
    rabbit_node: Rabbit,
    store: StateStore,
    seed: int,
    tell: Callable[[str], None],
) -> None:
    """1,000 creates through three restarts of RabbitMQ and two kills of Valkey, in any order: 0 lost, 0 doubled."""
    rng = random.Random(seed)

    def restart(end: Callable[[], None]) -> None:
        end()
        time.sleep(rng.uniform(0, 3))
        rabbit_node.start()

    def lose_store() -> None:
        store.kill()
        time.sleep(rng.uniform(0.5, 4))
        store.start()

    harms = [partial(restart, rabbit_node.stop)] * 2 + [partial(restart, rabbit_node.kill)] + [lose_store] * 2
    rng.shuffle(harms)
    behind = []
    with thousand(fleet_on(http={"request_timeout": "10s"}), sandbox) as (_, left):
        for harm in harms:
            time.sleep(rng.uniform(0.5, 4))
            behind.append(left())
            harm()
        began = time.monotonic()
    spent = time.monotonic() - began
    tell(f"seed {seed}: {behind} had no outcome at each harm; all told {spent:.0f} s after the last, 0 lost, 0 doubled")


@contextlib.contextmanager
def thousand(fleet: Fleet, sandbox: SandboxThread) -> Iterator[tuple[Supervisor, Callable[[], int]]]:
    """Send 1,000 creates to three workers, for half a minute's work; in the end each is told and made one object."""
    sandbox.configure("planpoint", latency="1s-3s")
    commands = [each for floor in sandbox.seed("planpoint", "floors", count=10) for each in creates(floor, 100)]
    wanted = {each["id"] for each in commands}
    with Supervisor(fleet, 3) as supervisor:
        fleet.send_all(commands)
        eventually(lambda: sandbox.journal.in_flight() >= 20, what="calls in flight")
        yield supervisor, lambda: len(wanted - {event["subject"] for event in fleet.events()})
        nothing_lost_or_doubled(fleet, sandbox, commands, within=180)


def test_a_fleet_in_trouble_keeps_its_books(
    tmp_path: Path, rabbit_node: Rabbit, store: StateStore, tell: Callable[[str], None]
) -> None:
    """Kills, restarts, cuts and outages in turn under load: each command is told once, each create makes one object."""
    with (
        SandboxProcess(latency="20ms-120ms") as vendor,
        Proxy(("127.0.0.1", rabbit_node.port)) as broker,
        Proxy(("127.0.0.1", store.port)) as state,
        Books(
            tmp_path,
            amqp=f"amqp://guest:guest@127.0.0.1:{broker.port}//",
            sandbox=vendor,
            state={"url": f"redis://127.0.0.1:{state.port}/0"},
            http={"request_timeout": "2s"},
        ) as fleet,
        Supervisor(fleet, 3) as supervisor,
    ):
        load = Load(vendor, rabbit_node.url)
        ports = {urlsplit(vendor.base_url(system)).port or 0 for system in SYSTEMS}
        watch = Watch(supervisor.workers[0], broker=broker.port, vendor=ports)
        before = watch.at_rest()
        trouble = Trouble(random.Random(SEED), supervisor, rabbit_node, store, broker, state)
        load.start()
        end = time.monotonic() + LENGTH
        while time.monotonic() < end:
            watch.look(warm=time.monotonic() > end - 0.75 * LENGTH)
            trouble.maybe()
            time.sleep(1)
        load.stop()
        stopped = time.monotonic()
        eventually(lambda: load.sent <= fleet.told.keys(), within=180, what="an event of each command")
        rest = time.monotonic() - stopped
        watch.look(warm=True)
        figures = watch.figures()
        after = watch.at_rest()
        units = vendor.count("planpoint", "units") - load.seeded
        doubled = vendor.duplicates()
    tell(
        f"{len(load.sent)} commands in {LENGTH:.0f} s ({len(load.creates)} creates), all told {rest:.0f} s later, "
        f"{vendor_requests(watch)} requests by the watched worker"
    )
    tell(f"faults: {dict(trouble.done)}; workers started again: {supervisor.deaths}")
    tell(f"outcomes: {dict(fleet.outcomes)}; events told again: {fleet.again}")
    tell(f"{figures}; at rest {before} before, {after} after (broker + vendor + rest)")
    assert {len(ids) for ids in fleet.told.values()} == {1}
    assert doubled == []
    assert units == len(load.creates)
    assert set(fleet.outcomes) == {"succeeded"}
    assert (after.broker, after.vendor) == (before.broker, 0)
    assert after.rest <= before.rest + STORE_CONNECTIONS


def vendor_requests(watch: Watch) -> int:
    """Count what the watched worker sent."""
    return int(watch.metric("planrelay_http_requests_total"))


class Books(Fleet):
    """A fleet of whose events only what must balance is kept."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.told: dict[str, set[str]] = {}
        self.outcomes: Counter[str] = Counter()
        self.again = 0
        super().__init__(*args, **kwargs)

    def _heard(self, message: Any) -> None:
        event = json.loads(message.body)
        ids = self.told.setdefault(event["subject"], set())
        if event["id"] in ids:
            self.again += 1
        else:
            error = event["data"].get("error")
            self.outcomes["succeeded" if error is None else f"{error['kind']}: {error['message'][:80]}"] += 1
        ids.add(event["id"])
        message.ack()


class Load:
    """Sends reads, updates and creates at a steady rate, each until the broker has confirmed it."""

    def __init__(self, vendor: SandboxProcess, url: str) -> None:
        self.vendor = vendor
        self.url = url
        self.units = vendor.seed("planpoint", "units", count=50)
        self.seeded = len(self.units)
        self.floor = ""
        self.sent: set[str] = set()
        self.creates: set[str] = set()
        self._rng = random.Random(SEED)
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._send, daemon=True) for _ in range(SENDERS)]

    def start(self) -> None:
        """Begin to send."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Send no more; returns when what was begun is confirmed."""
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _next(self) -> dict[str, Any]:
        with self._lock:
            chance, unit = self._rng.random(), self._rng.choice(self.units)
            if chance < 0.05:
                if len(self.creates) % 100 == 0:
                    # A create lists its project's units: in one that grew with the run, each would cost more than the
                    # one before it, and what is measured would be that.
                    (project,) = self.vendor.seed("planpoint", "projects", count=1)
                    (self.floor,) = self.vendor.seed("planpoint", "floors", count=1, project=project)
                name = f"S-{len(self.creates)}"
                made = command("planpoint.unit.create", "tower", {"floor_id": self.floor, "name": name})
                self.creates.add(made["id"])
                return made
            if chance < 0.20:
                changes = {"price": self._rng.randrange(1000)}
                return command("planpoint.unit.update", "tower", {"id": unit, "changes": changes})
            return command("planpoint.unit.read", "tower", {"id": unit})

    def _send(self) -> None:
        began, count = time.monotonic(), 0
        unsent: dict[str, Any] | None = None
        while not self._over.is_set() or unsent is not None:
            try:
                with kombu.Connection(self.url, transport_options={"confirm_publish": True}, connect_timeout=2) as link:
                    producer = kombu.Producer(link.channel())
                    while not self._over.is_set() or unsent is not None:
                        unsent = unsent or self._next()
                        producer.publish(
                            json.dumps(unsent).encode(),
                            exchange=topology.COMMANDS,
                            routing_key=unsent["type"],
                            content_type="application/cloudevents+json",
                            content_encoding="utf-8",
                            delivery_mode=2,
                        )
                        self.sent.add(unsent["id"])
                        unsent, count = None, count + 1
                        due = began + count * SENDERS / RATE
                        if time.monotonic() - due > 2:  # after an outage: no faster than before
                            began = time.monotonic() - count * SENDERS / RATE
                        time.sleep(max(0.0, due - time.monotonic()))
            except (OSError, kombu.exceptions.KombuError, *kombu.Connection(self.url).recoverable_connection_errors):
                time.sleep(0.2)


class Trouble:
    """Does one harm after the other, drawn from the seed; the first worker is left alone, to be watched."""

    def __init__(
        self, rng: random.Random, supervisor: Supervisor, rabbit: Rabbit, store: StateStore, broker: Proxy, state: Proxy
    ) -> None:
        self.done: Counter[str] = Counter()
        self._rng = rng
        self._supervisor = supervisor
        self._rabbit = rabbit
        self._store = store
        self._proxies = (broker, state)
        self._next = time.monotonic() + 15
        self._harms: dict[str, tuple[int, Callable[[], None]]] = {
            "worker killed": (8, self._kill),
            "worker redeployed": (4, self._redeploy),
            "RabbitMQ restarted": (1, lambda: self._restart_rabbit(self._rabbit.stop)),
            "RabbitMQ killed": (1, lambda: self._restart_rabbit(self._rabbit.kill)),
            "Valkey killed": (2, self._kill_store),
            "network cut": (3, self._cut),
            "network slow": (1, self._slow),
        }

    def maybe(self) -> None:
        """Do the next harm, if it is time."""
        if time.monotonic() < self._next:
            return
        names = list(self._harms)
        (name,) = self._rng.choices(names, weights=[self._harms[each][0] for each in names])
        self.done[name] += 1
        self._harms[name][1]()
        self._next = time.monotonic() + self._rng.uniform(2, 8)

    def _victim(self) -> Worker:
        return self._rng.choice(self._supervisor.workers[1:])

    def _kill(self) -> None:
        self._victim().kill()

    def _redeploy(self) -> None:
        victim = self._victim()
        if victim.process.poll() is None:
            victim.process.terminate()

    def _restart_rabbit(self, end: Callable[[], None]) -> None:
        end()
        time.sleep(self._rng.uniform(0, 3))
        self._rabbit.start()

    def _kill_store(self) -> None:
        self._store.kill()
        time.sleep(self._rng.uniform(0.5, 4))
        self._store.start()

    def _cut(self) -> None:
        proxy = self._rng.choice(self._proxies)
        proxy.refuse(refusing=True)
        time.sleep(self._rng.uniform(0.1, 3))
        proxy.refuse(refusing=False)

    def _slow(self) -> None:
        for proxy in self._proxies:
            proxy.delay = 0.05
        time.sleep(5)
        for proxy in self._proxies:
            proxy.delay = 0.0


@dataclass(frozen=True)
class Descriptors:
    """What a process holds open, by where it leads."""

    broker: int
    vendor: int
    """Connections that go with the load, and are closed when they have been idle for some seconds."""
    rest: int
    """The state store's connections, the endpoints' port, pipes and files."""

    def __str__(self) -> str:
        return f"{self.broker} + {self.vendor} + {self.rest}"


class Watch:
    """What one worker that lives all along takes: memory, descriptors, and how late its loop turns."""

    def __init__(self, worker: Worker, *, broker: int, vendor: set[int]) -> None:
        self._worker = worker
        self._broker = broker
        self._vendor = vendor
        self._proc = Path("/proc") / str(worker.process.pid)
        self._seen: list[tuple[float, float, Descriptors]] = []
        self._text = ""
        self._began = time.monotonic()
        self._ran, self._waited = self._scheduled()

    def look(self, *, warm: bool) -> None:
        """Take the figures down; those before it is warm are left out."""
        with contextlib.suppress(OSError):
            address = f"http://127.0.0.1:{self._worker.port}/metrics"
            with urllib.request.urlopen(address, timeout=2) as answer:
                self._text = answer.read().decode()
            resident = int((self._proc / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
            if warm:
                self._seen.append((self.metric("planrelay_commands_total"), resident, self.descriptors()))

    def descriptors(self) -> Descriptors:
        """Count what is open now."""
        rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        peers = {row[9]: int(row[2].partition(":")[2], 16) for row in rows}
        counted: Counter[str] = Counter()
        for link in (self._proc / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                inode = str(link.readlink()).removeprefix("socket:[").removesuffix("]")
                peer = peers.get(inode)
                counted["broker" if peer == self._broker else "vendor" if peer in self._vendor else "rest"] += 1
        return Descriptors(counted["broker"], counted["vendor"], counted["rest"])

    def at_rest(self) -> Descriptors:
        """Count what is open when nothing has come for longer than an idle connection is kept."""
        time.sleep(2 * KEEP_ALIVE + 2)
        return self.descriptors()

    def _scheduled(self) -> tuple[float, float]:
        """Give the seconds that its main thread ran, and waited for a processor though it could have run."""
        schedstat = self._proc / "task" / str(self._worker.process.pid) / "schedstat"
        ran, waited, _ = schedstat.read_text().split()
        return int(ran) / 1e9, int(waited) / 1e9

    def metric(self, name: str, label: str = "") -> float:
        """Add up a metric over its labels."""
        lines = [line for line in self._text.splitlines() if line.startswith(name) and label in line]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def figures(self) -> str:
        """Say them."""
        done, resident, descriptors = zip(*self._seen, strict=True)
        slope = statistics.linear_regression(done, resident).slope * 10_000
        half = len(self._seen) // 2
        later = statistics.linear_regression(done[half:], resident[half:]).slope * 10_000
        ran, waited = (now - before for now, before in zip(self._scheduled(), (self._ran, self._waited), strict=True))
        passed = time.monotonic() - self._began
        lags = ", ".join(f"p{share * 100:g} <= {self._lag(share) * 1000:.0f} ms" for share in (0.5, 0.95, 0.99))
        vendor, others = [one.vendor for one in descriptors], [one.broker + one.rest for one in descriptors]
        return (
            f"watched worker: {done[-1] - done[0]:.0f} commands after warm-up, RSS {resident[0]:.0f} to "
            f"{resident[-1]:.0f} MB (slope {slope:+.2f} MB per 10,000, in the second half {later:+.2f}); descriptors "
            f"{min(others)} to {max(others)} and {min(vendor)} to {max(vendor)} connections to the vendor; loop lag "
            f"{lags}, its thread ran {ran / passed:.0%} of the time and waited {waited / passed:.0%} for a processor"
        )

    def _lag(self, share: float) -> float:
        total = self.metric("planrelay_event_loop_lag_seconds_count")
        within = [
            (float(line.split('le="')[1].split('"')[0]), float(line.rpartition(" ")[2]))
            for line in self._text.splitlines()
            if line.startswith("planrelay_event_loop_lag_seconds_bucket")
        ]
        return next(bound for bound, count in within if count >= share * total)

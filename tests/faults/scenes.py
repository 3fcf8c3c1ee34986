"""What the fault tests share: a supervisor that starts workers again, the checks that nothing was lost or doubled."""

from __future__ import annotations

import random
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.fleet import Worker, command, eventually

if TYPE_CHECKING:
    from sandbox import SandboxThread
    from tests.fleet import Fleet

ROOT = Path(__file__).resolve().parents[2]


class Supervisor:
    """Keeps so many workers running, as systemd or Kubernetes would."""

    def __init__(self, fleet: Fleet, count: int, **env: str) -> None:
        self.fleet = fleet
        self.env = {"PYTHONPATH": str(ROOT), **env}
        self.workers: list[Worker] = fleet.start(count, env=self.env)
        self.deaths = 0
        self._stood = {worker.port for worker in self.workers}
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(10)

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self._stood |= {each.port for each in self.workers if each.port not in self._stood and _ready(each)}
            with self._lock:
                for place, worker in enumerate(self.workers):
                    if worker.process.poll() is not None and not self._over.is_set():
                        self.deaths += 1
                        fresh = Worker(self.fleet, f"w{len(self.fleet.workers)}", self.env)
                        self.fleet.workers.append(fresh)
                        self.workers[place] = fresh

    def kill_one(self, rng: random.Random) -> None:
        """End one that consumes, at once; the last one that does is spared, else nothing but starting is tried."""
        able = [worker for worker in self.workers if worker.process.poll() is None and worker.port in self._stood]
        if len(able) > 1:
            rng.choice(able).kill()

    def _stands(self, place: int) -> bool:
        return _ready(self.workers[place])

    def redeploy(self) -> None:
        """Stop one after the other warm, each time waiting for the one that takes its place."""
        for place in range(len(self.workers)):
            self.workers[place].terminate()
            eventually(partial(self._stands, place), within=60, what="the worker that follows")


def _ready(worker: Worker) -> bool:
    try:
        return worker.ready()
    except AssertionError:
        return False


def creates(floor: str, count: int, name: str = "U") -> list[dict[str, Any]]:
    """Give commands that create one unit each."""
    return [command("planpoint.unit.create", "tower", {"floor_id": floor, "name": f"{name}-{n}"}) for n in range(count)]


def floor_of(sandbox: SandboxThread) -> str:
    """Make a floor at the vendor."""
    return sandbox.seed("planpoint", "floors", count=1)[0]


def all_ended(fleet: Fleet, commands: list[dict[str, Any]], *, within: float) -> dict[str, dict[str, Any]]:
    """Wait until each command has its event; gives them by id. Fails where a command was told two different things."""
    wanted = {each["id"] for each in commands}

    def missing() -> set[str]:
        return wanted - {event["subject"] for event in fleet.events()}

    deadline = time.monotonic() + within
    while missing():
        late = missing()
        assert not late or time.monotonic() < deadline, f"{len(late)} of {len(wanted)} have no event, like {min(late)}"
        time.sleep(0.1)
    told: dict[str, set[str]] = {}
    for event in fleet.events():
        told.setdefault(event["subject"], set()).add(event["id"])
    assert {len(ids) for ids in told.values()} == {1}, "a command was told two different things"
    return {event["subject"]: event for event in fleet.events() if event["subject"] in wanted}


def nothing_lost_or_doubled(
    fleet: Fleet, sandbox: SandboxThread, commands: list[dict[str, Any]], *, within: float = 90
) -> None:
    """Check that each create succeeded and made one object, and that the vendor has no other."""
    events = all_ended(fleet, commands, within=within)
    failed = [event["data"]["error"] for event in events.values() if not event["type"].endswith(".succeeded")]
    assert failed == []
    assert sandbox.duplicates() == []
    assert sandbox.count("planpoint", "units") == len(commands)
    assert len({event["data"]["result"]["id"] for event in events.values()}) == len(commands)

"""Beat: what is published when, by which of several beats, and what becomes of it when something is away."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import kombu
import pytest
import redis

from config.settings import Settings, load_settings
from tests.command_line import CommandLine
from tests.fleet import eventually
from worker import embedded, topology
from worker.app import Relay, broker_url, state_url
from worker.bridge import process_loop
from worker.ledger import Key, Ledger
from worker.message import read
from worker.schedule import PREFIX, Memories, Scheduler
from worker.store import Store, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.fleet import Fleet

START = datetime(2026, 6, 1, 12, 0, 30, tzinfo=UTC)
HOURLY = {"name": "hourly", "cron": "0 * * * *", "type": "planpoint.project.mine", "connection": "tower"}


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        """Read it."""
        return self.now

    def to(self, hour: int, minute: int = 0, *, day: int = 1) -> datetime:
        """Set it."""
        self.now = datetime(2026, 6, day, hour, minute, tzinfo=UTC)
        return self.now


class Beats:
    """A Valkey with everything in it, and beats that share it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.clock = Clock()
        self._apps: list[Relay] = []
        self._beats: list[Scheduler] = []

    def settings(self, *schedules: dict[str, Any], **more: Any) -> Settings:
        """Give settings with these schedules."""
        config = self.home / "planrelay.toml"
        config.write_text(
            f'data_dir = {json.dumps(str(self.home / "var"))}\n[worker]\ninclude = ["tasks.planpoint"]\n'
            '[connections.tower]\nsystem = "planpoint"\nbase_url = "http://127.0.0.1:1"\ntoken = "sandbox-token"\n',
            "utf-8",
        )
        loaded = load_settings(config, {})
        return Settings.model_validate(
            {**dict(loaded), "connections": loaded.connections, "schedules": list(schedules), **more}
        )

    def start(self, *schedules: dict[str, Any], lock: int = 30, **more: Any) -> Scheduler:
        """Start a beat; it ticks when it is told to."""
        app = Relay(self.settings(*schedules, **more))
        app.conf.redbeat_lock_timeout = lock
        self._apps.append(app)
        beat = Scheduler(app, clock=self.clock, patience=timedelta(seconds=1))
        self._beats.append(beat)
        return beat

    def published(self) -> list[dict[str, Any]]:
        """Take the commands that were published."""
        found = []
        with kombu.Connection(broker_url(self.settings())) as connection, connection.channel() as channel:
            queue = kombu.Queue(topology.work_queue("planpoint"), no_declare=True)(channel)
            while (message := queue.get(no_ack=True)) is not None:
                found.append(json.loads(message.body))
        return found

    @property
    def redis(self) -> redis.Redis:
        """Look into the state store."""
        return redis.Redis.from_url(state_url(self.settings()), decode_responses=True)

    def close(self) -> None:
        """Stop everything."""
        for beat in self._beats:
            beat.close()
        for app in self._apps:
            client = getattr(app, "redbeat_redis", None)
            if client is not None:
                client.close()
            app.close()


@pytest.fixture
def beats(tmp_path: Path) -> Iterator[Beats]:
    """Give beats on a Valkey of their own."""
    made = Beats(tmp_path)
    with kombu.Connection(broker_url(made.settings())) as connection:
        topology.declare(connection, ["planpoint"])
    yield made
    made.close()
    embedded.stop(tmp_path / "var")


def test_a_new_schedule_begins_with_its_next_tick(beats: Beats) -> None:
    """What ticked before the schedule was there is not run; its first tick is, once, at its time."""
    beat = beats.start(HOURLY)
    assert beat.tick() == 5.0  # never longer, so that the lock is kept
    beats.clock.to(12, 59)
    beat.tick()
    assert beats.published() == []
    beats.clock.to(13)
    beat.tick()
    beat.tick()
    (command,) = beats.published()
    assert command["id"] == "hourly-20260601T130000Z"
    assert command["source"] == "/planrelay/schedule/hourly"
    assert command["type"] == "planpoint.project.mine"
    body = json.dumps(command).encode()
    assert read(body, content_type="application/json", content_encoding=None, headers={}).connection == "tower"


def test_beat_sleeps_exactly_until_what_comes_next(beats: Beats) -> None:
    """A tick less than five seconds off is met on time."""
    beat = beats.start(HOURLY)
    beat.tick()
    beats.clock.now = datetime(2026, 6, 1, 12, 59, 58, 500_000, tzinfo=UTC)
    assert beat.tick() == pytest.approx(1.5, abs=0.05)


def test_a_second_beat_stands_by_and_takes_over(beats: Beats) -> None:
    """Only one publishes; when it lets go, the other goes on where it was."""
    first, second = beats.start(HOURLY), beats.start(HOURLY)
    first.tick()
    beats.clock.to(13)
    assert second.tick() == 5.0
    assert beats.published() == []
    first.tick()
    first.close()
    assert len(beats.published()) == 1
    second.tick()
    assert beats.published() == []
    beats.clock.to(14)
    second.tick()
    assert [each["id"] for each in beats.published()] == ["hourly-20260601T140000Z"]


def test_a_beat_that_stood_still_loses_the_lock_and_stands_by(beats: Beats) -> None:
    """Its lock ran out, another leads: it notices, publishes nothing, does not end, and may lead again."""
    first, second = beats.start(HOURLY, lock=1), beats.start(HOURLY)
    first.tick()
    eventually(lambda: second.tick() is not None and second.lock is not None)  # takes what ran out
    beats.clock.to(13)
    assert first.tick() == 5.0
    assert beats.published() == []
    second.tick()
    assert len(beats.published()) == 1
    second.close()
    beats.clock.to(14)
    first.tick()
    assert [each["id"] for each in beats.published()] == ["hourly-20260601T140000Z"]


def test_two_leaders_for_a_moment_publish_the_same_command(beats: Beats) -> None:
    """Whoever runs a tick sends the same bytes, which the ledger knows for one command."""
    beat = beats.start(HOURLY)
    beat.tick()
    with beats.redis as client:
        before = client.hget(f"{PREFIX}hourly", "meta")
        beats.clock.to(13)
        beat.tick()
        client.hset(f"{PREFIX}hourly", "meta", before)
    beat.close()
    beats.start(HOURLY).tick()
    one, other = beats.published()
    assert one == other


def test_a_schedule_that_is_no_longer_configured_vanishes(beats: Beats) -> None:
    """The next leader forgets it: nothing of it stays in the store."""
    gone = {**HOURLY, "name": "gone"}
    first = beats.start(HOURLY, gone)
    first.tick()
    with beats.redis as client:
        assert client.zcard(f"{PREFIX}:schedule") == 2
        first.close()
        beats.start(HOURLY).tick()
        assert client.zrange(f"{PREFIX}:schedule", 0, -1) == [f"{PREFIX}hourly"]
        assert not client.exists(f"{PREFIX}gone")


def test_another_cron_begins_anew(beats: Beats) -> None:
    """Ticks that the schedule would have had, had it been so before, were not missed."""
    first = beats.start(HOURLY)
    first.tick()
    first.close()
    beats.clock.to(13, 30)
    second = beats.start({**HOURLY, "cron": "15 * * * *"})
    second.tick()
    assert beats.published() == []
    beats.clock.to(14, 15)
    second.tick()
    assert [each["id"] for each in beats.published()] == ["hourly-20260601T141500Z"]


@pytest.mark.parametrize(("catch_up", "ids"), [("once", ["hourly-20260604T090000Z"]), ("skip", [])])
def test_what_was_missed_while_nobody_was_there(beats: Beats, catch_up: str, ids: list[str]) -> None:
    """After three days away the last missed tick is run, or none."""
    schedule = {**HOURLY, "catch_up": catch_up}
    first = beats.start(schedule)
    first.tick()
    first.close()
    beats.clock.to(9, 30, day=4)
    second = beats.start(schedule)
    second.tick()
    second.tick()
    assert [each["id"] for each in beats.published()] == ids
    beats.clock.to(10, day=4)
    second.tick()
    assert [each["id"] for each in beats.published()] == ["hourly-20260604T100000Z"]


class TestOverlap:
    """A tick while the last run is unfinished."""

    def run_one(self, beats: Beats, overlap: str) -> tuple[Scheduler, dict[str, Any]]:
        """Publish the first command of a schedule."""
        beat = beats.start({**HOURLY, "overlap": overlap})
        beat.tick()
        beats.clock.to(13)
        beat.tick()
        (command,) = beats.published()
        return beat, command

    def claim(self, beats: Beats, command: dict[str, Any], *, finish: bool) -> None:
        """Do what a worker does with the ledger."""

        async def work() -> None:
            store = Store(connect(state_url(beats.settings())))
            ledger = Ledger(store, owner="w", lease=timedelta(seconds=30))
            asked = read(
                json.dumps(command).encode(), content_type="application/json", content_encoding=None, headers={}
            )
            key = Key(
                digest=asked.key,
                data=asked.data_digest,
                id=asked.id,
                source=asked.source,
                type=asked.type,
                connection=asked.connection,
            )
            await ledger.claim(key, generation=0, received_ms=0, reply="", run=1)
            if finish:
                await ledger.finish(key, run=1, dead=False, event=b"{}", attempts=1, deferrals=0)
            await store.close()

        process_loop().wait_for(work())

    def test_it_is_skipped(self, beats: Beats) -> None:
        """While the last command runs nothing is published; once it is done, the next tick is."""
        beat, command = self.run_one(beats, "skip")
        self.claim(beats, command, finish=False)
        beats.clock.to(14)
        beat.tick()
        assert beats.published() == []
        self.claim(beats, command, finish=True)
        beats.clock.to(15)
        beat.tick()
        assert [each["id"] for each in beats.published()] == ["hourly-20260601T150000Z"]

    def test_it_is_skipped_while_the_last_command_still_waits_in_its_queue(self, beats: Beats) -> None:
        """A command that no worker has taken is unfinished."""
        beat = beats.start(HOURLY)
        beat.tick()
        for hour in (13, 14, 15):
            beats.clock.to(hour)
            beat.tick()
        assert [each["id"] for each in beats.published()] == ["hourly-20260601T130000Z"]

    def test_a_command_that_was_refused_does_not_stop_its_schedule(self, beats: Beats) -> None:
        """The ledger never knew it and the queue is empty: there is nothing to wait for."""
        beat, _ = self.run_one(beats, "skip")  # taken from the queue, and in no ledger
        beats.clock.to(14)
        beat.tick()
        assert [each["id"] for each in beats.published()] == ["hourly-20260601T140000Z"]

    def test_it_queues_up_where_the_schedule_says_so(self, beats: Beats) -> None:
        """With `overlap = "queue"` each tick is published."""
        beat, command = self.run_one(beats, "queue")
        self.claim(beats, command, finish=False)
        beats.clock.to(14)
        beat.tick()
        assert [each["id"] for each in beats.published()] == ["hourly-20260601T140000Z"]


def test_a_store_that_is_away_does_not_end_beat(beats: Beats, free_port: int) -> None:
    """Nothing is published without a lock; beat looks again after five seconds."""
    beat = beats.start(HOURLY, state={"url": f"redis://127.0.0.1:{free_port}/0"})
    assert beat.tick() == 5.0
    assert beat.tick() == 5.0
    beat.close()


def test_a_tick_waits_for_a_broker_that_is_away(beats: Beats, free_port: int) -> None:
    """What could not be published stays due, and is published when the broker is back."""
    state = {"url": state_url(beats.settings())}
    away = beats.start(HOURLY, broker={"url": f"redis://127.0.0.1:{free_port}/0"}, state=state)
    away.tick()
    beats.clock.to(13)
    assert away.tick() == 5.0
    away.close()
    back = beats.start(HOURLY)
    back.tick()
    assert [each["id"] for each in beats.published()] == ["hourly-20260601T130000Z"]


def test_a_schedule_that_makes_no_sense_stops_no_other(beats: Beats) -> None:
    """An unknown type or invalid data is said once and left out."""
    unknown = {**HOURLY, "name": "unknown", "type": "planpoint.unit.raed"}
    invalid = {**HOURLY, "name": "invalid", "type": "planpoint.unit.read"}
    beat = beats.start(unknown, HOURLY, invalid)
    assert list(beat.schedule) == ["hourly"]
    beat.tick()
    beats.clock.to(13)
    beat.tick()
    assert len(beats.published()) == 1


def test_what_is_remembered_can_be_listed(beats: Beats) -> None:
    """`planrelay schedule list` reads what beat wrote: the last run, and what became of the last tick."""
    beat = beats.start(HOURLY)
    beat.tick()
    beats.clock.to(13)
    beat.tick()
    (schedule,) = beats.settings(HOURLY).schedules
    with beats.redis as client:
        memory = Memories(client).load(schedule)
        assert memory is not None
        assert memory.run == memory.since == datetime(2026, 6, 1, 13, tzinfo=UTC)
        assert memory.outcome == "published"
        client.hset(f"{PREFIX}hourly", "meta", "{")
        assert Memories(client).load(schedule) is None, "what can't be read is as if it were not there"


def test_beats_answer_pings_and_end_with_0(
    make_fleet: Callable[..., Fleet],
    broker: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`celery inspect ping` hears the leader and the one that stands by; SIGTERM ends both well."""
    fleet = make_fleet(broker)
    planrelay = CommandLine(fleet.config, monkeypatch, capsys)
    with planrelay.start("beat", "--hostname", "one") as one, planrelay.start("beat", "--hostname", "two") as two:
        ping = [sys.executable, "-m", "celery", "-A", "worker", "inspect", "ping", "--timeout", "2", "--json"]

        def pinged() -> set[str]:
            run = subprocess.run(
                ping, check=False, env=planrelay.environment(), cwd=fleet.home, capture_output=True, text=True
            )
            return set(json.loads(run.stdout)) if run.returncode == 0 else set()

        eventually(lambda: len(pinged()) == 2, within=60, what="pongs of two beats")
        for beat in (one, two):
            beat.send_signal(signal.SIGTERM)
        logs = [beat.communicate(timeout=30)[1] for beat in (one, two)]
    assert [one.returncode, two.returncode] == [0, 0], logs
    said = [json.loads(line)["event"] for log in logs for line in log.splitlines() if line.startswith("{")]
    assert "beat.leads" in said
    assert "beat.stands_by" in said
    with redis.Redis.from_url(fleet.state) as client:
        assert not client.exists(f"{PREFIX}:lock")

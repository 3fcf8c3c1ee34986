"""The loop pool without a broker: on a hub of kombu's that the test drives; in workers whose transport has none."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from celery.concurrency.base import BasePool
from celery.contrib.testing.worker import start_worker
from celery.exceptions import SoftTimeLimitExceeded, WorkerLostError, WorkerShutdown, WorkerTerminate
from celery.worker import state
from kombu.asynchronous import Hub

from config.settings import load_settings
from worker.app import make_app
from worker.bridge import await_
from worker.poller import LoopPoller
from worker.pool import LoopConsumer, LoopPool, coroutine_task, current

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass
class Told:
    """What Celery's request would hear of one job, in order."""

    heard: list[tuple[Any, ...]] = field(default_factory=list)

    def options(self) -> dict[str, Any]:
        """Give the callbacks as Celery's request passes them."""
        return {
            "accept_callback": lambda pid, _time: self.heard.append(("accepted", pid)),
            "callback": lambda outcome: self.heard.append(("success", outcome)),
            "error_callback": lambda info: self.heard.append(("error", type(info.exception.exc))),
            "timeout_callback": lambda soft, limit: self.heard.append(("timeout", soft, limit)),
        }

    def words(self) -> list[str]:
        """Give the kinds alone."""
        return [each[0] for each in self.heard]


class Bench:
    """A pool on a hub, turned by the test."""

    def __init__(self, *, limit: int = 10, **conf: Any) -> None:
        self.app = Celery("bench", broker="memory://localhost", set_as_current=False)
        self.app.conf.update({"planrelay_drain_timeout": 5} | conf)
        self.pool = LoopPool(limit, threads=False, app=self.app, initargs=(self.app, "bench@test"))
        self.hub = Hub()
        # Without a descriptor a hub only sleeps; a worker has its broker's.
        self._pair = socket.socketpair()

    def start(self) -> None:
        """Start the pool and give it the hub, as the worker does."""
        self.pool.start()
        self.hub.add_reader(self._pair[0].fileno(), lambda: None)
        self.pool.register_with_event_loop(self.hub)

    def close(self) -> None:
        """Stop everything."""
        if not self.pool.closed:
            self.pool.stop()
        self.hub.close()
        for each in self._pair:
            each.close()

    def apply(self, call: Callable[[], Any], told: Told | None = None, **limits: float) -> Told:
        """Run a function as Celery's tracer is run; what it returns is Celery's (failed, result, runtime)."""
        told = told or Told()
        self.pool.apply_async(call, (), {}, **told.options(), **limits)
        return told

    def until(self, done: Callable[[], object], patience: float = 8.0) -> None:
        """Turn the hub until `done` says so."""
        end = time.monotonic() + patience
        while not done():
            assert time.monotonic() < end, "not in time"
            self.hub.run_once()


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Give a pool that runs on a hub."""
    bench = Bench()
    bench.start()
    yield bench
    bench.close()


def waits(seconds: float, result: Any = (0, "done", 0.0)) -> Callable[[], Any]:
    """Make a tracer that waits on the loop."""

    def call() -> Any:
        await_(asyncio.sleep(seconds))
        return result

    return call


# --- What Celery is told ----------------------------------------------------------------------------------------------


def test_a_job_is_accepted_and_then_ends_once(bench: Bench) -> None:
    """Celery hears of a job twice: accepted with its number, then its outcome."""
    told = bench.apply(waits(0.01))
    bench.until(lambda: len(told.heard) == 2)
    assert told.heard == [("accepted", 1), ("success", (0, "done", 0.0))]


def test_an_error_of_the_tracer_is_told_as_one(bench: Bench) -> None:
    """What the tracer itself raises (a body that cannot be decoded) reaches the error callback."""

    def call() -> None:
        raise LookupError("undecodable")

    told = bench.apply(call)
    bench.until(lambda: len(told.heard) == 2)
    assert told.heard[1] == ("error", LookupError)


def test_a_task_that_exits_is_a_lost_worker(bench: Bench) -> None:
    """SystemExit from a body is told as WorkerLostError, as under prefork, and nothing ends."""

    def call() -> None:
        raise SystemExit(3)

    told = bench.apply(call)
    bench.until(lambda: len(told.heard) == 2)
    assert told.heard[1] == ("error", WorkerLostError)


def test_a_terminated_job_is_told_no_more(bench: Bench) -> None:
    """After `terminate_job` no callback comes, though the body ends well in spite of its cancellation."""
    ended: list[str] = []

    async def deaf() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(30)

    def call() -> Any:
        try:
            await_(deaf())
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        ended.append("well")
        return 0, "late", 0.0

    told = bench.apply(call)
    bench.hub.run_once()
    bench.pool.terminate_job(1, 15)
    bench.until(lambda: not bench.pool.busy)
    assert told.words() == ["accepted"]
    assert ended == ["cancelled"]  # the tracer must not write down a success either


def test_terminating_a_job_that_is_gone_is_nothing(bench: Bench) -> None:
    """A number that no job has is ignored: the job may just have ended."""
    told = bench.apply(waits(0))
    bench.until(lambda: len(told.heard) == 2)
    bench.pool.terminate_job(1, 15)
    bench.pool.terminate_job(99, 15)
    assert told.words() == ["accepted", "success"]


def test_a_job_revoked_when_accepted_never_begins(bench: Bench) -> None:
    """Celery terminates from within the accept callback what was revoked while it waited."""
    began: list[str] = []
    told = Told()
    options = told.options()
    options["accept_callback"] = lambda pid, _time: bench.pool.terminate_job(pid, 15)
    bench.pool.apply_async(lambda: began.append("begun"), (), {}, **options)
    other = bench.apply(waits(0))
    bench.until(lambda: len(other.heard) == 2)
    assert (began, told.heard) == ([], [])


def test_the_soft_limit_is_told_and_raised(bench: Bench) -> None:
    """The soft limit is announced, raised in the coroutine, and leaves the task uncancelled."""

    async def body() -> str:
        try:
            await asyncio.sleep(30)
        except SoftTimeLimitExceeded:
            task = asyncio.current_task()
            assert task is not None
            await asyncio.sleep(0)
            return f"{task.cancelling()} cancellations left"
        return "unreached"

    told = bench.apply(lambda: (0, await_(body()), 0.0), soft_timeout=0.05)
    bench.until(lambda: len(told.heard) == 3)
    assert told.heard[1:] == [("timeout", True, 0.05), ("success", (0, "0 cancellations left", 0.0))]


def test_the_soft_limit_strikes_also_when_nobody_hears_the_cancellation(bench: Bench) -> None:
    """A child task that swallows the cancellation does not swallow the limit."""

    async def deaf() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(30)
        return "deaf"

    async def body() -> str:
        try:
            return await asyncio.create_task(deaf())
        except SoftTimeLimitExceeded:
            return "heard"

    told = bench.apply(lambda: (0, await_(body()), 0.0), soft_timeout=0.05)
    bench.until(lambda: len(told.heard) == 3)
    assert told.heard[2] == ("success", (0, "heard", 0.0))


def test_the_hard_limit_is_told_once_though_the_job_ends_well(bench: Bench) -> None:
    """A job that ends after its limit is told as timed out, not as a success."""

    async def deaf() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(30)
        await asyncio.sleep(0.05)

    told = bench.apply(lambda: (0, await_(deaf()), 0.0), timeout=0.05)
    bench.until(lambda: len(told.heard) == 2)
    bench.until(lambda: not bench.pool.busy)
    assert told.heard[1:] == [("timeout", False, 0.05)]


def test_a_job_that_never_ends_loses_its_place(bench: Bench) -> None:
    """Past hard limit and grace, a job that ignores everything is told as timed out and its slot is free."""
    stop = asyncio.Event()

    async def deaf() -> None:
        while not stop.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await stop.wait()

    told = bench.apply(lambda: (0, await_(deaf()), 0.0), timeout=0.05)
    bench.until(lambda: not bench.pool.busy, 10)
    assert told.heard[1:] == [("timeout", False, 0.05)]
    stop.set()
    other = bench.apply(waits(0.05))
    bench.until(lambda: len(other.heard) == 2)
    assert told.words() == ["accepted", "timeout"]


def test_limits_of_the_whole_worker_hold_where_the_task_has_none() -> None:
    """`--time-limit` and `--soft-time-limit` reach the pool as options."""
    bench = Bench()
    bench.pool.options["timeout"] = 0.05
    bench.start()
    try:
        told = bench.apply(waits(30))
        bench.until(lambda: len(told.heard) == 2)
        assert told.heard[1] == ("timeout", False, 0.05)
    finally:
        bench.close()


def test_a_callback_that_fails_stops_nothing(bench: Bench) -> None:
    """An error in Celery's own callback is logged; the slot is free and others are told."""
    options = Told().options()
    options["callback"] = lambda _: 1 / 0
    bench.pool.apply_async(waits(0), (), {}, **options)
    other = bench.apply(waits(0.02))
    bench.until(lambda: len(other.heard) == 2)
    assert not bench.pool.busy


def test_a_callback_that_meets_a_broken_connection_tells_the_hub(bench: Bench) -> None:
    """A connection error in Celery's callback comes out of the hub's poll, and so makes the consumer reconnect."""
    bench.hub.propagate_errors = (ConnectionError,)
    bench.hub._loop = None  # noqa: SLF001  a generator takes them up when it begins

    def fail(_: Any) -> None:
        raise BrokenPipeError("gone")

    bench.pool.apply_async(waits(0), (), {}, **(Told().options() | {"callback": fail}))
    with pytest.raises(BrokenPipeError):
        bench.until(lambda: False)
    other = bench.apply(waits(0))
    bench.until(lambda: len(other.heard) == 2)


def test_waiting_jobs_begin_in_order_as_slots_get_free() -> None:
    """With one slot, three jobs run one after the other; `flush` forgets those that have not begun."""
    bench = Bench(limit=1)
    bench.start()
    try:
        order: list[int] = []

        def note(number: int) -> None:
            order.append(number)
            await_(asyncio.sleep(0.01))

        for number in range(3):
            told = bench.apply(partial(note, number))
        bench.until(lambda: len(told.heard) == 2)
        assert order == [0, 1, 2]
        bench.apply(waits(0.05))
        forgotten = bench.apply(waits(0))
        bench.pool.flush()
        bench.until(lambda: not bench.pool.busy)
        assert forgotten.heard == []
    finally:
        bench.close()


# --- Hub and loop -----------------------------------------------------------------------------------------------------


def test_a_finished_job_ends_the_poll(bench: Bench) -> None:
    """Though the hub would wait for seconds, it is back within milliseconds of a job's end."""
    told = bench.apply(waits(0.05))
    began = time.monotonic()
    bench.hub.poller.poll(5)
    assert time.monotonic() - began < 0.5
    assert told.words() == ["accepted", "success"]


def test_a_call_from_another_thread_ends_the_poll(bench: Bench) -> None:
    """`call_soon` runs beside the hub, in the hub's thread, at once."""
    ran: list[int] = []
    timer = threading.Timer(0.05, bench.pool.call_soon, (lambda: ran.append(threading.get_ident()),))
    timer.start()
    began = time.monotonic()
    bench.hub.poller.poll(5)
    timer.join()
    assert time.monotonic() - began < 0.5
    assert ran == [threading.get_ident()]


def test_ready_callbacks_of_the_hub_do_not_wait(bench: Bench) -> None:
    """What was given to `hub.call_soon` in the hub's own thread is called on the next tick, not a second later."""
    bench.hub.run_once()
    called: list[float] = []
    bench.hub.on_tick.add(lambda: called or bench.hub.call_soon(lambda: called.append(time.monotonic())))
    began = time.monotonic()
    bench.until(lambda: called)
    assert called[0] - began < 0.5


def test_a_descriptor_of_the_hub_is_seen_while_coroutines_run(bench: Bench) -> None:
    """The hub hears of a readable socket at once, with jobs in flight and a loop that never rests."""
    near, far = socket.socketpair()
    heard: list[float] = []
    over = asyncio.Event()

    def hear() -> None:
        near.recv(10)
        heard.append(time.monotonic())

    bench.hub.add_reader(near.fileno(), hear)

    async def restless() -> None:
        while not over.is_set():  # noqa: ASYNC110  a loop that never rests is the point
            await asyncio.sleep(0)

    told = bench.apply(lambda: (0, await_(restless()), 0.0))
    sent: list[float] = []

    def send() -> None:
        sent.append(time.monotonic())
        far.send(b"x")

    timer = threading.Timer(0.1, send)
    timer.start()
    bench.until(lambda: heard)
    assert heard[0] - sent[0] < 0.2
    over.set()
    bench.until(lambda: len(told.heard) == 2)
    timer.join()
    bench.hub.remove(near.fileno())
    near.close()
    far.close()


def test_a_busy_broker_does_not_starve_the_loop(bench: Bench) -> None:
    """With a descriptor that is always ready, a timer of the loop still fires on time."""
    near, far = socket.socketpair()
    far.send(b"x")
    bench.hub.add_reader(near.fileno(), lambda: None)
    told = bench.apply(waits(0.05))
    began = time.monotonic()
    bench.until(lambda: len(told.heard) == 2)
    assert time.monotonic() - began < 0.5
    bench.hub.remove(near.fileno())
    near.close()
    far.close()


def test_the_loop_rests_while_only_it_is_turned(bench: Bench) -> None:
    """A descriptor that is ready while the hub is not asked (a step aside uses it) wakes nobody over and over."""
    near, far = socket.socketpair()
    bench.hub.add_reader(near.fileno(), lambda: None)
    bench.hub.run_once()
    far.send(b"x")
    turns = 0
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        bench.pool.turn(0.5)
        turns += 1
    assert turns < 10
    bench.hub.remove(near.fileno())
    near.close()
    far.close()


def test_a_fresh_poller_is_wrapped_too(bench: Bench) -> None:
    """After `hub.reset()` (a lost connection) the consumer's restart registers again, and all works as before."""
    bench.hub.run_once()
    before = bench.hub.poller
    bench.hub.reset()
    assert not isinstance(bench.hub.poller, LoopPoller)
    near, far = socket.socketpair()
    heard: list[bytes] = []
    bench.hub.add_reader(near.fileno(), lambda: heard.append(near.recv(10)))
    bench.pool.register_with_event_loop(bench.hub)
    bench.pool.register_with_event_loop(bench.hub)
    bench.hub._loop = None  # noqa: SLF001  Celery makes a new generator after a reset; a bare hub must be told
    assert isinstance(bench.hub.poller, LoopPoller)
    assert bench.hub.poller is not before
    far.send(b"x")
    told = bench.apply(waits(0.02))
    bench.until(lambda: heard and len(told.heard) == 2)
    bench.hub.remove(near.fileno())
    near.close()
    far.close()


def test_the_loop_turns_while_something_blocks_aside(bench: Bench) -> None:
    """`drive` gives the function's result; jobs go on meanwhile, and Celery hears of their end when it is over."""
    told = bench.apply(waits(0.02))
    ended: list[float] = []
    bench.pool.loop.call_later(0.05, lambda: ended.append(time.monotonic()))

    def blocking() -> tuple[float, list[str]]:
        time.sleep(0.2)
        return time.monotonic(), told.words()

    over, heard = bench.pool.drive(blocking)
    assert ended[0] < over
    assert heard == ["accepted"]
    bench.until(lambda: told.words() == ["accepted", "success"])


def test_the_lag_counts_what_was_called_in_the_same_turn(bench: Bench) -> None:
    """A beat that had to wait for another timer's callback is late by that, though the loop's own time stands still."""
    measured: list[timedelta] = []
    bench.pool.on_lag.append(measured.append)

    def block() -> None:
        due = time.monotonic()
        time.sleep(0.1)
        bench.pool._beat(due)  # noqa: SLF001  what the loop would call next

    bench.pool.loop.call_later(0.01, block)
    bench.until(lambda: any(late >= timedelta(seconds=0.1) for late in measured))


class Asking:
    """A kombu consumer whose broker takes its time, and sends a message before it has answered."""

    def __init__(self, heard: list[tuple[str, int]]) -> None:
        self.on_message: Callable[[str], None] = lambda message: heard.append((message, threading.get_ident()))
        self.asked_in: list[int] = []

    def consume(self) -> None:
        """Ask for messages."""
        self.asked_in.append(threading.get_ident())
        self.on_message("early")
        time.sleep(0.2)


class Silent:
    """A kombu connection on which nothing comes."""

    transport = SimpleNamespace(driver_type="amqp")

    def __init__(self) -> None:
        self.waited: list[float] = []

    def drain_events(self, timeout: float) -> None:
        """Wait for a message."""
        self.waited.append(timeout)
        raise TimeoutError


@pytest.fixture
def consumer(bench: Bench) -> Any:
    """Give a consumer that is about to begin, with no more of it than that takes."""
    consumer = LoopConsumer.__new__(LoopConsumer)
    consumer.pool, consumer.connection = bench.pool, Silent()
    consumer.blueprint = SimpleNamespace(send_all=lambda *_, **__: None)
    return consumer


def test_asking_for_messages_does_not_hold_the_loop_up(bench: Bench, consumer: Any) -> None:
    """It is done aside while the loop turns; a message that comes already is taken up here, and once it is over."""
    heard: list[tuple[str, int]] = []
    turned: list[float] = []
    asking = consumer.task_consumer = Asking(heard)
    taken_up = asking.on_message
    consumer.register_with_event_loop(bench.hub)
    bench.pool.loop.call_later(0.05, lambda: turned.append(time.monotonic()))

    asking.consume()
    over = time.monotonic()

    assert turned[0] < over
    assert asking.asked_in != [threading.get_ident()]
    assert asking.on_message is taken_up
    bench.until(lambda: heard == [("early", threading.get_ident())])
    asking.consume()  # for a queue that is added later: as Celery does it
    assert asking.asked_in[1:] == [threading.get_ident()]


def test_what_a_lost_connection_leaves_behind_goes_at_the_next(bench: Bench, consumer: Any) -> None:
    """Objects that hold each other are looked for when the consumer begins, and not some time or other."""
    consumer.task_consumer = Asking([])
    lost = Silent()
    lost.itself = lost  # type: ignore[attr-defined]  # as a connection and its channels
    gone = weakref.ref(lost)
    gc.disable()
    try:
        del lost
        assert gone() is not None
        consumer.register_with_event_loop(bench.hub)
        assert gone() is None
    finally:
        gc.enable()


def test_a_first_message_is_not_waited_for(bench: Bench, consumer: Any) -> None:
    """Celery would hold the loop up for it; later, whoever asks to wait does."""
    consumer.task_consumer = Asking([])
    consumer.register_with_event_loop(bench.hub)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            consumer.connection.drain_events(timeout=0.1)
    assert consumer.connection.waited == [0, 0.1]


def test_an_error_aside_is_raised_here(bench: Bench) -> None:
    """`drive` raises what the function raised, WorkerShutdown included."""

    def fail() -> None:
        raise WorkerShutdown(0)

    with pytest.raises(WorkerShutdown):
        bench.pool.drive(fail)


def test_drive_until_gives_a_coroutines_result(bench: Bench) -> None:
    """Synchronous code outside of jobs may wait for a coroutine on the pool's loop."""

    async def where() -> asyncio.AbstractEventLoop:
        await asyncio.sleep(0.01)
        return asyncio.get_running_loop()

    assert bench.pool.drive_until(where()) is bench.pool.loop


@pytest.mark.parametrize("error", [WorkerShutdown(3), WorkerTerminate(4), KeyboardInterrupt()])
def test_what_stops_the_worker_comes_out_of_the_loop(bench: Bench, error: BaseException) -> None:
    """A signal handler that raises while the loop runs raises from the hub's poll, where Celery waits for it."""

    def raise_it() -> None:
        raise error

    bench.pool.loop.call_later(0.02, raise_it)
    with pytest.raises(type(error)):
        bench.hub.poller.poll(5)
    told = bench.apply(waits(0.01))  # and the loop can be turned on
    bench.until(lambda: len(told.heard) == 2)


def test_an_exit_from_a_stray_task_is_ignored(bench: Bench) -> None:
    """`sys.exit()` in a callback or a task that nobody awaits does not end the worker."""

    def leave() -> None:
        raise SystemExit(5)

    bench.pool.loop.call_later(0.02, leave)
    told = bench.apply(waits(0.1))
    bench.until(lambda: len(told.heard) == 2)


def test_an_error_in_a_callback_of_the_loop_is_only_logged(bench: Bench) -> None:
    """A callback that fails reaches the loop's exception handler, not the hub."""
    failures: list[str] = []
    bench.pool.loop.set_exception_handler(lambda _, context: failures.append(str(context["exception"])))
    bench.pool.loop.call_soon(int, "x")
    told = bench.apply(waits(0.01))
    bench.until(lambda: len(told.heard) == 2)
    assert failures == ["invalid literal for int() with base 10: 'x'"]


def test_the_lag_is_told(bench: Bench) -> None:
    """Twice a second the pool tells how late the loop is."""
    lags: list[timedelta] = []
    bench.pool.on_lag.append(lags.append)
    bench.until(lambda: len(lags) >= 2)
    assert all(timedelta(0) <= lag < timedelta(seconds=1) for lag in lags)
    assert isinstance(bench.pool.info["loop-lag"], float)


def test_the_running_pool_can_be_found(bench: Bench) -> None:
    """`current()` gives the pool while it runs and None afterwards."""
    assert current() is bench.pool
    bench.pool.stop()
    assert current() is None


# --- Stopping ---------------------------------------------------------------------------------------------------------


def test_a_stop_waits_for_jobs_and_for_tracked_work(bench: Bench) -> None:
    """What runs ends, and so does a task of the engine's own that was tracked; then the loop is closed."""
    told = bench.apply(waits(0.1))
    work = bench.pool.track(bench.pool.loop.create_task(asyncio.sleep(0.2, "settled")))
    bench.pool.stop()
    assert told.words() == ["accepted", "success"]
    assert work.result() == "settled"
    assert bench.pool.loop.is_closed()


def test_a_stop_drops_what_has_not_begun() -> None:
    """A job that waits for a slot never begins once the worker stops: its message goes back."""
    bench = Bench(limit=1)
    bench.start()
    first, second = bench.apply(waits(0.1)), bench.apply(waits(0))
    bench.pool.stop()
    assert first.words() == ["accepted", "success"]
    assert second.heard == []
    bench.close()


def test_what_outlasts_the_patience_is_cancelled_without_an_outcome() -> None:
    """A job that does not end in time is told no more; one that ends in answer to the cancellation is."""
    bench = Bench(planrelay_drain_timeout=0.1)
    bench.start()

    async def give_back() -> str:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)
        return "given back"

    lost = bench.apply(waits(30))
    kept = bench.apply(lambda: (0, await_(give_back()), 0.0))
    bench.pool.stop()
    assert lost.words() == ["accepted"]
    assert kept.heard[1:] == [("success", (0, "given back", 0.0))]
    bench.close()


def test_a_drain_hook_may_end_jobs_itself(bench: Bench) -> None:
    """`on_drain` runs beside the waiting: what it sets in motion ends the jobs before the patience is over."""
    over = asyncio.Event()

    async def give_back() -> None:
        over.set()

    bench.pool.on_drain.append(give_back)
    told = bench.apply(lambda: (0, await_(over.wait()), 0.0))
    began = time.monotonic()
    bench.pool.stop()
    assert time.monotonic() - began < 2
    assert told.words() == ["accepted", "success"]


def test_a_hook_that_fails_does_not_spoil_the_stop(bench: Bench) -> None:
    """Later hooks still run."""
    ran: list[str] = []

    async def fail() -> None:
        raise OSError("no")

    async def work() -> None:
        ran.append("work")

    for hooks in (bench.pool.on_drain, bench.pool.on_drained, bench.pool.on_shutdown):
        hooks += [work, fail, work]
    bench.pool.stop()
    assert len(ran) == 6


def test_a_cold_stop_does_not_wait(bench: Bench) -> None:
    """`terminate` cancels what runs, and only the shutdown hooks are called."""
    ran: list[str] = []

    async def note(what: str) -> None:
        ran.append(what)

    bench.pool.on_drained.append(lambda: note("drained"))
    bench.pool.on_shutdown.append(lambda: note("shutdown"))
    told = bench.apply(waits(30))
    began = time.monotonic()
    bench.pool.terminate()
    assert time.monotonic() - began < 2
    assert told.words() == ["accepted"]
    assert ran == ["shutdown"]


# --- Transports without a hub -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["memory", "filesystem"])
def test_without_a_hub_the_loop_runs_in_a_thread(transport: str, tmp_path: Path) -> None:
    """On transports that cannot be polled the same tasks run, with their own requests, and a stop waits for them."""
    app = Celery("hubless", broker=f"{transport}://localhost", backend="cache+memory://", set_as_current=False)
    folders = {name: str(tmp_path / name) for name in ("data_folder_in", "data_folder_out", "control_folder")}
    folders["data_folder_out"] = folders["data_folder_in"]
    for folder in folders.values():
        os.makedirs(folder, exist_ok=True)  # noqa: PTH103  kombu wants strings
    app.conf.update(
        broker_transport_options=folders if transport == "filesystem" else {},
        worker_consumer="worker.pool:LoopConsumer",
        task_acks_late=True,
        planrelay_drain_timeout=5,
    )

    let_go = threading.Event()

    @app.task(name=f"who.{transport}", bind=True, shared=False)
    @coroutine_task
    async def who(self: Any, *, stays: bool = False) -> list[str]:
        before = self.request.id
        await (asyncio.to_thread(let_go.wait, 15) if stays else asyncio.sleep(0.5))
        return [before, self.request.id, threading.current_thread().name]

    # Published before anybody reads: kombu's filesystem transport may read a message that is still being written.
    results, last = [who.delay() for _ in range(20)], who.delay(stays=True)
    with start_worker(app, pool=LoopPool, concurrency=21, perform_ping_check=False, shutdown_timeout=20):
        began = time.monotonic()
        for result in results:
            assert result.get(timeout=10, disable_sync_subtasks=False) == [result.id, result.id, "planrelay-loop"]
        assert time.monotonic() - began < 8  # one after the other they take ten seconds
        assert (pool := current()) is not None
        assert pool.busy
        threading.Timer(0.3, let_go.set).start()
    assert last.get(timeout=1)[0] == last.id


def test_without_a_hub_a_stop_reaches_the_consumers_thread() -> None:
    """WorkerShutdown raised in the loop's own thread is left for Celery to raise in the thread that consumes."""
    app = Celery("hubless", broker="memory://localhost", set_as_current=False)
    pool = LoopPool(1, threads=True, app=app)
    pool.start()

    def stop() -> None:
        raise WorkerShutdown(3)

    try:
        pool.loop.call_soon_threadsafe(stop)
        end = time.monotonic() + 5
        while state.should_stop is None and time.monotonic() < end:
            time.sleep(0.01)
        assert state.should_stop == 3
        with pytest.raises(WorkerShutdown):
            state.maybe_shutdown()
    finally:
        state.should_stop = None
        pool.stop()
    assert pool.loop.is_closed()


def test_the_pool_is_celerys_kind() -> None:
    """Celery finds what it expects of a pool."""
    assert issubclass(LoopPool, BasePool)
    assert LoopPool.task_join_will_block
    assert not LoopPool.is_green


@pytest.mark.filterwarnings("ignore::celery.exceptions.DuplicateTaskNameWarning")  # of an app that another test made
def test_another_apps_engine_does_not_move_in(bench: Bench, tmp_path: Path) -> None:
    """An app of planrelay's that was made in the same process leaves a pool that is not its own alone."""
    config = tmp_path / "planrelay.toml"
    config.write_text('[broker]\nurl = "amqp://127.0.0.1:1//"\n[state]\nurl = "redis://127.0.0.1:1/0"\n')
    make_app(load_settings(config, {}))
    other = Bench(limit=1)
    other.start()
    try:
        assert other.pool.limit == 1
        assert other.pool.on_startup == bench.pool.on_startup == []
    finally:
        other.close()

"""
A Celery app of the pool's own tests, for worker processes: `celery -A tests.broker.pool_app worker`.

What it consumes from, and how, comes from the environment; what its tasks do and see goes to a file, a line each.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from celery import Celery, current_task, signals
from celery.exceptions import SoftTimeLimitExceeded
from kombu import Queue

from worker import valkey
from worker.bridge import offload
from worker.pool import coroutine_task, current

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    F = TypeVar("F", bound=Callable[..., Any])

SETTINGS: dict[str, Any] = json.loads(os.environ.get("POOL_APP", "{}"))
QUEUE = SETTINGS.pop("queue", "planrelay-test-pool")
FAIL_AT_START = SETTINGS.pop("fail_at_start", False)
DIARY = Path(os.environ.get("POOL_DIARY", os.devnull))

valkey.register()
app = Celery("pool_app", set_as_current=False)
app.conf.update(
    {
        "broker_url": os.environ.get("POOL_BROKER", "memory://"),
        "worker_pool": "worker.pool:LoopPool",
        "worker_consumer": "worker.pool:LoopConsumer",
        "worker_prefetch_multiplier": 1,
        "worker_concurrency": 100,
        "worker_hijack_root_logger": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "task_acks_late": True,
        "task_ignore_result": True,
        "task_queues": [Queue(QUEUE, durable=True)],
        "task_default_queue": QUEUE,
        "task_create_missing_queues": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_heartbeat": 10,
        "planrelay_drain_timeout": 20,
    }
    | SETTINGS
)


def note(what: str, **more: Any) -> None:
    """Write one line of the diary, at once and whole."""
    line = json.dumps({"what": what, "at": time.time(), "pid": os.getpid(), **more}) + "\n"
    with DIARY.open("a") as diary:
        diary.write(line)


def task(name: str, **options: Any) -> Callable[[F], F]:
    """Make a task of a function, as `app.task` does."""
    made: Callable[[F], F] = app.task(name=name, **options)
    return made


def on(signal: Any) -> Callable[[F], F]:
    """Connect a function to one of Celery's signals."""

    def connect(receiver: F) -> F:
        signal.connect(receiver, weak=False)
        return receiver

    return connect


@task("nap")
@coroutine_task
async def nap(seconds: float, label: str = "") -> str:
    """Sleep on the loop."""
    note("start", label=label)
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        note("cancelled", label=label)
        raise
    note("end", label=label)
    return label


@task("who", bind=True)
@coroutine_task
async def who(self: Any, seconds: float) -> None:
    """Ask several times, in several tasks and threads, whose request this is."""

    async def child() -> list[str]:
        before = self.request.id
        await asyncio.sleep(seconds)
        return [before, self.request.id, current_task.request.id]

    prerun = structlog.contextvars.get_contextvars().get("prerun")
    structlog.contextvars.bind_contextvars(command=self.request.id)
    seen = [self.request.id]
    for some in await asyncio.gather(child(), child()):
        seen += some
    seen.append(await asyncio.to_thread(lambda: self.request.id))
    await asyncio.sleep(0)
    seen.append(self.request.id)
    seen.append(structlog.contextvars.get_contextvars()["command"])
    note("who", label=self.request.id, seen=seen, prerun=prerun)


@on(signals.task_prerun)
def bind_prerun(task_id: str, **_: Any) -> None:
    """Bind what the coroutine must see."""
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(prerun=task_id)


@on(signals.task_postrun)
def note_postrun(task_id: str, state: str, **_: Any) -> None:
    """Note how the tracer saw the task end, and in whose context."""
    note("postrun", label=task_id, state=state, context=structlog.contextvars.get_contextvars())


@on(signals.task_revoked)
def note_revoked(request: Any, **_: Any) -> None:
    """Note a revocation."""
    note("revoked", label=request.id)


@on(signals.task_failure)
def note_failure(task_id: str, exception: BaseException, **_: Any) -> None:
    """Note a failure."""
    note("failure", label=task_id, error=type(exception).__name__)


@task("limited", soft_time_limit=0.3)
@coroutine_task
async def limited(how: str) -> str:
    """Meet the soft limit: catch it, or let it out, of a task group too."""
    if how == "catch":
        try:
            await asyncio.sleep(30)
        except SoftTimeLimitExceeded:
            await asyncio.sleep(0.05)
            note("soft", label=how)
    elif how == "group":
        async with asyncio.TaskGroup() as group:
            group.create_task(nap_quietly())
    else:
        await asyncio.sleep(30)
    return "partial"


async def nap_quietly() -> None:
    """Sleep until cancelled, and tell."""
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        note("child-cancelled")
        raise


@task("hard", time_limit=0.3)
@coroutine_task
async def hard(*, deaf: bool) -> str:
    """Outlive the hard limit; deaf to the cancellation or not."""
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        note("cancelled", label="hard")
        if not deaf:
            raise
    return "late"


@task("flaky", bind=True, autoretry_for=(OSError,), retry_backoff=False, default_retry_delay=0, max_retries=3)
@coroutine_task
async def flaky(self: Any, label: str) -> str:
    """Fail twice, then do."""
    await asyncio.sleep(0.01)
    note("flaky", label=label, retries=self.request.retries)
    if self.request.retries < 2:
        raise OSError("not yet")
    return label


@task("add")
@coroutine_task
async def add(x: int, y: int) -> int:
    """Add, and tell."""
    await asyncio.sleep(0.01)
    note("add", x=x, y=y)
    return x + y


@task("fail")
@coroutine_task
async def fail(how: str) -> None:
    """End in the way that is asked for."""
    await asyncio.sleep(0)
    if how == "exit":
        raise SystemExit(3)
    if how == "exit in a child":
        with contextlib.suppress(BaseException):
            await asyncio.create_task(leave())
        return
    if how == "cancel":
        raise asyncio.CancelledError
    raise ValueError(how)


async def leave() -> None:
    """Raise what would end a program."""
    raise SystemExit(4)


@task("block")
def block(seconds: float) -> None:
    """Block the loop, as no task should."""
    note("block")
    time.sleep(seconds)


@task("aside")
def aside(seconds: float) -> None:
    """Block, but aside."""
    offload(time.sleep, seconds)
    note("aside")


@on(signals.worker_process_init)
def set_up(**_: Any) -> None:
    """Hang hooks into the pool, and write down when they are called."""
    note("process_init")
    pool = current()
    if pool is None:
        return

    def hook(what: str) -> Callable[[], Any]:
        async def run() -> None:
            await asyncio.sleep(0)
            note(what, on_loop=asyncio.get_running_loop() is pool.loop, draining=pool.draining.is_set())
            if what == "startup" and FAIL_AT_START:
                raise OSError("nothing works today")

        return run

    pool.on_startup.append(hook("startup"))
    pool.on_drain.append(hook("drain"))
    pool.on_drained.append(hook("drained"))
    pool.on_shutdown.append(hook("shutdown"))
    pool.on_lag.append(note_lag)


def note_lag(lag: timedelta) -> None:
    """Note a loop that is late."""
    if lag.total_seconds() > 0.5:
        note("lag", seconds=lag.total_seconds())


@on(signals.worker_process_shutdown)
def note_process_shutdown(**_: Any) -> None:
    """Note the end of the process's work."""
    note("process_shutdown")


@on(signals.worker_ready)
def note_ready(**_: Any) -> None:
    """Note that messages are taken."""
    note("ready")

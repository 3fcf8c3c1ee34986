"""From synchronous code to a coroutine and back, with and without a loop."""

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable
from contextvars import ContextVar
from typing import Any

import pytest
from celery import Celery, current_task
from celery.exceptions import Retry

from worker.bridge import await_, bridged, offload, process_loop, whose
from worker.pool import coroutine_task

word: ContextVar[str] = ContextVar("word", default="none")


async def double(number: int) -> int:
    """Take a turn of the loop, and double."""
    await asyncio.sleep(0)
    return 2 * number


async def test_a_bridged_function_waits_without_blocking_the_loop() -> None:
    """While the synchronous function waits for a coroutine, others run; its result comes back."""
    order: list[str] = []

    async def slow() -> str:
        order.append("begun")
        await asyncio.sleep(0.02)
        order.append("ended")
        return "done"

    async def beside() -> None:
        await asyncio.sleep(0.01)
        order.append("beside")

    result, _ = await asyncio.gather(bridged(lambda: await_(slow())), beside())
    assert result == "done"
    assert order == ["begun", "beside", "ended"]


async def test_an_error_of_the_coroutine_is_raised_in_the_function() -> None:
    """What the awaited coroutine raises can be caught where `await_` was called."""

    async def fail() -> None:
        raise LookupError("no such thing")

    def function() -> str:
        try:
            await_(fail())
        except LookupError as error:
            return f"caught {error}"
        return "missed"

    assert await bridged(function) == "caught no such thing"


async def test_an_error_of_the_function_is_raised_by_the_bridge() -> None:
    """What the function raises comes out of `bridged`."""

    def function() -> None:
        await_(double(1))
        raise LookupError("no such thing")

    with pytest.raises(LookupError, match="no such thing"):
        await bridged(function)


async def test_a_cancellation_reaches_the_function() -> None:
    """Cancelling the task that runs the bridge raises CancelledError where the function waits, and it can clean up."""
    cleaned: list[str] = []

    def function() -> None:
        try:
            await_(asyncio.sleep(30))
        except asyncio.CancelledError:
            await_(asyncio.sleep(0))
            cleaned.append("up")
            raise

    task = asyncio.create_task(bridged(function))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == ["up"]


async def test_context_variables_are_shared_both_ways() -> None:
    """The function sees its caller's context, the coroutine the function's, and the caller what both have set."""
    seen: list[str] = []

    async def coroutine() -> None:
        seen.append(word.get())
        word.set("coroutine")

    def function() -> None:
        seen.append(word.get())
        word.set("function")
        await_(coroutine())
        seen.append(word.get())

    word.set("caller")
    await bridged(function)
    assert [*seen, word.get()] == ["caller", "function", "coroutine", "coroutine"]


async def test_a_guard_wraps_what_is_awaited() -> None:
    """Each awaitable that the function hands up goes through the guard."""
    guarded: list[Awaitable[Any]] = []

    async def guard(awaitable: Awaitable[Any]) -> Any:
        guarded.append(awaitable)
        return 1 + await awaitable

    assert await bridged(lambda: await_(double(1)) + await_(double(2)), guard=guard) == 8
    assert len(guarded) == 2


async def test_waiting_in_a_coroutine_is_refused_with_the_remedy() -> None:
    """`await_` where the loop runs would stop it: the error says what to do instead."""
    with pytest.raises(RuntimeError, match="await the function"):
        await_(double(1))


def test_without_a_loop_the_coroutine_runs_on_the_processs_own() -> None:
    """Outside of the pool `await_` uses one loop per process, whatever thread asks."""
    loops = [await_(_running()) for _ in range(2)]
    thread = threading.Thread(target=lambda: loops.append(await_(_running())))
    thread.start()
    thread.join()
    assert set(loops) == {process_loop().loop}


async def _running() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def test_what_interrupts_the_waiting_cancels_the_coroutine() -> None:
    """A signal handler that raises (Celery's soft time limit under prefork) does not leave the coroutine running."""
    cancelled = threading.Event()

    async def wait() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            cancelled.set()

    def interrupt(number: int, frame: object) -> None:
        raise InterruptedError(number)

    before = signal.signal(signal.SIGUSR1, interrupt)
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        with pytest.raises(InterruptedError):
            await_(wait())
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    assert cancelled.wait(2)


async def test_offload_leaves_the_loop_turning() -> None:
    """In a bridged function a blocking call runs in a thread with the caller's context; elsewhere right here."""
    word.set("mine")
    blocked = threading.Event()

    def blocking() -> tuple[str, int]:
        blocked.wait(5)
        return word.get(), threading.get_ident()

    async def release() -> None:
        await asyncio.sleep(0.01)
        blocked.set()

    (said, thread), _ = await asyncio.gather(bridged(lambda: offload(blocking)), release())
    assert said == "mine"
    assert thread != threading.get_ident()
    assert offload(threading.get_ident) == threading.get_ident()


def test_outside_of_jobs_work_belongs_to_its_thread() -> None:
    """Two threads are told apart."""
    found = [whose()]
    thread = threading.Thread(target=lambda: found.append(whose()))
    thread.start()
    thread.join()
    assert found[0] is whose()
    assert found[1] is not found[0]


# --- Tasks without a pool ---------------------------------------------------------------------------------------------


@pytest.fixture
def app() -> Celery:
    """Give an app whose results can be looked at."""
    app = Celery("bridge", broker="memory://localhost", backend="cache+memory://", set_as_current=False)
    app.conf.task_always_eager = False
    return app


def test_apply_runs_an_async_body(app: Celery) -> None:
    """`apply()` gives the coroutine's result."""
    task = app.task(shared=False, name="double")(coroutine_task(double))
    assert task.apply((4,)).get() == 8
    assert task(5) == 10


def test_apply_keeps_the_request(app: Celery) -> None:
    """`task.request` and `current_task` are right in the coroutine and its child tasks, on another thread's loop."""

    @coroutine_task
    async def body(self: Any) -> list[str]:
        async def child() -> str:
            await asyncio.sleep(0)
            return str(self.request.id)

        return [self.request.id, await asyncio.create_task(child()), current_task.request.id]

    task = app.task(shared=False, name="who", bind=True)(body)
    assert task.apply(task_id="mine").get() == ["mine"] * 3
    assert task.request.id is None


def test_celery_checks_the_arguments_of_the_async_body(app: Celery) -> None:
    """A call with the wrong arguments is refused when it is sent, as for any task."""
    task = app.task(shared=False, name="double")(coroutine_task(double))
    with pytest.raises(TypeError):
        task.apply_async((1, 2, 3))


def test_autoretry_sees_the_error_of_an_async_body(app: Celery) -> None:
    """`autoretry_for` catches what the coroutine raises."""

    @coroutine_task
    async def fail() -> None:
        raise OSError("away")

    task = app.task(shared=False, name="fail", autoretry_for=(OSError,), max_retries=2, default_retry_delay=0)(fail)
    result = task.apply()
    assert isinstance(result.result, (OSError, Retry))
    assert result.state in {"FAILURE", "RETRY"}


def test_the_wrapped_body_keeps_its_name_and_words() -> None:
    """The synchronous body is known by the coroutine's name, docstring and signature."""
    body = coroutine_task(double)
    assert (body.__name__, body.__doc__) == (double.__name__, double.__doc__)
    assert not asyncio.iscoroutinefunction(body)

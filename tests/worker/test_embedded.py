"""The embedded Valkey: a real server, shared, killed, left behind and found again."""

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from worker import embedded
from worker.embedded import EmbeddedError

LINGER = timedelta(seconds=1)
USER = """
import sys
from datetime import timedelta
from pathlib import Path
from worker import embedded
print(embedded.ensure(Path(sys.argv[1]), linger=timedelta(seconds=float(sys.argv[2]))), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """Give a directory for a server that is gone after the test."""
    yield tmp_path / "var"
    embedded.stop(tmp_path / "var")


@pytest.fixture
def use(data_dir: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Give processes that use the server under data_dir until they are told a line or killed."""
    started = []

    def one() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", USER, str(data_dir), str(LINGER.total_seconds())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield one
    for process in started:
        process.kill()
        process.communicate()


def url_of(user: "subprocess.Popen[str]") -> str:
    """Wait until the process has its server."""
    assert user.stdout is not None
    return user.stdout.readline().strip()


def client(url: str) -> redis.Redis:
    """Give a client of the server."""
    return redis.Redis.from_url(url, decode_responses=True)


def eventually(claim: Callable[[], Any], seconds: float = 20) -> None:
    """Wait until the claim holds; the server may be away meanwhile."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(redis.ConnectionError):
            if claim():
                return
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def server_pid(data_dir: Path) -> int:
    """Tell which process the server is."""
    return int((data_dir / "valkey" / "server.pid").read_text())


def keeper_pid(data_dir: Path) -> int:
    """Tell which process keeps the server."""
    return int(Path(f"/proc/{server_pid(data_dir)}/stat").read_text().rpartition(")")[2].split()[1])


def is_gone(pid: int) -> bool:
    """Tell whether the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the keeper by /proc")


def test_it_is_durable_private_and_never_forgets_to_make_room(data_dir: Path) -> None:
    """An append-only file, no eviction, no TCP port, and nobody else can enter its directory or open its socket."""
    with client(embedded.ensure(data_dir, linger=LINGER)) as server:
        assert server.config_get("appendonly") == {"appendonly": "yes"}
        assert server.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert server.config_get("port") == {"port": "0"}
    home = data_dir / "valkey"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "valkey.sock").stat().st_mode) == 0o700


def test_what_was_written_is_there_the_next_time(data_dir: Path) -> None:
    """Stopping keeps the data."""
    with client(embedded.ensure(data_dir, linger=LINGER)) as server:
        server.set("key", "value")
    embedded.stop(data_dir)
    with client(embedded.ensure(data_dir, linger=LINGER)) as server:
        assert server.get("key") == "value"


def test_asking_twice_gives_the_same_server(data_dir: Path) -> None:
    """`ensure` may be called by every part that needs it."""
    first = embedded.ensure(data_dir, linger=LINGER)
    pid = server_pid(data_dir)
    assert embedded.ensure(data_dir, linger=LINGER) == first
    assert server_pid(data_dir) == pid


def test_processes_that_race_share_one_server(use: Callable[[], "subprocess.Popen[str]"]) -> None:
    """However many come first at the same time, one server answers them all."""
    users = [use() for _ in range(6)]
    urls = {url_of(user) for user in users}
    assert len(urls) == 1
    with client(urls.pop()) as server:
        assert server.incr("count") == 1
        assert server.info("server")["uptime_in_seconds"] < 60


def test_it_stays_while_somebody_uses_it(data_dir: Path, use: Callable[[], "subprocess.Popen[str]"]) -> None:
    """The first to come may be the first to go."""
    first = use()
    url = url_of(first)
    second = use()
    assert url_of(second) == url
    pid = server_pid(data_dir)
    first.kill()
    first.wait()
    time.sleep(2 * LINGER.total_seconds())  # nothing may happen now, so there is nothing to poll for
    assert server_pid(data_dir) == pid
    with client(url) as server:
        assert server.ping()


def test_it_goes_after_its_last_user_also_one_that_was_killed(
    data_dir: Path, use: Callable[[], "subprocess.Popen[str]"]
) -> None:
    """Nobody left for the time it lingers: the server ends, having kept its data."""
    user = use()
    url = url_of(user)
    with client(url) as server:
        server.set("key", "value")
    pid = server_pid(data_dir)
    user.kill()
    eventually(lambda: is_gone(pid))
    assert not (data_dir / "valkey" / "valkey.sock").exists()
    with client(embedded.ensure(data_dir, linger=LINGER)) as server:
        assert server.get("key") == "value"


def test_who_comes_while_it_lingers_keeps_it(data_dir: Path, use: Callable[[], "subprocess.Popen[str]"]) -> None:
    """A server that nobody used for a moment is still there for the next."""
    user = use()
    url = url_of(user)
    pid = server_pid(data_dir)
    user.kill()
    user.wait()
    assert embedded.ensure(data_dir, linger=LINGER) == url
    time.sleep(2 * LINGER.total_seconds())  # nothing may happen now, so there is nothing to poll for
    assert server_pid(data_dir) == pid


def test_a_killed_server_is_started_again_and_lost_nothing(data_dir: Path) -> None:
    """Each write that was confirmed survives SIGKILL, also the last one before it."""
    with client(embedded.ensure(data_dir, linger=LINGER)) as server:
        for run in range(3):
            pid = server_pid(data_dir)
            for number in range(500):
                server.rpush(f"run{run}", number)
            os.kill(pid, signal.SIGKILL)
            eventually(partial(is_gone, pid))
            eventually(server.ping)
            assert server.llen(f"run{run}") == 500


@needs_proc
def test_a_killed_keeper_is_replaced_by_the_next_who_asks(data_dir: Path) -> None:
    """The server that the keeper left behind is stopped in good order, so that no two write one file."""
    with client(embedded.ensure(data_dir, linger=LINGER)) as server:
        server.set("key", "value")
    orphan, keeper = server_pid(data_dir), keeper_pid(data_dir)
    os.kill(keeper, signal.SIGKILL)
    eventually(lambda: is_gone(keeper))
    with client(embedded.ensure(data_dir, linger=LINGER)) as server:
        assert is_gone(orphan)
        assert server.get("key") == "value"
        pid = server_pid(data_dir)
        os.kill(pid, signal.SIGKILL)

        def is_another() -> bool:
            with contextlib.suppress(FileNotFoundError):  # between the two there is none
                return server_pid(data_dir) != pid and server.get("key") == "value"
            return False

        eventually(is_another)


@needs_proc
def test_a_keeper_asked_to_end_serves_its_users_first(
    data_dir: Path, use: Callable[[], "subprocess.Popen[str]"]
) -> None:
    """SIGTERM to everything at once does not take the server from who still works; it then ends without lingering."""
    user = use()
    url = url_of(user)
    keeper, pid = keeper_pid(data_dir), server_pid(data_dir)
    os.kill(keeper, signal.SIGTERM)
    os.kill(pid, signal.SIGTERM)
    eventually(partial(is_gone, pid))
    with client(url) as server:
        eventually(server.ping)
    user.kill()
    eventually(partial(is_gone, keeper))


@needs_proc
def test_killed_altogether_it_starts_again(data_dir: Path) -> None:
    """A stale socket and a stale pid, as after a power cut, are in nobody's way."""
    with client(embedded.ensure(data_dir, linger=LINGER)) as server:
        server.set("key", "value")
    for pid in (keeper_pid(data_dir), server_pid(data_dir)):
        os.kill(pid, signal.SIGKILL)
        eventually(partial(is_gone, pid))
    assert (data_dir / "valkey" / "valkey.sock").exists()
    (data_dir / "valkey" / "server.pid").write_text(str(os.getpid()))
    with client(embedded.ensure(data_dir, linger=LINGER)) as server:
        assert server.get("key") == "value"


def test_a_torn_last_write_is_dropped(data_dir: Path) -> None:
    """A file whose end a power cut took is read as far as it is whole."""
    with client(embedded.ensure(data_dir, linger=LINGER)) as server:
        server.set("key", "value")
    embedded.stop(data_dir)
    (log,) = (data_dir / "valkey" / "appendonlydir").glob("*.incr.aof")
    with log.open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$5\r\nother\r\n$10\r\nhal")
    with client(embedded.ensure(data_dir, linger=LINGER)) as server:
        assert server.get("key") == "value"
        assert server.get("other") is None


def test_a_server_that_cannot_start_is_an_error_in_its_own_words(data_dir: Path) -> None:
    """A spoilt file is not silently begun anew: the error says what the server said, and where to look."""
    with client(embedded.ensure(data_dir, linger=LINGER)) as server:
        for number in range(10):
            server.set(number, number)
    embedded.stop(data_dir)
    (log,) = (data_dir / "valkey" / "appendonlydir").glob("*.incr.aof")
    spoilt = bytearray(log.read_bytes())
    spoilt[60:80] = b"x" * 20
    log.write_bytes(spoilt)
    with pytest.raises(EmbeddedError, match=r"(?i)bad file format"):
        embedded.ensure(data_dir, linger=LINGER)


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """The error names the directory and what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedError, match=r"data_dir .*file can't be made.*choose one"):
        embedded.ensure(tmp_path / "file")


def test_a_deep_data_dir_gets_its_socket_elsewhere(data_dir: Path) -> None:
    """A path too long for a socket is no obstacle: the socket lies in a private directory, and goes with the server."""
    deep = data_dir / ("d" * 60) / ("e" * 60)
    try:
        url = embedded.ensure(deep, linger=LINGER)
        with client(url) as server:
            assert server.ping()
        path = Path(url.removeprefix("unix://"))
        assert len(os.fsencode(path)) <= embedded.LONGEST_SOCKET_PATH
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert embedded.ensure(deep, linger=LINGER) == url
    finally:
        embedded.stop(deep)
    assert not path.parent.exists()


def test_a_path_with_special_characters_is_quoted(data_dir: Path) -> None:
    """Spaces, percent signs and question marks in data_dir reach the server as they are."""
    odd = data_dir / "a b%41?#ä"
    try:
        with client(embedded.ensure(odd, linger=LINGER)) as server:
            assert server.ping()
    finally:
        embedded.stop(odd)


def test_a_deleted_data_dir_ends_its_server(data_dir: Path, use: Callable[[], "subprocess.Popen[str]"]) -> None:
    """A server whose directory was deleted is of use to nobody: it ends, and the next has a fresh one."""
    first = use()
    url_of(first)
    pid = server_pid(data_dir)
    shutil.rmtree(data_dir)
    second = use()
    with client(url_of(second)) as server:
        eventually(partial(is_gone, pid))
        assert server.dbsize() == 0
        assert server.set("key", "value")
    assert (data_dir / "valkey" / "valkey.sock").exists()


def test_stopping_what_does_not_run_does_nothing(data_dir: Path) -> None:
    """`stop` may be called twice, or first."""
    embedded.stop(data_dir)
    embedded.ensure(data_dir, linger=LINGER)
    embedded.stop(data_dir)
    embedded.stop(data_dir)


def test_stop_returns_when_the_server_has_ended(data_dir: Path) -> None:
    """Whoever stops it may delete or copy the directory at once."""
    url = embedded.ensure(data_dir, linger=LINGER)
    pid = server_pid(data_dir)
    embedded.stop(data_dir)
    assert is_gone(pid)
    with socket.socket(socket.AF_UNIX) as probe, pytest.raises(OSError, match="No such file"):
        probe.connect(url.removeprefix("unix://"))


def test_the_starter_can_end_before_its_server(data_dir: Path, use: Callable[[], "subprocess.Popen[str]"]) -> None:
    """The keeper belongs to no process: not a signal to the starter's group, nor its end, takes the server away."""
    starter = use()
    url = url_of(starter)
    pid = server_pid(data_dir)
    assert embedded.ensure(data_dir, linger=LINGER) == url
    assert os.getsid(pid) not in {os.getsid(starter.pid), os.getsid(0)}
    starter.kill()
    starter.wait()
    with client(url) as server:
        assert server.ping()

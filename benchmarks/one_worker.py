"""One worker of planrelay on an embedded Valkey, and what a command costs it: time, processor time, calls, memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from config.settings import load_settings
from sandbox import SandboxProcess
from worker import embedded
from worker.client import Client

ROOT = Path(__file__).parents[1]


def settings(home: Path, system: str, **connection: str) -> Path:
    """Write the settings of workers with one connection, which is named `vendor`."""
    path = home / "planrelay.toml"
    path.write_text(f"""
data_dir = "{home}/var"
[worker]
metrics_port = 0
include = ["tasks.{system}"]
[artifacts]
allowed = ["{home}/"]
[connections.vendor]
system = "{system}"
""")
    with path.open("a") as file:
        file.writelines(f"{name} = {json.dumps(value)}\n" for name, value in connection.items())
    return path


@dataclass(frozen=True)
class Cost:
    """What a command gave and took: `own` is the processor time of the worker and its state store."""

    result: dict[str, Any]
    clock: float
    own: float
    calls: Counter[str]


class OneWorker:
    """The worker, for the length of a `with` block."""

    def __init__(self, sandbox: SandboxProcess, home: Path, system: str, **connection: str) -> None:
        self._sandbox = sandbox
        self._home = home
        self._config = settings(home, system, base_url=sandbox.base_url(system), **connection)
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "celery", "-A", "worker", "worker", "-n", "bench@%h"]
        env = {**os.environ, "PLANRELAY_CONFIG": str(self._config)}
        with (self._home / "log").open("wb") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)
        embedded.stop(self._home / "var")

    def run(self, type: str, data: dict[str, Any], *, timeout: float) -> Cost:
        """Run one command, which must succeed."""
        self._sandbox.journal.clear()
        worker, store = self._process.pid, _store_pid(self._home)
        before, stored = _cpu(worker), _cpu(store) if store else 0.0
        began = time.monotonic()
        with Client(load_settings(self._config, {}), source="/benchmark") as client:
            event = client.call(type, connection="vendor", data=data, timeout=timeout)
        if "error" in event["data"]:
            raise SystemExit(json.dumps(event["data"]["error"]))
        clock = time.monotonic() - began
        own = _cpu(worker) - before + (_cpu(store) - stored if store else 0.0)
        return Cost(event["data"]["result"], clock, own, Counter(self._sandbox.journal.counts(by="operation")))

    def peak(self) -> float:
        """Give the most memory that the worker has held, in MB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        (line,) = (line for line in status if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6


def _cpu(pid: int) -> float:
    """Give the seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _store_pid(home: Path) -> int | None:
    """Find the embedded state store: the process that serves this home."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
                link = str((entry / "cwd").readlink())
            except OSError:
                continue
            if b"valkey-server" in command and (str(home).encode() in command or link.startswith(str(home))):
                return int(entry.name)
    return None

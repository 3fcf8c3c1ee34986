"""
What it costs to reconcile a large directory: calls, our own time, memory.

    .venv/bin/python benchmarks/reconcile.py [--users 100000] [--share 0.01] [--missing 0]

A real worker on an embedded Valkey, and the sandbox in a process of its own. The roster is a CSV in which a share of
the users differs. "Own time" is the worker's processor time and the state store's; the clock's has the sandbox in it,
which here shares the machine. The peak is that of the worker's resident memory (`VmHWM`), idle size included.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from config.settings import load_settings
from sandbox import SandboxProcess
from worker import embedded
from worker.client import Client

HERE = Path(__file__).parent
TYPE = "planview_admin.users.reconcile"


def settings(home: Path, base_url: str) -> Path:
    """Write the worker's settings."""
    path = home / "planrelay.toml"
    path.write_text(f"""
data_dir = "{home}/var"
[worker]
metrics_port = 0
include = ["tasks.planview_admin"]
[artifacts]
allowed = ["{home}/"]
[connections.admin]
system = "planview_admin"
base_url = "{base_url}"
client_id = "sandbox-client"
client_secret = "sandbox-secret"
""")
    return path


def roster(path: Path, users: list[dict[str, Any]], changed: int) -> None:
    """Write a roster in which the last `changed` users have another first name."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["Email", "First name", "Last name", "Role", "Status"])
        for number, user in enumerate(users, 1):
            first = "Changed" if number > len(users) - changed else user["firstName"]
            rows.writerow([user["email"], first, user["lastName"], user["role"], user["status"]])


def cpu(pid: int) -> float:
    """Give the seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak(pid: int) -> float:
    """Give the most memory that a process has held, in MB."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def store_pid(home: Path) -> int | None:
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


def measure(sandbox: SandboxProcess, home: Path, worker: int, mode: str, options: dict[str, Any]) -> dict[str, Any]:
    """Run one reconcile and print what it cost."""
    sandbox.journal.clear()
    store = store_pid(home)
    before, stored = cpu(worker), cpu(store) if store else 0.0
    began = time.monotonic()
    data = {"roster_url": f"file://{home}/roster.csv", "mode": mode, **options}
    with Client(load_settings(home / "planrelay.toml", {}), source="/benchmark") as client:
        event = client.call(TYPE, connection="admin", data=data, timeout=1800)
    if "error" in event["data"]:
        raise SystemExit(json.dumps(event["data"]["error"]))
    result: dict[str, Any] = event["data"]["result"]
    clock = time.monotonic() - began
    own = cpu(worker) - before + (cpu(store) - stored if store else 0.0)
    calls = sandbox.journal.counts(by="operation")
    pages = calls.get("user.list", 0)
    writes = calls.get("user.update", 0) + calls.get("user.create", 0)
    print(
        f"{mode:6} {result['state']:8} {clock:8.1f} s {own:8.1f} s {peak(worker):8.0f} MB {pages:7} {writes:7} "
        f"{sum(calls.values()) - pages - writes:7}",
        flush=True,
    )
    return result


def main() -> None:
    """Seed, plan, apply, and plan again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1] if __doc__ else "")
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--missing", type=int, default=0, help="users (at most 10) to be deactivated: read twice then")
    options = parser.parse_args()
    changed = int(options.users * options.share)
    with tempfile.TemporaryDirectory() as folder, SandboxProcess(journal_limit=20_000) as sandbox:
        home = Path(folder)
        sandbox.seed("planview_admin", "users", options.users)
        users = sandbox.state("planview_admin", "users")
        roster(home / "roster.csv", users[options.missing :], changed)
        del users
        env = {**os.environ, "PLANRELAY_CONFIG": str(settings(home, sandbox.base_url("planview_admin")))}
        with (home / "log").open("wb") as log:
            command = [sys.executable, "-m", "celery", "-A", "worker", "worker", "-n", "bench@%h"]
            process = subprocess.Popen(command, cwd=HERE.parent, env=env, stdout=log, stderr=log)
        try:
            print(f"{options.users} users, {changed} of them to be changed")
            print(f"{'':15} {'clock':>10} {'own time':>10} {'peak':>11} {'pages':>7} {'writes':>7} {'other':>7}")
            removing = {"deactivate_missing": options.missing > 0}
            measure(sandbox, home, process.pid, "plan", removing)
            measure(sandbox, home, process.pid, "apply", removing)
            left = measure(sandbox, home, process.pid, "plan", removing)["summary"]
            print(f"\nafterwards: {left['update']} to update, {left['unchanged']} unchanged")
        finally:
            process.terminate()
            process.wait(60)
            embedded.stop(home / "var")


if __name__ == "__main__":
    main()

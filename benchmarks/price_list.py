"""
What it costs to keep a project equal to its price list: calls, our own time, memory.

    .venv/bin/python benchmarks/price_list.py [--units 5000] [--share 0.1] [--patches 20]

A real worker on an embedded Valkey, and the sandbox in a process of its own. The list is a CSV of all units, of which a
share has another price, one of so many. "Own time" is the worker's processor time and the state store's; the clock's
has the sandbox in it, which here shares the machine.
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

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.reconcile import cpu, peak, store_pid
from config.settings import load_settings
from sandbox import SandboxProcess
from worker import embedded
from worker.client import Client

HERE = Path(__file__).parent


def settings(home: Path, base_url: str) -> Path:
    """Write the worker's settings."""
    path = home / "planrelay.toml"
    path.write_text(f"""
data_dir = "{home}/var"
[worker]
metrics_port = 0
include = ["tasks.planpoint"]
[artifacts]
allowed = ["{home}/"]
[connections.tower]
system = "planpoint"
base_url = "{base_url}"
token = "sandbox-token"
""")
    return path


def price_list(path: Path, units: int, changed: int, patches: int) -> None:
    """Write a list in which the first `changed` units have one of so many new prices."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["Unit number", "Price"])
        for number in range(1, units + 1):
            rows.writerow([f"{number:06}", number % patches + 1 if number <= changed else ""])


def measure(sandbox: SandboxProcess, home: Path, worker: int, project: str, label: str) -> None:
    """Run one sync and print what it cost."""
    sandbox.journal.clear()
    store = store_pid(home)
    before, stored = cpu(worker), cpu(store) if store else 0.0
    began = time.monotonic()
    data = {"project_id": project, "rows_url": f"file://{home}/list.csv", "key": "unit_number", "mode": "apply"}
    with Client(load_settings(home / "planrelay.toml", {}), source="/benchmark") as client:
        event = client.call("planpoint.units.sync", connection="tower", data=data, timeout=600)
    if "error" in event["data"]:
        raise SystemExit(json.dumps(event["data"]["error"]))
    clock = time.monotonic() - began
    own = cpu(worker) - before + (cpu(store) - stored if store else 0.0)
    result, calls = event["data"]["result"], sandbox.journal.counts(by="operation")
    reads, writes = calls.pop("unit.list", 0), calls.pop("unit.update_many", 0)
    print(
        f"{label:8} {result['state']:8} {result['summary']['applied']:6} applied {clock:6.1f} s {own:6.2f} s "
        f"{peak(worker):6.0f} MB {reads:6} {writes:7} {sum(calls.values()):6}",
        flush=True,
    )


def main() -> None:
    """Seed, sync, and sync again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1] if __doc__ else "")
    parser.add_argument("--units", type=int, default=5_000)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--patches", type=int, default=20, help="so many different prices")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, SandboxProcess(journal_limit=20_000) as sandbox:
        home = Path(folder)
        (project,) = sandbox.seed("planpoint", "projects", 1)
        (floor,) = sandbox.seed("planpoint", "floors", 1, project=project)
        sandbox.seed("planpoint", "units", options.units, floor=floor)
        price_list(home / "list.csv", options.units, int(options.units * options.share), options.patches)
        env = {**os.environ, "PLANRELAY_CONFIG": str(settings(home, sandbox.base_url("planpoint")))}
        with (home / "log").open("wb") as log:
            command = [sys.executable, "-m", "celery", "-A", "worker", "worker", "-n", "bench@%h"]
            process = subprocess.Popen(command, cwd=HERE.parent, env=env, stdout=log, stderr=log)
        try:
            print(f"{options.units} units, {options.share:.0%} of them to be changed in {options.patches} ways")
            print(f"{'':32} {'clock':>8} {'own time':>8} {'peak':>9} {'reads':>6} {'batches':>7} {'other':>6}")
            for label in ("first", "again"):
                measure(sandbox, home, process.pid, project, label)
        finally:
            process.terminate()
            process.wait(60)
            embedded.stop(home / "var")


if __name__ == "__main__":
    main()

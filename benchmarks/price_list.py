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
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.one_worker import OneWorker
from sandbox import SandboxProcess


def price_list(path: Path, units: int, changed: int, patches: int) -> None:
    """Write a list in which the first `changed` units have one of so many new prices."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["Unit number", "Price"])
        for number in range(1, units + 1):
            rows.writerow([f"{number:06}", number % patches + 1 if number <= changed else ""])


def measure(worker: OneWorker, home: Path, project: str, label: str) -> None:
    """Run one sync and print what it cost."""
    data = {"project_id": project, "rows_url": f"file://{home}/list.csv", "key": "unit_number", "mode": "apply"}
    cost = worker.run("planpoint.units.sync", data, timeout=600)
    reads, writes = cost.calls["unit.list"], cost.calls["unit.update_many"]
    print(
        f"{label:8} {cost.result['state']:8} {cost.result['summary']['applied']:6} applied {cost.clock:6.1f} s "
        f"{cost.own:6.2f} s {worker.peak():6.0f} MB {reads:6} {writes:7} {cost.calls.total() - reads - writes:6}",
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
        with OneWorker(sandbox, home, "planpoint", token="sandbox-token") as worker:
            print(f"{options.units} units, {options.share:.0%} of them to be changed in {options.patches} ways")
            print(f"{'':32} {'clock':>8} {'own time':>8} {'peak':>9} {'reads':>6} {'batches':>7} {'other':>6}")
            for label in ("first", "again"):
                measure(worker, home, project, label)


if __name__ == "__main__":
    main()

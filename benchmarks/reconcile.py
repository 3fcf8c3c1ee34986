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
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.one_worker import OneWorker
from sandbox import SandboxProcess


def roster(path: Path, users: list[dict[str, Any]], changed: int) -> None:
    """Write a roster in which the last `changed` users have another first name."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["Email", "First name", "Last name", "Role", "Status"])
        for number, user in enumerate(users, 1):
            first = "Changed" if number > len(users) - changed else user["firstName"]
            rows.writerow([user["email"], first, user["lastName"], user["role"], user["status"]])


def measure(worker: OneWorker, home: Path, mode: str, options: dict[str, Any]) -> dict[str, Any]:
    """Run one reconcile and print what it cost."""
    data = {"roster_url": f"file://{home}/roster.csv", "mode": mode, **options}
    cost = worker.run("planview_admin.users.reconcile", data, timeout=1800)
    pages = cost.calls["user.list"]
    writes = cost.calls["user.update"] + cost.calls["user.create"]
    print(
        f"{mode:6} {cost.result['state']:8} {cost.clock:8.1f} s {cost.own:8.1f} s {worker.peak():8.0f} MB {pages:7} "
        f"{writes:7} {cost.calls.total() - pages - writes:7}",
        flush=True,
    )
    return cost.result


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
        account = {"client_id": "sandbox-client", "client_secret": "sandbox-secret"}
        with OneWorker(sandbox, home, "planview_admin", **account) as worker:
            print(f"{options.users} users, {changed} of them to be changed")
            print(f"{'':15} {'clock':>10} {'own time':>10} {'peak':>11} {'pages':>7} {'writes':>7} {'other':>7}")
            removing = {"deactivate_missing": options.missing > 0}
            measure(worker, home, "plan", removing)
            measure(worker, home, "apply", removing)
            left = measure(worker, home, "plan", removing)["summary"]
            print(f"\nafterwards: {left['update']} to update, {left['unchanged']} unchanged")


if __name__ == "__main__":
    main()

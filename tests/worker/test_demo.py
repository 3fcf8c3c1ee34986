"""The demo: its load, its books, and the whole of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from config.settings import load_settings
from tests.fleet import eventually
from worker.app import Slices
from worker.demo.book import Book, percentiles
from worker.demo.load import RIGHT, Asked, Stock, make_load
from worker.errors import BadCommand

STOCK = [
    Stock(
        tenant=tenant,
        entities=("041800000001", "041800000002"),
        reports=("042400000001",),
        users=("352e1a16-0000-4000-8000-000000000001",),
        project="a10abfa70000000000000001",
        floor="e653f84d0000000000000002",
        units=("683b9e7d0000000000000003",),
    )
    for tenant in ("acme", "globex")
]
OPERATIONS = Slices(load_settings(None, {}).worker.include).operations


def answer(asked: Asked, *, kind: str | None = None, id: str = "e1", attempts: int = 1) -> dict[str, Any]:
    """Make the result event of a command."""
    ending = {"error": {"kind": kind, "message": "No."}} if kind else {"result": {}}
    return {"id": id, "subject": asked.id, "data": {"attempts": attempts, "deferrals": 2, "http_requests": 3, **ending}}


@pytest.mark.parametrize("count", [60, 600, 1000])
def test_the_load_is_as_large_as_asked_and_has_every_type(count: int) -> None:
    """All three systems, every type, and one in twenty that must fail; each command with an id of its own."""
    load = make_load(count, STOCK, Random(1))
    assert len(load) == len({each.id for each in load}) == count
    assert {each.type for each in load} == set(RIGHT)
    failing = Counter(each.fails for each in load if each.fails)
    assert sum(failing.values()) == round(count * 0.05)
    assert set(failing) == {"not_found", "bad_command"}
    assert set(RIGHT) <= set(OPERATIONS)


def test_what_must_succeed_is_valid_and_what_must_not_is_wrong() -> None:
    """A worker would take the data of every command that is to succeed; a bad command is one."""
    for each in make_load(600, STOCK, Random(1)):
        operation, data = OPERATIONS[each.type], each.event["data"]
        if each.fails == "bad_command" and each.event["connection"] != "nobody":
            with pytest.raises(BadCommand):
                operation.validate(data)
        else:
            operation.validate(data)


def test_no_two_commands_make_the_same_object() -> None:
    """What the load creates has different natural keys, so that a duplicate is somebody's mistake."""
    made = [
        (each.event["connection"], each.type, *sorted(map(str, each.event["data"].items())))
        for each in make_load(1000, STOCK, Random(1))
        if each.type.endswith(".create")
    ]
    assert len(made) == len(set(made)) > 100


def test_a_book_in_order_has_no_surprises() -> None:
    """Each command that ended as expected counts in its row, and in the sum."""
    right, wrong = Asked({"id": "1", "type": "a.b"}), Asked({"id": "2", "type": "a.b"}, "not_found")
    book = Book({"1": right, "2": wrong})
    book.hear(answer(right, attempts=2), 0.5)
    book.hear(answer(right, attempts=2), 0.9)  # told again: the same event
    book.hear(answer(wrong, kind="not_found"), 1.5)
    book.hear({"id": "e9", "subject": "somebody else's", "data": {}}, 0.1)
    assert book.complete
    assert book.surprises() == []
    assert book.rows() == [
        ("a.b", "2", "1", "1", "3", "4", "1.00 s", "1.45 s"),
        ("all", "2", "1", "1", "3", "4", "1.00 s", "1.45 s"),
    ]


def test_what_did_not_end_as_expected_is_said() -> None:
    """A wrong failure, a wrong success, another kind of error, no answer, two outcomes: a sentence each."""
    asked = {
        "1": Asked({"id": "1", "type": "a.b"}),
        "2": Asked({"id": "2", "type": "a.b"}, "not_found"),
        "3": Asked({"id": "3", "type": "a.b"}, "not_found"),
        "4": Asked({"id": "4", "type": "a.b"}),
        "5": Asked({"id": "5", "type": "a.b"}),
    }
    book = Book(asked)
    book.hear(answer(asked["1"], kind="bug"), 1)
    book.hear(answer(asked["2"]), 1)
    book.hear(answer(asked["3"], kind="invalid"), 1)
    book.hear(answer(asked["5"]), 1)
    book.hear(answer(asked["5"], kind="bug", id="e2"), 1)
    said = book.surprises()
    assert len(said) == 5
    assert [sum(sentence.startswith((f"a.b {n} ", f"{n} was told")) for sentence in said) for n in asked] == [1] * 5


@pytest.mark.parametrize(("values", "found"), [([], (0, 0)), ([2.0], (2.0, 2.0)), (range(101), (50, 95))])
def test_percentiles(values: Any, found: tuple[float, float]) -> None:
    """Median and 95th percentile, of few values too."""
    assert percentiles(list(values)) == found


def demo(home: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the demo, with its temporary files where they can be looked for."""
    return subprocess.Popen(
        [sys.executable, "-m", "worker.cli", "demo", *arguments],
        env={**os.environ, "TMPDIR": str(home), "PLANRELAY_WORKER__CONCURRENCY": "0"},  # an operator's, and wrong
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def left_behind(home: Path) -> list[str]:
    """Name what a demo left: files, and processes that know its folder."""
    files = [str(path) for path in home.iterdir()]
    processes = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            known = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if str(home).encode() in known and int(process.name) != os.getpid():
            processes.append(known.decode(errors="replace")[:200])
    return files + processes


@pytest.mark.timeout(300)
def test_the_demo_ends_well_and_leaves_nothing(tmp_path: Path) -> None:
    """600 commands with faults injected end as expected within ninety seconds; no process and no file is left."""
    began = time.monotonic()
    with demo(tmp_path) as process:
        out, _ = process.communicate(timeout=280)
    assert process.returncode == 0, out
    assert time.monotonic() - began < 90, out
    assert "Every command ended as expected, and nothing was made twice." in out
    (total,) = [line.split() for line in out.splitlines() if line.startswith("all ")]
    assert total[1:4] == ["600", "570", "30"]
    assert int(total[5]) > 50, "some waits were asked for"
    assert "Where to look next" in out
    eventually(lambda: not left_behind(tmp_path), within=10)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_interrupted_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C in the middle ends it with 130, and puts everything away first."""
    with demo(tmp_path) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(3)]
        assert "answered" in said[-1], said
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == 130
    eventually(lambda: not left_behind(tmp_path), within=10)

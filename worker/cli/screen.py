"""What the commands print: tables for people, JSON for programs, progress where somebody watches."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import click

PLAIN_EVERY: Final = 2.0
"""Seconds between two lines of progress where nobody watches a bar."""

_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def show_json(value: Any) -> None:
    """Print a value as JSON: indented for people at a terminal, on one line for programs."""
    indent = 2 if sys.stdout.isatty() else None
    click.echo(json.dumps(value, indent=indent, ensure_ascii=False, default=str))


def clean(value: Any) -> str:
    """Give a cell's text: what came in a message must not steer the terminal it is shown on."""
    return "" if value is None else _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", str(value))


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table: drawn on a terminal that is wide enough for it, aligned elsewhere, and never cut short."""
    cells = [[clean(cell) for cell in row] for row in rows]
    lines = [list(columns), *cells]
    widths = [max(len(row[i]) for row in lines) for i in range(len(columns))]
    if sys.stdout.isatty() and sum(widths) + 3 * len(widths) <= shutil.get_terminal_size().columns:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        drawn = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for row in cells:
            drawn.add_row(*map(Text, row))
        Console().print(drawn)
        return
    for row in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def facts(pairs: Sequence[tuple[str, Any]]) -> None:
    """Print named values, one a line; those that are not known are left out."""
    known = [(name, clean(value)) for name, value in pairs if value is not None and value != ""]
    width = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        click.echo(f"{name.ljust(width)}  {value}")


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show on standard error how far long work is; gives what to call after each step."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda: bar.advance(task)
        return
    done, said = 0, time.monotonic()

    def step() -> None:
        nonlocal done, said
        done += 1
        if time.monotonic() - said >= PLAIN_EVERY:
            said = time.monotonic()
            click.echo(f"{what}: {done} of {total}", err=True)

    yield step


def span(length: timedelta | None) -> str:
    """Write a time span for people: `1.5 s`, `3 min`, `2 h 5 min`, `4 d 3 h`."""
    if length is None:
        return ""
    if length >= timedelta.max:
        return "until resumed"
    seconds = max(length.total_seconds(), 0)
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if minutes < 60:
        return f"{minutes} min {int(seconds % 60)} s" if minutes < 10 else f"{minutes} min"
    if hours < 24:
        return f"{hours} h {minutes % 60} min"
    return f"{days} d {hours % 24} h"


def instant(moment: datetime | None, now: datetime) -> str:
    """Write an instant for people, with how far off it is."""
    if moment is None:
        return ""
    off = moment - now
    far = f"in {span(off)}" if off >= timedelta(0) else f"{span(-off)} ago"
    return f"{moment.isoformat(sep=' ', timespec='seconds')} ({far})"

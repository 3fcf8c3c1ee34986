"""The planrelay command in a test: called in this process, or started as one of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worker.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import pytest


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


class CommandLine:
    """Calls `planrelay` with one configuration."""

    def __init__(self, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setenv("PLANRELAY_CONFIG", str(config))
        monkeypatch.chdir(config.parent)
        self._config = config
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Said:
        """Run a command here and now."""
        self._capsys.readouterr()
        status = main(arguments)
        printed = self._capsys.readouterr()
        return Said(status, printed.out, printed.err)

    def printed(self) -> str:
        """Give what a command that did not end printed to standard output."""
        return self._capsys.readouterr().out

    @contextlib.contextmanager
    def start(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Start a command as a process of its own, which does not outlive the block."""
        with subprocess.Popen(
            [sys.executable, "-m", "worker.cli", *arguments],
            env=self.environment(),
            cwd=self._config.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def environment(self) -> Mapping[str, str]:
        """Give what a process of its own must know."""
        return {**os.environ, "PLANRELAY_CONFIG": str(self._config)}


def sentences(text: str) -> Sequence[str]:
    """Give the lines of an error."""
    return [line for line in text.splitlines() if line]

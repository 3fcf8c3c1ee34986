"""A clock of one worker's own, to be put forward and back while it runs: libfaketime, from its wheel or Debian's."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

PLACES: Final = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
)


def _wheel() -> list[str]:
    spec = importlib.util.find_spec("libfaketime")  # found, not imported: importing it would fake this process's time
    places = [] if spec is None else spec.submodule_search_locations or []
    return [f"{place}/vendor/libfaketime/src/libfaketime.so.1" for place in places]


LIBRARY: Final = next((each for each in (*PLACES, *_wheel()) if Path(each).exists()), None)


class Clock:
    """The wall clock of the processes that get `env`; their monotonic clock stays as it is, as with a real step."""

    def __init__(self, home: Path) -> None:
        self._file = home / "clock"
        self.step(0)

    def step(self, seconds: int) -> None:
        """Put the clock so far from the true time."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}\n")
        fresh.replace(self._file)  # at once: never half of it is read

    @property
    def env(self) -> Mapping[str, str]:
        """What a process needs."""
        return {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",  # seconds until a step is seen: to look each time takes long
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    @property
    def missing(self) -> str | None:
        """Why a clock can't be stepped here; None: it can."""
        if LIBRARY is None:
            return "No libfaketime is installed here (Debian: apt-get install faketime)."
        self.step(86_400)
        seen = subprocess.run(
            [sys.executable, "-S", "-c", "import time; print(time.time())"],
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            check=False,
        )
        self.step(0)
        return None if seen.stdout[:3].isdigit() else f"{LIBRARY} does not work here: {seen.stderr.strip()}"

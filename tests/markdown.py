"""Blocks of code in Markdown, and a shell that runs them one after the other."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

BLOCK = re.compile(
    r"^(?P<marks>(?:<!--[^\n]*-->\n)*)^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
MARK = re.compile(r"<!-- (?P<name>[a-z ]+): (?P<value>[^\n]*?) -->")


@dataclass(frozen=True)
class Block:
    """One fenced block: `marks` are the comments right above it, `<!-- name: value -->`."""

    line: int
    language: str
    text: str
    marks: Mapping[str, str] = field(default_factory=dict)


def blocks(path: Path) -> list[Block]:
    """Give a document's blocks in their order."""
    document = path.read_text("utf-8")
    return [
        Block(
            line=document.count("\n", 0, found.start()) + 1,
            language=found["language"],
            text=found["text"],
            marks={mark["name"]: mark["value"] for mark in MARK.finditer(found["marks"])},
        )
        for found in BLOCK.finditer(document)
    ]


def missing(expected: str, output: str) -> list[str]:
    """Give the expected lines that the output doesn't have in this order; `…` stands for any text."""
    left = output.splitlines()
    absent = []
    for line in filter(str.strip, expected.splitlines()):
        pattern = ".*".join(r"\s+".join(map(re.escape, part.split(" "))) for part in re.sub(" +", " ", line).split("…"))
        at = next((n for n, said in enumerate(left) if re.fullmatch(pattern, said.rstrip())), None)
        if at is None:
            absent.append(line)
        else:
            left = left[at + 1 :]
    return absent


class Shell:
    """One bash that keeps its directory and variables from block to block; all it started ends with it."""

    def __init__(self, folder: Path, environment: Mapping[str, str], preamble: str = "") -> None:
        self._folder = folder
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.run(f"trap 'failed=$?' ERR\n{preamble}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._bash.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._bash.wait(1)
        for pipe in (self._bash.stdin, self._bash.stdout):
            assert pipe is not None
            pipe.close()

    def run(self, text: str, *, within: float = 60) -> tuple[str, int]:
        """Run a block; gives what it printed, and the status of the last of its commands that failed, else 0."""
        assert self._bash.stdin is not None
        end = uuid.uuid4().hex
        script = self._folder / f".{end}.sh"
        script.write_text(f"failed=0\n{text}")
        self._bash.stdin.write(f"source {script}; echo; echo {end} $failed\n".encode())
        self._bash.stdin.flush()
        output = ""
        for chunk in self._read(within):
            output += chunk
            if found := re.search(rf"\n?{end} (\d+)\n", output):
                script.unlink()
                return output[: found.start()], int(found[1])
        raise AssertionError(f"not done within {within} s:\n{text}\nso far:\n{output}")

    def _read(self, within: float) -> Iterator[str]:
        assert self._bash.stdout is not None
        stop = time.monotonic() + within
        with selectors.DefaultSelector() as selector:
            selector.register(self._bash.stdout, selectors.EVENT_READ)
            while (left := stop - time.monotonic()) > 0:
                if selector.select(left):
                    chunk = os.read(self._bash.stdout.fileno(), 65536)
                    if not chunk:
                        return
                    yield chunk.decode(errors="replace")

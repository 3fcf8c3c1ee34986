"""
A local file that is not there yet: written under a hidden name beside its place, then renamed.

Everything here blocks and belongs into a thread. The hidden file is locked (`flock`) for as long as its writer lives,
so that the next writer to the same place can tell what a killed one left behind: it takes that up where it may be
continued, and removes it where not.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from worker.destinations import RESERVED, Destination, open_directory
from worker.errors import BadCommand
from worker.lanes import Block

READ_SIZE: Final = 4 * 1024 * 1024
ABANDONED: Final = 7 * 24 * 3600  # seconds after which nobody comes back for a file: the ledger forgets after a week
_PIECES: Final = 512  # that are written by one call; POSIX promises 16, Linux and macOS take 1,024
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_NOTE: Final = ".json"  # beside a file that may be continued: by which validator, and since which start of the machine


class Unfinished:
    """
    One hidden file, open and locked.

    With a `resume_key`, the file is found again by the next writer that names the same place and key: `size` bytes are
    there already, of the version that `validator` names. It outlives its process, not the machine's restart: what was
    in memory then may be missing from it.
    """

    def __init__(self, destination: Destination, *, resume_key: str | None = None) -> None:
        self.destination = destination
        self.size = 0
        self.validator: str | None = None
        self.published = False
        self._stem = f"{RESERVED}{_digest(destination.name)}-"
        self._directory = open_directory(destination, create=True)
        self._fd = -1
        self._name = ""
        self._resumable = False
        try:
            if resume_key is None or not self._take_up(f"{self._stem}{_digest(resume_key)}.part"):
                self._begin(f"{self._stem}{secrets.token_hex(8)}.part")
            self._sweep()
        except BaseException:
            self.close(keep=False)
            raise

    @property
    def resumable(self) -> bool:
        """Whether the next writer could go on from here."""
        return self._resumable and self.validator is not None

    def blocks(self, size: int) -> Iterator[bytes]:
        """Read the first `size` bytes of what is there already."""
        at = 0
        while at < size and (block := os.pread(self._fd, min(READ_SIZE, size - at), at)):
            at += len(block)
            yield block

    def restart(self, validator: str | None) -> None:
        """Throw away what is there, and note by which strong validator the file that now follows is known."""
        self._forget()  # first, so that it never vouches for other bytes than its own
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self.size, self.validator = 0, None
        if validator is not None and self._resumable and _BOOT_ID.exists():
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            note = os.open(self._name + _NOTE, flags, 0o600, dir_fd=self._directory)
            try:
                os.write(note, json.dumps({"validator": validator, "boot": _boot()}).encode())
            finally:
                os.close(note)
            self.validator = validator

    def write(self, block: Block) -> None:
        """Append all of the block."""
        for at in range(0, len(block), _PIECES):
            left = [memoryview(piece) for piece in block[at : at + _PIECES] if piece]
            while left:
                written = os.writev(self._fd, left)
                self.size += written
                while left and written >= len(left[0]):
                    written -= len(left.pop(0))
                if written:
                    left[0] = left[0][written:]

    def flush(self) -> None:
        """Make what is written by now last, and free the memory that has held it; may be called beside `write`."""
        written = self.size
        try:
            os.fsync(self._fd)
        except OSError:  # told only once, and what did not get there counts as written: nobody may go on from here
            self._resumable = False
            self._forget()
            raise
        if hasattr(os, "posix_fadvise"):
            with suppress(OSError):  # a file system that takes no advice
                os.posix_fadvise(self._fd, 0, written, os.POSIX_FADV_DONTNEED)

    def publish(self) -> None:
        """
        Make the file last, then give it its name, replacing what had it.

        Raises `BadCommand` where the directory is no longer the one that was opened: a symlink was swapped in.
        """
        self.flush()
        now = open_directory(self.destination, create=False)
        try:
            same = os.path.samestat(os.fstat(now), os.fstat(self._directory)) and self._is_at(self._name)
        finally:
            os.close(now)
        if not same:
            raise BadCommand(
                f"{self.destination.field}: the directory of {self.destination.given!r} was exchanged while the file "
                "was written. Nothing was published; look who changes that directory."
            )
        os.replace(self._name, self.destination.name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        self.published = True
        os.fsync(self._directory)

    def close(self, *, keep: bool) -> None:
        """Let go of the file; unless it was published or is to be kept for the next writer, remove it."""
        try:
            if self._fd >= 0 and not (keep and self.resumable):
                for name in (self._name + _NOTE, self._name):
                    with suppress(OSError):
                        if name != self._name or self._is_at(name):
                            os.unlink(name, dir_fd=self._directory)
        finally:
            for fd in (self._fd, self._directory):
                if fd >= 0:
                    os.close(fd)
            self._fd = self._directory = -1

    def _begin(self, name: str) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(name, flags, 0o666, dir_fd=self._directory)
        self._name = name
        with suppress(OSError):  # a file system without locks: its leftovers are not swept either
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not self._is_at(name):  # a sweeper was faster than the lock
            os.close(self._fd)
            self._begin(f"{self._stem}{secrets.token_hex(8)}.part")

    def _take_up(self, name: str) -> bool:
        """Open the file that an earlier run may have left; False while another process writes it."""
        self._fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=self._directory)
        self._name = name
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = self._is_at(name)
        except OSError:
            free = False
        if not free:
            os.close(self._fd)
            self._fd = -1
            return False
        self._resumable = True
        self.validator = self._noted()
        if self.validator is None:
            self.restart(None)
        self.size = os.lseek(self._fd, 0, os.SEEK_END)
        return True

    def _forget(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._name + _NOTE, dir_fd=self._directory)

    def _noted(self) -> str | None:
        try:
            note = os.open(self._name + _NOTE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory)
        except OSError:
            return None
        try:
            said = json.loads(os.read(note, READ_SIZE))
            return str(said["validator"]) if said["boot"] == _boot() else None
        except (ValueError, KeyError, TypeError, OSError):
            return None
        finally:
            os.close(note)

    def _sweep(self) -> None:
        """Remove what killed writers to this place left, and in this directory what nobody came back for in a week."""
        now = os.fstat(self._fd).st_mtime  # the file system's own clock
        names = set(os.listdir(self._directory))  # noqa: PTH208 - pathlib knows no descriptors
        for name in names:
            if name.startswith(RESERVED) and not name.startswith(self._name):
                with suppress(OSError):
                    age = now - os.stat(name, dir_fd=self._directory, follow_symlinks=False).st_mtime
                    if name.startswith(self._stem) or age > ABANDONED:
                        self._remove_if_free(name, names)

    def _remove_if_free(self, name: str, names: set[str]) -> None:
        if name.endswith(_NOTE):
            if name.removesuffix(_NOTE) not in names:
                os.unlink(name, dir_fd=self._directory)
            return
        fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._directory)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for each in (name + _NOTE, name):
                with suppress(FileNotFoundError):
                    os.unlink(each, dir_fd=self._directory)
        finally:
            os.close(fd)

    def _is_at(self, name: str) -> bool:
        try:
            there = os.stat(name, dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self._fd))


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:16]


def _boot() -> str:
    return _BOOT_ID.read_text().strip()

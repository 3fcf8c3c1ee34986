"""
Where a command may write and read: destinations, checked before anything is sent.

A destination is a path relative to the working directory, `file:///an/absolute/path`, or `s3://bucket/key`,
`gs://bucket/key`, `az://container/key`, and stands under one of the places that `[artifacts].allowed` names.
The check resolves symlinks; `open_directory` then walks the resolved path without following any, so a symlink that is
swapped in afterwards is refused as well.
"""

from __future__ import annotations

import errno
import os
import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final, Literal, cast, get_args
from urllib.parse import quote, unquote
from zoneinfo import ZoneInfo

from worker.errors import BadCommand

Scheme = Literal["file", "s3", "gs", "az"]

RESERVED: Final = ".planrelay-"
"""How the names of unfinished files begin; no destination may be called so."""

_SCHEMES: Final[tuple[str, ...]] = get_args(Scheme)
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_HIDDEN: Final = re.compile(r"%(?:25)*(?:2e|2f|5c|00)", re.IGNORECASE)
_BUCKET: Final = re.compile(r"[A-Za-z0-9$][A-Za-z0-9._-]{0,254}")
_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_FILLED_LATER: Final = re.compile(r"\{(?:date|time|bn|id|[a-z]+_(?:bn|id))\}")
_ID: Final = re.compile(r"[\w@+=,~-][\w.@+=,~-]*")
_UNPRINTABLE: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
_LONGEST_NAME: Final = 240  # bytes: 255 on every file system in use, less the ending of the manifest
_LONGEST_KEY: Final = 1000  # bytes: 1,024 in S3, Google Cloud and Azure, less the ending of the manifest
_FORMS: Final = "a path relative to the working directory, file:///an/absolute/path, s3://…, gs://… or az://…"


@dataclass(frozen=True, slots=True)
class Destination:
    """
    A place that passed the check.

    `root` is the allowed directory, absolute and without symlinks, or the bucket or container;
    `parts` is the path below it (for a bucket: the whole key). `given` is what the command said, `field` where.
    """

    given: str
    scheme: Scheme
    root: str
    parts: tuple[str, ...]
    field: str = "destination"

    @property
    def name(self) -> str:
        """The last part: the file's own name."""
        return self.parts[-1]

    @property
    def ending(self) -> str:
        """The name's ending in lower case, with its dot: `.csv`; empty where there is none."""
        return Path(self.name).suffix.lower()

    @property
    def key(self) -> str:
        """The path below the root, joined by slashes."""
        return "/".join(self.parts)

    @property
    def is_filled(self) -> bool:
        """Whether nothing is left for `fill` to do."""
        return not _FILLED_LATER.search(self.given)

    def beside(self, ending: str) -> Destination:
        """Name the file that stands beside this one: its name with `ending` added."""
        return replace(self, given=self.given + ending, parts=(*self.parts[:-1], self.name + ending))

    def __str__(self) -> str:
        return self.given


def fill(template: str, *, now: datetime, tz: str, **ids: str) -> str:
    """
    Fill `{date}` (2026-11-22), `{time}` (021500) and the given ids into a destination.

    `now` is aware and shown in `tz`, a name such as `Europe/Paris`. An id fills one place in a name and can never leave
    its segment. Anything else in braces raises `BadCommand`, which lists what may stand there.
    """
    moment = now.astimezone(ZoneInfo(tz))
    values = {"date": f"{moment:%Y-%m-%d}", "time": f"{moment:%H%M%S}", **ids}

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in values:
            known = ", ".join(f"{{{key}}}" for key in values)
            raise BadCommand(f"The destination {template!r} holds {match[0]}; it may hold {known}. Name one of those.")
        if not _ID.fullmatch(values[name]):
            raise BadCommand(
                f"The {name} {values[name]!r} cannot be part of the destination {template!r}: only letters, digits and "
                f"-_.@+=,~ can. Take {match[0]} out of it."
            )
        return values[name]

    return _PLACEHOLDER.sub(value, template)


class Allowed:
    """
    The places of `[artifacts].allowed`; `check` tells whether a destination stands under one of them.

    Each is written as a destination is, or as an absolute path; one that makes no sense raises `ValueError`.
    """

    def __init__(self, allowed: Sequence[str], *, cwd: Path) -> None:
        self._cwd = Path(os.path.abspath(cwd))  # noqa: PTH100 - Path.absolute keeps `..`
        self._given = tuple(allowed)
        self._directories: list[str] = []
        self._prefixes: list[tuple[Scheme, str, tuple[str, ...]]] = []
        for place in allowed:
            try:
                self._allow(place, "artifacts.allowed")
            except BadCommand as error:
                raise ValueError(error.message) from None

    def _allow(self, place: str, field: str) -> None:
        if place.startswith("/"):
            place = f"file://{quote(place)}"
        scheme, rest = _split(place, field)
        if scheme == "file":
            self._directories.append(str(self._cwd / rest))
        else:
            bucket, parts = _bucket(place, rest.rstrip("/"), field)
            self._prefixes.append((scheme, bucket, parts))

    def check(self, destination: str, *, field: str = "destination") -> Destination:
        """
        Give the place that `destination` names, or raise `BadCommand` with the field, the rule and the remedy.

        It may still hold `{date}`, `{time}` and ids, which `fill` can put nothing into that leads elsewhere.
        """
        scheme, rest = _split(destination, field)
        if not {"{", "}"}.isdisjoint(_FILLED_LATER.sub("", destination)):
            remedy = "Take them out; {date}, {time}, {report_bn} and other ids are."
            raise _refused(field, destination, "holds braces that nothing fills in", remedy)
        if not rest or rest.endswith(("/", "/.")) or rest == ".":
            raise _refused(field, destination, "names a directory", "Add the name of a file.")
        if scheme == "file":
            return self._local(destination, rest, field)
        return self._object(destination, scheme, rest, field)

    def _local(self, destination: str, rest: str, field: str) -> Destination:
        real = os.path.realpath(self._cwd / rest)
        for directory in self._directories:
            root = os.path.realpath(directory)
            if real != root and os.path.commonpath((root, real)) == root:
                break
        else:
            raise self._outside(field, destination)
        if os.path.isdir(real):  # noqa: PTH112 - a string all the way; Path would only wrap it
            raise _refused(field, destination, "is a directory", "Add the name of a file.")
        parts = tuple(os.path.relpath(real, root).split("/"))
        _check_lengths(field, destination, parts)
        return Destination(given=destination, scheme="file", root=root, parts=parts, field=field)

    def _object(self, destination: str, scheme: Scheme, rest: str, field: str) -> Destination:
        bucket, parts = _bucket(destination, rest, field)
        for allowed in self._prefixes:
            if (scheme, bucket, parts[: len(allowed[2])]) == allowed and len(parts) > len(allowed[2]):
                break
        else:
            raise self._outside(field, destination)
        _check_lengths(field, destination, parts)
        return Destination(given=destination, scheme=scheme, root=bucket, parts=parts, field=field)

    def _outside(self, field: str, destination: str) -> BadCommand:
        places = ", ".join(self._given) or "no place at all"
        return _refused(
            field,
            destination,
            f"is outside what [artifacts].allowed names ({places})",
            "Choose a place under one of those, or have the operator add this one.",
        )


def _refused(field: str, destination: str, rule: str, remedy: str) -> BadCommand:
    return BadCommand(f"{field}: {destination[:300]!r} {rule}. {remedy}")


def _split(destination: str, field: str) -> tuple[Scheme, str]:
    """Tell the scheme from the rest; refuse what could be read in two ways."""
    if not destination or destination != destination.strip():
        raise _refused(field, destination, "is empty or begins or ends with a blank", f"Give {_FORMS}.")
    if any(unicodedata.category(character) in _UNPRINTABLE for character in destination):
        raise _refused(field, destination, "holds a control character", "Take it out.")
    if "\\" in destination or _HIDDEN.search(destination):
        raise _refused(field, destination, "hides a dot, a slash or a NUL", "Write plain names, divided by /.")
    match = _SCHEME.match(destination)
    if match is None:
        if destination.startswith("/"):
            raise _refused(field, destination, "is an absolute path without scheme", f"Write file://{destination}.")
        _no_way_up(field, destination, destination)
        return "file", destination
    scheme = match[1].lower()
    if scheme not in _SCHEMES:
        raise _refused(field, destination, f"has the unknown scheme {match[1]}:", f"Give {_FORMS}.")
    if not destination.startswith("//", match.end()):
        raise _refused(field, destination, f"lacks // after {match[0]}", f"Give {_FORMS}.")
    rest = destination[match.end() + 2 :]
    if scheme == "file":
        rest = _file_path(field, destination, rest)
    _no_way_up(field, destination, rest)
    return cast("Scheme", scheme), rest


def _file_path(field: str, destination: str, rest: str) -> str:
    """Decode the path of a file URL (RFC 8089); another host, a query or a fragment make no sense there."""
    if not rest.startswith("/"):
        raise _refused(field, destination, "names a host", "Write three slashes: file:///an/absolute/path.")
    if "?" in rest or "#" in rest:
        raise _refused(field, destination, "holds ? or #", "Write %3F or %23 if it is part of the name.")
    try:
        path = unquote(rest, errors="strict")
    except UnicodeDecodeError:
        raise _refused(field, destination, "is not UTF-8 once decoded", "Encode it as UTF-8.") from None
    if any(unicodedata.category(character) in _UNPRINTABLE for character in path):
        raise _refused(field, destination, "holds a control character", "Take it out.")
    return path


def _no_way_up(field: str, destination: str, path: str) -> None:
    if ".." in path.split("/"):
        raise _refused(field, destination, "goes up by ..", "Write the path without it.")


def _bucket(destination: str, rest: str, field: str) -> tuple[str, tuple[str, ...]]:
    bucket, _, key = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise _refused(field, destination, "names no bucket or container", "Write scheme://bucket/path/to/file.")
    parts = tuple(key.split("/")) if key else ()
    if any(part in {"", "."} for part in parts):
        raise _refused(field, destination, "has an empty or dotted segment", "Write each segment's name.")
    return bucket, parts


def _check_lengths(field: str, destination: str, parts: tuple[str, ...]) -> None:
    if max(len(os.fsencode(part)) for part in parts) > _LONGEST_NAME:
        raise _refused(field, destination, f"has a name longer than {_LONGEST_NAME} bytes", "Shorten it.")
    if sum(len(os.fsencode(part)) + 1 for part in parts) > _LONGEST_KEY:
        raise _refused(field, destination, f"is longer than {_LONGEST_KEY} bytes", "Shorten it.")
    if parts[-1].startswith(RESERVED):
        raise _refused(field, destination, f"begins with {RESERVED}, as unfinished files do", "Choose another name.")


def open_directory(destination: Destination, *, create: bool) -> int:
    """
    Open the directory of a local destination without following any symlink, and give its descriptor.

    With `create`, missing directories are made, and made to last. Raises `BadCommand` where a symlink or a file stands
    in the way, `OSError` for the rest.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    if create:
        os.makedirs(destination.root, exist_ok=True)  # noqa: PTH103 - a string all the way; Path would only wrap it
    current = -1
    try:
        current = os.open(destination.root, flags)
        for part in destination.parts[:-1]:
            if create:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=current)
                    os.fsync(current)
            above, current = current, os.open(part, flags, dir_fd=current)
            os.close(above)
    except OSError as error:
        if current >= 0:
            os.close(current)
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            rule = "has a symlink or a file where a directory should be"
            raise _refused(destination.field, destination.given, rule, "Look who changes that directory.") from None
        raise
    return current

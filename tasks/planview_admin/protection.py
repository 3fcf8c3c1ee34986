"""
Whom a reconcile never touches.

Pure. Patterns come from the connection's `protected_users` and from the command: a user name or address with `*` for
any part, or `id:` and an id. Administrators and the worker's own account are protected without being named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tasks.planview_admin.spelling import ADMINISTRATOR
from worker.natural_key import fold


class Protection:
    """Tells who is protected, and why."""

    def __init__(self, patterns: Iterable[str], own: Iterable[str | None]) -> None:
        """`own`: the names by which the worker's own account may be known."""
        ids: list[str] = []
        names: list[str] = []
        for pattern in patterns:
            (ids if pattern.startswith("id:") else names).append(pattern.removeprefix("id:"))
        self._ids = _pattern(ids)
        self._names = _pattern(names)
        self._own = {fold(name) for name in own if name}

    def reason(self, user: Mapping[str, Any]) -> str | None:
        """Say why a user, there or to be made, is not to be touched; None: may be."""
        names = [fold(name) for name in (user.get("username"), user.get("email")) if isinstance(name, str)]
        id = user.get("id")
        if user.get("role") == ADMINISTRATOR and id is not None:
            return "an administrator"
        if self._own and self._own.intersection([*names, fold(str(id))]):
            return "the account of planrelay itself"
        if (id is not None and self._ids.fullmatch(fold(str(id)))) or any(map(self._names.fullmatch, names)):
            return "protected by protected_users"
        return None


def _pattern(patterns: Iterable[str]) -> re.Pattern[str]:
    """Make one expression of many patterns; of none, one that nothing matches."""
    parts = [".*".join(map(re.escape, fold(pattern).split("*"))) for pattern in patterns]
    return re.compile("|".join(f"(?:{part})" for part in parts) or r"(?!)", re.DOTALL)

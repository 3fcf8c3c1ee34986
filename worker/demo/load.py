"""The demo's load: commands of many types, some of which must fail."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

WRONG_SHARE: Final = 0.05
"""Share of the commands that must fail."""

NO_UNIT: Final = "0123456789abcdef01234567"
"""The id of a unit that is not there."""


@dataclass(frozen=True, slots=True)
class Stock:
    """What one tenant has at the vendors before the load comes."""

    tenant: str
    entities: Sequence[str]
    reports: Sequence[str]
    users: Sequence[str]
    project: str
    floor: str
    units: Sequence[str]


@dataclass(frozen=True, slots=True)
class Asked:
    """One command of the load; `fails` is the kind of error that it must end with, None where it must succeed."""

    event: Mapping[str, Any]
    fails: str | None = None

    @property
    def id(self) -> str:
        """The command's id."""
        return str(self.event["id"])

    @property
    def type(self) -> str:
        """The command's type."""
        return str(self.event["type"])


Make = Callable[[int, Stock, Random], dict[str, Any]]

RIGHT: Final[Mapping[str, tuple[int, Make]]] = {
    "barometerit.entity.list": (4, lambda _n, _its, _rng: {"type": "SYS", "limit": 50}),
    "barometerit.entity.read": (30, lambda _n, its, rng: {"bn": rng.choice(its.entities)}),
    "barometerit.entity.create": (
        10,
        lambda n, _its, _rng: {"type": "SYS", "properties": {"name": f"Demo system {n}"}},
    ),
    "barometerit.entity.update": (
        12,
        lambda n, its, rng: {"bn": rng.choice(its.entities), "properties": {"description": f"Seen by the demo, {n}"}},
    ),
    "barometerit.report.export": (
        3,
        lambda n, its, rng: {
            "report_bn": rng.choice(its.reports),
            "destination": f"./var/artifacts/{its.tenant}-{n}.csv",
        },
    ),
    "planview_admin.user.search": (4, lambda _n, _its, _rng: {"limit": 50}),
    "planview_admin.user.read": (24, lambda _n, its, rng: {"id": rng.choice(its.users)}),
    "planview_admin.user.create": (
        10,
        lambda n, _its, _rng: {"email": f"demo{n}@example.com", "first_name": "Demo", "last_name": f"User {n}"},
    ),
    "planview_admin.user.update": (
        12,
        lambda n, its, rng: {"id": rng.choice(its.users), "changes": {"last_name": f"Renamed {n}"}},
    ),
    "planpoint.project.find": (
        4,
        lambda _n, its, _rng: {"namespace": its.tenant, "host_name": f"{its.tenant}.example"},
    ),
    "planpoint.unit.list": (4, lambda _n, its, _rng: {"project_id": its.project, "limit": 100}),
    "planpoint.unit.create": (
        12,
        lambda n, its, _rng: {"floor_id": its.floor, "project_id": its.project, "name": f"Demo unit {n}"},
    ),
    "planpoint.unit.update": (
        25,
        lambda _n, its, rng: {"id": rng.choice(its.units), "changes": {"price": rng.randrange(100_000, 900_000)}},
    ),
    "planpoint.unit.read": (40, lambda _n, its, rng: {"id": rng.choice(its.units)}),
}
"""What must succeed: how often each type comes beside the others, and the data of its n-th command for a tenant."""

WRONG: Final[Sequence[tuple[str, str, str | None, Make]]] = (
    ("not_found", "planpoint.unit.read", None, lambda _n, _its, _rng: {"id": NO_UNIT}),
    ("bad_command", "planpoint.unit.update", None, lambda _n, _its, _rng: {"id": NO_UNIT, "chnages": {"price": 1}}),
    ("bad_command", "planpoint.unit.read", "nobody", lambda _n, its, _rng: {"id": its.units[0]}),
)
"""What must fail: the kind of its error, its type, its connection if it is one that nobody configured, its data."""


def make_load(count: int, stock: Sequence[Stock], rng: Random) -> list[Asked]:
    """Make `count` commands of all types for all tenants, in no order; whatever one makes has a name of its own."""
    failing = round(count * WRONG_SHARE)
    asked = []
    for type_, number in _apportioned(count - failing).items():
        for n in range(number):
            its = stock[n % len(stock)]
            asked.append(Asked(_command(type_, _connection(type_, its), RIGHT[type_][1](n, its, rng))))
    for n in range(failing):
        kind, type_, connection, make = WRONG[n % len(WRONG)]
        its = stock[n % len(stock)]
        asked.append(Asked(_command(type_, connection or _connection(type_, its), make(n, its, rng)), kind))
    rng.shuffle(asked)
    return asked


def _apportioned(count: int) -> dict[str, int]:
    """Divide a count by the weights, each type at least once; the last type gets what is left over."""
    total = sum(weight for weight, _ in RIGHT.values())
    counts = {type_: max(1, count * weight // total) for type_, (weight, _) in RIGHT.items()}
    counts[next(reversed(counts))] += count - sum(counts.values())
    return counts


def _connection(type_: str, its: Stock) -> str:
    return f"{its.tenant}-{type_.partition('.')[0]}"


def _command(type_: str, connection: str, data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": str(uuid.uuid4()),
        "source": "/planrelay/demo",
        "type": type_,
        "connection": connection,
        "datacontenttype": "application/json",
        "data": dict(data),
    }

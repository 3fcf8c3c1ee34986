"""What the tests of Planpoint share: the bench, and a small made-up Planpoint of either generation."""

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

import tasks.planpoint.tasks
from tests.tasks.bench import Bench, answer
from worker.rest import Request, Response

A_NAMES = {"status": "availability", "bed": "bedrooms", "bath": "bathrooms", "sqft": "squareFeet"}


def ident(number: int) -> str:
    """Make an id: 24 hexadecimal digits."""
    return f"{number:024x}"


PROJECT, FLOOR = ident(0xA1), ident(0xF1)


class Account:
    """
    A project with one floor and its units, answered as one generation of the API does: B (`status`, `{records, count}`,
    201) or A (`availability`, bare arrays, 200). Names of the other generation are ignored in writes.
    """

    def __init__(self, generation: str = "B") -> None:
        self.generation = generation
        self.units: dict[str, dict[str, Any]] = {}
        self.skew = 0
        self.ignore_on_create: set[str] = set()

    def add(self, name: str, **fields: Any) -> str:
        """Put a unit there, with B's names."""
        id = ident(len(self.units) + 1)
        self.units[id] = {"_id": id, "floor": FLOOR, "name": name, "status": "Available", **fields}
        return id

    def __call__(self, request: Request) -> Response:
        """Answer one request."""
        match [request.method, *request.path.removeprefix("/api/").split("/")]:
            case ["GET", "floors", floor]:
                return answer({"_id": floor, "project": PROJECT, "name": "1"})
            case ["GET", "units"]:
                return self._records([self._shown(unit) for unit in self.units.values()])
            case ["POST", "units"]:
                fields = {k: v for k, v in self._understood(request.json).items() if k not in self.ignore_on_create}
                return answer(self._shown(self.units[self.add(**{"name": None, **fields})]), self._made)
            case ["PATCH", "units"]:
                changed = [id for id in request.json["ids"] if id in self.units]
                for id in changed:
                    self.units[id].update(self._understood(request.json["patchData"]))
                return answer([self._shown(self.units[id]) for id in changed], self._made)
            case [_, "units", id] if id not in self.units:
                return answer({"message": "No such unit"}, 404)
            case ["GET", "units", id]:
                return answer(self._shown(self.units[id]))
            case ["PATCH", "units", id]:
                self.units[id].update(self._understood(request.json))
                return answer(self._shown(self.units[id]))
            case ["DELETE", "units", id]:
                del self.units[id]
                return answer({"message": "Unit deleted"})
        return answer({"message": f"nothing at {request.path}"}, 404)

    @property
    def _made(self) -> int:
        return 201 if self.generation == "B" else 200

    def _records(self, records: list[Any]) -> Response:
        return answer(
            {"records": records, "count": len(records) + self.skew} if self.generation == "B" else records, self._made
        )

    def _shown(self, unit: Mapping[str, Any]) -> dict[str, Any]:
        return {A_NAMES.get(name, name): value for name, value in unit.items()} if self.generation == "A" else {**unit}

    def _understood(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        ours = {a: b for b, a in A_NAMES.items()}
        foreign = A_NAMES.keys() if self.generation == "A" else ours.keys()
        known = {ours.get(name, name): value for name, value in fields.items() if name not in foreign}
        known.pop("floor", None)
        return json.loads(json.dumps(known))  # type: ignore[no-any-return]  # an object in, an object out


@pytest.fixture
def bench() -> Bench:
    """Give a bench for Planpoint's commands, on a connection without overrides."""
    return Bench(tasks.planpoint.tasks)


@pytest.fixture(params=["B", "A"])
def account(request: pytest.FixtureRequest, bench: Bench) -> Account:
    """Give a made-up Planpoint of each generation, on the bench's wire."""
    account = Account(request.param)
    bench.wire = account
    return account


def is_id(value: str) -> bool:
    """Tell whether this is an id as the vendor's pattern has it."""
    return re.fullmatch(r"[0-9a-fA-F]{24}", value) is not None

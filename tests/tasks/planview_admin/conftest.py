"""What the tests of Planview Admin share: the bench, and a small made-up customer behind the wire."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import tasks.planview_admin.tasks
from tests.tasks.bench import Bench, BenchLedger, answer
from worker.rest import Request, Response

SEARCHED = ("email", "username", "firstName", "lastName", "role", "status")
BEGAN = datetime(2026, 5, 1, tzinfo=UTC)


class Customer:
    """
    One customer's users, products and audit history, answered as planview_admin.txt has it where it says something.

    Emails are unique, or usernames where `usernames` is set. `writes` lists every write that took effect.
    """

    def __init__(self, *, usernames: bool = False, unique: bool = True) -> None:
        self.users: dict[str, dict[str, Any]] = {}
        self.products: list[dict[str, Any]] = []
        self.records: list[dict[str, Any]] = []
        self.usernames = usernames
        self.unique = unique
        self.page_max = 50
        self.filters = True
        self.ignored: set[str] = set()
        self.writes: list[tuple[str, str]] = []
        self._number = 0

    def add(self, email: str, **fields: Any) -> str:
        """Put a user there, with the vendor's keys."""
        self._number += 1
        id = str(fields.pop("id", f"u{self._number}"))
        self.users[id] = {
            "id": id,
            "firstName": "Ada",
            "lastName": f"No{self._number}",
            "email": email,
            "username": None,
            "role": "User",
            "passwordRequired": False,
            "products": [],
            "status": "Active",
            "lastLogin": None,
            **fields,
        }
        return id

    def fill(self, count: int, **fields: Any) -> list[str]:
        """Put numbered users there."""
        return [self.add(f"user{number}@example.com", **fields) for number in range(1, count + 1)]

    def record(self, count: int, *, every: timedelta = timedelta(minutes=1)) -> None:
        """Put audit records there, in the order of their instants."""
        for _ in range(count):
            number = len(self.records) + 1
            at = (BEGAN + every * number).isoformat()
            self.records.append({"id": f"r{number}", "timestamp": at, "event": "User updated", "userId": "u1"})

    def __call__(self, request: Request) -> Response:  # noqa: PLR0911 - one answer for each kind of request
        """Answer one request."""
        match [request.method, *request.path.removeprefix("/public/v1/").split("/")]:
            case ["GET", "user"]:
                return self.page(request, [user for user in self.users.values() if self._found(user, request)])
            case ["POST", "user"]:
                return self._create(request.json)
            case ["GET", "user", id, "audit"]:
                return self.page(request, [one for one in self.records if one["userId"] == id])
            case [_, "user", id] if id not in self.users:
                return answer({"message": f"there is no user {id}"}, 404)
            case ["GET", "user", id]:
                return answer(self.users[id])
            case ["PATCH", "user", id]:
                return self._update(id, request.json)
            case ["PUT", "user", id]:
                return self._update(id, {**dict.fromkeys(self.users[id]), **request.json, "id": id})
            case ["DELETE", "user", id]:
                del self.users[id]
                self.writes.append(("delete", id))
                return Response(status=204, headers=answer({}).headers, body=b"")
            case ["GET", "customer", "audit"]:
                return self.page(request, self.records)
            case ["GET", "product"]:
                return self.page(request, self.products)
            case ["GET", "product", id, "user"]:
                return self.page(request, [user for user in self.users.values() if id in user["products"]])
        return answer({"message": f"nothing at {request.path}"}, 404)

    def page(self, request: Request, rows: list[dict[str, Any]]) -> Response:
        """Give a page of rows (planview_admin.txt, "Paging")."""
        start = int(request.query.get("startIndex", 1))  # type: ignore[arg-type] # a text
        count = min(int(request.query.get("count", 50)), self.page_max)  # type: ignore[arg-type] # the same
        return answer({"startIndex": start, "itemsPerPage": count, "Resources": rows[start - 1 : start - 1 + count]})

    def by_email(self) -> dict[str, dict[str, Any]]:
        """Give the users by their address."""
        return {user["email"].lower(): user for user in self.users.values()}

    def _found(self, user: dict[str, Any], request: Request) -> bool:
        asked = {name: str(value).lower() for name, value in request.query.items() if name in SEARCHED}
        return not self.filters or all(str(user[name]).lower() == value for name, value in asked.items())

    def _create(self, said: dict[str, Any]) -> Response:
        if self._taken({"id": None, **said}):
            return answer({"message": "there is such a user"}, 409)
        kept = {name: value for name, value in said.items() if name not in self.ignored}
        id = self.add(kept.pop("email"), **{"status": "Pending", **kept})
        self.writes.append(("create", id))
        return answer(self.users[id], 201)

    def _update(self, id: str, said: dict[str, Any]) -> Response:
        if self._taken({**self.users[id], **said}):
            return answer({"message": "there is such a user"}, 409)
        self.users[id] |= json.loads(json.dumps({k: v for k, v in said.items() if k not in self.ignored}))
        self.writes.append(("update", id))
        return answer(self.users[id])

    def _taken(self, user: dict[str, Any]) -> bool:
        name = "username" if self.usernames else "email"
        value = str(user.get(name) or "").lower()
        others = (str(one.get(name) or "").lower() for one in self.users.values() if one["id"] != user["id"])
        return self.unique and bool(value) and value in others


class Killed(BaseException):
    """The worker was killed here."""


class Mortal(BenchLedger):
    """A ledger whose worker is killed at its nth step to the outside: a request, its answer, a write."""

    def __init__(self, memory: dict[str, Any], after: int) -> None:
        super().__init__(memory)
        self.left = after

    def live(self) -> None:
        """Take one step; whoever is dead takes none."""
        self.left -= 1
        if self.left < 0:
            raise Killed

    def wire(self, customer: Callable[[Request], Response]) -> Callable[[Request], Response]:
        """Give a wire on which the worker may be killed before the vendor acts, and before the answer is here."""

        def app(request: Request) -> Response:
            self.live()
            response = customer(request)
            self.live()
            return response

        return app

    async def write_step(self, digest: str, name: str, value: Any) -> None:
        """Write, alive."""
        self.live()
        await super().write_step(digest, name, value)
        self.live()

    async def write_intent(self, digest: str, name: str) -> None:
        """Write, alive."""
        self.live()
        await super().write_intent(digest, name)
        self.live()

    async def clear_intent(self, digest: str, name: str) -> None:
        """Write, alive."""
        self.live()
        await super().clear_intent(digest, name)

    async def remember(self, name: str, value: Any) -> None:
        """Write, alive."""
        self.live()
        await super().remember(name, value)
        self.live()


@pytest.fixture
def bench() -> Bench:
    """Give a bench for Planview Admin's commands, on a connection without overrides."""
    return Bench(tasks.planview_admin.tasks, protected_users=(), client_id="relay", username=None)


@pytest.fixture
def customer(bench: Bench) -> Customer:
    """Give a made-up customer on the bench's wire."""
    bench.wire = made = Customer()
    return made

"""Any roster, any directory, any points at which the worker is killed: what must hold all the same."""

import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tasks.planview_admin.tasks
from tests.tasks.bench import Bench
from tests.tasks.planview_admin.conftest import Customer, Killed, Mortal
from worker.errors import BadCommand, RelayError
from worker.plans import Plan, Plans
from worker.run import Postpone

RECONCILE = "planview_admin.users.reconcile"
WRITES = ("create", "update", "reactivate", "deactivate")
EMAILS = [f"{name}@example.com" for name in "abcdef"] + ["boss@example.com"]
PATTERN = "boss@*"
NEVER = 10**6


@dataclass
class Case:
    """One customer, one roster, and when the worker is killed."""

    usernames: bool
    users: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    options: dict[str, Any]
    kills: list[int]
    customer: Customer = field(init=False)

    def __post_init__(self) -> None:
        self.customer = Customer(usernames=self.usernames)
        self.customer.page_max = 3
        self.customer.products = [{"id": "p1", "name": "Portfolios"}, {"id": "p2", "name": "Teams"}]
        for user in self.users:
            self.customer.add(**user)

    @property
    def data(self) -> dict[str, Any]:
        """The command's data."""
        return {"roster": self.rows, "mode": "apply", "protected_users": [PATTERN], **self.options}


def people(usernames: bool) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Users as the vendor may have them: emails unique, or usernames."""
    names = st.sampled_from(["x1", "x2", "x3", "x4", None]) if usernames else st.none()
    user = st.fixed_dictionaries(
        {
            "email": st.sampled_from(EMAILS),
            "username": names,
            "firstName": st.sampled_from(["Ada", "Bob"]),
            "role": st.sampled_from(["User", "User", "User", "Administrator"]),
            "status": st.sampled_from(["Active", "Active", "Pending", "Inactive"]),
            "products": st.lists(st.sampled_from(["p1", "p2"]), unique=True),
        }
    )
    unique = (lambda one: one["username"] or object()) if usernames else (lambda one: one["email"])
    return st.lists(user, unique_by=unique, min_size=2, max_size=7)


def rosters(usernames: bool) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Rows as people may write them; a few are wrong, and a few mean somebody whom another row means."""
    fields: dict[str, st.SearchStrategy[Any]] = {
        "email": st.sampled_from([*EMAILS, *EMAILS, "A@Example.com", "new@example.com", "nobody"]),
        "first_name": st.sampled_from(["Ada", "Bob", "Bob", ""]),
        "last_name": st.just("Byron"),
    }
    optional: dict[str, st.SearchStrategy[Any]] = {
        "role": st.sampled_from(["user", "User", "Administrator", "emperor"]),
        "status": st.sampled_from(["Active", "Active", "inactive", "inactive", "Pending"]),
        "products": st.sampled_from(["p1", "Teams", "p1;p2", "p2", "P3"]),
    }
    plain = st.fixed_dictionaries(fields, optional=optional)
    by_id = st.fixed_dictionaries({"id": st.sampled_from([f"u{n}" for n in range(1, 6)]), **fields}, optional=optional)
    by_name = st.fixed_dictionaries(
        {"username": st.sampled_from(["x1", "X2", "x3", "x5"]), **fields}, optional=optional
    )
    kinds = [plain, plain, plain, by_id, by_name if usernames else plain]
    return st.lists(st.one_of(kinds), min_size=1, max_size=7, unique_by=lambda row: row["email"])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw one."""
    usernames = draw(st.booleans())
    options = {
        "deactivate_missing": draw(st.booleans()),
        "max_removals": draw(st.sampled_from([0, 2, 3, 10])),
        "max_removal_share": draw(st.sampled_from([0.3, 0.6, 1.0])),
    }
    kills = draw(st.lists(st.integers(0, 30), max_size=5))
    return Case(usernames, draw(people(usernames)), draw(rosters(usernames)), options, kills)


class World:
    """A worker that is killed and started again until the command has its outcome."""

    def __init__(self, case: Case, plans: Plans) -> None:
        self.case = case
        self.bench = Bench(tasks.planview_admin.tasks, protected_users=(), client_id="relay", username=None)
        self.bench.plans = plans
        self.ledger = Mortal(self.bench.memory, NEVER)
        self.bench.ledger = self.ledger
        self.bench.wire = self.ledger.wire(case.customer)
        self.kills = iter(case.kills)

    async def run(self, data: dict[str, Any], key: str) -> dict[str, Any]:
        """Run a command to its end."""
        for _ in range(20):
            self.ledger.left = next(self.kills, NEVER)
            try:
                return await self.bench.do(RECONCILE, data, key=key)
            except BadCommand:
                raise
            except (Killed, Postpone, RelayError):
                continue
        raise AssertionError("20 runs were not enough")


def planned(users: dict[str, dict[str, Any]], items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give the directory that a plan's lines describe."""
    keys = {"first_name": "firstName", "last_name": "lastName"}
    after = copy.deepcopy(users)
    made = []
    for item in items:
        fields = {keys.get(name, name): one["after"] for name, one in item.get("changes", {}).items()}
        if item["action"] == "create":
            made.append(fields)
        elif item["action"] in WRITES:
            after[item["id"]] |= fields
    return [*after.values(), *made]


def shown(users: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Give what can be compared of users, also of those without an id yet."""
    return sorted(
        (
            user["email"],
            str(user.get("username")),
            user.get("firstName"),
            user.get("role", "User"),
            sorted(user.get("products", [])),
            user.get("status", "Pending"),
        )
        for user in users
    )


def is_protected(user: dict[str, Any]) -> bool:
    """Tell who must not be touched in these tests."""
    return bool(user["role"] == "Administrator" or user["email"].startswith("boss@"))


async def approve(plans: Plans, id: str) -> Plan:
    """Approve a plan as an operator does."""
    return await plans.approve(id, by="ada", now=datetime(2026, 5, 20, 9, 0, tzinfo=UTC))


@given(case=cases())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_roster_any_directory_any_crash(plans: Plans, case: Case) -> None:
    """
    The directory ends as planned, each write took effect once, no more were removed than the brake allows (unless
    somebody approved), protected users are untouched, and a plan made afterwards is empty: but for rows that could not
    be used before, as another row or user was in their way.
    """
    world = World(case, plans)
    before = copy.deepcopy(case.customer.users)
    try:
        result = await world.run(case.data, "one")
    except BadCommand:
        assert case.customer.users == before
        return
    items = [item async for item in plans.items(result["plan_id"])]
    if result["state"] == "held":
        assert case.customer.users == before, "nothing is written while a plan is held"
        assert case.customer.writes == []
        command = (await approve(plans, result["plan_id"])).command()
        result = await world.run(command["data"], command["id"])
    else:
        active = sum(user["status"] != "Inactive" for user in before.values())
        after = case.customer.users
        lost = [id for id, user in before.items() if is_lost(user, after[id])]
        assert len(lost) <= min(case.options["max_removals"], case.options["max_removal_share"] * active)
    assert result["state"] == "applied"
    assert result["summary"]["not_applied"] == 0, result

    assert shown(list(case.customer.users.values())) == shown(planned(before, items))
    assert len(case.customer.writes) == sum(item["action"] in WRITES for item in items), "each write once"
    for id, user in before.items():
        if is_protected(user):
            assert case.customer.users[id] == user
        assert id in case.customer.users, "nobody is deleted"

    again = await world.run({**case.data, "mode": "plan"}, "two")
    unusable = {item["line"] for item in items if item["action"] == "invalid"}
    assert [item for item in again["plan"]["rows"] if item["action"] in WRITES and item["line"] not in unusable] == []


def is_lost(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Tell whether a user lost their access, or a product environment."""
    if before["status"] == "Inactive":
        return False
    return after["status"] == "Inactive" or not set(before["products"]) <= set(after["products"])

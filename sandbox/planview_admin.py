"""
The stand-in of Planview Admin.

Source: planview_admin.txt (the vendor's overview). It confirms the token call, `GET /public/v1/user`, the paging keys,
the points header and 429 with Retry-After. Everything else here (paths, methods, JSON keys, states) is the likeliest
reading of the user interface's pages; no endpoint reference is published.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import parse_qs

from sandbox.stand_in import StandIn, Tokens
from sandbox.store import Collection
from sandbox.switches import Switches, choice, duration, flag, listed, optional, positive, text
from sandbox.wire import JSON, Answer, Call, Object, Operation, Refusal, Routes, encode, operation

_STATUSES = ("Active", "Pending", "Inactive")
_ROLES = ("Administrator", "User")
_FILTERS = ("id", "firstName", "lastName", "email", "username", "role", "status", "products")
_SEARCHED = ("firstName", "lastName", "email", "username")
_ACTOR = "sandbox-client"


@dataclass(frozen=True, kw_only=True)
class PlanviewAdminSwitches(Switches):
    """How this Planview Admin behaves."""

    client_id: Annotated[str, text] = "sandbox-client"
    client_secret: Annotated[str, text] = "sandbox-secret"
    token_lifetime: Annotated[timedelta, duration] = timedelta(hours=1)
    expires_in: Annotated[bool, flag] = False
    access_token: Annotated[bool, flag] = False
    token_error: Annotated[int, choice(401, 400, 403)] = 401
    page_default: Annotated[int, positive] = 50
    page_max: Annotated[int, positive] = 200
    total_results: Annotated[bool, flag] = False
    page_bug: Annotated[str | None, optional(choice("zero", "missing", "repeat"))] = None
    usernames: Annotated[bool, flag] = False
    unique: Annotated[bool, flag] = True
    points: Annotated[int, positive] = 1
    methods: Annotated[tuple[str, ...], listed("PATCH", "PUT")] = ("PATCH", "PUT")
    audit_order: Annotated[str, choice("ascending", "descending")] = "ascending"


class PlanviewAdmin(StandIn):
    """Users, products and the audit history of one customer."""

    vendor = "planview_admin"
    json_type = "application/json"
    shows_points = True
    switches: PlanviewAdminSwitches

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.tokens = Tokens()
        self.users = Collection("id", natural=_natural, group=lambda user: _folded(user.get("email")))
        self.products = Collection("id", natural=lambda product: product.get("name"))
        self.audit = Collection("id", group=lambda record: record["userId"])
        self.collections = {"users": self.users, "audit": self.audit, "products": self.products}

    def locate(self, path: str) -> list[str]:
        """Paths as they are."""
        return path.strip("/").split("/")

    def cost(self, wanted: Operation) -> int:  # noqa: ARG002  # nothing is published about the price of one call
        """Every call costs the same, as nothing else is published."""
        return self.switches.points

    # Tokens: planview_admin.txt, "Client Credentials"

    @operation("POST", "/io/v1/oauth2/token", "token.create", public=True, free=True)
    def token_create(self, call: Call) -> Answer:
        """Form and Basic; the answer's `id_token` is the bearer token."""
        kind = call.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind != "application/x-www-form-urlencoded":
            raise Refusal(415, "the body must be application/x-www-form-urlencoded")
        form = parse_qs(call.body.decode(errors="replace"))
        if form.get("grant_type") != ["client_credentials"]:
            raise Refusal(400, "grant_type must be client_credentials", error="unsupported_grant_type")
        if call.basic() != (self.switches.client_id, self.switches.client_secret):
            raise Refusal(self.switches.token_error, "client id and secret don't match", error="invalid_client")
        lifetime = self.switches.token_lifetime.total_seconds()
        claims = {"sub": self.switches.client_id, "iss": "sandbox", "jti": str(self.serial())}
        token = self.tokens.issue(claims, call.now + lifetime, call.now)
        said: Object = {"id_token": token, "token_type": "Bearer"}
        if self.switches.access_token:
            said["access_token"] = token
        if self.switches.expires_in:
            said["expires_in"] = int(lifetime)
        call.did("issued", "tokens", token[-12:])
        return self.answer(said)

    def authorize(self, call: Call, wanted: Operation) -> None:  # noqa: ARG002  # one token is good for everything
        """`Authorization: Bearer <id_token>`."""
        token = call.bearer()
        if token is None or not self.tokens.valid(token, call.now):
            raise Refusal(401, "a valid bearer token is required", headers={"WWW-Authenticate": "Bearer"})

    # Users

    @operation("GET", "/public/v1/user", "user.list")
    def user_list(self, call: Call) -> Answer:
        """A page of users. Its filters are unpublished: here a field's name, or `query` for part of a name or email."""
        wanted = {name: call.query[name] for name in _FILTERS if name in call.query}
        part = call.query.get("query", "").casefold()
        if not wanted and not part:
            return self._page(call, len(self.users), self.users.page)
        if "email" in wanted:
            candidates: Iterable[Object] = self.users.page(0, None, _folded(wanted["email"]))
        else:
            candidates = self.users
        found = [user for user in candidates if _matches(user, wanted, part)]
        return self._page(call, len(found), _slices(found))

    @operation("POST", "/public/v1/user", "user.create")
    def user_create(self, call: Call) -> Answer:
        """First name, last name and email are needed; the new user is Pending."""
        said = call.object()
        self._check(said, required=True)
        user = {"status": "Pending", **_blank(), **said, "id": self._ident(self.serial())}
        self._refuse_double(user)
        self.users.add(user)
        call.did("created", "users", user["id"])
        self._record("User created", user["id"], {name: [None, value] for name, value in said.items()}, call.now)
        return self.answer(user, 201)

    @operation("GET", "/public/v1/user/*", "user.read")
    def user_read(self, call: Call) -> Answer:
        """One user."""
        return self.answer(self.existing("users", call.ident))

    @operation("PATCH", "/public/v1/user/*", "user.update")
    def user_update(self, call: Call) -> Answer:
        """Sets the fields given; deactivating is `status: Inactive`."""
        said = self._edit(call)
        self._check(said, required=False)
        return self._changed(call, said)

    @operation("PUT", "/public/v1/user/*", "user.replace")
    def user_replace(self, call: Call) -> Answer:
        """Sets all fields; those left out become empty."""
        said = self._edit(call)
        self._check(said, required=True)
        before = self.existing("users", call.ident)
        gone = {name: None for name in before if name not in ("id", "lastLogin")}
        return self._changed(call, {**gone, **_blank(), "status": before["status"], **said})

    @operation("DELETE", "/public/v1/user/*", "user.delete")
    def user_delete(self, call: Call) -> Answer:
        """Gone; the audit history keeps the record."""
        self.existing("users", call.ident)
        self.users.remove(call.ident)
        call.did("deleted", "users", call.ident)
        self._record("User deleted", call.ident, {}, call.now)
        return Answer(204)

    # Audit history

    @operation("GET", "/public/v1/user/*/audit", "user.audit")
    def user_audit(self, call: Call) -> Answer:
        """What was done to one user; `since` is an instant (inclusive). A deleted user's history can be read."""
        if call.ident not in self.users and not self.audit.size(call.ident):
            raise Refusal(404, f"there is no user {call.ident}")
        return self._history(call, call.ident)

    @operation("GET", "/public/v1/customer/audit", "customer.audit")
    def customer_audit(self, call: Call) -> Answer:
        """What was done at all; `since` is an instant (inclusive)."""
        return self._history(call, None)

    # Products

    @operation("GET", "/public/v1/product", "product.list")
    def product_list(self, call: Call) -> Answer:
        """The product environments assigned to the customer."""
        return self._page(call, len(self.products), self.products.page)

    @operation("GET", "/public/v1/product/*/user", "product.users")
    def product_users(self, call: Call) -> Answer:
        """The users that are provisioned to a product environment."""
        self.existing("products", call.ident)
        found = [user for user in self.users if call.ident in (user.get("products") or ())]
        return self._page(call, len(found), _slices(found))

    # Seeding

    def seed(self, collection: str, items: Iterable[Object], traits: Mapping[str, JSON]) -> list[str]:
        """See the package's page: status, role, products of users; user_id of audit records."""
        target = self.collection(collection)
        allowed = {"users": {"status", "role", "products"}, "audit": {"user_id"}, "products": set()}[collection]
        self.check_traits(collection, traits, allowed)
        make = {"users": self._seed_user, "audit": self._seed_record, "products": self._seed_product}[collection]
        return [target.add(make(item, traits))["id"] for item in items]

    def _seed_user(self, item: Object, traits: Mapping[str, JSON]) -> Object:
        number = self.serial()
        return {
            "id": self._ident(number),
            "firstName": f"First{number}",
            "lastName": f"Last{number}",
            "email": f"user{number:06}@example.com",
            "username": f"user{number:06}@example.com" if self.switches.usernames else None,
            "role": traits.get("role", "User"),
            "passwordRequired": False,
            "products": list(traits.get("products", ())),
            "status": traits.get("status", "Active"),
            "lastLogin": None,
            **item,
        }

    def _seed_record(self, item: Object, traits: Mapping[str, JSON]) -> Object:
        made = self._new_record("User updated", traits.get("user_id", self._ident(1)), {}, self.clock())
        return {**made, **item}

    def _seed_product(self, item: Object, traits: Mapping[str, JSON]) -> Object:  # noqa: ARG002  # made by a table
        number = self.serial()
        made = {"id": f"product-{number}", "name": f"Product {number}", "environment": "Production", "primary": False}
        return {**made, **item}

    # Paging: planview_admin.txt, "Paging"

    def _page(self, call: Call, total: int, slice_of: Any) -> Answer:
        start = call.integer("startIndex", 1, least=1)
        count = min(call.integer("count", self.switches.page_default, least=0), self.switches.page_max)
        bug = self.switches.page_bug
        first = 0 if bug == "repeat" else start - 1
        said: Object = {"startIndex": start, "itemsPerPage": 0 if bug == "zero" else count}
        if bug == "missing":
            del said["itemsPerPage"]
        if self.switches.total_results:
            said["totalResults"] = total
        said["Resources"] = slice_of(first, count)
        return self.answer(said)

    def _history(self, call: Call, user: str | None) -> Answer:
        since = call.query.get("since")
        if since is None:
            records = self.audit.page(0, None, user)
        else:
            after = _read_instant(since)
            records = [one for one in self.audit.page(0, None, user) if _read_instant(one["timestamp"]) >= after]
        if self.switches.audit_order == "descending":
            records.reverse()
        return self._page(call, len(records), _slices(records))

    # Writing

    def _edit(self, call: Call) -> Object:
        if call.method not in self.switches.methods:
            allowed = ", ".join(self.switches.methods)
            raise Refusal(405, f"{call.method} is not possible here", headers={"Allow": allowed})
        self.existing("users", call.ident)
        return call.object()

    def _changed(self, call: Call, said: Object) -> Answer:
        user = self.existing("users", call.ident)
        if said.get("id", call.ident) != call.ident:
            raise Refusal(400, "the id can't be changed")
        self._refuse_double({**user, **said})
        changes = {name: [user.get(name), value] for name, value in said.items() if user.get(name) != value}
        self.users.change(call.ident, said)
        call.did("updated", "users", call.ident)
        self._record("User updated", call.ident, changes, call.now)
        return self.answer(user)

    def _check(self, said: Object, *, required: bool) -> None:
        for name in ("firstName", "lastName", "email"):
            value = said.get(name)
            if (required or name in said) and (not isinstance(value, str) or not value.strip()):
                raise Refusal(400, f"{name} is required: a text")
        if "email" in said and "@" not in said["email"]:
            raise Refusal(400, "email must be an address")
        for name, allowed in (("status", _STATUSES), ("role", _ROLES)):
            if name in said and said[name] not in allowed:
                raise Refusal(400, f"{name} must be one of {', '.join(allowed)}")
        products = said.get("products", [])
        if not isinstance(products, list) or not all(isinstance(one, str) for one in products):
            raise Refusal(400, "products must be a list of product ids")
        unknown = [one for one in products if one not in self.products]
        if unknown and len(self.products):
            raise Refusal(400, f"there is no product {unknown[0]}")

    def _refuse_double(self, user: Object) -> None:
        """Email is unique unless usernames are in use (success.planview.com, Managing Users)."""
        if not self.switches.unique:
            return
        if self.switches.usernames:
            double = self.users.having(_natural(user))
        else:
            double = self.users.page(0, None, _folded(user.get("email")))
        if any(one["id"] != user["id"] for one in double):
            raise Refusal(409, "a user with that " + ("username" if self.switches.usernames else "email") + " exists")

    def _record(self, event: str, user: str, changes: Object, now: float) -> None:
        self.audit.add(self._new_record(event, user, changes, now))

    def _new_record(self, event: str, user: str, changes: Object, now: float) -> Object:
        return {
            "id": f"audit-{self.serial():012}",
            "timestamp": datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "event": event,
            "actor": _ACTOR,
            "userId": user,
            "changes": changes,
        }

    def _ident(self, number: int) -> str:
        return f"{self.fingerprint('user'):08x}-0000-4000-8000-{number:012x}"

    def refuse(self, refusal: Refusal) -> Answer:
        """`{message}`; the token call adds the `error` of RFC 6749."""
        body = encode({**refusal.extra, "message": refusal.message})
        return Answer(refusal.status, body, {"Content-Type": self.json_type, **refusal.headers})


PlanviewAdmin.routes = Routes(PlanviewAdmin)


def _folded(value: JSON) -> str | None:
    return value.casefold() if isinstance(value, str) else None


def _natural(user: Object) -> str | None:
    return _folded(user.get("username")) or _folded(user.get("email"))


def _blank() -> Object:
    return {"username": None, "role": "User", "passwordRequired": False, "products": [], "lastLogin": None}


def _matches(user: Object, wanted: Mapping[str, str], part: str) -> bool:
    for name, value in wanted.items():
        held = user.get(name)
        if (value not in held) if isinstance(held, list) else _folded(str(held)) != value.casefold():
            return False
    return not part or any(part in str(user.get(name) or "").casefold() for name in _SEARCHED)


def _slices(found: list[Object]) -> Any:
    return lambda first, count: found[first : first + count]


def _read_instant(value: str) -> datetime:
    try:
        instant = datetime.fromisoformat(value)
    except ValueError as error:
        raise Refusal(400, f"since must be an instant such as 2026-01-31T12:00:00Z, not {value!r}") from error
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)

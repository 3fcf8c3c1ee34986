"""
How a slice declares what it can do: systems, operations, and the data of each command.

Pure: a slice is readable (for `planrelay operations`, schemas and tests) without Celery, a loop or a broker.
`worker.app` turns every operation into a Celery task.
"""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from worker.errors import BadCommand, RelayError

if TYPE_CHECKING:
    from config.connections import Connection
    from worker.auth import Flow
    from worker.rest import Endpoint
    from worker.run import Run

Result = Mapping[str, Any]
"""What a command returns: a JSON object."""

Body = Callable[["Run", Any], Awaitable[Result]]

MESSAGE_LIMIT: Final = 3
"""Problems of a command's data that one sentence lists."""


class CommandData(BaseModel):
    """The `data` of one command type: frozen, and a field that nobody declared is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """
    One vendor's API: how its connections sign in and what each request carries.

    `auth` makes the sign-in flow of a connection; it raises `ValueError` naming the settings that are missing.
    `headers` go with every request (a request's own win). `cheapest` is what `planrelay check --connect` tries.
    `final` gives the error that a refusal really is where its body says that the status does not matter: it is raised
    in the refusal's place, and the request is not sent again. None for every other refusal.
    """

    name: str
    auth: Callable[[Connection], Flow]
    cheapest: Endpoint
    headers: Mapping[str, str]
    cheapest_query: Mapping[str, str] | None = None
    default_prefix: str = ""
    final: Callable[[RelayError], RelayError | None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """
    One command type: its data, the endpoints it may call, and the coroutine that does it.

    `bulk` marks work on many objects: it leaves a vendor's reserved points to commands on one.
    """

    type: str
    data: builtins.type[CommandData]
    uses: tuple[Endpoint, ...]
    body: Body
    bulk: bool = False

    @property
    def system(self) -> str:
        return self.type.partition(".")[0]

    @property
    def promise(self) -> str:
        """The first sentence of the coroutine's docstring."""
        doc = inspect.getdoc(self.body) or ""
        return " ".join(doc.partition("\n\n")[0].split())

    @property
    def replayable(self) -> bool:
        """Whether every request that this operation may send can be sent twice."""
        return all(endpoint.replayable for endpoint in self.uses)

    @property
    def writes(self) -> bool:
        """Whether it changes something at the vendor (Planpoint reads by POST, so replayable POSTs are reads)."""
        return any(not each.replayable or each.method in {"PUT", "PATCH", "DELETE"} for each in self.uses)

    def validate(self, data: Mapping[str, Any]) -> CommandData:
        """Check a command's data; what is wrong raises `BadCommand` naming field, rule and remedy."""
        try:
            return self.data.model_validate(data)
        except ValidationError as error:
            raise BadCommand(describe(error, self)) from None


def command(
    type: str,
    *,
    data: builtins.type[CommandData],
    uses: tuple[Endpoint, ...],
    bulk: bool = False,
) -> Callable[[Body], Operation]:
    """Declare a coroutine `(run, data) -> result` as what a command type does."""

    def declare(body: Body) -> Operation:
        return Operation(type=type, data=data, uses=uses, body=body, bulk=bulk)

    return declare


def describe(error: ValidationError, operation: Operation) -> str:
    """Say what is wrong with a command's data, without repeating the values (they may be personal)."""
    problems = []
    for found in error.errors(include_url=False, include_context=True, include_input=False)[:MESSAGE_LIMIT]:
        where = ".".join(str(part) for part in found["loc"]) or "data"
        if found["type"] == "extra_forbidden":
            known = ", ".join(sorted(operation.data.model_fields)) or "none"
            problems.append(f"data.{where} is not a field of {operation.type} (its fields: {known})")
        elif found["type"] == "missing":
            problems.append(f"data.{where} is required")
        else:
            problems.append(f"data.{where}: {found['msg']}")
    more = error.error_count() - len(problems)
    tail = f"; and {more} more" if more > 0 else ""
    return f"{'; '.join(problems)}{tail}. See `planrelay schema {operation.type}`."

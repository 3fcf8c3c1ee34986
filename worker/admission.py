"""
What a message asks for, and whether it may: from a delivery to a `Ticket`, or to a `BadCommand` that says why not.

Never trust a message: it may come from a compromised system. Whatever can be told without asking anybody is told here,
before anything is claimed or sent.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.delivery import Delivery
from worker.errors import BadCommand, NotAllowed
from worker.ledger import Key
from worker.message import Command, read
from worker.topology import BATCH, COMMANDS

if TYPE_CHECKING:
    from config.connections import Connection
    from worker.artifacts import Artifacts
    from worker.command import CommandData, Operation


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A delivery that is a command: what it asks, of which connection, with which data."""

    delivery: Delivery
    command: Command
    operation: Operation
    connection: Connection
    data: CommandData

    @property
    def key(self) -> Key:
        """How the ledger knows it."""
        command = self.command
        return Key(
            digest=command.key,
            data=command.data_digest,
            id=command.id,
            source=command.source,
            type=command.type,
            connection=command.connection,
        )


class Admission:
    """Who lets messages in: by the types that there are, the connections and what each allows."""

    def __init__(
        self, operations: Mapping[str, Operation], connections: Mapping[str, Connection], artifacts: Artifacts
    ) -> None:
        self._operations = operations
        self._connections = connections
        self._artifacts = artifacts
        self._systems = {each.system for each in operations.values()}

    def read(self, delivery: Delivery) -> Ticket:
        """Tell what a message asks for; raises `BadCommand` (with id and source, where they can be read)."""
        command = read(
            delivery.body,
            content_type=delivery.content_type,
            content_encoding=delivery.content_encoding,
            headers=delivery.headers,
        )
        try:
            delivery.check_headers()
            delivery.check_reply()
            operation = self._operation(command.type)
            self._check_key(delivery, command.type)
            connection = self.connection(command, delivery.journey.publisher)
            data = operation.validate(command.data)
            for name in ("destination", "roster_url", "rows_url"):
                destination = getattr(data, name, None)
                if isinstance(destination, str):
                    self._artifacts.check(destination)
        except BadCommand as error:
            error.command = command  # type: ignore[attr-defined] # carried to `refuse`, which answers the publisher
            raise
        return Ticket(delivery=delivery, command=command, operation=operation, connection=connection, data=data)

    def _operation(self, type_: str) -> Operation:
        operation = self._operations.get(type_)
        if operation is None:
            near = difflib.get_close_matches(type_, self._operations, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise BadCommand(f"type {type_!r} is no command{hint}; `planrelay operations` lists them.")
        return operation

    def _check_key(self, delivery: Delivery, type_: str) -> None:
        key = delivery.journey.routing_key
        if delivery.journey.exchange != COMMANDS or key == BATCH:
            return
        if key.partition(".")[0] not in self._systems:
            raise BadCommand(f"The routing key {key!r} leads to no queue; publish this command with {type_!r}.")

    def connection(self, command: Command, publisher: str | None) -> Connection:
        """Give the connection that a command names, if it and its publisher may use it; raises `BadCommand`."""
        connection = self._connections.get(command.connection)
        if connection is None:
            known = ", ".join(sorted(self._connections)) or "none"
            raise BadCommand(f"connection {command.connection!r} is not configured (configured: {known}).")
        system = command.type.partition(".")[0]
        if connection.system != system:
            raise BadCommand(
                f"connection {command.connection!r} is one of {connection.system}; "
                f"{command.type} needs one of {system}."
            )
        if connection.allowed_users is not None and publisher not in connection.allowed_users:
            who = f"user {publisher!r}" if publisher else "a message without a validated user-id"
            raise NotAllowed(f"connection {command.connection!r} may not be used by {who}; see its allowed_users.")
        if connection.allowed_types is not None and not _matches(command.type, connection.allowed_types):
            raise NotAllowed(f"connection {command.connection!r} does not allow {command.type}; see its allowed_types.")
        return connection


def _matches(type_: str, patterns: tuple[str, ...]) -> bool:
    return any(
        type_ == pattern or (pattern.endswith("*") and type_.startswith(pattern.removesuffix("*")))
        for pattern in patterns
    )

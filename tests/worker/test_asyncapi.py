"""The documents that other programs read: JSON Schema and AsyncAPI."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from config.settings import load_settings
from worker.app import Slices
from worker.asyncapi import command_schema, data_schema, document

OPERATIONS = Slices(load_settings(None, {}).worker.include).operations
COMMAND = {
    "specversion": "1.0",
    "id": "1",
    "source": "/test",
    "type": "planpoint.unit.read",
    "connection": "tower",
    "data": {"id": "0123456789abcdef01234567"},
}


def references(value: Any) -> set[str]:
    """Give every `$ref` of a document."""
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def resolved(whole: Any, reference: str) -> Any:
    """Follow a reference within its document; one that leads nowhere raises `KeyError`."""
    assert reference.startswith("#/"), reference
    for step in reference.removeprefix("#/").split("/"):
        whole = whole[step]
    return whole


@pytest.mark.parametrize("type_", sorted(OPERATIONS))
def test_each_types_data_have_a_schema(type_: str) -> None:
    """It is JSON Schema, closed to unknown fields, and refers to nothing outside itself."""
    schema = data_schema(OPERATIONS[type_])
    Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False
    for reference in references(schema):
        resolved(schema, reference)


def test_a_whole_command_is_checked_with_its_types_own_data() -> None:
    """The schema of any command accepts what a worker accepts and refuses what it refuses."""
    schema = command_schema(OPERATIONS)
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    assert validator.is_valid(COMMAND)
    assert validator.is_valid({**COMMAND, "myextension": "1"})
    wrongs: list[dict[str, Any]] = [
        {"data": {"idd": "u1"}},
        {"data": {}},
        {"type": "planpoint.unit.raed"},
        {"specversion": "0.3"},
        {"id": ""},
    ]
    assert [wrong for wrong in wrongs if validator.is_valid({**COMMAND, **wrong})] == []
    assert not validator.is_valid({key: value for key, value in COMMAND.items() if key != "connection"})
    for reference in references(schema):
        resolved(schema, reference)


def test_the_asyncapi_document_holds_together() -> None:
    """Every command and both of its events are messages of a channel; no reference leads nowhere."""
    whole = document(OPERATIONS, version="1.2.3")
    assert whole["asyncapi"] == "3.0.0"
    for reference in references(whole):
        resolved(whole, reference)
    assert len(whole["channels"]["commands"]["messages"]) == len(OPERATIONS)
    assert len(whole["channels"]["events"]["messages"]) == 2 * len(OPERATIONS)
    assert whole["operations"]["receiveCommands"]["action"] == "receive"
    exchanges = {name: each["bindings"]["amqp"]["exchange"]["name"] for name, each in whole["channels"].items()}
    assert exchanges == {"commands": "planrelay.commands", "events": "planrelay.events"}


def test_an_events_schema_names_every_kind_of_error() -> None:
    """The kinds are those of the contract."""
    kinds = set(document(OPERATIONS, version="1")["components"]["schemas"]["Error"]["properties"]["kind"]["enum"])
    assert kinds == {
        *("rate_limited", "unavailable", "unauthorized", "forbidden", "not_found", "conflict", "invalid"),
        *("contract_broken", "outcome_unknown", "deadline_exceeded", "expired", "bad_command"),
        *("retry_after_too_long", "paused", "worker_lost", "bug"),
    }

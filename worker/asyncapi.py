"""
The messages as documents for other programs: JSON Schema of commands, AsyncAPI 3 of everything.

Pure: made from the operations' own models, so that it says what a worker checks. Sources: JSON Schema 2020-12, AsyncAPI
3.0.0 with its AMQP bindings 0.3.0, CloudEvents 1.0.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from worker.command import Operation
from worker.errors import kinds
from worker.message import CLOUDEVENT

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_ATTRIBUTES: Final[Mapping[str, Any]] = {
    "specversion": {"const": "1.0"},
    "id": {
        "type": "string",
        "minLength": 1,
        "maxLength": 255,
        "description": "With source, what makes it this command.",
    },
    "source": {"type": "string", "minLength": 1, "maxLength": 1024, "description": "Who asks, as a URI reference."},
    "time": {"type": "string", "format": "date-time"},
    "datacontenttype": {"const": "application/json"},
    "connection": {"type": "string", "minLength": 1, "description": "The name of a configured connection."},
    "idempotencykey": {"type": "string", "minLength": 1, "description": "Stands for id in telling commands apart."},
    "expirytime": {"type": "string", "format": "date-time", "description": "Not started after this."},
    "traceparent": {"type": "string"},
    "tracestate": {"type": "string"},
}
_REQUIRED: Final = ("specversion", "id", "source", "type", "connection", "data")


def data_schema(operation: Operation) -> dict[str, Any]:
    """Give the JSON Schema of one command type's data."""
    schema = operation.data.model_json_schema(mode="validation")
    return {"$schema": DIALECT, **schema, "title": operation.type, "description": operation.promise}


def command_schema(operations: Mapping[str, Operation]) -> dict[str, Any]:
    """Give the JSON Schema of any whole command: a structured CloudEvent whose data fit its type."""
    definitions: dict[str, Any] = {}
    for name, operation in sorted(operations.items()):
        definitions[name] = _inlined(data_schema(operation), name)
    return {
        "$schema": DIALECT,
        "title": "A planrelay command",
        "type": "object",
        "properties": {**_ATTRIBUTES, "type": {"enum": sorted(operations)}, "data": {"type": "object"}},
        "required": list(_REQUIRED),
        "allOf": [
            {
                "if": {"properties": {"type": {"const": name}}},
                "then": {"properties": {"data": {"$ref": f"#/$defs/{name}"}}},
            }
            for name in sorted(operations)
        ],
        "$defs": definitions,
    }


def _inlined(schema: dict[str, Any], name: str) -> dict[str, Any]:
    """Make a schema part of another document: what its references name is then found under its own name there."""
    schema = {key: value for key, value in schema.items() if key != "$schema"}
    moved: dict[str, Any] = _moved(schema, f"#/$defs/{name}/$defs/")
    return moved


def _moved(value: Any, to: str) -> Any:
    if isinstance(value, dict):
        return {
            key: to + each.removeprefix("#/$defs/") if key == "$ref" and isinstance(each, str) else _moved(each, to)
            for key, each in value.items()
        }
    return [_moved(each, to) for each in value] if isinstance(value, list) else value


def document(operations: Mapping[str, Operation], *, version: str) -> dict[str, Any]:
    """Give the AsyncAPI 3 document of every command and result event."""
    commands = {_name(each.type): _command_message(each) for each in operations.values()}
    events = {
        _name(f"{each.type}.{outcome}"): _event_message(each, outcome)
        for each in operations.values()
        for outcome in ("succeeded", "failed")
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "planrelay",
            "version": version,
            "description": "Commands become calls of vendors' APIs; events tell how they ended.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": CLOUDEVENT,
        "channels": {
            "commands": _channel("planrelay.commands", "Where commands are published, each under its type.", commands),
            "events": _channel("planrelay.events", "Where results are told, each under its type.", events),
        },
        "operations": {
            "receiveCommands": _operation("receive", "commands", commands),
            "sendEvents": _operation("send", "events", events),
        },
        "components": {
            "messages": {**commands, **events},
            "schemas": {"Error": _ERROR, "Attributes": {"type": "object", "properties": dict(_ATTRIBUTES)}},
        },
    }


def _name(type_: str) -> str:
    return type_.replace(".", "_")


def _channel(exchange: str, description: str, messages: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "address": "{type}",
        "description": description,
        "parameters": {"type": {"description": "The routing key: the message's type."}},
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": {"name": exchange, "type": "topic", "durable": True, "autoDelete": False, "vhost": "/"},
                "bindingVersion": "0.3.0",
            }
        },
    }


def _operation(action: str, channel: str, messages: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages],
        "bindings": {"amqp": {"deliveryMode": 2, "mandatory": action == "receive", "bindingVersion": "0.3.0"}},
    }


def _command_message(operation: Operation) -> dict[str, Any]:
    data = {key: value for key, value in data_schema(operation).items() if key != "$schema"}
    here = f"#/components/messages/{_name(operation.type)}/payload/properties/data/$defs/"
    return {
        "name": operation.type,
        "title": operation.type,
        "summary": operation.promise,
        "contentType": CLOUDEVENT,
        "payload": {
            "type": "object",
            "properties": {**_ATTRIBUTES, "type": {"const": operation.type}, "data": _moved(data, here)},
            "required": list(_REQUIRED),
        },
    }


def _event_message(operation: Operation, outcome: str) -> dict[str, Any]:
    type_ = f"{operation.type}.{outcome}"
    ending: Any = (
        {"error": {"$ref": "#/components/schemas/Error"}} if outcome == "failed" else {"result": {"type": "object"}}
    )
    return {
        "name": type_,
        "title": type_,
        "summary": f"Tells that {operation.type} {'failed' if outcome == 'failed' else 'succeeded'}.",
        "contentType": CLOUDEVENT,
        "payload": {
            "type": "object",
            "properties": {
                "specversion": {"const": "1.0"},
                "id": {"type": "string", "description": "The same whenever the same outcome is told again."},
                "source": {"const": "/planrelay"},
                "type": {"const": type_},
                "subject": {"type": "string", "description": "The command's id."},
                "time": {"type": "string", "format": "date-time"},
                "data": {
                    "type": "object",
                    "properties": {**_TOLD, **ending},
                    "required": ["command", "attempts", "deferrals", *ending],
                },
            },
            "required": ["specversion", "id", "source", "type", "subject", "data"],
        },
    }


_INSTANT: Final = {"type": "string", "format": "date-time"}
_TOLD: Final[Mapping[str, Any]] = {
    "command": {
        "type": "object",
        "properties": {name: {"type": "string"} for name in ("id", "source", "type", "connection")},
        "required": ["id", "source", "type", "connection"],
    },
    "attempts": {"type": "integer", "minimum": 1},
    "deferrals": {"type": "integer", "minimum": 0, "description": "Waits that the vendor or the gate asked for."},
    "http_requests": {"type": "integer", "minimum": 0},
    "received_at": _INSTANT,
    "started_at": {"type": ["string", "null"], "format": "date-time"},
    "finished_at": _INSTANT,
    "duration_s": {"type": "number", "minimum": 0},
}
_ERROR: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {
        "kind": {"enum": kinds()},
        "message": {"type": "string"},
        "status": {"type": ["integer", "null"], "description": "The vendor's HTTP status."},
        "response": {"type": ["string", "null"], "maxLength": 2000, "description": "What it said, secrets removed."},
    },
    "required": ["kind", "message"],
}

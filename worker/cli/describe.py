"""What there is to send, for people and for programs."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

import click

from worker.cli import Setup
from worker.cli.ask import types_like
from worker.cli.screen import json_option, show_json, table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from config.connections import Connection
    from worker.command import Operation


@click.command()
@click.argument("system", required=False)
@json_option
@click.pass_obj
def operations(setup: Setup, system: str | None, *, as_json: bool) -> int:
    """
    List every command type, or those of SYSTEM: HTTP method, path, evidence and source.

    Evidence: seed (a page the vendor gave), public (other public text) or assumed. What a connection overrides stands
    under the built-in line with the connection's name.
    """
    slices = setup.slices
    if system is not None and system not in slices.systems:
        near = difflib.get_close_matches(system, slices.systems, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(slices.systems)}."
        raise click.UsageError(f"There is no system {system!r}; {hint}")
    chosen = [each for each in slices.operations.values() if system in {None, each.system}]
    described = [describe(each, setup.settings.connections.values()) for each in sorted(chosen, key=lambda op: op.type)]
    if as_json:
        show_json(described)
        return 0
    rows: list[tuple[str, ...]] = []
    for operation in described:
        name = operation["type"]
        for endpoint in operation["endpoints"]:
            rows.append((name, endpoint["method"], endpoint["path"], endpoint["evidence"], endpoint["source"]))
            rows += [
                ("", each["method"], _configured(each), "configured", name_)
                for name_, each in endpoint["overrides"].items()
            ]
            name = ""
    table(("type", "method", "path", "evidence", "source"), rows)
    return 0


def _configured(override: dict[str, Any]) -> str:
    names = ", ".join(f"{ours} = {theirs}" for ours, theirs in override.get("fields", {}).items())
    return f"{override['path']} with {names}" if names else str(override["path"])


def describe(operation: Operation, connections: Iterable[Connection]) -> dict[str, Any]:
    """Give an operation as JSON values: its endpoints, with what the connections of its system override."""
    mine = [each for each in connections if each.system == operation.system]
    endpoints = []
    for endpoint in operation.uses:
        overrides: dict[str, dict[str, Any]] = {}
        for connection in mine:
            override = connection.operations.get(endpoint.name)
            if override is not None:
                changed = endpoint.overridden(override.method, override.path)
                overrides[connection.name] = {"method": changed.method, "path": changed.path}
                if override.fields:
                    overrides[connection.name]["fields"] = dict(override.fields)
        endpoints.append(
            {
                "name": endpoint.name,
                "method": endpoint.method,
                "path": endpoint.path,
                "evidence": endpoint.evidence,
                "source": endpoint.source,
                "replayable": endpoint.replayable,
                "overrides": overrides,
            }
        )
    return {
        "type": operation.type,
        "system": operation.system,
        "promise": operation.promise,
        "bulk": operation.bulk,
        "writes": operation.writes,
        "endpoints": endpoints,
    }


@click.command()
@click.argument("type_", metavar="[TYPE]", required=False, shell_complete=types_like)
@click.option("--json", "as_json", is_flag=True, help="It is JSON anyhow.")
@click.pass_obj
def schema(setup: Setup, type_: str | None, *, as_json: bool) -> int:  # noqa: ARG001 - see its help
    """Print the JSON Schema of the data of TYPE, or of every whole command."""
    from worker.asyncapi import command_schema, data_schema

    known = setup.slices.operations
    if type_ is None:
        show_json(command_schema(known))
        return 0
    if type_ not in known:
        near = difflib.get_close_matches(type_, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "`planrelay operations` lists them."
        raise click.UsageError(f"There is no command type {type_!r}; {hint}")
    show_json(data_schema(known[type_]))
    return 0


@click.command()
@click.option("--json", "as_json", is_flag=True, help="It is JSON anyhow.")
@click.pass_obj
def asyncapi(setup: Setup, *, as_json: bool) -> int:  # noqa: ARG001 - see its help
    """Print the AsyncAPI 3 document of all commands and events."""
    from importlib.metadata import version

    from worker.asyncapi import document

    show_json(document(setup.slices.operations, version=version("planrelay")))
    return 0

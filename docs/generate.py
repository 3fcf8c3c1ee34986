"""
Write the list of commands in docs/messages.md from the slices' own models.

    python docs/generate.py            writes it (`make docs`)
    python docs/generate.py --check    exit status 1 where it is not up to date
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from worker.app import Slices
from worker.asyncapi import data_schema
from worker.command import Operation

PAGE: Final = Path(__file__).parent / "messages.md"
BEGIN: Final = "<!-- commands: from the models; `make docs` writes what follows -->\n"
END: Final = "<!-- end of the commands -->\n"
SLICES: Final = ("tasks.barometerit", "tasks.planview_admin", "tasks.planpoint")


def page() -> str:
    """Give the page as it should be."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    return before + BEGIN + "".join(listed(Slices(SLICES).operations)) + END + after


def listed(operations: Mapping[str, Operation]) -> Iterator[str]:
    """Give the list, a heading for each system and a paragraph for each command."""
    system = ""
    for _, operation in sorted(operations.items(), key=lambda item: (item[1].system, item[0])):
        if operation.system != system:
            system = operation.system
            yield f"\n### {system}\n"
        schema = data_schema(operation)
        required = schema.get("required", [])
        fields = [field(name, each, schema, required=name in required) for name, each in properties(schema)]
        yield f"\n**`{operation.type}`** · {operation.promise}\n"
        yield f"  {' · '.join(fields)}\n" if fields else "  No fields.\n"
    yield "\n"


def properties(schema: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Give the fields, those that are required first."""
    required = schema.get("required", [])
    return sorted(schema.get("properties", {}).items(), key=lambda item: item[0] not in required)


def field(name: str, schema: Mapping[str, Any], root: Mapping[str, Any], *, required: bool) -> str:
    """Describe one field: required ones in bold."""
    default = schema.get("default")
    shown = f", else {json.dumps(default)}" if isinstance(default, (bool, int, float, str)) and default != "" else ""
    return f"{f'**`{name}`**' if required else f'`{name}`'} ({kind(schema, root)}{shown})"


def kind(schema: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    """Say in a few words what a schema allows."""
    match schema:
        case {"$ref": reference}:
            name = reference.rpartition("/")[2]
            return "JSON" if name == "JsonValue" else kind(root["$defs"][name], root)
        case {"const": value}:
            return str(value)
        case {"enum": values}:
            return " or ".join(map(str, values))
        case {"anyOf": ways} | {"oneOf": ways}:
            said = [kind(way, root) for way in ways if way != {"type": "null"}]
            return " or ".join(dict.fromkeys("number" if each == "integer" else each for each in said))
        case {"type": "array", "items": items}:
            return f"list of {kind(items, root)}"
        case {"type": "string"}:
            return "text"
        case {"type": "boolean"}:
            return "true or false"
        case {"type": str(name)}:
            return name
    return "JSON"


if __name__ == "__main__":
    wanted = page()
    if "--check" not in sys.argv:
        PAGE.write_text(wanted, "utf-8")
    elif PAGE.read_text("utf-8") != wanted:
        sys.exit("docs/messages.md is not as the models have it: run `make docs`.")

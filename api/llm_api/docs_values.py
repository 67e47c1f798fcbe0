"""What a key may be, and what it is when it isn't written, in words: from the JSON schema that its model gives."""

import json
from typing import Any

Schema = dict[str, Any]

_LOWEST = (("minimum", "≥"), ("ge", "≥"), ("exclusiveMinimum", ">"), ("gt", ">"))
_HIGHEST = (("maximum", "≤"), ("le", "≤"), ("exclusiveMaximum", "<"), ("lt", "<"))
_NO_BOUND = 2**20
"""From here on a bound is only there so that there is one."""


def describe_default(value: Any) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def describe_values(schema: Schema, derives: bool = False) -> str:
    """``derives``: null is then the same as leaving the key out, and not worth a word."""
    branches: list[Schema] = schema.get("anyOf", [schema])
    told = [_describe(branch) for branch in branches if not (derives and branch.get("type") == "null")]
    return _list(list(dict.fromkeys(_without_integers(told))))


def _list(told: list[str]) -> str:
    *most, last = told
    return f"{', '.join(most)} or {last}" if most else last


def _without_integers(told: list[str]) -> list[str]:
    """A number may be whole anyway."""
    return [one for one in told if not (one.startswith("integer") and one.replace("integer", "number") in told)]


def _describe(schema: Schema) -> str:
    if "const" in schema or "enum" in schema:
        options = schema["enum"] if "enum" in schema else [schema["const"]]
        return ", ".join(f"`{option}`" for option in options)
    match schema.get("type"):
        case "null":
            return "`null`"
        case "boolean":
            return "`true`, `false`"
        case "integer" | "number":
            return " ".join((schema["type"], *_bounds(schema)))
        case "string":
            return "text"
        case "array":
            return f"list of {_describe_items(schema)}"
        case "object":
            return f"mapping of names to {_describe_inside(schema)}"
    return "list or mapping"


def _describe_inside(schema: Schema) -> str:
    inside = schema.get("additionalProperties", True)
    return "lists" if isinstance(inside, bool) else describe_values(inside)


def _bounds(schema: Schema) -> list[str]:
    lowest = [f"{sign} {schema[key]:g}" for key, sign in _LOWEST if key in schema]
    highest = [f"{sign} {schema[key]:g}" for key, sign in _HIGHEST if key in schema and schema[key] < _NO_BOUND]
    return [", ".join(lowest + highest)] if lowest or highest else []


def _describe_items(schema: Schema) -> str:
    items = describe_values(schema.get("items", {})).replace("list of", "lists of", 1)
    least, most = schema.get("minItems"), schema.get("maxItems")
    return f"{least} ({items})" if least is not None and least == most else items

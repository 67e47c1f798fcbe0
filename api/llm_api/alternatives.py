"""A key that takes values of several types, in a structural schema: as much of a type as Kubernetes lets it have.

``minimum`` speaks of numbers only and ``pattern`` of texts only, so each alternative's bounds can stand side by side
where the type itself has to be left open. Objects told apart by a key are in ``variants``.
"""

from collections.abc import Sequence
from typing import Any

Schema = dict[str, Any]

INT_OR_STRING = "x-kubernetes-int-or-string"
UNTYPED = "x-kubernetes-preserve-unknown-fields"
_LOWER = ("minimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "maxLength", "maxItems", "maxProperties")
_OF_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_OF_STRINGS = ("minLength", "maxLength", "pattern")


def merge_alternatives(given: Sequence[Schema]) -> Schema:
    """One schema that accepts whatever one of ``given`` accepts, and as little else as can be said."""
    by_type: dict[str | None, list[Schema]] = {}
    for schema in given:
        by_type.setdefault(schema.get("type"), []).append(schema)
    merged = {kind: _merge_same(schemas) for kind, schemas in by_type.items()}
    kinds = merged.keys()
    if len(merged) == 1:
        return next(iter(merged.values()))
    if kinds == {"integer", "number"}:
        return {**_merge_same(list(merged.values())), "type": "number"}
    bounds = {key: value for schema in merged.values() for key, value in _bounds_of_type(schema).items()}
    if kinds == {"integer", "string"}:
        return {INT_OR_STRING: True, **bounds}
    whole = {"multipleOf": 1} if "integer" in kinds and "number" not in kinds else {}
    return {UNTYPED: True, **bounds, **whole}


def _merge_same(schemas: Sequence[Schema]) -> Schema:
    """The loosest of several schemas of one type: what only some of them ask for is left out."""
    first, *others = schemas
    merged = dict(first)
    for other in others:
        merged = {key: _loosest(key, merged[key], other[key]) for key in merged.keys() & other.keys()}
        merged = {key: value for key, value in merged.items() if value is not None}
    kept = {key: merged[key] for key in first if key in merged}
    return {**kept, UNTYPED: True} if any(UNTYPED in schema for schema in schemas) else kept


def _loosest(key: str, one: Any, other: Any) -> Any:
    if one == other or key == "description":
        return one
    if key in _LOWER:
        return min(one, other)
    if key in _UPPER:
        return max(one, other)
    if key == "enum":
        return [*one, *(option for option in other if option not in one)]
    if key in ("items", "additionalProperties"):
        return merge_alternatives([one, other])
    return None


def pattern_of(options: Sequence[str]) -> Schema:
    """Bounds that only ``options`` keep to, where an enum can't stand."""
    return {"maxLength": max(map(len, options)), "pattern": f"^({'|'.join(options)})$"}


def _bounds_of_type(schema: Schema) -> Schema:
    """The keywords that speak of this type's values only."""
    match schema.get("type"):
        case "string" if "enum" in schema:
            return pattern_of(schema["enum"])
        case "string":
            return {key: schema[key] for key in _OF_STRINGS if key in schema}
        case "integer" | "number":
            return {key: schema[key] for key in _OF_NUMBERS if key in schema}
        case "array":
            return {key: schema[key] for key in ("minItems", "maxItems") if key in schema}
        case "object":
            return {key: schema[key] for key in ("minProperties", "maxProperties") if key in schema}
    return {}

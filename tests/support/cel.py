"""The rules of a CRD's schema, judged as the API server does: by CEL, over typed objects without nulls.

Types and bounds are not checked here, only what `x-kubernetes-validations` says.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import celpy
from celpy import celtypes

Schema = dict[str, Any]
RULES = "x-kubernetes-validations"
INT_OR_STRING = "x-kubernetes-int-or-string"


def find_broken(schema: Schema, value: Any, path: str = "") -> list[tuple[str, str]]:
    """(path, message) of every rule that does not hold of ``value``, or of anything in it."""
    return list(_broken(schema, value, path))


def _broken(schema: Schema, value: Any, path: str) -> Iterator[tuple[str, str]]:
    if value is None:
        return
    for rule in schema.get(RULES, ()):
        if not holds(rule["rule"], schema, value):
            yield f"{path}{rule.get('fieldPath', '')}".lstrip("."), rule["message"]
    for inner, part, item in _parts(schema, value):
        yield from _broken(inner, item, f"{path}{part}")


def _parts(schema: Schema, value: Any) -> Iterator[tuple[Schema, str, Any]]:
    if "properties" in schema:
        properties = schema["properties"]
        yield from ((properties[key], f".{key}", item) for key, item in value.items() if key in properties)
    elif isinstance(schema.get("additionalProperties"), dict):
        yield from ((schema["additionalProperties"], f".{key}", item) for key, item in value.items())
    elif schema.get("type") == "array":
        yield from ((schema["items"], f"[{index}]", item) for index, item in enumerate(value))


def holds(rule: str, schema: Schema, value: Any) -> bool:
    """Whether a rule holds of a value of this schema. An expression that fails raises, as at the API server."""
    return bool(_program(rule).evaluate({"self": to_cel(schema, value)}))


@cache
def _program(rule: str) -> celpy.Runner:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule), functions={"replace": _replace, "contains": _contains})


def _replace(text: celtypes.StringType, old: celtypes.StringType, new: celtypes.StringType) -> celtypes.StringType:
    """One of Kubernetes' own string functions."""
    return celtypes.StringType(str(text).replace(str(old), str(new)))


def _contains(text: str, part: str) -> celtypes.BoolType:
    """As in CEL; the library's own is lost on what ``+`` makes of two strings."""
    return celtypes.BoolType(part in text)


def to_cel(schema: Schema, value: Any) -> Any:
    """The value with the types that the schema gives it; what has no type there can't be seen by a rule."""
    match schema.get("type"):
        case "object" if "properties" in schema:
            return _to_object(schema["properties"], value)
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            inner = schema["additionalProperties"]
            return celtypes.MapType({celtypes.StringType(key): to_cel(inner, item) for key, item in value.items()})
        case "array":
            return celtypes.ListType([to_cel(schema["items"], item) for item in value])
        case "number":
            return celtypes.DoubleType(value)
        case "integer":
            return celtypes.IntType(value)
        case "boolean":
            return celtypes.BoolType(value)
        case "string":
            return celtypes.StringType(value)
    return celpy.json_to_cel(value)


def _to_object(properties: dict[str, Schema], value: dict[str, Any]) -> celtypes.MapType:
    seen = {key: item for key, item in value.items() if item is not None and is_visible(properties.get(key, {}))}
    return celtypes.MapType({celtypes.StringType(key): to_cel(properties[key], item) for key, item in seen.items()})


def is_visible(schema: Schema) -> bool:
    """Whether rules may name a field of this schema."""
    return "type" in schema or INT_OR_STRING in schema

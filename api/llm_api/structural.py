"""A model as a structural OpenAPI v3 schema: what the API server can check, prune and explain by itself.

Takes pydantic's JSON schema and leaves out what Kubernetes forbids there: references, titles, defaults, branches with
types of their own. Keys that no structural schema can type keep their bounds and go unpruned.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from llm_api.alternatives import UNTYPED, merge_alternatives, pattern_of
from llm_api.docstrings import describe_fields
from llm_api.model import Model, Rule
from llm_api.variants import RULES, merge_variants

Schema = dict[str, Any]

_KEPT = ("minLength", "maxLength", "pattern", "minItems", "maxItems", "minProperties", "maxProperties", "multipleOf")
_FORMATS = ("date-time",)
# pydantic names bounds so where a validator of ours runs before the number is one.
_BOUNDS = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}


def build_schema(model: type[Model]) -> Schema:
    """The schema of ``model`` as it is written in documents, rules included."""
    document = model.model_json_schema(schema_generator=_WithRules)
    definitions = document.pop("$defs", {})
    return _to_structural(_inline(document, definitions))


class _WithRules(GenerateJsonSchema):
    """pydantic's generator, with the rules of each class beside its properties."""

    def model_schema(self, schema: Any) -> Schema:
        cls: type[BaseModel] = schema["cls"]
        rules = [_to_validation(rule) for rule in cls.all_rules() if rule.cel] if issubclass(cls, Model) else []
        found = super().model_schema(schema)
        described = {name: {"description": text} for name, text in describe_fields(cls).items()}
        properties = {
            key: described.get(_name_of(cls, key), {}) | value for key, value in found.get("properties", {}).items()
        }
        return {**found, "properties": properties, **({RULES: rules} if rules else {})}


def _name_of(cls: type[BaseModel], key: str) -> str:
    """The field that is written as ``key``."""
    return next(name for name, field in cls.model_fields.items() if key in (name, field.alias))


def _to_validation(rule: Rule) -> dict[str, str]:
    validation = {"rule": f"{rule.cel}", "message": rule.message}
    return {**validation, "fieldPath": f".{rule.path}"} if rule.path else validation


def _inline(node: Any, definitions: Mapping[str, Any]) -> Any:
    """References replaced by what they stand for; what is written beside one wins."""
    if isinstance(node, list):
        return [_inline(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    reference = node.get("$ref")
    if isinstance(reference, str):
        beside = {key: value for key, value in node.items() if key != "$ref"}
        node = {**definitions[reference.removeprefix("#/$defs/")], **beside}
    return {key: _inline(value, definitions) for key, value in node.items()}


def _to_structural(node: Schema) -> Schema:
    branches = node.get("anyOf", node.get("oneOf"))
    found = _to_plain(node) if branches is None else _to_merged(node, branches)
    described = {"description": _one_line(node["description"])} if "description" in node else {}
    return {**described, **{key: value for key, value in found.items() if key != "description"}}


def _to_merged(node: Schema, branches: list[Schema]) -> Schema:
    given = [_to_structural(branch) for branch in branches if branch.get("type") != "null"]
    outside = _to_bounds(node)
    merged = given[0] if len(given) == 1 else _merge(node, given)
    merged = {**merged, **outside}
    return _nullable(merged) if len(given) < len(branches) else merged


def _merge(node: Schema, given: list[Schema]) -> Schema:
    if all("properties" in branch for branch in given):
        key = node.get("discriminator", {}).get("propertyName", "type")
        return merge_variants(given, key)
    return merge_alternatives(given)


def _nullable(node: Schema) -> Schema:
    """The API server finds a null in no enum, not even where null is listed; a pattern says the same of texts."""
    if "enum" not in node:
        return {**node, "nullable": True}
    rest = {key: value for key, value in node.items() if key != "enum"}
    return {**rest, **pattern_of(node["enum"]), "nullable": True}


def _to_plain(node: Schema) -> Schema:
    match node.get("type"):
        case "object":
            return _to_object(node)
        case "array":
            return {"type": "array", "items": _items(node), **_to_bounds(node), **_list_type(node)}
        case None if "const" not in node and "enum" not in node:
            return {UNTYPED: True, **_to_bounds(node)}
    return {"type": _scalar_type(node), **_to_bounds(node)}


def _scalar_type(node: Schema) -> str:
    if "type" in node:
        return str(node["type"])
    names = {bool: "boolean", int: "integer", float: "number", str: "string"}
    return names[type(node.get("const", node.get("enum", [None])[0]))]


def _to_object(node: Schema) -> Schema:
    if "properties" not in node:
        # A pattern for keys can't be said in a structural schema; Python alone checks it.
        values = next(iter(node.get("patternProperties", {}).values()), node.get("additionalProperties", True))
        return {"type": "object", **_to_values(values), **_to_bounds(node)}
    properties = {key: _to_structural(value) for key, value in node["properties"].items()}
    kept = {key: node[key] for key in ("required", RULES) if node.get(key)}
    return {"type": "object", "properties": properties, **kept, **_to_bounds(node)}


def _to_values(values: bool | Schema) -> Schema:
    """Of a mapping. Where they are of several types the mapping is left open: with untyped values, rules wouldn't see
    that the key is there.
    """
    typed = {UNTYPED: True} if isinstance(values, bool) else _to_structural(values)
    return {UNTYPED: True} if UNTYPED in typed and "type" not in typed else {"additionalProperties": typed}


def _items(node: Schema) -> Schema:
    items = node.get("items", {})
    positions = node.get("prefixItems")
    if positions is None:
        return _to_structural(items)
    given = [_to_structural(position) for position in positions]
    return given[0] if all(one == given[0] for one in given) else merge_alternatives(given)


def _list_type(node: Schema) -> Schema:
    """Lists of conditions are merged by type, as in Kubernetes' own objects."""
    keys = node.get("x-kubernetes-list-map-keys")
    return {} if keys is None else {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys}


def _to_bounds(node: Schema) -> Schema:
    found = {_BOUNDS.get(key, key): value for key, value in node.items()}
    bounds = {key: found[key] for key in _KEPT if key in found}
    for limit in ("minimum", "maximum"):
        exclusive = f"exclusive{limit.capitalize()}"
        if exclusive in found:
            bounds |= {limit: found[exclusive], exclusive: True}
        elif limit in found:
            bounds[limit] = found[limit]
    if "const" in found:
        bounds["enum"] = [found["const"]]
    elif "enum" in found:
        bounds["enum"] = list(found["enum"])
    return {**bounds, "format": found["format"]} if found.get("format") in _FORMATS else bounds


def _one_line(text: str) -> str:
    return " ".join(text.split())

"""What to write instead, for each kind of error that pydantic finds. Decides nothing."""

from collections.abc import Sequence
from typing import Any

_TYPES = {
    "bool_type": "write true or false",
    "bool_parsing": "write true or false",
    "string_type": "write text",
    "int_type": "write an integer",
    "int_parsing": "write an integer",
    "int_from_float": "write an integer",
    "float_type": "write a number",
    "float_parsing": "write a number",
    "finite_number": "write a finite number",
    "list_type": "write a list",
    "tuple_type": "write a list",
    "dict_type": "write a mapping of keys to values",
    "model_type": "write a mapping of keys to values",
    "model_attributes_type": "write a mapping of keys to values",
    "none_required": "write null",
    "missing": "this key is required",
    "union_tag_invalid": "write one of",
    "union_tag_not_found": "this key is required; write one of",
    "string_too_short": "must not be empty",
}

UNKNOWN_TYPE = ("union_tag_invalid", "union_tag_not_found")
"""Of a section that is chosen by its type; what may be chosen is to come behind the words."""

_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


def describe_errors(details: Sequence[dict[str, Any]]) -> str:
    """The errors of one value, of which there are several where it may be of several types, as one instruction."""
    kinds = {detail["type"] for detail in details}
    told = [detail for detail in details if not (detail["type"] == "int_type" and "float_type" in kinds)]
    return " or ".join(dict.fromkeys(map(describe_error, told))).replace(" or write ", " or ")


def describe_error(detail: dict[str, Any]) -> str:
    """One error of pydantic's as an instruction; ``detail`` is an item of ``ValidationError.errors()``."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _TYPES:
        return _TYPES[kind]
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        return f"must be {words} {context[key]}"
    match kind:
        case "literal_error" | "enum":
            several = " or " in context["expected"]
            return f"write {'one of ' if several else ''}{context['expected']}"
        case "too_short":
            return f"needs at least {context['min_length']} item{'s' if context['min_length'] > 1 else ''}"
        case "too_long":
            return f"takes at most {context['max_length']} item{'s' if context['max_length'] > 1 else ''}"
        case "string_too_long":
            return f"must be at most {context['max_length']} characters long"
        case "string_pattern_mismatch":
            return f"must match {context['pattern']}"
        case "value_error":
            return str(context["error"])
    return str(detail["msg"])

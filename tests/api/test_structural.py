"""Models as structural schemas: what becomes of unions, options, bounds, nulls and rules."""

from typing import Annotated, Any, ClassVar, Literal

import pytest
from llm_api.model import Model, Rule
from llm_api.structural import build_schema
from pydantic import Field

POSITIVE = Rule("positive", "write more", lambda it: it.many > 0, "!has(self.many) || self.many > 0", path="many")


class Circle(Model):
    rules: ClassVar = (POSITIVE,)

    type: Literal["circle", "disc"]
    """circle or disc."""
    many: int = 1
    """How many."""
    paint: Literal["red", "blue"] = "red"
    """Its paint."""


class Square(Model):
    type: Literal["square"]
    """square."""
    side: Annotated[int, Field(ge=1)]
    """Its side."""
    paint: Literal["red"] = "red"
    """Its paint."""


class Drawing(Model):
    """Shapes."""

    shape: Annotated[Circle | Square, Field(discriminator="type")]
    """The shape."""
    size: Annotated[int, Field(gt=0, le=9)] | Literal["auto"] = "auto"
    """An integer or a word."""
    ratio: Annotated[float, Field(ge=0)] | Literal["auto"] | None = None
    """A number or a word."""
    names: list[Annotated[str, Field(max_length=9)]] | Annotated[str, Field(max_length=5)] | None = None
    """A list or a text."""
    colour: Literal["red", "blue"] | None = None
    """An option or null."""
    weights: Annotated[dict[str, float], Field(max_length=3)] = {}
    """By name,
    as numbers."""
    marks: Annotated[dict[str, int | list[bool]], Field(max_length=3)] = {}
    """By name, as numbers or lists."""


SCHEMA = build_schema(Drawing)
PROPERTIES: dict[str, Any] = SCHEMA["properties"]


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        (
            "size",
            {
                "description": "An integer or a word.",
                "x-kubernetes-int-or-string": True,
                "minimum": 0,
                "exclusiveMinimum": True,
                "maximum": 9,
                "maxLength": 4,
                "pattern": "^(auto)$",
            },
        ),
        (
            "ratio",
            {
                "description": "A number or a word.",
                "x-kubernetes-preserve-unknown-fields": True,
                "minimum": 0,
                "maxLength": 4,
                "pattern": "^(auto)$",
                "nullable": True,
            },
        ),
        (
            "names",
            {
                "description": "A list or a text.",
                "x-kubernetes-preserve-unknown-fields": True,
                "maxLength": 5,
                "nullable": True,
            },
        ),
        (
            "colour",
            {
                "description": "An option or null.",
                "type": "string",
                "maxLength": 4,
                "pattern": "^(red|blue)$",
                "nullable": True,
            },
        ),
        (
            "weights",
            {
                "description": "By name, as numbers.",
                "type": "object",
                "additionalProperties": {"type": "number"},
                "maxProperties": 3,
            },
        ),
        (
            "marks",
            {
                "description": "By name, as numbers or lists.",
                "type": "object",
                "x-kubernetes-preserve-unknown-fields": True,
                "maxProperties": 3,
            },
        ),
    ],
)
def test_a_field_keeps_as_much_of_its_type_as_kubernetes_lets_it(name: str, schema: dict[str, Any]) -> None:
    assert PROPERTIES[name] == schema


def test_only_what_has_no_default_is_required() -> None:
    assert SCHEMA["required"] == ["shape"]


def test_variants_become_one_object_with_the_keys_of_all() -> None:
    shape = PROPERTIES["shape"]
    assert set(shape["properties"]) == {"type", "many", "paint", "side"}
    assert shape["properties"]["type"]["enum"] == ["circle", "disc", "square"]
    assert shape["properties"]["paint"]["enum"] == ["red", "blue"]
    assert shape["required"] == ["type"]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            "self.type in ['circle', 'disc'] || !has(self.many)",
            "many belongs to type circle and disc only; leave it out",
        ),
        ("self.type in ['square'] || !has(self.side)", "side belongs to type square only; leave it out"),
        ("!(self.type in ['square']) || has(self.side)", "side is required for type square"),
        (
            "!(self.type in ['square']) || !has(self.paint) || self.paint in ['red']",
            "paint must be red for type square",
        ),
        ("!(self.type in ['circle', 'disc']) || (!has(self.many) || self.many > 0)", "write more"),
    ],
)
def test_what_a_variant_says_of_its_keys_is_said_by_rules_on_the_one_object(rule: str, message: str) -> None:
    assert {"rule": rule, "message": message} in [
        {key: said[key] for key in ("rule", "message")} for said in PROPERTIES["shape"]["x-kubernetes-validations"]
    ]


def test_a_rule_points_at_its_field_on_the_object_that_it_moved_to() -> None:
    moved = next(
        rule for rule in PROPERTIES["shape"]["x-kubernetes-validations"] if rule["message"] == POSITIVE.message
    )
    assert moved["fieldPath"] == ".many"

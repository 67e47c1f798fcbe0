"""The base of every class of the contract: strict models, and rules between fields that are declared once.

A rule is a CEL expression for the API server, a message for people and a Python twin for everyone else. How errors are
gathered and worded is in ``issues``; what is validated, in the classes themselves.
"""

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

RULE_ERROR = "rule"
TYPE_ERROR = "refused_type"
"""Of a section whose type is known and not taken here; the message says what to write."""


@dataclass(frozen=True)
class Rule:
    """Something that must hold between the fields of one object."""

    name: str
    """Unique, for tests and tables."""
    message: str
    """What is wrong and what to write instead, as one sentence."""
    holds: Callable[[Any], bool]
    """The Python twin; takes the model that the rule stands on, with its defaults."""
    cel: str | None = None
    """The same over the stored object, ``self``, in which defaults are absent; None where CEL can't say it.

    ``has`` is false of a field that is null: to the API server that is a field that isn't there."""
    found: Callable[[Any], str] | None = None
    """What stands there, in numbers that the message can't have; takes a model that breaks the rule. CEL's message goes
    without: the API server counts text that is made of numbers as too dear."""
    path: str = ""
    """The field that the error is shown at, relative to the model; empty is the model itself."""
    needs: tuple[str, ...] = ()
    """Dotted fields without which the rule can't be judged; it is passed over while one of them has an error."""


class Model(BaseModel):
    """A strict object: no unknown keys, no guessing between types, no changes once made."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        protected_namespaces=(),
        hide_input_in_errors=True,
        defer_build=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()
    refused: ClassVar[Mapping[str, str]] = {}
    """Keys that people bring along from elsewhere -> why they are not taken here, and what to write."""
    lookalikes: ClassVar[Mapping[str, str]] = {}
    """Other tools' names -> what the key is called here, where spelling alone would not find it."""

    derived: ClassVar[frozenset[str]] = frozenset()
    """Fields that, where they aren't written, are worked out later; what stands as their default is not used then."""
    null_means: ClassVar[str] = ""
    """What a null in the place of this section says, where that isn't the same as leaving the section out."""

    @model_validator(mode="before")
    @classmethod
    def _normalize(cls, value: Any) -> Any:
        return cls.normalize(value) if isinstance(value, Mapping) else value

    @classmethod
    def normalize(cls, document: Mapping[str, Any]) -> dict[str, Any]:
        """The document without sections that are null: those are left out."""
        fields = cls.model_fields.items()
        unset = {key for name, field in fields if cls._is_unset_by_null(field) for key in (name, field.alias)}
        return {key: value for key, value in document.items() if value is not None or key not in unset}

    @classmethod
    def _is_unset_by_null(cls, field: FieldInfo) -> bool:
        sections = models_in(field.annotation)
        return bool(sections) and not field.is_required() and not any(section.null_means for section in sections)

    def unwritten_derived(self) -> dict[str, Any]:
        """What is still to be worked out, in this object and in those inside; as pydantic's ``exclude``."""
        inside = {name: getattr(self, name) for name in type(self).model_fields}
        nested = {name: value.unwritten_derived() for name, value in inside.items() if isinstance(value, Model)}
        own = dict.fromkeys(self.derived - self.model_fields_set, True)
        return {name: exclude for name, exclude in nested.items() if exclude} | own

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        broken = next((rule for rule in type(self).all_rules() if not rule.holds(self)), None)
        if broken is not None:
            raise PydanticCustomError(RULE_ERROR, "{message}", {"message": broken.message})
        return self

    @classmethod
    def all_rules(cls) -> tuple[Rule, ...]:
        """The rules of the class and of those that it extends, base first."""
        found: list[Rule] = []
        for base in reversed(cls.__mro__):
            found += [rule for rule in vars(base).get("rules", ()) if rule not in found]
        return tuple(found)


class ApiModel(Model):
    """A strict object in Kubernetes' spelling: camelCase outside, snake_case in Python; null is unset, always."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, validate_by_alias=True)

    @classmethod
    def _is_unset_by_null(cls, field: FieldInfo) -> bool:
        return not field.is_required()


def models_in(annotation: Any) -> list[type[Model]]:
    """The models that an annotation names, through unions, lists, the values of mappings, and annotations."""
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return [annotation]
    origin = get_origin(annotation)
    if origin is Annotated:
        return models_in(get_args(annotation)[0])
    if origin in (Union, types.UnionType, list, tuple, dict):
        return [model for argument in get_args(annotation) for model in models_in(argument)]
    return []

"""How names, quantities and times are spelt in Kubernetes: types for fields, each with a bound and a readable error.

Nothing is looked up here; whether a named thing exists is for the cluster to say.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AwareDatetime, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, PlainSerializer
from pydantic_core import CoreSchema, core_schema

MAX_INT32 = 2**31 - 1
MAX_RESOURCE_NAME_LENGTH = 48
"""Room for a hash, a pod's index and a dash before each: a pod's host name has at most 63 characters."""

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"


@dataclass(frozen=True)
class Spelling:
    """A pattern for texts, with what to write instead. The API server is given the pattern."""

    pattern: str
    says: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checker(), handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "pattern": self.pattern}

    def _checker(self) -> Callable[[Any], Any]:
        matches = re.compile(self.pattern).search

        def check(value: Any) -> Any:
            # A pattern in JSON schema is about texts only, and here as well.
            if isinstance(value, str) and (matches(value) is None or value.endswith("\n")):
                raise ValueError(self.says)
            return value

        return check


LabelName = Annotated[
    str,
    Field(min_length=1, max_length=63),
    Spelling(f"^{_LABEL}$", "write lower-case letters, digits and '-', starting and ending with a letter or digit"),
]
ObjectName = Annotated[
    str,
    Field(min_length=1, max_length=253),
    Spelling(
        rf"^{_LABEL}(\.{_LABEL})*$",
        "write the object's name: lower-case letters, digits, '-' and '.', starting and ending with a letter or digit",
    ),
]
ResourceName = Annotated[
    str,
    Field(min_length=1, max_length=MAX_RESOURCE_NAME_LENGTH),
    Spelling(
        "^[a-z]([-a-z0-9]*[a-z0-9])?$",
        "write lower-case letters, digits and '-', starting with a letter and ending with a letter or digit: "
        "Services and pods are named after it",
    ),
]
DataKey = Annotated[
    str,
    Field(min_length=1, max_length=253),
    Spelling("^[-._a-zA-Z0-9]+$", "write a key of the ConfigMap or Secret: letters, digits, '-', '_' and '.'"),
]
QualifiedName = Annotated[
    str,
    Field(min_length=1, max_length=317),
    Spelling(
        rf"^({_LABEL}(\.{_LABEL})*/)?[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?$",
        "write a name such as nvidia.com/gpu: an optional DNS prefix and '/', then letters, digits, '-', '_' and '.'",
    ),
]
LabelValue = Annotated[
    str,
    Field(max_length=63),
    Spelling(
        "^([A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?)?$",
        "write at most 63 letters, digits, '-', '_' and '.'; numbers and true or false in quotes",
    ),
]
Quantity = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[str, Field(min_length=1, max_length=32)],
    Spelling(
        r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][0-9]+)?$",
        'write an amount such as "4", 500m or 32Gi; a fraction in quotes',
    ),
]
"""An amount of CPU, memory or devices, as in a pod's resources."""

Count = Annotated[int, Field(ge=1, le=MAX_INT32)]
Seconds = Annotated[int, Field(ge=1, le=MAX_INT32)]
Step = Annotated[int, Field(ge=0, le=2**53)]


def to_rfc3339(moment: datetime) -> str:
    """As Kubernetes writes times: UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Time = Annotated[AwareDatetime, Field(strict=False), PlainSerializer(to_rfc3339, return_type=str, when_used="json")]

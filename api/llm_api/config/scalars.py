"""Number and text types that several sections share, with what YAML gets wrong about them."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

MAX_NAME_LENGTH = 512
MAX_TEXT_LENGTH = 65536
MAX_STEPS = 2**40
MAX_TOKEN_ID = 2**31 - 1
MAX_LIST_LENGTH = 256

_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def read_exponent(value: Any) -> Any:
    """YAML 1.1 takes ``1e-4`` for text: its floats need a point and a signed exponent."""
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


Number = Annotated[float, BeforeValidator(read_exponent), Field(allow_inf_nan=False)]
NonNegative = Annotated[Number, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=MAX_STEPS)]
PositiveCount = Annotated[int, Field(ge=1, le=MAX_STEPS)]
Auto = Literal["auto"]
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH)]
Text = Annotated[str, Field(max_length=MAX_TEXT_LENGTH)]
TokenId = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]
Names = Annotated[list[Name], Field(min_length=1, max_length=MAX_LIST_LENGTH)]


def compiles(pattern: str) -> bool:
    """Whether a text is a regular expression."""
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True

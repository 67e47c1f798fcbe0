"""Values as strict JSON can hold them: NaN and the infinities, which it has no numbers for, become null."""

import math
from collections.abc import Mapping
from typing import Any


def to_json_value(value: Any) -> Any:
    """The same value with null in place of every float that is not finite, at any depth."""
    if isinstance(value, Mapping):
        return {name: to_json_value(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json_value(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""A cell of a table: whether there is one, and how it reads as text. Knows no formats, columns or prompts."""

import json
from datetime import date
from typing import Any


def is_missing(value: Any) -> bool:
    """None, and NaN, which is how tables of numbers say it. An empty text is a value, unless its format says
    otherwise.
    """
    return value is None or (isinstance(value, float) and value != value)


def to_text(value: Any) -> str:
    """The value as a person would write it: text unchanged; booleans, lists and objects as JSON; dates as ISO 8601."""
    if isinstance(value, str):
        return value
    if is_missing(value):
        return ""
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False, default=to_text)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return value.isoformat() if isinstance(value, date) else str(value)

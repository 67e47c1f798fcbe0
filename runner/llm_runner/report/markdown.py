"""The few forms of Markdown that a card is made of, safe for any text in them."""

import json
import re
from collections.abc import Iterable
from typing import Any


def build_table(head: tuple[str, str], rows: Iterable[tuple[str, Any]]) -> str:
    """Two columns in code letters."""
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    lines += [f"| `{name}` | {_cell(value)} |" for name, value in rows]
    return "\n".join(lines)


def build_block(text: str, language: str = "") -> str:
    """A code block whose fence is longer than any run of backticks in the text."""
    mark = "`" * max(3, _longest_run(text) + 1)
    return f"{mark}{language}\n{text}\n{mark}"


def _cell(value: Any) -> str:
    """Code letters on one line, so that no template is taken for markup; what is not plain text is shown as JSON."""
    is_plain = isinstance(value, str) and value.strip() == value != "" and "\n" not in value
    text = value if is_plain else json.dumps(value, ensure_ascii=False, default=str)
    mark = "`" * (_longest_run(text) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{mark}{pad}{text}{pad}{mark}".replace("|", "\\|")


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall(r"`+", text)), default=0)

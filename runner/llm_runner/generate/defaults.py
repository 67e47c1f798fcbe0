"""What a null in ``generation`` stands for: the same as leaving the key out.

Knows no bounds that depend on a prompt.
"""

from typing import Any

from llm_api.config import Generation

DEFAULTS = Generation()


def or_default(generation: Generation, key: str) -> Any:
    """The value, or the key's default for null."""
    value = getattr(generation, key)
    return getattr(DEFAULTS, key) if value is None else value

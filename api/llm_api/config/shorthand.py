"""`adapter: lora` and `backend: local`, as the page itself writes them in passing, for the sections that they mean.

Only for bare configs: in a manifest the API server takes nothing but the section.
"""

from collections.abc import Mapping
from typing import Any

_NAMED_BY_TYPE = ("adapter", "backend")


def expand_shorthand(config: Any) -> Any:
    """The config with a mapping where a name stands for one; anything else is left as it is."""
    if not isinstance(config, Mapping):
        return config
    named = {key: {"type": config[key]} for key in _NAMED_BY_TYPE if isinstance(config.get(key), str)}
    return {**config, **named}

"""Keys of the LLM config whose effect no test proves yet, with the reason. The list only ever gets shorter."""

OPEN: dict[str, str] = {}
"""Key, with types in brackets behind it where only those are meant -> why it is open."""

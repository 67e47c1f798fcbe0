"""The real small model for tests: prepared on first use, kept in the user's cache."""

from functools import cache
from pathlib import Path

from scripts.prepare_model import prepare_model


@cache
def smollm2_path() -> Path:
    """The folder of SmolLM2-135M-Instruct in bfloat16, with its tokenizer."""
    return prepare_model()

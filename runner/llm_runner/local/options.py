"""What the caller of ``run -f`` says besides the manifest. Judges nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SERVED_HOST, SERVED_PORT = "127.0.0.1", 8000


@dataclass(frozen=True)
class LocalOptions:
    name: str | None = None
    """Which resource, as NAME or KIND/NAME; None where there is one only."""
    volumes: Mapping[str, Path] = field(default_factory=dict)
    """Claim -> the folder that stands for it."""
    output_path: Path | None = None
    """A folder to store in, instead of the manifest's output."""
    beside: Sequence[Path] = ()
    """Further manifests, with what the resource refers to; nothing of theirs is run."""
    model_path: Path | None = None
    """Folder of the model that answers, instead of the one that an LLMInference refers to."""
    host: str | None = None
    """None: SERVED_HOST."""
    port: int | None = None
    """None: SERVED_PORT."""
    api_key_path: Path | None = None
    """A file with the key that requests must carry."""

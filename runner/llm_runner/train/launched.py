"""What torch's launcher tells each process that it starts, and where such a process leaves its last words.

Apart from ``ranks``, so that the command line knows it without torch.
"""

import os
from collections.abc import Mapping
from pathlib import Path

RANK, LOCAL_RANK, LOCAL_COUNT = "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"
_AGENT_RUN = "TORCHELASTIC_RUN_ID"
"""Nobody else sets this, unlike the others."""


def is_rank(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process was started as one of several."""
    return _AGENT_RUN in environment and RANK in environment


def rank_number(environment: Mapping[str, str] = os.environ) -> int:
    return int(environment[RANK]) if is_rank(environment) else 0


def outcome_path(termination_log: Path, rank: int) -> Path:
    """Each process has a place of its own."""
    return termination_log.with_name(f"{termination_log.stem}-{rank}{termination_log.suffix}")

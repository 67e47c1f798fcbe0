"""What was found out about one question of a status: a reason for machines and words for people. Pure data."""

from dataclasses import dataclass

from llm_api.conditions import Reason


@dataclass(frozen=True)
class Finding:
    reason: Reason
    message: str
    """What is the case, and what to do about it where something is to be done."""

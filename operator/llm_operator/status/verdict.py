"""What a status says of a resource as a whole: its phase and how its conditions stand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from llm_api.conditions import MAX_MESSAGE_LENGTH, Condition, Reason, set_condition


@dataclass(frozen=True)
class Standing:
    """How one condition stands."""

    status: Literal["True", "False", "Unknown"]
    reason: Reason
    message: str = ""


def set_standings(
    conditions: Sequence[Condition], standings: Mapping[str, Standing], generation: int | None, now: datetime
) -> list[Condition]:
    """The list with each type's standing; the time of a status that stays is kept."""
    result = list(conditions)
    for type_, standing in standings.items():
        condition = Condition(
            type=type_,
            status=standing.status,
            observed_generation=generation,
            last_transition_time=now,
            reason=standing.reason.value,
            message=standing.message[:MAX_MESSAGE_LENGTH],
        )
        result = set_condition(result, condition)
    return result

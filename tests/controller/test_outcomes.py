from typing import Any

import pytest
from llm_operator.metrics import Metrics
from llm_operator.outcomes import to_outcome
from llm_operator.store import FINE_TUNE, ResourceKey
from prometheus_client import generate_latest

KEY = ResourceKey(FINE_TUNE, "team", "bot")
ATTEMPTS = [
    {"startedAt": "2026-03-01T12:00:00Z", "endedAt": "2026-03-01T12:10:00Z"},
    {"startedAt": "2026-03-01T12:30:00Z", "endedAt": "2026-03-01T12:50:00Z"},
]


def status(phase: str, run: str = "bot-1", reason: str = "Succeeded") -> dict[str, Any]:
    condition = {"type": "Succeeded", "status": "True", "reason": reason}
    return {"phase": phase, "run": {"name": run}, "conditions": [condition], "attempts": ATTEMPTS}


def document(before: dict[str, Any] | None, **compute: Any) -> dict[str, Any]:
    return {"spec": {"compute": compute}, **({} if before is None else {"status": before})}


@pytest.mark.parametrize("before", [None, status("Training"), status("Succeeded", run="bot-0")])
def test_a_run_counts_when_it_has_just_ended(before: dict[str, Any] | None) -> None:
    outcome = to_outcome(KEY, document(before), status("Succeeded"))
    assert outcome is not None
    assert (outcome.kind, outcome.reason, outcome.duration_seconds) == ("LLMFineTune", "Succeeded", 3000)


@pytest.mark.parametrize(
    ("before", "after"),
    [(status("Succeeded"), status("Succeeded")), (None, status("Training")), (status("Failed"), status("Succeeded"))],
    ids=["told already", "under way", "the same run"],
)
def test_a_run_that_has_not_just_ended_does_not_count(before: dict[str, Any] | None, after: dict[str, Any]) -> None:
    assert to_outcome(KEY, document(before), after) is None


def test_accelerators_count_for_the_time_that_attempts_ran_on_every_node() -> None:
    compute = {"nodes": 2, "accelerators": {"count": 4}}
    outcome = to_outcome(KEY, document(None, **compute), status("Failed", reason="OutOfMemory"))
    assert outcome is not None
    assert (outcome.accelerator, outcome.accelerator_seconds) == ("nvidia.com/gpu", 2 * 4 * 1800)
    metrics = Metrics()
    metrics.count_run(outcome)
    text = generate_latest(metrics.registry).decode()
    assert 'llm_operator_runs_total{kind="LLMFineTune",reason="OutOfMemory"} 1.0' in text
    assert 'llm_operator_accelerator_seconds_total{namespace="team",resource="nvidia.com/gpu"} 14400.0' in text
    assert 'llm_operator_run_seconds_sum{kind="LLMFineTune"} 3000.0' in text


def test_a_run_that_never_started_has_no_duration() -> None:
    outcome = to_outcome(KEY, document(None), {**status("Failed", reason="Unschedulable"), "attempts": []})
    assert outcome is not None
    assert (outcome.duration_seconds, outcome.accelerator, outcome.accelerator_seconds) == (None, None, 0)

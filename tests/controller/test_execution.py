import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from llm_api.conditions import Reason
from llm_operator.build.names import FINALIZER
from llm_operator.errors import Conflict, NameTaken, NotFound, Refused, Unavailable
from llm_operator.execution import Execution, LeadershipLost
from llm_operator.observed import Refusal
from llm_operator.reconcile.plan import Deletion, EventNote, ObjectKey, Patch, Plan

DOCUMENT = {
    "apiVersion": "llmoperator.dev/v1alpha1",
    "kind": "LLMFineTune",
    "metadata": {"namespace": "team", "name": "bot", "uid": "u", "resourceVersion": "5", "finalizers": ["other/one"]},
}
JOB = ObjectKey("batch/v1", "Job", "bot-1")
NOTE = EventNote("Normal", "Training", "it trains")


def config_map(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "team", "name": name}}


class Cluster:
    """Takes down what is written; ``faults`` are raised by the method of that name."""

    def __init__(self, **faults: Exception) -> None:
        self.written: list[tuple[str, Any]] = []
        self._faults = faults

    async def delete(self, deletion: Deletion, namespace: str) -> None:
        self._note("delete", deletion.key.name)

    async def patch(self, key: ObjectKey, namespace: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._note("patch", key.name)

    async def apply(self, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._note("apply", manifest["metadata"]["name"])

    async def patch_finalizers(self, document: Mapping[str, Any], finalizers: Sequence[str]) -> Mapping[str, Any]:
        return self._note("finalizers", list(finalizers))

    async def apply_status(self, document: Mapping[str, Any], status: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._note("status", dict(status))

    async def create(self, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._note("create", manifest["reason"])

    def _note(self, verb: str, what: Any) -> Mapping[str, Any]:
        if verb in self._faults:
            raise self._faults[verb]
        self.written.append((verb, what))
        return {"written": what}


class Leader:
    """Leads for so many questions."""

    identity = "me"

    def __init__(self, times: int = 1000) -> None:
        self._times = times

    @property
    def is_leading(self) -> bool:
        self._times -= 1
        return self._times >= 0


WHOLE = Plan(
    delete=(Deletion(JOB),),
    patch=(Patch(JOB, {"spec": {"suspend": True}}),),
    apply=(config_map("a"), config_map("b")),
    finalizer="add",
    status={"phase": "Training"},
    events=(NOTE,),
)


def carry_out(cluster: Cluster, plan: Plan = WHOLE, leader: Leader | None = None) -> tuple[Refusal, ...]:
    kept: list[Any] = []
    execution = Execution(cluster, Leader() if leader is None else leader, kept.append)  # type: ignore[arg-type]
    return asyncio.run(execution.carry_out(plan, DOCUMENT))


def test_a_plan_is_carried_out_in_its_order() -> None:
    cluster = Cluster()
    assert carry_out(cluster) == ()
    assert cluster.written == [
        ("delete", "bot-1"),
        ("patch", "bot-1"),
        ("apply", "a"),
        ("apply", "b"),
        ("finalizers", ["other/one", FINALIZER]),
        ("status", {"phase": "Training"}),
        ("create", "Training"),
    ]


def test_an_empty_plan_writes_nothing() -> None:
    cluster = Cluster()
    carry_out(cluster, Plan())
    assert cluster.written == []


def test_each_object_is_kept_as_it_is_after_its_write() -> None:
    kept: list[Any] = []
    execution = Execution(Cluster(), Leader(), kept.append)  # type: ignore[arg-type]
    asyncio.run(execution.carry_out(WHOLE, DOCUMENT))
    assert [found["written"] for found in kept] == [
        "bot-1",
        "a",
        "b",
        ["other/one", FINALIZER],
        {"phase": "Training"},
    ]


def test_what_is_refused_comes_back_and_the_status_is_written_all_the_same() -> None:
    cluster = Cluster(apply=Refused("exceeded quota"))
    assert carry_out(cluster) == (Refusal("ConfigMap", "a", "exceeded quota"),)
    assert ("status", {"phase": "Training"}) in cluster.written
    assert [what for verb, what in cluster.written if verb == "apply"] == []


def test_a_name_that_somebody_else_has_is_told_apart_from_other_refusals() -> None:
    (refusal,) = carry_out(Cluster(apply=NameTaken("there is a ConfigMap a already")))
    assert (refusal.name, refusal.reason) == ("a", Reason.NAME_TAKEN)


@pytest.mark.parametrize("error", [Unavailable("no answer"), Conflict("changed")])
def test_what_may_pass_is_raised_to_be_tried_again(error: Exception) -> None:
    with pytest.raises(type(error)):
        carry_out(Cluster(apply=error))


def test_a_resource_that_is_gone_is_told_nothing_more() -> None:
    cluster = Cluster(status=NotFound("gone"))
    assert carry_out(cluster) == ()
    assert ("create", "Training") not in cluster.written


def test_an_event_that_can_not_be_recorded_stops_nothing() -> None:
    assert carry_out(Cluster(create=Unavailable("no answer"))) == ()


def test_a_finalizer_of_others_stays_when_ours_goes() -> None:
    cluster = Cluster()
    document = {**DOCUMENT, "metadata": {**DOCUMENT["metadata"], "finalizers": [FINALIZER, "other/one"]}}  # type: ignore[dict-item]
    execution = Execution(cluster, Leader(), lambda _: None)  # type: ignore[arg-type]
    asyncio.run(execution.carry_out(Plan(finalizer="remove"), document))
    assert cluster.written == [("finalizers", ["other/one"])]


@pytest.mark.parametrize("times", range(7))
def test_a_replica_that_loses_the_lease_writes_nothing_from_then_on(times: int) -> None:
    cluster = Cluster()
    with pytest.raises(LeadershipLost):
        carry_out(cluster, leader=Leader(times))
    assert len(cluster.written) == times

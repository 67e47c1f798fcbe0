from typing import Any

from llm_operator.compact import to_text
from llm_operator.store import FINE_TUNE, INFERENCE, ObjectId, ResourceKey, Store

KEY = ResourceKey(FINE_TUNE, "team", "bot")


def make(kind: str, name: str, version: int = 1, uid: str = "u1", **parts: Any) -> dict[str, Any]:
    labels = parts.pop("labels", {})
    metadata = {"namespace": "team", "name": name, "uid": uid, "resourceVersion": str(version), "labels": labels}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **parts}


def job(name: str = "bot-1", version: int = 1, uid: str = "j1", **parts: Any) -> dict[str, Any]:
    return make("Job", name, version, uid, labels={"llmoperator.dev/fine-tune": "bot"}, **parts)


def test_an_object_concerns_the_resource_that_its_label_names() -> None:
    assert Store().put(job()) == [KEY]


def test_what_is_seen_twice_concerns_nobody_the_second_time() -> None:
    store = Store()
    store.put(job(version=5))
    assert store.put(job(version=5)) == []
    assert store.put(job(version=6)) == [KEY]


def test_an_answer_to_a_write_is_not_undone_by_an_older_event_that_comes_later() -> None:
    store = Store()
    store.put(job(version=7, status={"active": 1}))
    store.put(job(version=6, status={}))
    assert store.belongings(KEY, "Job")[0]["status"] == {"active": 1}


def test_a_later_object_of_the_same_name_replaces_the_earlier_whatever_its_version() -> None:
    store = Store()
    store.put(job(version=9, uid="old"))
    store.put(job(version=3, uid="new"))
    assert store.uid(ObjectId("Job", "team", "bot-1")) == "new"
    assert store.drop(ObjectId("Job", "team", "bot-1"), "old") == []
    assert store.drop(ObjectId("Job", "team", "bot-1"), "new") == [KEY]


def test_belongings_are_of_one_kind_and_sorted_and_gone_when_dropped() -> None:
    store = Store()
    for name in ("bot-2", "bot-1"):
        store.put(job(name, uid=name))
    store.put(make("Pod", "bot-1-x", uid="p", labels={"llmoperator.dev/fine-tune": "bot"}))
    assert [found["metadata"]["name"] for found in store.belongings(KEY, "Job")] == ["bot-1", "bot-2"]
    store.drop(ObjectId("Job", "team", "bot-1"), "bot-1")
    assert [found["metadata"]["name"] for found in store.belongings(KEY, "Job")] == ["bot-2"]


def test_both_resources_are_concerned_by_an_object_whose_label_changes() -> None:
    store = Store()
    store.put(job(version=1))
    moved = job(version=2)
    moved["metadata"]["labels"] = {"llmoperator.dev/fine-tune": "other"}
    assert store.put(moved) == [KEY, ResourceKey(FINE_TUNE, "team", "other")]
    assert store.belongings(KEY, "Job") == []


def test_an_inference_is_concerned_by_the_fine_tune_that_it_follows() -> None:
    store = Store()
    store.put(make(INFERENCE, "chat", uid="i1", spec={"model": {"fineTuneRef": {"name": "bot"}}}))
    chat = ResourceKey(INFERENCE, "team", "chat")
    assert store.put(make(FINE_TUNE, "bot", version=1)) == [KEY, chat]
    store.put(make(INFERENCE, "chat", version=2, uid="i1", spec={"model": {"uri": "s3://b/m"}}))
    assert store.put(make(FINE_TUNE, "bot", version=2)) == [KEY]


def test_a_fine_tune_that_is_deleted_concerns_its_followers_too() -> None:
    store = Store()
    store.put(make(FINE_TUNE, "bot", uid="f"))
    store.put(make(INFERENCE, "chat", uid="i", spec={"model": {"fineTuneRef": {"name": "bot"}}}))
    assert set(store.drop(KEY, "f")) == {KEY, ResourceKey(INFERENCE, "team", "chat")}


def test_nothing_is_left_in_memory_of_what_is_gone() -> None:
    store = Store()
    store.put(job())
    store.put(make(INFERENCE, "chat", uid="i", spec={"model": {"fineTuneRef": {"name": "bot"}}}))
    store.drop(ObjectId("Job", "team", "bot-1"), "j1")
    store.drop(ResourceKey(INFERENCE, "team", "chat"), "i")
    assert len(store) == 0
    assert not store._belongings
    assert not store._followers


def test_what_nobody_reads_of_an_object_takes_no_memory() -> None:
    whole = job(spec={"suspend": False, "backoffLimit": 3, "template": {"spec": {"containers": ["x" * 5000]}}})
    whole["metadata"]["managedFields"] = [{"manager": "x" * 5000}]
    whole["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": "x" * 5000, "note": "kept"}
    assert len(to_text(whole)) < 500
    store = Store()
    store.put(whole)
    found = store.belongings(KEY, "Job")[0]
    assert found["spec"] == {"suspend": False, "backoffLimit": 3}
    assert found["metadata"]["annotations"] == {"note": "kept"}


def test_a_pod_keeps_its_node_and_what_its_containers_may_use() -> None:
    limits = {"limits": {"nvidia.com/gpu": "1"}}
    container = {"name": "runner", "image": "i", "resources": limits, "env": [{"name": "A", "value": "b"}]}
    pod = make(
        "Pod", "p", labels={"llmoperator.dev/fine-tune": "bot"}, spec={"nodeName": "n", "containers": [container]}
    )
    pod["spec"]["volumes"] = [{"name": "run"}]
    store = Store()
    store.put(pod)
    kept = {"name": "runner", "image": "i", "resources": limits}
    assert store.belongings(KEY, "Pod")[0]["spec"] == {"nodeName": "n", "containers": [kept]}

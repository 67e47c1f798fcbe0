"""From what the watches say to what must be looked at again. Decides nothing and calls nobody."""

from collections.abc import Iterable, Mapping
from typing import Any

from llm_operator.happenings import Happenings
from llm_operator.observed import Manifest, ProgressReport
from llm_operator.reports import Reports
from llm_operator.store import ObjectId, ResourceKey, Store, id_of
from llm_operator.workqueue import WorkQueue

WatchEvent = Mapping[str, Any]
"""``type`` (ADDED, MODIFIED, DELETED; None while a watch begins) and ``object``."""


class Feed:
    """Keeps store, warnings and reports in step with the cluster, and the queue with them."""

    def __init__(self, queue: WorkQueue[ResourceKey], report_pause_seconds: float) -> None:
        self.store = Store()
        self.happenings = Happenings()
        self.reports = Reports()
        self.taken = 0
        """Changes so far."""
        self._queue = queue
        self._report_pause_seconds = report_pause_seconds

    def take(self, event: WatchEvent) -> None:
        """A change of an object."""
        self.taken += 1
        if event["type"] == "DELETED":
            self.lose(id_of(event["object"]), event["object"]["metadata"]["uid"])
        else:
            self.keep(event["object"])

    def keep(self, manifest: Manifest) -> None:
        """As it is now, by a watch or by the answer to a write of our own."""
        self._want(self.store.put(manifest))
        if manifest["kind"] == "Pod" and manifest.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            self.reports.end((manifest["metadata"]["namespace"], manifest["metadata"]["name"]))

    def lose(self, id_: ObjectId, uid: str) -> None:
        """It is gone."""
        self._want(self.store.drop(id_, uid))
        self.happenings.forget(id_)
        if id_.kind == "Pod":
            self.reports.forget((id_.namespace, id_.name))

    def take_warning(self, event: WatchEvent) -> None:
        """A Kubernetes event; those that are deleted have only become old."""
        about = None if event["type"] == "DELETED" else self.happenings.put(event["object"])
        if about is not None:
            self._want(self.store.concerned(about))

    def take_report(self, namespace: str, report: ProgressReport) -> None:
        """A phase is shown at once, a step when the status may be written again."""
        is_new_phase = self.reports.put(namespace, report)
        for key in self.store.concerned(ObjectId("Pod", namespace, report.pod_name)):
            self._queue.add_later(key, 0.0 if is_new_phase else self._report_pause_seconds)

    def pod(self, namespace: str, name: str) -> Manifest | None:
        return self.store.get(ObjectId("Pod", namespace, name))

    def _want(self, keys: Iterable[ResourceKey]) -> None:
        for key in keys:
            self._queue.add(key)

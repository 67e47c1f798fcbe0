"""The newest report of each pod that reports. In memory only, and bounded: a run never needs it.

What is to last goes into the status, which the planner writes; a restart costs no more than the next report brings.
"""

from collections import OrderedDict

from llm_operator.observed import ProgressReport

MAX_PODS = 5_000
"""Pods beyond this push out those that reported longest ago."""

PodKey = tuple[str, str]
"""Namespace and name of a pod."""


class Reports:
    """By pod; a later pod of the same name replaces an earlier one."""

    def __init__(self) -> None:
        self._newest: OrderedDict[PodKey, ProgressReport] = OrderedDict()
        self._ended: set[PodKey] = set()

    def __len__(self) -> int:
        return len(self._newest)

    def running(self) -> list[tuple[PodKey, ProgressReport]]:
        """Of pods that haven't ended, the one that reported last at the end."""
        return [(pod, report) for pod, report in self._newest.items() if pod not in self._ended]

    def get(self, pod: PodKey) -> ProgressReport | None:
        return self._newest.get(pod)

    def put(self, namespace: str, report: ProgressReport) -> bool:
        """Whether the run has come to another phase since the last report of this pod."""
        pod = (namespace, report.pod_name)
        known = self._newest.pop(pod, None)
        self._newest[pod] = report
        while len(self._newest) > MAX_PODS:
            self.forget(next(iter(self._newest)))
        return known is None or known.progress.phase != report.progress.phase

    def end(self, pod: PodKey) -> None:
        """The pod has ended; its last report stays until the pod goes."""
        if pod in self._newest:
            self._ended.add(pod)

    def forget(self, pod: PodKey) -> None:
        self._newest.pop(pod, None)
        self._ended.discard(pod)

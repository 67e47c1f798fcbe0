"""What Prometheus is told. Labels are bounded: kinds, phases, reasons, codes; single runs only while they report.

Figures that stand elsewhere (queue, phases, reports) are read when they are asked for, not kept twice.
"""

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace

import aiohttp
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from llm_operator.feed import Feed
from llm_operator.outcomes import Outcome
from llm_operator.store import ObjectId, ResourceKey

MAX_RUN_SERIES = 1_000
_RECONCILE_BUCKETS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_RUN_BUCKETS = (60, 300, 900, 1800, 3600, 7200, 14400, 28800, 86400, 259200, 604800)


class Metrics:
    """All metrics of one operator, in a registry of its own."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self.phases = Phases()
        self.reconcile_seconds = Histogram(
            "llm_operator_reconcile_seconds",
            "How long one look at a resource took, writes included.",
            ["kind"],
            buckets=_RECONCILE_BUCKETS,
            registry=self.registry,
        )
        self.reconcile_errors = self._counter(
            "llm_operator_reconcile_errors", "Looks at a resource that failed and are repeated.", "kind", "error"
        )
        self.runs = self._counter("llm_operator_runs", "Runs that ended, by what came of them.", "kind", "reason")
        self.accelerator_seconds = self._counter(
            "llm_operator_accelerator_seconds",
            "Accelerators asked for times seconds, of runs that ended.",
            "namespace",
            "resource",
        )
        self.api_errors = self._counter(
            "llm_operator_api_errors", "Answers of the Kubernetes API that were errors, or missing.", "verb", "code"
        )
        self.progress_reports = self._counter(
            "llm_operator_progress_reports", "Reports that runners sent, by HTTP status of the answer.", "code"
        )
        self.run_seconds = Histogram(
            "llm_operator_run_seconds",
            "Seconds from a run's first start to its end.",
            ["kind"],
            buckets=_RUN_BUCKETS,
            registry=self.registry,
        )
        self.registry.register(self.phases)

    def count_run(self, outcome: Outcome) -> None:
        self.runs.labels(outcome.kind, outcome.reason).inc()
        if outcome.duration_seconds is not None:
            self.run_seconds.labels(outcome.kind).observe(outcome.duration_seconds)
        if outcome.accelerator is not None:
            self.accelerator_seconds.labels(outcome.namespace, outcome.accelerator).inc(outcome.accelerator_seconds)

    def watch_value(self, name: str, documentation: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        Gauge(name, documentation, registry=self.registry).set_function(value)

    def watch_runs(self, feed: Feed) -> None:
        self.registry.register(RunSeries(feed))

    def trace(self) -> aiohttp.TraceConfig:
        """For sessions that talk to the Kubernetes API."""
        config = aiohttp.TraceConfig()
        config.on_request_end.append(self._note_answer)
        config.on_request_exception.append(self._note_silence)
        return config

    async def _note_answer(
        self, session: aiohttp.ClientSession, context: SimpleNamespace, end: aiohttp.TraceRequestEndParams
    ) -> None:
        if end.response.status >= 400:
            self.api_errors.labels(end.method, str(end.response.status)).inc()

    async def _note_silence(
        self, session: aiohttp.ClientSession, context: SimpleNamespace, failed: aiohttp.TraceRequestExceptionParams
    ) -> None:
        self.api_errors.labels(failed.method, "none").inc()

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(name, documentation, labels, registry=self.registry)


class Phases(Collector):
    """How many resources are in which phase."""

    def __init__(self) -> None:
        self._phases: dict[ResourceKey, str] = {}

    def put(self, key: ResourceKey, phase: str) -> None:
        self._phases[key] = phase

    def forget(self, key: ResourceKey) -> None:
        self._phases.pop(key, None)

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily("llm_operator_resources", "Resources by phase.", labels=["kind", "phase"])
        for (kind, phase), count in sorted(Tally((key.kind, phase) for key, phase in self._phases.items()).items()):
            family.add_metric([kind, phase], count)
        yield family


class RunSeries(Collector):
    """Progress and loss of the runs that report; gone when their pods end."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def collect(self) -> Iterator[Metric]:
        labels = ["namespace", "name", "pod"]
        progress = GaugeMetricFamily(
            "llm_operator_run_progress_ratio", "Part of the steps that is done.", labels=labels
        )
        loss = GaugeMetricFamily("llm_operator_run_loss", "Training loss per target token or pair.", labels=labels)
        for (namespace, pod), report in self._feed.reports.running()[-MAX_RUN_SERIES:]:
            values = [namespace, self._name_of(namespace, pod), pod]
            if report.progress.of > 0:
                progress.add_metric(values, report.progress.step / report.progress.of)
            if report.progress.loss is not None:
                loss.add_metric(values, report.progress.loss)
        yield progress
        yield loss

    def _name_of(self, namespace: str, pod: str) -> str:
        """Of the resource that the pod works for."""
        return next((key.name for key in self._feed.store.concerned(ObjectId("Pod", namespace, pod))), "")

"""The run's figures for Prometheus, served over HTTP. Keeps no history: that is what Prometheus does."""

from collections.abc import Callable, Iterator

from llm_api.report import Progress
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from llm_runner.report.memory import peak_memory_bytes
from llm_runner.report.sink import Evaluated, Sink

PHASES = ("Preparing", "Training", "Predicting", "Evaluating", "Storing")

Read = Callable[[Progress], float | None]

GAUGES: tuple[tuple[str, str, Read], ...] = (
    ("llm_run_step", "Optimizer steps done, or rows answered.", lambda progress: progress.step),
    (
        "llm_run_planned_steps",
        "Optimizer steps planned, or rows in all; 0 while unknown.",
        lambda progress: progress.of,
    ),
    ("llm_run_epoch", "Passes over the training rows.", lambda progress: progress.epoch),
    ("llm_run_loss", "Training loss of the newest step, per target token or pair.", lambda progress: progress.loss),
    (
        "llm_run_eval_loss",
        "Newest loss on the hold-out, counted alike.",
        lambda progress: progress.eval_loss,
    ),
    ("llm_run_learning_rate", "Learning rate of the newest step.", lambda progress: progress.learning_rate),
    ("llm_run_tokens_per_second", "Non-padding tokens trained on.", lambda progress: progress.tokens_per_second),
    ("llm_run_eta_seconds", "Time that is left until the last step.", lambda progress: progress.eta_seconds),
)


class RunCollector(Collector):
    """Reads the newest report at each scrape; what is not known yet is left out rather than told as 0."""

    def __init__(self) -> None:
        self.progress = Progress(phase=PHASES[0])

    def collect(self) -> Iterator[GaugeMetricFamily]:
        progress = self.progress
        for name, documentation, read in GAUGES:
            if (value := read(progress)) is not None:
                yield GaugeMetricFamily(name, documentation, value=value)
        yield GaugeMetricFamily(
            "llm_run_peak_memory_bytes", "Peak memory of the accelerator, else of the host.", value=peak_memory_bytes()
        )
        phases = GaugeMetricFamily("llm_run_phase", "1 for the phase that the run is in.", labels=["phase"])
        for phase in PHASES:
            phases.add_metric([phase], float(phase == progress.phase))
        yield phases


class PrometheusServer(Sink):
    """Serves ``/metrics`` on ``host:port`` until closed; raises OSError where the port can't be had."""

    def __init__(self, port: int, host: str) -> None:
        self._collector = RunCollector()
        registry = CollectorRegistry()
        registry.register(self._collector)
        self._server, self._thread = start_http_server(port, addr=host, registry=registry)

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}/metrics"

    def phase(self, progress: Progress) -> None:
        self._collector.progress = progress

    def step(self, progress: Progress) -> None:
        self._collector.progress = progress

    def evaluated(self, evaluated: Evaluated) -> None:
        self._collector.progress = self._collector.progress.model_copy(update={"eval_loss": evaluated.loss})

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

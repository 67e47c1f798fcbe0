"""The server's figures for Prometheus. The engine tells what happens; how busy it is, is asked at each scrape."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from llm_runner.generate.engine import Load
from llm_runner.generate.engine_request import EndReason

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SMOOTHING = 0.2
"""Weight of the newest answer in the mean of how long they take."""


class LoadCollector(Collector):
    """Gauges of how busy the engine is."""

    def __init__(self, load: Callable[[], Load | None]) -> None:
        self._load = load

    def collect(self) -> Iterator[GaugeMetricFamily]:
        load = self._load()
        if load is None:
            return
        gauges = {
            "llm_serve_running_requests": ("Answers that are being generated.", load.running),
            "llm_serve_queue_depth": ("Requests that wait for a place.", load.waiting),
            "llm_serve_cache_used_ratio": ("Share of the cache's blocks in use.", load.used_blocks / load.block_count),
            "llm_serve_preempted_requests": ("Times that one was put back for lack of memory.", load.preemptions),
        }
        for name, (documentation, value) in gauges.items():
            yield GaugeMetricFamily(name, documentation, value=value)


class ServerMetrics:
    """Listens to the engine, counts HTTP answers, and estimates when a place is free again."""

    def __init__(self, load: Callable[[], Load | None]) -> None:
        self.registry = registry = CollectorRegistry()
        registry.register(LoadCollector(load))
        self._load = load
        self._mean_seconds = 1.0
        self.responses = Counter(
            "llm_serve_http_responses", "Answers by path and status.", ["path", "status"], registry=registry
        )
        self._answers = Counter(
            "llm_serve_answers", "Generated answers by how they ended.", ["reason"], registry=registry
        )
        self._tokens_in = Counter("llm_serve_prompt_tokens", "Tokens of prompts.", registry=registry)
        self._tokens_cached = Counter(
            "llm_serve_cached_prompt_tokens", "Those that another prompt shared.", registry=registry
        )
        self._tokens_out = Counter("llm_serve_generated_tokens", "Tokens of answers.", registry=registry)
        self._first_token = Histogram(
            "llm_serve_time_to_first_token_seconds",
            "From request to first token.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self._per_token = Histogram(
            "llm_serve_time_per_token_seconds",
            "Of the tokens after the first.",
            buckets=TOKEN_SECONDS,
            registry=self.registry,
        )
        self._sequences = Histogram(
            "llm_serve_step_sequences", "Sequences that share a step.", buckets=SEQUENCES, registry=registry
        )
        self._step = Histogram("llm_serve_step_seconds", "Duration of a step.", buckets=SECONDS, registry=registry)

    def stepped(self, *, sequences: int, tokens: int, seconds: float) -> None:
        self._sequences.observe(sequences)
        self._step.observe(seconds)

    def started(self, *, prompt_tokens: int, cached_tokens: int, seconds: float) -> None:
        self._tokens_in.inc(prompt_tokens)
        self._tokens_cached.inc(cached_tokens)
        self._first_token.observe(seconds)

    def ended(self, *, reason: EndReason, new_tokens: int, seconds: float, first_token_seconds: float | None) -> None:
        self._answers.labels(reason.value).inc()
        self._tokens_out.inc(new_tokens)
        self._mean_seconds += SMOOTHING * (seconds - self._mean_seconds)
        if first_token_seconds is not None and new_tokens > 1:
            self._per_token.observe((seconds - first_token_seconds) / (new_tokens - 1))

    def retry_after_seconds(self) -> int:
        """When a place is likely to be free: as many end in the mean duration as run at once."""
        load = self._load()
        if load is None:
            return 1
        share = (load.waiting + 1) / max(load.running, 1)
        return min(60, max(1, round(self._mean_seconds * share)))

    def to_text(self) -> bytes:
        return generate_latest(self.registry)

import socket
import threading
from collections.abc import Iterator

import pytest
import requests
from llm_api.report import Progress
from llm_runner.report.metrics import PrometheusServer
from llm_runner.report.sink import Evaluated
from prometheus_client.parser import text_string_to_metric_families


@pytest.fixture
def server() -> Iterator[PrometheusServer]:
    server = PrometheusServer(0, "127.0.0.1")
    yield server
    server.close()


def scrape(server: PrometheusServer) -> dict[str, float]:
    """Samples by name, the phase's label in brackets."""
    answer = requests.get(server.url, timeout=5)
    assert answer.status_code == 200
    return {
        f"{sample.name}[{sample.labels['phase']}]" if sample.labels else sample.name: sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_a_scrape_finds_the_newest_step(server: PrometheusServer) -> None:
    server.step(
        Progress(
            phase="Training",
            step=12,
            of=40,
            epoch=0.9,
            loss=1.5,
            eval_loss=1.75,
            learning_rate=1e-4,
            tokens_per_second=310.5,
            eta_seconds=61.0,
        )
    )
    samples = scrape(server)
    assert samples.pop("llm_run_peak_memory_bytes") > 10_000_000
    assert samples == {
        "llm_run_step": 12.0,
        "llm_run_planned_steps": 40.0,
        "llm_run_epoch": 0.9,
        "llm_run_loss": 1.5,
        "llm_run_eval_loss": 1.75,
        "llm_run_learning_rate": 1e-4,
        "llm_run_tokens_per_second": 310.5,
        "llm_run_eta_seconds": 61.0,
        "llm_run_phase[Preparing]": 0.0,
        "llm_run_phase[Training]": 1.0,
        "llm_run_phase[Predicting]": 0.0,
        "llm_run_phase[Evaluating]": 0.0,
        "llm_run_phase[Storing]": 0.0,
    }


def test_what_is_not_known_yet_is_left_out(server: PrometheusServer) -> None:
    samples = scrape(server)
    assert "llm_run_loss" not in samples
    assert "llm_run_eval_loss" not in samples
    assert samples["llm_run_phase[Preparing]"] == 1.0


def test_an_evaluation_shows_before_the_next_step(server: PrometheusServer) -> None:
    server.step(Progress(phase="Training", step=1, of=2))
    server.evaluated(Evaluated(1, 0.75, 2.117, 0.8))
    samples = scrape(server)
    assert (samples["llm_run_step"], samples["llm_run_eval_loss"]) == (1.0, 0.75)


def test_a_closed_server_gives_its_port_and_thread_back() -> None:
    threads_before = threading.active_count()
    server = PrometheusServer(0, "127.0.0.1")
    url = server.url
    server.close()
    assert threading.active_count() == threads_before
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=5)


def test_a_port_in_use_is_an_error_of_the_system() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        PrometheusServer(taken.getsockname()[1], "127.0.0.1")

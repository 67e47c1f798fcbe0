"""Each figure for Prometheus, moved by what it counts and by nothing else."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from llm_operator.build.autoscaler import METRICS
from prometheus_client.parser import text_string_to_metric_families

from tests.support.servers import RunningServer, running_server, serve_run

PATH = "/v1/completions"
PLACES = 2
LONG = 200


@pytest.fixture
def server(chat_model_path: Path, tmp_path: Path) -> Iterator[RunningServer]:
    """Its own, so that nobody else is counted; one request may wait."""
    run = serve_run(chat_model_path, {"generation": {"do_sample": False}}, maxConcurrency=PLACES)
    with running_server(run, tmp_path) as running:
        yield running


def figure(server: RunningServer, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(server.get("/metrics").text)
    return sum(
        one.value
        for family in families
        for one in family.samples
        if one.name == f"llm_serve_{name}" and labels.items() <= one.labels.items()
    )


def ask(server: RunningServer, tokens: int, prompt: str = "abcde", **options: Any) -> int:
    body = {"model": "tiny", "prompt": prompt, "max_tokens": tokens, "min_new_tokens": tokens, **options}
    return server.post(PATH, body).status


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_requests_are_counted_by_path_and_status(server: RunningServer) -> None:
    assert [ask(server, 3), ask(server, 3), ask(server, 3, temperature=-1), ask(server, 3, model="other")] == [
        200, 200, 400, 404
    ]  # fmt: skip
    counts = {
        status: figure(server, "http_responses_total", path=PATH, status=status) for status in ("200", "400", "404")
    }
    assert counts == {"200": 2, "400": 1, "404": 1}


def test_answers_are_counted_by_how_they_ended(server: RunningServer) -> None:
    before = figure(server, "answers_total", reason="length")
    ask(server, 3)
    stream = server.client().completions.create(
        model="tiny", prompt="abc", max_tokens=LONG, stream=True, extra_body={"min_new_tokens": LONG}
    )
    next(iter(stream))
    stream.close()
    wait_until(lambda: figure(server, "answers_total", reason="cancelled") == 1)
    assert figure(server, "answers_total", reason="length") == before + 1


def test_tokens_in_and_out_are_those_of_the_usage(server: RunningServer) -> None:
    before = figure(server, "prompt_tokens_total"), figure(server, "generated_tokens_total")
    completion = server.client().completions.create(
        model="tiny", prompt="abcde", max_tokens=7, extra_body={"min_new_tokens": 7}
    )
    assert completion.usage is not None
    assert figure(server, "prompt_tokens_total") == before[0] + completion.usage.prompt_tokens
    assert figure(server, "generated_tokens_total") == before[1] + completion.usage.completion_tokens


def test_the_first_token_and_each_further_one_are_timed(server: RunningServer) -> None:
    first = ("time_to_first_token_seconds_count", "time_to_first_token_seconds_sum")
    token = ("time_per_token_seconds_count", "time_per_token_seconds_sum")
    before = [figure(server, name) for name in (*first, *token)]
    begun = time.monotonic()
    ask(server, 20)
    whole_seconds = time.monotonic() - begun
    after = [figure(server, name) for name in (*first, *token)]
    first_count, first_seconds, token_count, token_seconds = (b - a for a, b in zip(before, after, strict=True))
    assert (first_count, token_count) == (1, 1)
    assert 0 < first_seconds < whole_seconds
    assert 0 < first_seconds + 19 * token_seconds < whole_seconds


def test_a_single_token_has_no_time_between_tokens(server: RunningServer) -> None:
    before = figure(server, "time_per_token_seconds_count")
    ask(server, 1)
    assert figure(server, "time_per_token_seconds_count") == before


def test_what_runs_what_waits_and_what_the_cache_holds_are_shown_while_it_is_so(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an engine that takes its time, or all would be over before it is looked at."""
    monkeypatch.setattr(server.state.metrics, "stepped", lambda **_: time.sleep(0.02))
    names = ("running_requests", "queue_depth", "cache_used_ratio")
    scaled_by = METRICS["transformers"]["queueDepth"]
    assert [figure(server, name) for name in names[:2]] == [0, 0]
    with ThreadPoolExecutor(PLACES + 1) as threads:
        answers = [threads.submit(ask, server, LONG, f"number {number}") for number in range(PLACES + 1)]
        wait_until(lambda: [figure(server, name) for name in names[:2]] == [PLACES, 1])
        assert f"{scaled_by} 1.0" in server.get("/metrics").text.splitlines(), "what an autoscaler is told to look at"
        used = figure(server, "cache_used_ratio")
        assert [answer.result() for answer in answers] == [200] * (PLACES + 1)
    assert 0 < used < 1
    wait_until(lambda: figure(server, "running_requests") + figure(server, "queue_depth") == 0)


def test_steps_tell_how_many_sequences_share_them(server: RunningServer) -> None:
    def alone() -> float:
        return figure(server, "step_sequences_bucket", le="1.0")

    before = alone()
    ask(server, 30)
    assert alone() >= before + 30
    before, steps = alone(), figure(server, "step_sequences_count")
    with ThreadPoolExecutor(PLACES) as threads:
        list(threads.map(lambda number: ask(server, LONG, prompt=f"number {number}"), range(PLACES)))
    shared = figure(server, "step_sequences_count") - steps - (alone() - before)
    assert shared > 0
    assert figure(server, "step_seconds_count") == figure(server, "step_sequences_count")


def test_tokens_that_another_prompt_has_left_in_the_cache_are_counted(server: RunningServer) -> None:
    prompt = "the same long beginning of all prompts that come here, whatever they ask for; "
    ask(server, 3, prompt=f"{prompt}first")
    before = figure(server, "cached_prompt_tokens_total")
    completion = server.client().completions.create(model="tiny", prompt=f"{prompt}second", max_tokens=3)
    assert completion.usage is not None
    assert completion.usage.prompt_tokens_details is not None
    cached = completion.usage.prompt_tokens_details.cached_tokens
    assert cached is not None
    assert cached >= len(prompt) // 2
    assert figure(server, "cached_prompt_tokens_total") == before + cached


def test_those_who_are_told_to_come_later_are_counted_too(server: RunningServer) -> None:
    with ThreadPoolExecutor(12) as threads:
        told = list(threads.map(lambda number: ask(server, 60, prompt=f"number {number}"), range(12)))
    assert set(told) == {200, 429}
    for status in (200, 429):
        assert figure(server, "http_responses_total", path=PATH, status=str(status)) == told.count(status)

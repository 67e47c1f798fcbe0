"""A server's life: it listens before it is ready, lets clients leave, counts, and finishes what it has when stopped."""

import asyncio
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from llm_runner.__main__ import main
from llm_runner.serve.app import ServerState, build_app
from llm_runner.serve.metrics import ServerMetrics
from llm_runner.serve.server import DrainingServer
from prometheus_client.parser import text_string_to_metric_families

from tests.support.repository import ROOT
from tests.support.servers import RunningServer, serve_run

PATH = "/v1/completions"


def wait_until(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def sample(server: RunningServer, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(server.get("/metrics").text)
    found = [
        one.value
        for family in families
        for one in family.samples
        if one.name == name and labels.items() <= one.labels.items()
    ]
    return sum(found)


def test_a_client_that_leaves_a_stream_ends_its_answer(server: RunningServer) -> None:
    stream = server.client().completions.create(
        model="tiny", prompt="abc", max_tokens=200, stream=True, extra_body={"min_new_tokens": 200}
    )
    before = sample(server, "llm_serve_answers_total", reason="cancelled")
    next(iter(stream))
    stream.close()
    wait_until(lambda: server.service.engine.open_requests == 0)
    assert sample(server, "llm_serve_answers_total", reason="cancelled") == before + 1


def test_a_client_that_leaves_before_the_answer_ends_it_too(server: RunningServer) -> None:
    before = sample(server, "llm_serve_answers_total", reason="cancelled")
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    body = {"model": "tiny", "prompt": "abc", "max_tokens": 230, "min_new_tokens": 230}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    wait_until(lambda: server.service.engine.open_requests == 1)
    connection.close()
    wait_until(lambda: server.service.engine.open_requests == 0)
    assert sample(server, "llm_serve_answers_total", reason="cancelled") == before + 1


def test_health_is_answered_while_the_engine_is_busy(server: RunningServer) -> None:
    busy = server.service.engine.call(lambda: time.sleep(0.5))
    started = time.monotonic()
    assert server.get("/healthz").status == 200
    assert time.monotonic() - started < 0.4
    assert not busy.done()
    busy.result()


def test_the_figures_count_what_was_answered(server: RunningServer) -> None:
    names = ("llm_serve_prompt_tokens_total", "llm_serve_generated_tokens_total")
    before = [sample(server, name) for name in names]
    server.client().completions.create(model="tiny", prompt="abcde", max_tokens=7, extra_body={"min_new_tokens": 7})
    assert [sample(server, name) for name in names] == [before[0] + 5, before[1] + 7]
    assert sample(server, "llm_serve_http_responses_total", path="/v1/completions", status="200") >= 1
    assert sample(server, "llm_serve_time_to_first_token_seconds_count") >= 1
    assert sample(server, "llm_serve_time_per_token_seconds_count") >= 1
    assert sample(server, "llm_serve_queue_depth") == 0


def test_a_server_whose_model_is_being_loaded_lives_and_is_not_ready() -> None:
    app = build_app(ServerState(ServerMetrics(lambda: None)))

    async def statuses() -> dict[str, int]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            found = {path: (await client.get(path)).status_code for path in ("/healthz", "/readyz", "/v1/models")}
            refused = await client.post("/v1/completions", json={"model": "a", "prompt": "b"})
            assert refused.headers["retry-after"] == "5"
            return found

    assert asyncio.run(statuses()) == {"/healthz": 200, "/readyz": 503, "/v1/models": 503}


@contextmanager
def server_process(run_file: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-P", "-m", "llm_runner", "serve", str(run_file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def port_of(process: "subprocess.Popen[str]") -> int:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"served at http://127.0.0.1:(\d+)", line):
            return int(found[1])
    raise AssertionError("the server ended without being ready")


def test_the_command_serves_a_run_file_and_on_sigterm_finishes_its_answers(
    chat_model_path: Path, tmp_path: Path
) -> None:
    run_file = tmp_path / "run.json"
    run_file.write_text(serve_run(chat_model_path).model_dump_json(by_alias=True, exclude_unset=True))
    body = {"model": "tiny", "prompt": "abc", "max_tokens": 200, "min_new_tokens": 200, "stream": True}
    with server_process(run_file) as process:
        url = f"http://127.0.0.1:{port_of(process)}"
        with httpx.Client(base_url=url, timeout=60) as client, client.stream("POST", PATH, json=body) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: client.get("/readyz").status_code == 503)
            late = client.post(PATH, json={"model": "tiny", "prompt": "abc", "max_tokens": 1})
            assert (late.status_code, late.headers["connection"]) == (200, "close")
            events = [line for line in lines if line]
        assert events[-1] == "data: [DONE]"
        assert process.wait(timeout=60) == 0


@pytest.mark.parametrize(("sent", "ends"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_only_a_cluster_is_given_time_to_send_requests_elsewhere(
    server: RunningServer, sent: signal.Signals, ends: bool
) -> None:
    """Ctrl-C comes from a person."""
    state = ServerState(ServerMetrics(lambda: None), service=server.service)

    async def ask_to_stop() -> bool:
        stopping = DrainingServer(build_app(state, api_key_path=None), state, drain_seconds=600)
        stopping._loop = asyncio.get_running_loop()
        stopping.handle_exit(sent, None)
        for _ in range(3):
            await asyncio.sleep(0)
        return stopping.should_exit

    assert asyncio.run(ask_to_stop()) is ends
    assert state.is_draining


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config": {}}, "neither the run nor the artifact names one"),
        ({"apiKeyPath": "/nowhere/key"}, "serve.apiKey"),
        ({"host": "256.0.0.1"}, "can't be listened at"),
        ({"adapters": [{"name": "tiny", "artifactUri": "/a"}]}, "'tiny' stands for more than one model"),
    ],
)
def test_a_run_file_that_can_not_be_served_ends_with_what_to_change(
    chat_model_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    words: str,
) -> None:
    run_file = tmp_path / "run.json"
    document = json.loads(serve_run(chat_model_path).model_dump_json(by_alias=True, exclude_unset=True))
    run_file.write_text(json.dumps({**document, **change}))
    assert main(["serve", str(run_file)]) == 10
    assert words in capsys.readouterr().err

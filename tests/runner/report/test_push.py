import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from llm_api.report import Progress
from llm_runner.report.push import ProgressPush


class Operator(ThreadingHTTPServer):
    """Takes reports as the operator's endpoint does, and remembers them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[dict[str, Any]] = []
        self.tokens: list[str | None] = []
        self.status = 204
        self.delay_seconds = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/progress"


class Handler(BaseHTTPRequestHandler):
    server: Operator

    def do_POST(self) -> None:
        time.sleep(self.server.delay_seconds)
        self.server.tokens.append(self.headers["Authorization"])
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the parent's name
        pass


@pytest.fixture
def operator() -> Iterator[Operator]:
    with Operator() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def token_path(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("first-token\n")
    return path


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline, "did not happen within 10 seconds"
        time.sleep(0.005)


def at_step(step: int) -> Progress:
    return Progress(phase="Training", step=step, of=100, tokens_per_second=300.0)


def test_a_report_arrives_as_the_api_writes_it_with_the_token(operator: Operator, token_path: Path) -> None:
    push = ProgressPush(operator.url, token_path, pytest.fail)
    push.step(at_step(3))
    push.close()
    assert operator.bodies == [{"phase": "Training", "step": 3, "of": 100, "epoch": 0.0, "tokensPerSecond": 300.0}]
    assert operator.tokens == ["Bearer first-token"]


def test_a_token_that_was_replaced_is_read_again(operator: Operator, token_path: Path) -> None:
    push = ProgressPush(operator.url, token_path, pytest.fail, seconds_between_posts=0.0)
    push.step(at_step(1))
    wait_until(lambda: len(operator.bodies) == 1)
    token_path.write_text("second-token\n")
    push.step(at_step(2))
    push.close()
    assert operator.tokens == ["Bearer first-token", "Bearer second-token"]


def test_a_slow_operator_gets_the_newest_report_and_holds_nothing_up(operator: Operator, token_path: Path) -> None:
    operator.delay_seconds = 0.3
    push = ProgressPush(operator.url, token_path, pytest.fail, seconds_between_posts=0.0)
    started = time.perf_counter()
    for step in range(1, 101):
        push.step(at_step(step))
    offering_seconds = time.perf_counter() - started
    push.close()
    assert offering_seconds < 5.0
    assert operator.bodies[-1]["step"] == 100
    assert len(operator.bodies) < 50


def test_an_operator_that_refuses_is_told_once_and_by_its_answer(operator: Operator, token_path: Path) -> None:
    operator.status = 403
    said: list[str] = []
    push = ProgressPush(operator.url, token_path, said.append, seconds_between_posts=0.0)
    for step in range(1, 4):
        push.step(at_step(step))
        wait_until(lambda count=step: len(operator.bodies) >= count)  # type: ignore[misc]
    push.close()
    assert len(said) == 1
    assert "HTTP 403 Forbidden" in said[0]
    assert "the run goes on" in said[0]


def test_a_redirect_is_not_followed_since_the_token_would_go_along(operator: Operator, token_path: Path) -> None:
    operator.status = 307
    said: list[str] = []
    push = ProgressPush(operator.url, token_path, said.append)
    push.step(at_step(1))
    push.close()
    assert len(operator.bodies) == 1
    assert "HTTP 307" in said[0]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/progress", "no address at all"])
def test_an_operator_that_is_not_there_is_told_once(url: str, token_path: Path) -> None:
    said: list[str] = []
    push = ProgressPush(url, token_path, said.append)
    push.step(at_step(1))
    push.close()
    assert len(said) == 1
    assert url in said[0]


@pytest.mark.parametrize("content", [None, b"two\nlines", b"\xff\xfe"])
def test_a_token_that_can_not_be_used_hurts_nothing(
    content: bytes | None, operator: Operator, token_path: Path
) -> None:
    token_path.unlink()
    if content is not None:
        token_path.write_bytes(content)
    said: list[str] = []
    push = ProgressPush(operator.url, token_path, said.append)
    push.step(at_step(1))
    push.close()
    assert operator.bodies == []
    assert len(said) == 1

"""What a server doesn't do is said at once, with a status and what to change."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.models import llama_config, save_model
from tests.support.servers import RunningServer, running_server, serve_run

MESSAGES: Any = [{"role": "user", "content": "Hello"}]


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": "abc", "max_tokens": 2, **changes}


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"temperature": -1}, "temperature", "0"),
        ({"temperature": "hot"}, "temperature", "number"),
        ({"top_p": 1.5}, "top_p", "1"),
        ({"n": 0}, "n", "1"),
        ({"max_tokens": 0}, "max_tokens", "1"),
        ({"max_token": 5}, "max_token", "max_tokens"),
        ({"suffix": "x"}, "suffix", "only what comes after a prompt"),
        ({"echo": True}, "echo", "False"),
        ({"prompt": []}, "prompt", "at least one"),
        ({"prompt": [5, 999]}, "prompt", "token ids are 0 to 257"),
        ({"logit_bias": {"999": 1}}, "logit_bias", "0 to 257"),
        ({"suppress_tokens": [999]}, None, "numbered 0 to 257"),
        ({"max_new_tokens": 4}, "max_new_tokens", "write one of them"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream: true"),
        ({"num_beams": 3, "num_beam_groups": 2}, "num_beam_groups", "multiple"),
        ({"num_beams": 2, "logprobs": 1}, "logprobs", "beams"),
        ({"num_beams": 2, "n": 3}, "n", "raise num_beams"),
    ],
)
def test_a_wrong_body_is_refused_with_where_and_what(
    server: RunningServer, changes: dict[str, Any], param: str | None, words: str
) -> None:
    answer = server.post("/v1/completions", body(**changes))
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["param"] == param
    assert words in answer.error["message"]


def test_every_mistake_of_a_body_is_told_at_once(server: RunningServer) -> None:
    answer = server.post("/v1/completions", body(temperature=-1, n=0, stops="x"))
    assert len(answer.error["message"].splitlines()) == 3


@pytest.mark.parametrize("data", [b"{", b"", b"[1]", b'"text"', b"\xff\xfe"])
def test_what_is_no_json_object_is_refused(server: RunningServer, data: bytes) -> None:
    answer = server.post("/v1/completions", data)
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert "JSON" in answer.error["message"]


def test_a_prompt_longer_than_the_context_is_refused_with_by_how_much(server: RunningServer) -> None:
    with pytest.raises(openai.BadRequestError, match=r"has 300 tokens.*shorten it by 45") as raised:
        server.client().completions.create(model="tiny", prompt="x" * 300)
    assert raised.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    "changes",
    [
        {"repetition_penalty": 5e-324},
        {"encoder_repetition_penalty": 3e307},
        {"suppress_tokens": list(range(258))},
        {"suppress_tokens": list(range(258)), "num_beams": 2},
    ],
)
def test_what_leaves_no_token_to_choose_is_the_requests_mistake(server: RunningServer, changes: dict[str, Any]) -> None:
    answer = server.post("/v1/completions", body(do_sample=False, **changes))
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    streamed = server.post("/v1/completions", body(do_sample=False, stream=True, **changes))
    assert '"type": "invalid_request_error"' in streamed.text
    assert server.post("/v1/completions", body()).status == 200


def test_what_a_chat_template_refuses_is_told_in_its_words(server: RunningServer) -> None:
    with pytest.raises(openai.BadRequestError, match="the assistant may not begin"):
        server.client().chat.completions.create(model="tiny", messages=[{"role": "assistant", "content": "Hi"}])


def test_tools_and_pictures_are_refused_by_name(server: RunningServer) -> None:
    client = server.client()
    tool: Any = {"type": "function", "function": {"name": "f", "parameters": {}}}
    with pytest.raises(openai.BadRequestError, match="tools aren't supported"):
        client.chat.completions.create(model="tiny", messages=MESSAGES, tools=[tool])
    picture: Any = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]
    with pytest.raises(openai.BadRequestError, match="messages"):
        client.chat.completions.create(model="tiny", messages=picture)


def test_unknown_paths_and_methods_have_the_same_shape(server: RunningServer) -> None:
    assert server.get("/v1/nothing").status == 404
    assert "message" in server.get("/v1/nothing").error
    assert server.get("/v1/completions").status == 405


def test_a_model_without_chat_template_points_to_completions(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", llama_config())
    with running_server(serve_run(base), tmp_path) as server:
        answer = server.post("/v1/chat/completions", {"model": "tiny", "messages": MESSAGES})
    assert answer.status == 400
    assert "no chat template; ask /v1/completions" in answer.error["message"]


@pytest.fixture(scope="module")
def guarded(chat_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One place, one that may wait, a key and small bodies."""
    folder = tmp_path_factory.mktemp("guarded")
    key = folder / "key"
    key.write_text("secret\n")
    run = serve_run(chat_model_path, maxConcurrency=1, apiKeyPath=str(key))
    with running_server(run, folder, max_body_bytes=2000) as running:
        yield running


def test_without_the_key_nothing_is_answered_but_health(guarded: RunningServer) -> None:
    with pytest.raises(openai.AuthenticationError, match="Authorization: Bearer"):
        guarded.client(api_key="wrong").completions.create(model="tiny", prompt="a")
    assert guarded.get("/v1/models").status == 401
    assert guarded.get("/healthz").status == guarded.get("/readyz").status == guarded.get("/metrics").status == 200
    assert guarded.client(api_key="secret").completions.create(model="tiny", prompt="a", max_tokens=1).choices


def test_a_body_that_is_too_large_is_refused_whether_it_says_its_size_or_not(guarded: RunningServer) -> None:
    key = {"Authorization": "Bearer secret"}
    answer = guarded.post("/v1/completions", body(prompt="x" * 3000), **key)
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")
    chunks = (b"x" * 500 for _ in range(10))
    silent = httpx.post(f"http://127.0.0.1:{guarded.port}/v1/completions", content=chunks, headers=key)
    assert (silent.status_code, silent.json()["error"]["code"]) == (413, "body_too_large")


def test_more_than_may_wait_are_told_when_to_come_back_and_the_others_are_answered(guarded: RunningServer) -> None:
    client = guarded.client(api_key="secret")
    release = threading.Event()
    holding = guarded.service.engine.call(lambda: release.wait(timeout=60))
    answers: list[Any] = []

    def ask() -> None:
        answers.append(client.completions.create(model="tiny", prompt="a", max_tokens=2))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    while guarded.service.engine.open_requests < 2:
        pass
    with pytest.raises(openai.RateLimitError) as raised:
        client.completions.create(model="tiny", prompt="a", max_tokens=2)
    assert raised.value.code == "overloaded"
    assert int(raised.value.response.headers["retry-after"]) >= 1
    release.set()
    holding.result(timeout=60)
    for thread in threads:
        thread.join()
    assert [len(answer.choices) for answer in answers] == [1, 1]

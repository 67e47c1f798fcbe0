"""Rows in, the output feature's values out, over HTTP; expectations come from the library's model, asked by hand."""

import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_api.config import Generation
from llm_runner.generate.decode import Decoder, Request
from llm_runner.generate.likelihood import label_probabilities
from llm_runner.generate.limits import AnswerLimits
from llm_runner.predict.flow import call_patiently

from tests.support.models import CONTEXT_LENGTH, tiny_tokenizer
from tests.support.predictions import MATCH, MOOD
from tests.support.servers import RunningServer, running_server, save_chat_model, serve_run

TEXT = {
    "input_features": [{"name": "prompt", "type": "text"}],
    "output_features": [{"name": "answer", "type": "text"}],
    "prompt": {"template": "Answer as the shop's helper, briefly and kindly.\nQ: {question}\nA:"},
    "generation": {"do_sample": False, "max_new_tokens": 8},
}
LABEL_WAYS = {"negative": ("bad", " bad"), "neutral": ("so", " so"), "positive": ("good", " good")}
CATEGORY = {
    **TEXT,
    "output_features": [MOOD],
    "prompt": {"task": "Say how the customer feels."},
    "input_features": [{"name": "review", "type": "text"}],
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat_model(tmp_path_factory.mktemp("predicting-model"), initializer_range=0.3)


@pytest.fixture(scope="module")
def text_server(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(serve_run(base, TEXT), tmp_path_factory.mktemp("text")) as running:
        yield running


@pytest.fixture(scope="module")
def category_server(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """In float32: in the machine's own number type the engine and the library differ by rounding."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llm_runner.predict.load.choose_dtype", lambda *_: torch.float32)
        with running_server(serve_run(base, CATEGORY), tmp_path_factory.mktemp("category")) as running:
            yield running


def predict(server: RunningServer, *rows: dict[str, Any], **fields: Any) -> Any:
    answer = server.post("/v1/predict", {"rows": list(rows), **fields})
    assert answer.status == 200, answer.text
    return answer.body


def refusal(server: RunningServer, body: Any) -> str:
    answer = server.post("/v1/predict", body)
    assert answer.status == 400, answer.text
    assert answer.error["type"] == "invalid_request_error"
    return str(answer.error["message"])


def prompt_of(question: str) -> str:
    return f"Answer as the shop's helper, briefly and kindly.\nQ: {question}\nA:"


def token_ids(text: str) -> list[int]:
    return list(tiny_tokenizer()(text)["input_ids"])


def search_alone(server: RunningServer, prompt: str, **generation: Any) -> str:
    """The decoder's own answer to one prompt."""
    written = Generation(**generation)
    service = server.service
    decoder = Decoder(service.model, service.tokenizer, written, AnswerLimits(written, CONTEXT_LENGTH))
    [[tokens]] = call_patiently(service.engine, lambda: decoder.answer([Request(token_ids(prompt))]), lambda: False)
    return str(service.tokenizer.decode(tokens, skip_special_tokens=True))


def test_a_row_is_asked_by_the_configs_template_and_its_answer_is_the_outputs_value(text_server: RunningServer) -> None:
    questions = ["Where is my lamp?", "How long?", "Ist das möglich?"]
    body = predict(text_server, *({"question": question} for question in questions))
    completed = text_server.client().completions.create(model="tiny", prompt=[prompt_of(one) for one in questions])
    # A stream of text keeps the last bytes back where they are no whole character yet.
    assert [one["value"].rstrip("\ufffd") for one in body["predictions"]] == [
        choice.text for choice in completed.choices
    ]
    assert [one["index"] for one in body["predictions"]] == [0, 1, 2]
    assert (body["model"], body["output"], body["object"]) == ("tiny", "answer", "prediction")
    assert [one["probabilities"] for one in body["predictions"]] == [None] * 3


def test_the_head_that_all_prompts_share_is_computed_once(text_server: RunningServer) -> None:
    predict(text_server, {"question": "first"})
    usage = predict(text_server, {"question": "second"}, {"question": "third"})["usage"]
    shared = len(token_ids(prompt_of(""))) - len("\nA:")
    assert usage["prompt_tokens"] == len(token_ids(prompt_of("second"))) + len(token_ids(prompt_of("third")))
    assert usage["prompt_tokens_details"]["cached_tokens"] >= 2 * (shared - 16)


def test_a_labels_probability_is_what_the_model_says_of_its_text(category_server: RunningServer) -> None:
    review = "Nice, but slow."
    [found] = predict(category_server, {"review": review})["predictions"]
    service = category_server.service
    ways = {label: [tuple(token_ids(text)) for text in texts] for label, texts in LABEL_WAYS.items()}
    prompt = f"Say how the customer feels.\n\nInput:\n{review}\nOutput:\n"
    [expected] = call_patiently(
        service.engine, lambda: label_probabilities(service.model, [token_ids(prompt)], ways), lambda: False
    )
    assert found["probabilities"] == pytest.approx(expected, rel=1e-3)
    assert math.fsum(found["probabilities"].values()) == pytest.approx(1)
    assert found["probability"] == found["probabilities"][found["value"]]


def test_an_answer_that_may_only_be_a_label_is_one(category_server: RunningServer) -> None:
    rows = [{"review": f"review {number}"} for number in range(8)]
    for found in predict(category_server, *rows)["predictions"]:
        assert found["text"].strip() == MATCH[found["value"]]["value"]


def test_the_label_may_stand_in_the_row_and_changes_nothing(category_server: RunningServer) -> None:
    [without] = predict(category_server, {"review": "Fine."})["predictions"]
    [found] = predict(category_server, {"review": "Fine.", "mood": "positive"})["predictions"]
    assert (found["value"], found["text"]) == (without["value"], without["text"])
    assert found["probabilities"] == pytest.approx(without["probabilities"], rel=1e-3)


@pytest.mark.parametrize(
    "generation",
    [
        {"num_beams": 3, "do_sample": False, "max_new_tokens": 6},
        {"penalty_alpha": 0.6, "top_k": 4, "do_sample": False, "max_new_tokens": 6},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "do_sample": False, "max_new_tokens": 6},
    ],
    ids=["beams", "contrastive", "diverse"],
)
def test_searches_give_what_the_decoder_gives(text_server: RunningServer, generation: dict[str, Any]) -> None:
    questions = ["one", "two, which is longer", "three"]
    body = predict(text_server, *({"question": question} for question in questions), generation=generation)
    expected = [search_alone(text_server, prompt_of(question), **generation) for question in questions]
    assert [one["value"] for one in body["predictions"]] == expected


def test_a_requests_own_generation_goes_before_the_configs_key_by_key(text_server: RunningServer) -> None:
    [long] = predict(text_server, {"question": "x"})["predictions"]
    [short] = predict(text_server, {"question": "x"}, generation={"max_new_tokens": 3})["predictions"]
    assert long["value"].startswith(short["value"])
    assert len(short["value"]) < len(long["value"])


def test_the_same_seed_gives_the_same_answers_whatever_comes_with_them(text_server: RunningServer) -> None:
    drawn = {"do_sample": True, "temperature": 1.5}
    rows = [{"question": f"q{number}"} for number in range(6)]
    first = predict(text_server, *rows, seed=3, generation=drawn)["predictions"]
    assert predict(text_server, *rows, seed=3, generation=drawn)["predictions"] == first
    assert predict(text_server, *rows[:2], seed=3, generation=drawn)["predictions"] == first[:2]
    assert predict(text_server, *rows, seed=4, generation=drawn)["predictions"] != first


def test_a_missing_and_an_unknown_column_are_named_with_those_there_are(text_server: RunningServer) -> None:
    assert refusal(text_server, {"rows": [{"question": "a"}, {"qestion": "b"}]}) == (
        "rows.1: the row lacks the column 'question' (is it 'qestion'?); the columns there are: 'qestion'"
    )
    assert refusal(text_server, {"rows": [{"question": "a", "questoin": "b"}]}) == (
        "rows.0: there is no column 'questoin' (is it 'question'?); the columns there are: 'question', 'answer'"
    )


def test_a_row_that_is_too_long_is_told_by_how_much(text_server: RunningServer) -> None:
    tokens = len(token_ids(prompt_of("x" * 300)))
    message = refusal(text_server, {"rows": [{"question": "short"}, {"question": "x" * 300}]})
    assert message.startswith(f"rows.1: the prompt has {tokens} tokens")
    assert f"shorten it by {tokens - CONTEXT_LENGTH + 1} or more" in message


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"rows": []}, "rows"),
        ({}, "rows"),
        ({"rows": [{"question": "a"}], "rowz": 1}, "rowz"),
        ({"rows": ["a"]}, "rows[0]"),
        ({"rows": [{"question": "a"}], "generation": {"temperature": -1}}, "generation.temperature"),
        ({"rows": [{"question": "a"}], "generation": {"eos_token_id": 99999}}, "generation.eos_token_id"),
        ({"rows": [{"question": "a"}], "generation": {"num_beams": 3, "num_beam_groups": 2}}, "generation"),
        ({"rows": [{"question": "\ud800"}]}, "Unicode"),
    ],
)
def test_bad_bodies_are_refused_by_the_place_that_is_wrong(text_server: RunningServer, body: Any, told: str) -> None:
    assert told in refusal(text_server, body)


def test_an_unknown_model_is_named_with_those_there_are(text_server: RunningServer) -> None:
    answer = text_server.post("/v1/predict", {"rows": [{"question": "a"}], "model": "other"})
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")


def test_a_config_without_features_answers_no_rows_and_says_what_is_missing(server: RunningServer) -> None:
    answer = server.post("/v1/predict", {"rows": [{"question": "a"}]})
    assert (answer.status, answer.error["code"]) == (404, "no_task")
    assert "input_features and output_features" in answer.error["message"]


def test_the_form_tells_what_a_row_needs(text_server: RunningServer, category_server: RunningServer) -> None:
    assert text_server.get("/v1/predict").body == {
        "object": "prediction.form",
        "columns": ["question"],
        "output": {"name": "answer", "type": "text", "labels": None},
    }
    form = category_server.get("/v1/predict").body
    assert (form["columns"], form["output"]["labels"]) == (None, list(MATCH)), "which rows it is about isn't known"


def test_the_document_describes_rows_and_predictions(text_server: RunningServer) -> None:
    document = text_server.get("/openapi.json").body
    assert {"get", "post"} <= document["paths"]["/v1/predict"].keys()
    assert {"rows", "model", "generation", "seed"} == document["components"]["schemas"]["PredictRequest"][
        "properties"
    ].keys()


def test_chats_and_probes_are_answered_while_many_rows_are(text_server: RunningServer) -> None:
    done = threading.Event()

    def ask() -> None:
        rows = [{"question": f"number {number}"} for number in range(150)]
        predict(text_server, *rows, generation={"max_new_tokens": 24, "min_new_tokens": 24})
        done.set()

    asking = threading.Thread(target=ask)
    asking.start()
    answered = 0
    while not done.is_set() and answered < 3:
        text_server.client().completions.create(model="tiny", prompt="Hi", max_tokens=2)
        assert text_server.get("/healthz").status == 200
        answered += not done.is_set()
    asking.join(timeout=60)
    assert answered == 3


def test_what_a_client_that_left_asked_for_is_not_generated_to_the_end(text_server: RunningServer) -> None:
    rows = [{"question": f"number {number}"} for number in range(1000)]
    data = json.dumps({"rows": rows, "generation": {"max_new_tokens": 100, "min_new_tokens": 100}}).encode()
    head = (
        f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    engine = text_server.service.engine
    with socket.create_connection(("127.0.0.1", text_server.port)) as connection:
        connection.sendall(head.encode() + data)
        wait_until(lambda: engine.open_requests > 0)
    wait_until(lambda: engine.open_requests == 0)


def wait_until(holds: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_more_requests_than_there_are_places_for_are_told_when_to_come_back(text_server: RunningServer) -> None:
    predictor = text_server.service.find_predictor()
    predictor.open_requests += 4
    try:
        answer = text_server.post("/v1/predict", {"rows": [{"question": "a"}]})
    finally:
        predictor.open_requests -= 4
    assert answer.status == 429
    assert int(answer.headers["retry-after"]) >= 1


def test_a_pattern_that_comes_to_no_end_is_told_in_time_and_holds_up_nobody(base: Path, tmp_path: Path) -> None:
    match = {"slow": {"type": "regex", "value": "(.|..)+\\d{9}$"}, **MATCH}
    config = {
        **TEXT,
        "output_features": [{**MOOD, "decoder": {"match": match}}],
        "generation": {"do_sample": False, "max_new_tokens": 60, "min_new_tokens": 60},
    }
    with running_server(serve_run(base, config), tmp_path) as slow:
        told: list[Any] = []
        asking = threading.Thread(target=lambda: told.append(slow.post("/v1/predict", {"rows": [{"question": "a"}]})))
        begun = time.monotonic()
        asking.start()
        while asking.is_alive():
            asked = time.monotonic()
            assert slow.get("/healthz").status == 200
            assert time.monotonic() - asked < 1, "others are answered meanwhile"
            time.sleep(0.05)
        assert time.monotonic() - begun < 15
        (answer,) = told
        assert answer.status == 400
        assert answer.error["message"].startswith("rows.0: ")
        assert "decoder.match.slow" in answer.error["message"]
        assert "took more than 1 s" in answer.error["message"]

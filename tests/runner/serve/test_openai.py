"""The real ``openai`` client against a real server: what it asks for is what it gets."""

from typing import Any

import openai
import pytest
from llm_runner.generate.engine_request import Request

from tests.support.engines import ask
from tests.support.servers import RunningServer

MESSAGES: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
PROMPT = "Once upon a time"


def greedy_text(server: RunningServer, prompt: str, tokens: int) -> str:
    """What the engine itself says; that this is what transformers says, is tested with the engine."""
    service = server.service
    prompt_ids = service.encoder.encode_prompts([prompt])[0]
    [(ids, _)] = ask(service.engine, Request(prompt_ids, tokens, stop_ids=frozenset(service.special.end_ids)))
    text: str = service.text_tokenizer.decode(ids, skip_special_tokens=True)
    return text.rstrip("\ufffd")


def test_a_completion_is_what_the_engine_says(server: RunningServer) -> None:
    completion = server.client().completions.create(model="tiny", prompt=PROMPT, max_tokens=12)
    choice = completion.choices[0]
    assert choice.text.rstrip("\ufffd") == greedy_text(server, PROMPT, 12)
    assert choice.finish_reason == "length"
    assert completion.model == "tiny"


def test_a_chat_goes_through_the_tokenizers_template(server: RunningServer) -> None:
    chat = server.client().chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=12)
    prompt = "<system>Be brief.<user>Hello<assistant>"
    assert (chat.choices[0].message.content or "").rstrip("\ufffd") == greedy_text(server, prompt, 12)
    assert chat.choices[0].message.role == "assistant"
    assert chat.usage is not None
    assert chat.usage.prompt_tokens == len(prompt)


def test_usage_counts_each_prompt_once_and_every_answer(server: RunningServer) -> None:
    completion = server.client().completions.create(model="tiny", prompt=["abc", "defgh"], n=2, max_tokens=3)
    usage = completion.usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (8, 12, 20)
    assert [choice.index for choice in completion.choices] == [0, 1, 2, 3]


def test_a_stream_gives_the_same_text_in_parts_and_the_usage_at_its_end(server: RunningServer) -> None:
    client = server.client()
    whole = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=12)
    chunks = list(
        client.chat.completions.create(
            model="tiny", messages=MESSAGES, max_tokens=12, stream=True, stream_options={"include_usage": True}
        )
    )
    told = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert told[0].delta.role == "assistant"
    assert "".join(choice.delta.content or "" for choice in told) == whole.choices[0].message.content
    assert [choice.finish_reason for choice in told if choice.finish_reason] == ["length"]
    assert len(told) > 4
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 12


def test_completions_stream_several_answers_side_by_side(server: RunningServer) -> None:
    client = server.client()
    whole = client.completions.create(model="tiny", prompt=["abc", "xyz"], max_tokens=8)
    texts = {0: "", 1: ""}
    for chunk in client.completions.create(model="tiny", prompt=["abc", "xyz"], max_tokens=8, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == {choice.index: choice.text for choice in whole.choices}


def test_an_answer_ends_before_a_stop_text_also_where_it_comes_in_pieces(server: RunningServer) -> None:
    client = server.client()
    whole = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=20).choices[0].text
    stop = whole[6:9]
    cut = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=20, stop=["never", stop])
    streamed = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=20, stop=stop, stream=True)
    expected = whole[: whole.index(stop)]
    assert (cut.choices[0].text, cut.choices[0].finish_reason) == (expected, "stop")
    assert "".join(chunk.choices[0].text for chunk in streamed) == expected


def test_seeded_samples_repeat_and_differ_among_the_answers_to_one_prompt(server: RunningServer) -> None:
    def ask(seed: int) -> list[str]:
        completion = server.client().completions.create(
            model="tiny", prompt=PROMPT, max_tokens=12, temperature=1.5, seed=seed, n=3, extra_body={"top_k": 200}
        )
        return [choice.text for choice in completion.choices]

    assert ask(7) == ask(7)
    assert len({*ask(7), *ask(8)}) == 6


def test_chat_logprobs_tell_each_token_and_its_alternatives(server: RunningServer) -> None:
    chat = server.client().chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=5, logprobs=True, top_logprobs=3
    )
    logprobs = chat.choices[0].logprobs
    assert logprobs is not None
    content = logprobs.content or []
    assert len(content) == 5
    for token in content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == pytest.approx(token.logprob)


def test_completion_logprobs_line_up_with_the_text(server: RunningServer) -> None:
    completion = server.client().completions.create(model="tiny", prompt=PROMPT, max_tokens=5, logprobs=2)
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    tokens = logprobs.tokens or []
    assert len(tokens) == len(logprobs.token_logprobs or []) == 5
    starts = [sum(map(len, tokens[:place])) for place in range(5)]
    assert logprobs.text_offset == starts
    assert all(len(top) == 2 for top in logprobs.top_logprobs or [])


def test_penalties_and_bias_change_what_is_said(server: RunningServer) -> None:
    client = server.client()

    def ask(**options: Any) -> str:
        completion = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=16, **options)
        return completion.choices[0].text

    plain = ask()
    assert ask(logit_bias={"40": 100}) != plain
    assert len(set(ask(frequency_penalty=2.0, presence_penalty=2.0))) >= len(set(plain))
    assert ask(extra_body={"suppress_tokens": list(range(150, 258))}) != plain


def test_token_ids_are_a_prompt_too(server: RunningServer) -> None:
    client = server.client()
    ids = server.service.encoder.encode_prompts([PROMPT])[0]
    by_ids = client.completions.create(model="tiny", prompt=ids, max_tokens=6)
    by_text = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=6)
    assert by_ids.choices[0].text == by_text.choices[0].text


def test_a_prefix_that_was_read_before_is_told_in_the_usage(server: RunningServer) -> None:
    prompt = "The same beginning, again and again. " * 3
    client = server.client()
    client.completions.create(model="tiny", prompt=prompt + "One", max_tokens=1)
    usage = client.completions.create(model="tiny", prompt=prompt + "Two", max_tokens=1).usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == len(prompt) // 16 * 16


def test_models_are_listed_with_their_context(server: RunningServer) -> None:
    client = server.client()
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").model_dump()["max_model_len"] == 256


def test_an_unknown_model_is_not_found_and_the_known_ones_are_named(server: RunningServer) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model 'other' here; there are: tiny") as raised:
        server.client().completions.create(model="other", prompt="a")
    assert raised.value.code == "model_not_found"
    assert raised.value.param == "model"


@pytest.mark.parametrize(
    ("strategy", "answers"),
    [
        ({"num_beams": 3}, 2),
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0}, 2),
        ({"penalty_alpha": 0.6, "top_k": 4}, 1),
        ({"guidance_scale": 1.5}, 1),
    ],
)
def test_searches_run_beside_the_engine(server: RunningServer, strategy: dict[str, Any], answers: int) -> None:
    client = server.client()
    options: Any = {"model": "tiny", "prompt": PROMPT, "max_tokens": 6, "n": answers, "extra_body": strategy}
    completion = client.completions.create(**options)
    assert len(completion.choices) == answers
    assert completion.usage is not None
    assert 0 < completion.usage.completion_tokens <= 6 * answers
    streamed = [chunk.choices[0] for chunk in client.completions.create(**options, stream=True)]
    for index, choice in enumerate(completion.choices):
        assert "".join(part.text for part in streamed if part.index == index) == choice.text


def test_the_config_is_what_a_request_leaves_out_and_a_zero_is_a_value(server: RunningServer) -> None:
    client = server.client()
    assert client.completions.create(model="tiny", prompt=PROMPT).usage.completion_tokens == 24  # type: ignore[union-attr]
    greedy = client.completions.create(model="tiny", prompt=PROMPT).choices[0].text
    zero = client.completions.create(model="tiny", prompt=PROMPT, temperature=0).choices[0].text
    warm = client.completions.create(model="tiny", prompt=PROMPT, temperature=2.0, seed=1).choices[0].text
    assert zero == greedy != warm

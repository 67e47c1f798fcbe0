import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from llm_operator.errors import Unavailable
from llm_operator.tokens import MAX_REMEMBERED, REFUSED_SECONDS, REMEMBERED_SECONDS, Sender, Tokens

from tests.support.pod_tokens import NOW, Reviewer, review_status, token


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def ask(tokens: Tokens, text: str) -> Sender | None:
    return asyncio.run(tokens.sender(text))


def test_a_token_says_which_pod_sent_it() -> None:
    assert ask(Tokens(Reviewer(), Clock()), token()) == Sender("team", "pod-0", "uid-0")


def test_a_token_is_reviewed_once_while_it_is_remembered() -> None:
    clock, reviewer = Clock(), Reviewer()
    tokens = Tokens(reviewer, clock)
    for _ in range(5):
        ask(tokens, token())
    assert reviewer.asked == 1
    clock.now += REMEMBERED_SECONDS
    ask(tokens, token())
    assert reviewer.asked == 2


def test_a_token_is_never_remembered_beyond_its_own_end() -> None:
    clock, reviewer = Clock(), Reviewer()
    tokens = Tokens(reviewer, clock)
    assert ask(tokens, token(expires=NOW + 60)) is not None
    clock.now += 60
    assert ask(tokens, token(expires=NOW + 60)) is None
    assert reviewer.asked == 1, "the API server is not asked about a token that ran out"


@pytest.mark.parametrize(
    "changes",
    [
        {"authenticated": False},
        {"audiences": ["https://kubernetes.default.svc"]},
        {"audiences": []},
        {"user": {"username": "system:serviceaccount:team:default", "extra": {}}},
        {"user": {**review_status()["user"], "username": "alice"}},
    ],
    ids=["not authenticated", "another audience", "no audience", "no pod's token", "no service account"],
)
def test_what_is_no_token_of_a_pod_for_us_is_refused(changes: dict[str, Any]) -> None:
    assert ask(Tokens(Reviewer(**changes), Clock()), token()) is None


@pytest.mark.parametrize("text", ["", "x", "a.b.c", "..", token(expires=NOW - 1), f"a.{'=' * 50}.c"])
def test_what_can_not_be_a_valid_token_is_refused_without_asking(text: str) -> None:
    reviewer = Reviewer()
    assert ask(Tokens(reviewer, Clock()), text) is None
    assert reviewer.asked == 0


def test_a_refused_token_is_asked_about_again_after_a_while() -> None:
    clock, reviewer = Clock(), Reviewer(authenticated=False)
    tokens = Tokens(reviewer, clock)
    ask(tokens, token())
    ask(tokens, token())
    assert reviewer.asked == 1
    clock.now += REFUSED_SECONDS
    reviewer.status = review_status()
    assert ask(tokens, token()) is not None


def test_an_api_server_that_does_not_answer_is_no_verdict_on_the_token() -> None:
    class Silent:
        async def review_token(self, token: str, audience: str) -> Mapping[str, Any]:
            raise Unavailable("no answer")

    with pytest.raises(Unavailable):
        ask(Tokens(Silent(), Clock()), token())


def test_memory_is_bounded_and_keeps_no_token_as_it_is() -> None:
    tokens = Tokens(Reviewer(), Clock())

    async def fill() -> None:
        for number in range(MAX_REMEMBERED + 10):
            await tokens.sender(token(salt=str(number)))

    asyncio.run(fill())
    verdicts = tokens._verdicts
    assert len(verdicts) == MAX_REMEMBERED
    assert all(isinstance(key, bytes) and len(key) == 32 for key in verdicts)

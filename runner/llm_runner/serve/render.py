"""Pieces of answers in OpenAI's shapes: whole bodies, and chunks of a stream."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llm_runner.generate.engine_request import Token
from llm_runner.serve.answer import Finish, Piece
from llm_runner.serve.protocol import (
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    PromptTokensDetails,
    TokenLogprob,
    TopLogprob,
    Usage,
)


@dataclass
class Collected:
    """One answer, put together."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish: Finish | None = None

    def add(self, event: Piece | Finish) -> None:
        if isinstance(event, Finish):
            self.finish = event
        else:
            self.text += event.text
            self.tokens.extend(event.tokens)


@dataclass
class Count:
    """Tokens of one request: each prompt counts once, whatever the number of answers."""

    prompt_tokens: int
    new_tokens: int = 0
    cached_tokens: int = 0

    def add(self, event: Piece | Finish) -> None:
        if isinstance(event, Finish):
            self.new_tokens += event.new_tokens
            self.cached_tokens = max(self.cached_tokens, event.cached_tokens)

    @property
    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.new_tokens,
            total_tokens=self.prompt_tokens + self.new_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=self.cached_tokens),
        )


class TokenText:
    """Single tokens as text; where one is only a part of a character, what can't be shown is replaced."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __call__(self, token_id: int) -> str:
        text: str = self._tokenizer.decode([token_id], skip_special_tokens=False)
        return text


class CompletionShape:
    """/v1/completions."""

    def __init__(self, id_: str, model: str, token_text: TokenText, *, tells_logprobs: bool) -> None:
        self._shared: dict[str, Any] = {"id": id_, "model": model}
        self._token_text = token_text
        self._tells_logprobs = tells_logprobs
        self._offsets: dict[int, int] = {}

    def whole(self, answers: Sequence[Collected], usage: Usage) -> Completion:
        choices = [
            CompletionChoice(
                index=index,
                text=answer.text,
                logprobs=self._logprobs(index, answer.tokens),
                finish_reason=None if answer.finish is None else answer.finish.reason,
            )
            for index, answer in enumerate(answers)
        ]
        return Completion(choices=choices, usage=usage, **self._shared)

    def openings(self, answers: int) -> list[Completion]:
        return []

    def chunk(self, index: int, event: Piece | Finish) -> Completion:
        if isinstance(event, Finish):
            choice = CompletionChoice(index=index, text="", finish_reason=event.reason)
        else:
            choice = CompletionChoice(index=index, text=event.text, logprobs=self._logprobs(index, event.tokens))
        return Completion(choices=[choice], **self._shared)

    def closing(self, usage: Usage) -> Completion:
        return Completion(choices=[], usage=usage, **self._shared)

    def _logprobs(self, index: int, tokens: Sequence[Token]) -> CompletionLogprobs | None:
        if not self._tells_logprobs:
            return None
        texts = [self._token_text(token.id) for token in tokens]
        offsets = []
        for text in texts:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(text)
        return CompletionLogprobs(
            tokens=texts,
            token_logprobs=[_told(token.logprob) for token in tokens],
            top_logprobs=[{self._token_text(other): logprob for other, logprob in token.top} for token in tokens],
            text_offset=offsets,
        )


class ChatShape:
    """/v1/chat/completions."""

    def __init__(self, id_: str, model: str, token_text: TokenText, *, tells_logprobs: bool) -> None:
        self._shared: dict[str, Any] = {"id": id_, "model": model}
        self._token_text = token_text
        self._tells_logprobs = tells_logprobs

    def whole(self, answers: Sequence[Collected], usage: Usage) -> ChatCompletion:
        choices = [
            ChatChoice(
                index=index,
                message=ChatMessage(content=answer.text),
                logprobs=self._logprobs(answer.tokens),
                finish_reason="stop" if answer.finish is None else answer.finish.reason,
            )
            for index, answer in enumerate(answers)
        ]
        return ChatCompletion(choices=choices, usage=usage, **self._shared)

    def openings(self, answers: int) -> list[ChatCompletionChunk]:
        """A stream begins by who speaks."""
        delta = ChatDelta(role="assistant", content="")
        return [self._chunk(ChatChunkChoice(index=index, delta=delta)) for index in range(answers)]

    def chunk(self, index: int, event: Piece | Finish) -> ChatCompletionChunk:
        if isinstance(event, Finish):
            return self._chunk(ChatChunkChoice(index=index, delta=ChatDelta(), finish_reason=event.reason))
        logprobs = self._logprobs(event.tokens)
        return self._chunk(ChatChunkChoice(index=index, delta=ChatDelta(content=event.text), logprobs=logprobs))

    def closing(self, usage: Usage) -> ChatCompletionChunk:
        return ChatCompletionChunk(choices=[], usage=usage, **self._shared)

    def _chunk(self, choice: ChatChunkChoice) -> ChatCompletionChunk:
        return ChatCompletionChunk(choices=[choice], **self._shared)

    def _logprobs(self, tokens: Sequence[Token]) -> ChatLogprobs | None:
        if not self._tells_logprobs:
            return None
        return ChatLogprobs(content=[self._token_logprob(token) for token in tokens])

    def _token_logprob(self, token: Token) -> TokenLogprob:
        top = [self._top_logprob(other, logprob) for other, logprob in token.top]
        own = self._top_logprob(token.id, _told(token.logprob))
        return TokenLogprob(token=own.token, logprob=own.logprob, bytes=own.bytes, top_logprobs=top)

    def _top_logprob(self, token_id: int, logprob: float) -> TopLogprob:
        text = self._token_text(token_id)
        return TopLogprob(token=text, logprob=logprob, bytes=list(text.encode()))


def _told(logprob: float | None) -> float:
    assert logprob is not None, "the engine was asked for it"
    return logprob

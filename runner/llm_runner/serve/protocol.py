"""The bodies of OpenAI's completions API, as far as this server has them, and what it takes besides.

A request may carry any key of the config's ``generation`` too. What can't be honoured is refused by name, never
ignored. Converts and decides nothing.
"""

from time import time
from typing import Annotated, Any, ClassVar, Literal
from uuid import uuid4

from llm_api.config import Generation
from llm_api.config.generation import PositiveLength
from llm_api.config.scalars import Fraction, NonNegative, Number, TokenId
from llm_api.model import Model, Rule
from pydantic import BaseModel, ConfigDict, Field

Penalty = Annotated[Number, Field(ge=-2, le=2)]
StopText = Annotated[str, Field(min_length=1, max_length=256)]
Choices = Annotated[int, Field(ge=1, le=16)]
TokenPrompt = Annotated[list[TokenId], Field(min_length=1, max_length=1_000_000)]
NO_TOOLS = "tools aren't supported; describe them in the messages"


class StreamOptions(Model):
    """How a stream ends."""

    include_usage: bool = False
    """Whether a last chunk tells the token counts."""


class SamplingRequest(Generation):
    """What completions and chat have in common."""

    model_config = ConfigDict(defer_build=False)

    refused: ClassVar = {
        "best_of": "ask for n answers and choose",
        "suffix": "only what comes after a prompt is generated",
        "tools": NO_TOOLS,
        "tool_choice": NO_TOOLS,
        "functions": NO_TOOLS,
        "function_call": NO_TOOLS,
        "audio": "only text is generated",
        "modalities": "only text is generated",
        "reasoning_effort": "the model's own template decides",
    }
    lookalikes: ClassVar = {"max_length_tokens": "max_tokens", "stop_sequences": "stop", "stop_strings": "stop"}
    rules: ClassVar = (  # type: ignore[assignment]
        Rule(
            name="request-one-limit",
            message="max_tokens and max_new_tokens mean the same; write one of them",
            holds=lambda it: it.max_tokens is None or "max_new_tokens" not in it.model_fields_set,
            path="max_new_tokens",
            needs=("max_tokens", "max_new_tokens"),
        ),
        Rule(
            name="request-stream-options",
            message="stream_options goes with stream: true only",
            holds=lambda it: it.stream_options is None or it.stream,
            path="stream_options",
            needs=("stream_options", "stream"),
        ),
    )

    model: Annotated[str, Field(min_length=1, max_length=1024)]
    """The served model's name, or that of one of its adapters."""
    max_tokens: PositiveLength | None = None
    """Most tokens of an answer; as the config says where it is left out."""
    temperature: NonNegative | None = None
    """Less is safer, more is more varied; 0 takes the likeliest token."""
    top_p: Fraction | None = None
    """The likeliest tokens are drawn from that together have this probability."""
    min_p: Fraction | None = None
    """Tokens below this share of the likeliest one's probability aren't drawn."""
    n: Choices | None = None
    """Answers to each prompt."""
    stream: bool = False
    """Whether the answer comes in parts as it is generated."""
    stream_options: StreamOptions | None = None
    """How the stream ends."""
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None
    """Texts that end the answer and aren't part of it."""
    presence_penalty: Penalty | None = None
    """What the score of a token loses once it is in the answer."""
    frequency_penalty: Penalty | None = None
    """What it loses each time."""
    logit_bias: Annotated[dict[str, Annotated[Number, Field(ge=-100, le=100)]], Field(max_length=1024)] | None = None
    """What is added to the scores of tokens, by their ids."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """The same seed gives the same answer."""
    user: str | None = None
    """Accepted, and not used."""
    metadata: dict[str, Any] | None = None
    """Accepted, and not used."""
    store: bool | None = None
    """Nothing is stored."""

    @property
    def stop_texts(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def written_generation(self) -> dict[str, Any]:
        """The keys of ``generation`` that the request sets."""
        return {
            key: getattr(self, key)
            for key in Generation.model_fields
            if key in self.model_fields_set and getattr(self, key) is not None
        }

    @property
    def most_tokens(self) -> int | None:
        return self.max_tokens


class CompletionRequest(SamplingRequest):
    """Text to go on from."""

    prompt: str | list[str] | TokenPrompt | list[TokenPrompt]
    """One prompt or several, as text or as token ids."""
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """How many alternatives are told with each token."""
    echo: Literal[False] | None = None
    """Only false: the prompt isn't repeated."""

    @property
    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        return [one for one in self.prompt if isinstance(one, str | list)]

    @property
    def top_logprob_count(self) -> int | None:
        return self.logprobs


class TextPart(Model):
    """A part of a message."""

    type: Literal["text"]
    """Only text."""
    text: str
    """The text."""


class Message(Model):
    """One turn of a conversation."""

    refused: ClassVar = {"tool_calls": NO_TOOLS, "function_call": NO_TOOLS, "tool_call_id": NO_TOOLS}

    role: Literal["system", "developer", "user", "assistant"]
    """Who speaks."""
    content: str | Annotated[list[TextPart], Field(min_length=1)]
    """What is said."""
    name: str | None = None
    """Passed on to the chat template."""
    refusal: None = None
    """As in an assistant's earlier answer; null."""

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ResponseFormat(Model):
    """What an answer looks like."""

    type: Literal["text"]
    """Only text."""


class ChatRequest(SamplingRequest):
    """A conversation to go on with, by the tokenizer's chat template."""

    rules: ClassVar = (
        Rule(
            name="chat-one-limit",
            message="max_tokens and max_completion_tokens mean the same; write one of them",
            holds=lambda it: it.max_tokens is None or it.max_completion_tokens is None,
            path="max_tokens",
            needs=("max_tokens", "max_completion_tokens"),
        ),
        Rule(
            name="chat-top-logprobs",
            message="top_logprobs goes with logprobs: true only",
            holds=lambda it: it.top_logprobs is None or bool(it.logprobs),
            path="top_logprobs",
            needs=("top_logprobs", "logprobs"),
        ),
    )

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    """The conversation so far."""
    max_completion_tokens: PositiveLength | None = None
    """The same as max_tokens."""
    logprobs: bool | None = None
    """Whether each token's log-probability is told."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """How many alternatives are told with each token."""
    response_format: ResponseFormat | None = None
    """Only text."""

    @property
    def most_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def top_logprob_count(self) -> int | None:
        if not self.logprobs:
            return None
        return 0 if self.top_logprobs is None else self.top_logprobs


class PromptTokensDetails(BaseModel):
    """Of the prompt's tokens."""

    cached_tokens: int = 0


class Usage(BaseModel):
    """Tokens that were read and written."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()


class TopLogprob(BaseModel):
    """A token that could have been."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token that is."""

    top_logprobs: list[TopLogprob] = []


class ChatLogprobs(BaseModel):
    """Of an answer's tokens, in order."""

    content: list[TokenLogprob]


class CompletionLogprobs(BaseModel):
    """The same in the older form."""

    tokens: list[str] = []
    token_logprobs: list[float] = []
    top_logprobs: list[dict[str, float]] | None = None
    text_offset: list[int] = []


FinishReason = Literal["stop", "length"]


class CompletionChoice(BaseModel):
    """An answer, or a part of one."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatMessage(BaseModel):
    """What the assistant says."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatDelta(BaseModel):
    """What it says next."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChoice(BaseModel):
    """An answer."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason


class ChatChunkChoice(BaseModel):
    """A part of one."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class _Response(BaseModel):
    id: str
    created: int = Field(default_factory=lambda: int(time()))
    model: str


class Completion(_Response):
    """Answers to prompts; in a stream, the next part of one."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[CompletionChoice]
    usage: Usage | None = None


class ChatCompletion(_Response):
    """Answers to a conversation."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]
    usage: Usage


class ChatCompletionChunk(_Response):
    """The next part of one."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class ModelCard(BaseModel):
    """A model that can be asked."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "llm-operator"
    max_model_len: int


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


def new_id(prefix: str) -> str:
    return f"{prefix}-{uuid4().hex}"

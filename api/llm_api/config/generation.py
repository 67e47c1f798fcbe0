"""How text is generated: the strategy, its bounds, and what is forbidden or forced."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from llm_api.config.scalars import MAX_LIST_LENGTH, Fraction, NonNegative, Number, TokenId, read_exponent
from llm_api.model import Model, Rule

TokenIds = Annotated[list[TokenId], Field(max_length=1024)]
TokenSequences = Annotated[
    list[Annotated[list[TokenId], Field(min_length=1, max_length=64)]], Field(max_length=MAX_LIST_LENGTH)
]
Length = Annotated[int, Field(ge=0, le=2**31 - 1)]
PositiveLength = Annotated[int, Field(ge=1, le=2**31 - 1)]
Beams = Annotated[int, Field(ge=1, le=1024)]

CATEGORY_MAX_NEW_TOKENS = 32


def _read_decay_penalty(value: Any) -> Any:
    """(start, factor), both as numbers of the kind that they are."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError("write a list of two numbers: the token that it starts at, and the factor")
    start, factor = value[0], read_exponent(value[1])
    if isinstance(start, bool) or not isinstance(start, int) or start < 0:
        raise ValueError("the first number is the token that it starts at: an integer of 0 or more")
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or factor <= 0:
        raise ValueError("the second number is the factor: more than 0")
    return [start, float(factor)]


def _read_sequence_bias(value: Any) -> Any:
    """Either form as a list of ``[[token ids], bias]``."""
    pairs = list(value.items()) if isinstance(value, dict) else value
    if not isinstance(pairs, (list, tuple)) or not all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs
    ):
        raise ValueError('write a list of [[token ids], bias], or a mapping such as {"12,13": -2.0}')
    return [[_read_ids(ids), _read_bias(bias)] for ids, bias in pairs]


def _read_ids(ids: Any) -> list[int]:
    if isinstance(ids, int) and not isinstance(ids, bool):
        ids = [ids]
    if isinstance(ids, str):
        parts = ids.strip("()[] ").rstrip(",").split(",")
        ids = [int(part) if part.strip().isdecimal() else None for part in parts]
    if not isinstance(ids, (list, tuple)) or not ids or not all(type(token) is int and token >= 0 for token in ids):
        raise ValueError("a sequence is one or more token ids")
    return list(ids)


def _read_bias(bias: Any) -> float:
    bias = read_exponent(bias)
    if isinstance(bias, bool) or not isinstance(bias, (int, float)):
        raise ValueError("a bias is a number")
    return float(bias)


DecayPenalty = Annotated[
    list[Any],
    BeforeValidator(_read_decay_penalty),
    WithJsonSchema({"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}),
]
SequenceBias = Annotated[
    list[Any],
    BeforeValidator(_read_sequence_bias),
    Field(max_length=MAX_LIST_LENGTH),
    WithJsonSchema({"maxItems": MAX_LIST_LENGTH, "maxProperties": MAX_LIST_LENGTH}),
]


class Generation(Model):
    """Parameters of text generation; null is the same as leaving a key out."""

    derived: ClassVar = frozenset({"max_new_tokens", "max_length", "min_length", "do_sample"})
    lookalikes: ClassVar = {
        "max_tokens": "max_new_tokens",
        "beams": "num_beams",
        "beam_size": "num_beams",
        "frequency_penalty": "repetition_penalty",
        "presence_penalty": "repetition_penalty",
    }
    refused: ClassVar = dict.fromkeys(
        ("stop", "stop_strings", "stop_sequences"),
        "an answer ends at the end-of-sequence token; a request to the server may name others",
    )
    rules: ClassVar = (
        Rule(
            name="generation-new-tokens",
            message="min_new_tokens may not be more than max_new_tokens",
            holds=lambda it: it.is_ordered("min_new_tokens", "max_new_tokens"),
            cel="!has(self.min_new_tokens) || !has(self.max_new_tokens) || self.min_new_tokens <= self.max_new_tokens",
            path="min_new_tokens",
            needs=("min_new_tokens", "max_new_tokens"),
        ),
        Rule(
            name="generation-length",
            message="min_length may not be more than max_length",
            holds=lambda it: it.is_ordered("min_length", "max_length"),
            cel="!has(self.min_length) || !has(self.max_length) || self.min_length <= self.max_length",
            path="min_length",
            needs=("min_length", "max_length"),
        ),
        Rule(
            name="generation-beam-groups",
            message="num_beams must be a multiple of num_beam_groups",
            holds=lambda it: _or(it.num_beams, 1) % _or(it.num_beam_groups, 1) == 0,
            cel="!has(self.num_beam_groups) || (has(self.num_beams) ? self.num_beams : 1) % self.num_beam_groups == 0",
            path="num_beam_groups",
            needs=("num_beams", "num_beam_groups"),
        ),
        Rule(
            name="generation-groups-do-not-sample",
            message="groups of beams don't sample; write `do_sample: false`, or leave num_beam_groups out",
            holds=lambda it: (
                _or(it.num_beam_groups, 1) == 1 or "do_sample" not in it.model_fields_set or not it.do_sample
            ),
            cel="!has(self.num_beam_groups) || self.num_beam_groups == 1 || !has(self.do_sample) || !self.do_sample",
            path="do_sample",
            needs=("do_sample", "num_beam_groups"),
        ),
        Rule(
            name="generation-contrastive-does-not-sample",
            message="contrastive search (penalty_alpha) doesn't sample; write `do_sample: false`, or leave either out",
            holds=lambda it: not it.is_contrastive or "do_sample" not in it.model_fields_set or not it.do_sample,
            cel="!has(self.penalty_alpha) || self.penalty_alpha <= 0.0 || (has(self.top_k) && self.top_k <= 1)"
            " || !has(self.do_sample) || !self.do_sample",
            path="do_sample",
            needs=("penalty_alpha", "top_k", "do_sample"),
        ),
        Rule(
            name="generation-contrastive-beams",
            message="contrastive search (penalty_alpha) goes with one beam; write `num_beams: 1`",
            holds=lambda it: not it.is_contrastive or _or(it.num_beams, 1) == 1,
            cel="!has(self.penalty_alpha) || self.penalty_alpha <= 0.0"
            " || (has(self.top_k) && self.top_k <= 1)"
            " || !has(self.num_beams) || self.num_beams == 1",
            path="num_beams",
            needs=("penalty_alpha", "top_k", "num_beams"),
        ),
        Rule(
            name="generation-forced-words-beams",
            message="force_words_ids needs beams; write num_beams of 2 or more",
            holds=lambda it: not it.force_words_ids or _or(it.num_beams, 1) > 1,
            cel="!has(self.force_words_ids) || size(self.force_words_ids) == 0"
            " || (has(self.num_beams) && self.num_beams > 1)",
            path="force_words_ids",
            needs=("force_words_ids", "num_beams"),
        ),
    )

    max_new_tokens: PositiveLength | None = 32
    """Most tokens of an answer. Unset: the output's max_sequence_length, else what preprocessing or the model leave."""
    min_new_tokens: Length | None = None
    """Fewest tokens of an answer."""
    max_length: PositiveLength | None = 32
    """Most tokens of prompt and answer together; max_new_tokens counts more."""
    min_length: Length | None = 0
    """Fewest tokens of prompt and answer together; min_new_tokens counts more."""
    temperature: NonNegative | None = 0.1
    """Divides the logits before sampling: less is safer, more is more varied; 0 is greedy."""
    do_sample: bool | None = True
    """Whether tokens are drawn rather than the likeliest taken."""
    num_beams: Beams | None = 1
    """Continuations that are followed at a time; 1 is no beam search."""
    use_cache: bool | None = True
    """Whether keys and values of earlier tokens are kept."""
    prompt_lookup_num_tokens: Length | None = None
    """Tokens that are guessed at a time from the prompt's own text; 0 and null are off."""
    top_k: PositiveLength | None = 50
    """The likeliest tokens that are drawn from."""
    top_p: Fraction | None = 1.0
    """The likeliest tokens are drawn from that together have this probability."""
    early_stopping: bool | Literal["never"] | None = False
    """When beams stop: true with num_beams finished, false by a heuristic, never when none can become better."""
    max_time: Annotated[Number, Field(gt=0)] | None = None
    """Seconds after which an answer ends."""
    num_beam_groups: Beams | None = 1
    """Groups of beams that are kept different from each other."""
    penalty_alpha: NonNegative | None = None
    """Contrastive search: the weight of unlikeness to what was said before; needs top_k of 2 or more."""
    typical_p: Fraction | None = 1.0
    """The most typical tokens are drawn from that together have this probability."""
    epsilon_cutoff: Fraction | None = 0.0
    """Tokens below this probability are not drawn; 0 is off."""
    eta_cutoff: Fraction | None = 0.0
    """The same with a bound that follows the entropy; 0 is off."""
    diversity_penalty: NonNegative | None = 0.0
    """What a token loses for each other group of beams that chose it."""
    repetition_penalty: Annotated[Number, Field(gt=0)] | None = 1.0
    """What the logits of tokens already used are divided by; 1 is none."""
    encoder_repetition_penalty: Annotated[Number, Field(gt=0)] | None = 1.0
    """Favours tokens of the prompt; 1 is none."""
    length_penalty: Number | None = 1.0
    """Exponent of the length that a beam's score is divided by; more favours longer answers."""
    no_repeat_ngram_size: Length | None = 0
    """Length of token sequences that may not come twice; 0 is off."""
    bad_words_ids: TokenSequences | None = None
    """Token sequences that are never generated."""
    force_words_ids: TokenSequences | None = None
    """Token sequences that must be generated; needs beams."""
    renormalize_logits: bool | None = False
    """Whether probabilities are made to add up to 1 again after all filters."""
    forced_bos_token_id: TokenId | None = None
    """The token that every answer starts with."""
    forced_eos_token_id: TokenId | TokenIds | None = None
    """The token, or one of several, that an answer is ended with at its greatest length."""
    remove_invalid_values: bool | None = False
    """Whether logits that are no numbers are mended."""
    exponential_decay_length_penalty: DecayPenalty | None = None
    """[start, factor]: from this token on the end becomes likelier by this factor with each token."""
    suppress_tokens: TokenIds | None = None
    """Tokens that are never generated."""
    begin_suppress_tokens: TokenIds | None = None
    """Tokens that no answer starts with."""
    forced_decoder_ids: (
        Annotated[list[Annotated[list[TokenId], Field(min_length=2, max_length=2)]], Field(max_length=MAX_LIST_LENGTH)]
        | None
    ) = None
    """[position, token] pairs: the token that stands at a position."""
    sequence_bias: SequenceBias | None = None
    """Token sequences and what is added to their logits: [[[12, 13], -2.0]], or text keys as in "12,13": -2.0."""
    guidance_scale: NonNegative | None = None
    """Classifier-free guidance: above 1 the answer follows the prompt more closely."""
    pad_token_id: TokenId | None = None
    """The padding token; null is the tokenizer's."""
    bos_token_id: TokenId | None = None
    """The first token of a text; null is the tokenizer's."""
    eos_token_id: TokenId | TokenIds | None = None
    """The token, or tokens, that end an answer; null is the tokenizer's."""

    def is_ordered(self, least: str, most: str) -> bool:
        """Whether one key is at most another; a default is no bound, since it gives way to what is written."""
        low, high = (getattr(self, key) if key in self.model_fields_set else None for key in (least, most))
        return low is None or high is None or low <= high

    @property
    def is_contrastive(self) -> bool:
        return self.penalty_alpha is not None and self.penalty_alpha > 0 and (self.top_k is None or self.top_k > 1)

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn: as written, else by what the written strategy means."""
        if self.temperature == 0:
            return False
        if "do_sample" in self.model_fields_set and self.do_sample is not None:
            return self.do_sample
        return not self.is_contrastive and self.num_beam_groups in (None, 1)

    def resolve_max_new_tokens(
        self, *, output_limit: int | None, global_limit: int | None, prompt_tokens: int, context_tokens: int
    ) -> int:
        """Most tokens of an answer to a prompt of ``prompt_tokens``; never past the model's context.

        ``output_limit`` is 32 for categories, else the output's max_sequence_length.
        """
        left = max(context_tokens - prompt_tokens, 0)
        if "max_new_tokens" in self.model_fields_set and self.max_new_tokens is not None:
            return min(self.max_new_tokens, left)
        if output_limit is not None:
            return min(output_limit, left)
        return left if global_limit is None else min(max(global_limit - prompt_tokens, 0), left)


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value

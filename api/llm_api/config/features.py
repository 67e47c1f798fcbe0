"""Input and output features: which columns go in and come out, how missing values and lengths are dealt with."""

import json
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llm_api.config.scalars import MAX_LIST_LENGTH, Name, PositiveCount, Text, compiles
from llm_api.model import Model, Rule

Tokenizer = Literal["hf_tokenizer"]
MissingValueStrategy = Literal["fill_with_const", "fill_with_mode", "bfill", "ffill", "drop_row"]

_TOKENIZED = "a language model brings its own tokenizer"
_ENCODER = "a language model has no encoders or decoders to choose; see base_model and adapter"
_COMBINED = "there is one input and one output, so nothing is combined"
_VOCABULARY_KEYS = (
    "vocab_file", "pretrained_model_name_or_path", "padding_symbol", "unknown_symbol", "padding",
    "most_common", "ngram_size", "cache_encoder_embeddings", "compute_idf", "sequence_length",
)  # fmt: skip
_VOCABULARY = dict.fromkeys(_VOCABULARY_KEYS, _TOKENIZED)
_OWN_FALLBACK = "(has(self.preprocessing) && has(self.preprocessing.fallback_label))"
_DECODER_KEYS = dict.fromkeys(("vocab_file", "pretrained_model_name_or_path"), _TOKENIZED)
_PREPROCESSING_LOOKALIKES = {"max_length": "max_sequence_length", "max_seq_length": "max_sequence_length"}


class TextPreprocessing(Model):
    """What is done to a column before it is tokenized."""

    refused: ClassVar = {**_VOCABULARY, "computed_fill_value": "write fill_value"}
    lookalikes: ClassVar = _PREPROCESSING_LOOKALIKES

    max_sequence_length: PositiveCount | None = None
    """Most tokens of this text; more are cut. Null is no limit of its own."""
    missing_value_strategy: MissingValueStrategy = "fill_with_const"
    """What a missing value becomes: a constant, the most frequent value, the next or the previous one, or no row."""
    fill_value: Text = ""
    """The constant of fill_with_const."""
    lowercase: bool = False
    """Whether the text is put into lower case."""
    tokenizer: Tokenizer = "hf_tokenizer"
    """Only hf_tokenizer: the base model's own."""


class AnswerPreprocessing(TextPreprocessing):
    """As for inputs, but a row without an answer teaches nothing and is dropped by default."""

    missing_value_strategy: MissingValueStrategy = "drop_row"
    """What a missing answer becomes; dropping the row is the default."""


class CategoryPreprocessing(Model):
    """What is done to a column of labels."""

    refused: ClassVar = {
        **_VOCABULARY,
        "computed_fill_value": "write fallback_label",
        "fill_value": "write fallback_label, which fills missing labels",
        "vocab": "the labels are the keys of decoder.match",
    }

    fallback_label: Name | None = None
    """The label of rows without one, and of answers in which no label is found. Required."""
    missing_value_strategy: MissingValueStrategy = "fill_with_const"
    """What a missing label becomes; fill_with_const is the fallback label."""
    lowercase: bool = False
    """Whether labels are put into lower case."""
    max_sequence_length: PositiveCount | None = None
    """Most tokens of an answer."""
    tokenizer: Tokenizer = "hf_tokenizer"
    """Only hf_tokenizer: the base model's own."""


class TextDecoder(Model):
    """How an answer becomes the output: as it is."""

    refused: ClassVar = _DECODER_KEYS | {
        "input_size": _ENCODER,
        "match": "labels belong to outputs of type category",
        "fallback_label": "labels belong to outputs of type category",
        "max_new_tokens": "write generation.max_new_tokens",
        "match_strategy": "labels belong to outputs of type category",
    }

    type: Literal["text_extractor"] = "text_extractor"
    """Only text_extractor."""
    tokenizer: Tokenizer = "hf_tokenizer"
    """Only hf_tokenizer: the base model's own."""


CASE_SENSITIVE = "(?-i)"
"""At the beginning of a match's value it says the same as ``case_sensitive: true``."""


class Match(Model):
    """How a label is recognized in an answer."""

    rules: ClassVar = (
        Rule(
            name="match-regex-compiles",
            message="the value is not a regular expression that compiles; mend it, or write `type: contains`",
            holds=lambda match: match.type != "regex" or compiles(match.value.removeprefix(CASE_SENSITIVE)),
            path="value",
            needs=("type", "value"),
        ),
        Rule(
            name="match-schema-parses",
            message='the value is not a JSON schema; write one as JSON text, such as \'{"type": "object"}\'',
            holds=lambda match: match.type != "json_schema" or _is_json_object(match.value),
            path="value",
            needs=("type", "value"),
        ),
    )

    type: Literal["contains", "regex", "json_schema"]
    """contains: the value stands in the answer; regex: the value is found in it; json_schema: the answer fits it."""
    value: Annotated[str, Field(min_length=1, max_length=4096)]
    """The text, expression or schema that is looked for."""
    case_sensitive: bool = False
    """Whether upper and lower case differ; (?-i) at the beginning of the value says so too."""


class CategoryDecoder(Model):
    """How an answer becomes a label."""

    refused: ClassVar = _DECODER_KEYS | {
        "input_size": _ENCODER,
        "str2idx": "labels are looked for in the order in which match lists them",
        "max_new_tokens": "write generation.max_new_tokens",
        "match_strategy": "each match has a type of its own",
    }

    type: Literal["category_extractor"] = "category_extractor"
    """Only category_extractor."""
    tokenizer: Tokenizer = "hf_tokenizer"
    """Only hf_tokenizer: the base model's own."""
    match: Annotated[dict[Name, Match], Field(min_length=1, max_length=MAX_LIST_LENGTH)]
    """Label -> how it is recognized; the first one that matches is the answer's."""
    fallback_label: Name | None = None
    """The same as preprocessing.fallback_label, for configs that write it here."""
    constrain_to_vocabulary: bool = False
    """Whether only the labels' own texts can be generated."""


class Feature(Model):
    """A column by name."""

    refused: ClassVar = {
        "encoder": _ENCODER,
        "proc_column": "it is an internal name",
        "tied": _COMBINED,
        "reduce_input": _COMBINED,
        "reduce_dependencies": _COMBINED,
        "dependencies": _COMBINED,
        "input_size": _ENCODER,
        "num_classes": "the labels are the keys of decoder.match",
        "loss": "the loss is cross-entropy over the answer's tokens",
        "class_similarities": "the loss is cross-entropy over the answer's tokens",
        "calibration": "probabilities come from the labels' own tokens",
        "top_k": "write generation.top_k",
        "active": "leave the feature out",
        "default_validation_metric": "write trainer.validation_metric",
    }

    name: Name
    """The column's name; for an input with prompt.template any name that people will understand."""
    column: Name | None = None
    """The column in the data, where it is called otherwise than the feature."""


class InputFeature(Feature):
    """The text that a prompt is made of."""

    type: Literal["text"]
    """Only text."""
    preprocessing: TextPreprocessing = TextPreprocessing()
    """Lengths and missing values of the prompt."""


class TextOutputFeature(Feature):
    """An answer in free text."""

    type: Literal["text"]
    """text, or category for labels."""
    preprocessing: AnswerPreprocessing = AnswerPreprocessing()
    """Lengths and missing values of the answer."""
    decoder: TextDecoder = TextDecoder()
    """How an answer becomes the output."""


class CategoryOutputFeature(Feature):
    """An answer that is one of several labels."""

    rules: ClassVar = (
        Rule(
            name="category-fallback",
            message="a category output needs preprocessing.fallback_label: the label for answers that match none",
            holds=lambda feature: feature.effective_fallback_label is not None,
            cel=f"{_OWN_FALLBACK} || has(self.decoder.fallback_label)",
            path="preprocessing.fallback_label",
            needs=("preprocessing", "decoder.fallback_label"),
        ),
        Rule(
            name="category-fallback-is-known",
            message="the fallback label must be one of the keys of decoder.match",
            holds=lambda feature: feature.effective_fallback_label in (None, *feature.decoder.match),
            cel=f"{_OWN_FALLBACK} ? self.preprocessing.fallback_label in self.decoder.match"
            " : !has(self.decoder.fallback_label) || self.decoder.fallback_label in self.decoder.match",
            path="preprocessing.fallback_label",
            needs=("preprocessing", "decoder"),
        ),
        Rule(
            name="category-one-fallback",
            message="preprocessing.fallback_label says otherwise; write one of the two",
            holds=lambda feature: feature.decoder.fallback_label in (None, feature.effective_fallback_label),
            cel=f"!{_OWN_FALLBACK} || !has(self.decoder.fallback_label)"
            " || self.preprocessing.fallback_label == self.decoder.fallback_label",
            path="decoder.fallback_label",
            needs=("preprocessing", "decoder"),
        ),
    )

    type: Literal["category"]
    """category, or text for answers in free text."""
    preprocessing: CategoryPreprocessing = CategoryPreprocessing()
    """Fallback and missing labels."""
    decoder: CategoryDecoder
    """How an answer becomes a label. Required."""

    @property
    def effective_fallback_label(self) -> str | None:
        own = self.preprocessing.fallback_label
        return self.decoder.fallback_label if own is None and self.decoder is not None else own


OutputFeature = Annotated[TextOutputFeature | CategoryOutputFeature, Field(discriminator="type")]


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False

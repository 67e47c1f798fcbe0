"""What a config asks of a model, row by row: a row with the data's columns becomes a question, and an answer a value.

Asks nothing itself: that is ``answerer``'s. What can't be asked or understood of one row is a DataInvalid, for others
may well be.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llm_api.config import CategoryOutputFeature, Generation, LLMConfig
from llm_api.config.partial import PartialLLMConfig
from llm_api.issues import load
from transformers import PreTrainedTokenizerBase

from llm_runner.data.columns import plan_columns
from llm_runner.data.missing import Gap
from llm_runner.data.prepare import plan_limits
from llm_runner.data.prompt import Prompt, build_prompt
from llm_runner.data.read import Row
from llm_runner.data.retrieval import Retriever
from llm_runner.data.source import plan_gaps
from llm_runner.data.tokens import MIN_PROMPT_TOKENS, Encoder, LengthLimits
from llm_runner.data.value import is_missing
from llm_runner.errors import ConfigInvalid, DataInvalid
from llm_runner.generate.categories import CategoryExtractor, build_extractor
from llm_runner.generate.decode import BuildConstraint
from llm_runner.generate.labels import LabelTexts, build_label_texts
from llm_runner.generate.limits import AnswerLimits, PromptTooLong, plan_answer_limits

UNUSED_SECTIONS = {"trainer", "adapter"}
"""An inference trains nothing, so rules about training don't hold for it."""


@dataclass(frozen=True)
class Question:
    """A row that can be asked."""

    prompt_ids: list[int]
    most_new_tokens: int
    fewest_new_tokens: int
    is_cut: bool
    """Whether the prompt was longer than the config lets it be."""


@dataclass(frozen=True)
class Prediction:
    """What a model says to a row."""

    value: str
    """The output feature's: the text, or the label."""
    text: str
    """As generated."""
    probabilities: Mapping[str, float] | None = None
    """Of each label; None where the output is text."""
    new_tokens: int = 0
    cached_tokens: int = 0
    """Tokens of the prompt that were known before."""


@dataclass(frozen=True)
class Labels:
    """What an output of type category needs."""

    extractor: CategoryExtractor
    texts: LabelTexts
    is_constrained: bool
    """Whether an answer may be nothing but a label."""


@dataclass(frozen=True)
class Task:
    """A config's task for data with certain columns."""

    config: LLMConfig
    prompt: Prompt
    encoder: Encoder
    prompt_limits: LengthLimits
    whole_limits: LengthLimits
    """Of a prompt with its known answer, as in training."""
    answer_limits: AnswerLimits
    labels: Labels | None

    @property
    def generation(self) -> Generation:
        return self.answer_limits.generation

    @cached_property
    def _gaps(self) -> list[Gap]:
        """What missing values become: of each column of the prompt, and last of the output."""
        return plan_gaps(self.config, self.prompt.columns)

    @property
    def build_constraint(self) -> BuildConstraint | None:
        """Where answers may be nothing but a label."""
        if self.labels is None or not self.labels.is_constrained:
            return None
        return self.labels.texts.build_constraint

    def to_question(self, row: Row) -> Question:
        """Raises DataInvalid where the row lacks a column or a value, or its prompt leaves no room for an answer."""
        prompt_ids = self._encode(row)
        kept, _ = self.prompt_limits.fit(prompt_ids, [])
        most = self.answer_limits.most_new_tokens(len(kept))
        self._check_label_room(len(kept))
        fewest = self.answer_limits.fewest_new_tokens(len(kept))
        return Question(kept, most, fewest, is_cut=len(kept) < len(prompt_ids))

    def to_value(self, text: str) -> str:
        """Raises PatternTooSlow where a label's pattern comes to no end."""
        return text if self.labels is None else self.labels.extractor.extract(text)

    def to_known_answer(self, row: Row) -> str | None:
        """The text or label that stands in the row, as far as it has one."""
        if self.prompt.columns.output not in row:
            return None
        if not is_missing(row[self.prompt.columns.output]):
            return self.prompt.render_answer(row)
        gap = self._gaps[-1]
        return gap.fill if gap.strategy == "fill_with_const" and self.labels is not None else None

    def to_solved_ids(self, row: Row, answer: str) -> tuple[list[int], list[int]]:
        """Prompt and answer as in training, to measure how well the model foretells it; the answer may be empty."""
        return self.whole_limits.fit(self._encode(row), self.encoder.encode_targets([answer])[0])

    def _encode(self, row: Row) -> list[int]:
        text = self.prompt.render_prompt(self._fill(row))
        try:
            return self.encoder.encode_prompts([text])[0]
        except (UnicodeEncodeError, TypeError) as error:
            raise DataInvalid(f"the row holds text that is no valid Unicode: {error}") from error

    def _fill(self, row: Row) -> Row:
        filled = dict(row)
        for gap in self._gaps[:-1]:
            if gap.column in row and is_missing(row[gap.column]):
                if gap.strategy != "fill_with_const":
                    raise DataInvalid(
                        f"the row has no value in column {gap.column!r}, and missing_value_strategy "
                        f"{gap.strategy} has none to put there"
                    )
                filled[gap.column] = gap.fill
        return filled

    def _check_label_room(self, prompt_tokens: int) -> None:
        longest = 0 if self.labels is None else self.labels.texts.longest
        room = self.answer_limits.context_tokens - prompt_tokens
        if longest > room:
            raise PromptTooLong(
                f"the prompt has {prompt_tokens} tokens, which leaves {room} of the model's context, and the longest "
                f"label takes {longest}; shorten it by {longest - room} or more"
            )


@dataclass(frozen=True)
class TaskSetup:
    """Whatever of a task doesn't depend on the data's columns."""

    config: LLMConfig
    tokenizer: PreTrainedTokenizerBase
    encoder: Encoder
    context_tokens: int
    labels: Labels | None

    def build_task(
        self, available: Sequence[str], retriever: Retriever | None = None, generation: Generation | None = None
    ) -> Task:
        """For rows with the columns ``available``; ``generation`` in place of the config's."""
        config = self.config if generation is None else self.config.model_copy(update={"generation": generation})
        prompt = build_prompt(config, plan_columns(config, available, splits=False), retriever)
        answer_limits = plan_answer_limits(config, self.context_tokens)
        return Task(
            config=config,
            prompt=prompt,
            encoder=self.encoder,
            prompt_limits=plan_prompt_limits(config, answer_limits),
            whole_limits=plan_limits(config, self.context_tokens),
            answer_limits=answer_limits,
            labels=self.labels,
        )


def build_setup(
    config: LLMConfig, tokenizer: PreTrainedTokenizerBase, encoder: Encoder, context_tokens: int
) -> TaskSetup:
    """Raises ConfigInvalid where a label's pattern or schema can't be used."""
    output = config.output_features[0]
    labels = _build_labels(output, tokenizer) if isinstance(output, CategoryOutputFeature) else None
    return TaskSetup(config, tokenizer, encoder, context_tokens, labels)


def complete_config(config: PartialLLMConfig, base_name: str) -> LLMConfig:
    """The whole config that a task needs. Raises ConfigInvalid where it names no input or output."""
    lacking = [key for key in ("input_features", "output_features") if getattr(config, key) is None]
    if lacking:
        raise ConfigInvalid(
            f"config: {' and '.join(lacking)} must say what rows are made of, as neither the run nor the artifact "
            "does; write them as for a fine-tune"
        )
    written: dict[str, Any] = config.model_dump(mode="json", exclude_unset=True, exclude=UNUSED_SECTIONS)
    return load(LLMConfig, {**written, "base_model": base_name}, prefix="config")


def plan_prompt_limits(config: LLMConfig, answers: AnswerLimits) -> LengthLimits:
    """A prompt is cut where the config bounds it; what the model can't take is left to be refused."""
    whole = config.preprocessing.global_max_sequence_length
    written = "max_new_tokens" in config.generation.model_fields_set
    reserved = config.generation.max_new_tokens if written else answers.output_limit
    own = config.input_features[0].preprocessing.max_sequence_length
    if whole is None or reserved is None:
        return LengthLimits(sys.maxsize, prompt=own)
    return LengthLimits(max(whole - reserved, MIN_PROMPT_TOKENS), prompt=own)


def _build_labels(output: CategoryOutputFeature, tokenizer: PreTrainedTokenizerBase) -> Labels:
    constrained = output.decoder.constrain_to_vocabulary
    return Labels(build_extractor(output), build_label_texts(output, tokenizer), constrained)

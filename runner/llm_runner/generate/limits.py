"""How long an answer may be and must be, by the length of its prompt.

Counts tokens only. What is written in ``generation`` comes first, then the output feature, preprocessing and the model.
"""

from dataclasses import dataclass

from llm_api.config import Generation, LLMConfig
from llm_api.config.generation import CATEGORY_MAX_NEW_TOKENS

from llm_runner.errors import DataInvalid


class PromptTooLong(DataInvalid):
    """A prompt leaves no room for an answer; other prompts may well fit."""


@dataclass(frozen=True)
class AnswerLimits:
    """The bounds that a config and a model set to answers."""

    generation: Generation
    context_tokens: int
    """Most tokens that the model takes, prompt and answer together."""
    output_limit: int | None = None
    """Most tokens of an answer, where ``generation`` has no bound written."""
    global_limit: int | None = None
    """Most tokens of prompt and answer together, where there is no other bound."""
    most_of_all: int | None = None
    """Most tokens of an answer, whatever the config allows; None is no such bound."""

    def most_new_tokens(self, prompt_tokens: int) -> int:
        """At least 1. Raises PromptTooLong where the prompt fills what it shares with the answer."""
        key, whole = self._whole()
        most = self.generation.resolve_max_new_tokens(
            output_limit=None if self._written_whole is not None else self.output_limit,
            global_limit=whole,
            prompt_tokens=prompt_tokens,
            context_tokens=self.context_tokens,
        )
        if most < 1:
            raise PromptTooLong(
                f"the prompt has {prompt_tokens} tokens, and {key} allows {whole} for prompt and answer together; "
                f"shorten it by {prompt_tokens - whole + 1} or more"
            )
        return most if self.most_of_all is None else min(most, self.most_of_all)

    def fewest_new_tokens(self, prompt_tokens: int) -> int:
        """Never more than the most: a least length can't lengthen an answer past its bound."""
        fewest = self.generation.min_new_tokens
        if fewest is None:
            whole = self.generation.min_length
            fewest = 0 if whole is None else max(whole - prompt_tokens, 0)
        return min(fewest, self.most_new_tokens(prompt_tokens))

    @property
    def _written_whole(self) -> int | None:
        return None if self._is_written("max_new_tokens") else self._max_length

    @property
    def _max_length(self) -> int | None:
        return self.generation.max_length if self._is_written("max_length") else None

    def _whole(self) -> tuple[str, int]:
        """The tightest bound on prompt and answer together, and what it is called."""
        bounds = [("the model's context", self.context_tokens)]
        if self._written_whole is not None:
            bounds.append(("generation.max_length", self._written_whole))
        elif not self._is_written("max_new_tokens") and self.output_limit is None and self.global_limit is not None:
            bounds.append(("preprocessing.global_max_sequence_length", self.global_limit))
        return min(bounds, key=lambda bound: bound[1])

    def _is_written(self, key: str) -> bool:
        return key in self.generation.model_fields_set and getattr(self.generation, key) is not None


def plan_answer_limits(config: LLMConfig, context_tokens: int) -> AnswerLimits:
    """The limits of a whole config, for a model that takes ``context_tokens``."""
    output = config.output_features[0]
    written = output.preprocessing.max_sequence_length
    return AnswerLimits(
        config.generation,
        context_tokens,
        output_limit=CATEGORY_MAX_NEW_TOKENS if output.type == "category" and written is None else written,
        global_limit=config.preprocessing.global_max_sequence_length,
    )

"""The token ids that begin, end and fill up sequences: as the config says, else the tokenizer's and the model's.

Chooses ids; whether an answer ends is decided where it is generated.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from llm_api.config import Generation
from transformers import GenerationConfig, PreTrainedTokenizerBase

from llm_runner.errors import ConfigInvalid
from llm_runner.model.generation import build_generation_config


@dataclass(frozen=True)
class SpecialTokens:
    """The ids of one model and config."""

    end_ids: tuple[int, ...]
    """Any of them ends an answer; at least one."""
    pad_id: int
    """Never attended to, so it may be a real token too."""
    begin_id: int | None
    """What an empty prompt becomes."""

    def open_prompt(self, prompt_ids: list[int]) -> list[int]:
        """The prompt, or the one token that stands for an empty one: there must be a token to go on from."""
        if prompt_ids:
            return prompt_ids
        return [self.end_ids[0] if self.begin_id is None else self.begin_id]

    def cut_at_end(self, token_ids: list[int]) -> list[int]:
        """The answer without what ends it and all that follows."""
        ends = (place for place, token in enumerate(token_ids) if token in self.end_ids)
        return token_ids[: next(ends, len(token_ids))]


def find_special_tokens(
    generation: Generation, tokenizer: PreTrainedTokenizerBase, base: GenerationConfig | None
) -> SpecialTokens:
    """``base`` is the model's own generation config: it may name ends besides the tokenizer's."""
    found = build_generation_config(base, tokenizer, generation)
    ends = found.eos_token_id if isinstance(found.eos_token_id, list) else [found.eos_token_id]
    end_ids = tuple(token for token in ends if token is not None)
    if not end_ids:
        raise ConfigInvalid(
            "generation.eos_token_id: neither the config nor the tokenizer names a token that ends an answer; write one"
        )
    pad_id = end_ids[0] if found.pad_token_id is None else found.pad_token_id
    return SpecialTokens(end_ids, pad_id, found.bos_token_id)


def refuse_unknown_tokens(generation: Generation, vocabulary_size: int) -> None:
    """Raises ConfigInvalid that names every token id in the config that the model doesn't have."""
    unknown = sorted({(key, token) for key, token in _written_tokens(generation) if token >= vocabulary_size})
    if unknown:
        listed = "; ".join(f"generation.{key}: {token}" for key, token in unknown)
        raise ConfigInvalid(f"{listed}: the model's tokens are numbered 0 to {vocabulary_size - 1}")


def _written_tokens(generation: Generation) -> Iterator[tuple[str, int]]:
    for key in ("eos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens"):
        value = getattr(generation, key)
        yield from ((key, token) for token in ([value] if isinstance(value, int) else value or ()))
    for key in ("pad_token_id", "bos_token_id", "forced_bos_token_id"):
        yield from ((key, token) for token in [getattr(generation, key)] if token is not None)
    for key in ("bad_words_ids", "force_words_ids"):
        yield from ((key, token) for word in getattr(generation, key) or () for token in word)
    yield from (("forced_decoder_ids", token) for _, token in generation.forced_decoder_ids or ())
    yield from (("sequence_bias", token) for ids, _ in generation.sequence_bias or () for token in ids)

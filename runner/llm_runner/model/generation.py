"""The generation_config.json of an artifact: a model that is loaded elsewhere must stop where this one was taught to.

Only what means the same to every program that reads the file is written; decoding itself happens elsewhere.
"""

from typing import Any

from llm_api.config import Generation
from transformers import GenerationConfig, PreTrainedTokenizerBase

SAMPLING_KEYS = ("temperature", "top_k", "top_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
OTHER_KEYS = ("max_new_tokens", "min_new_tokens", "repetition_penalty", "no_repeat_ngram_size")
TOKEN_KEYS = ("bos_token_id", "pad_token_id")


def build_generation_config(
    base: GenerationConfig | None,
    tokenizer: PreTrainedTokenizerBase,
    generation: Generation | None = None,
) -> GenerationConfig:
    """EOS, padding and the sampling that the user wrote.

    EOS is every token that ends an answer: what the config says, else the tokenizer's, which the tuned answers end
    with, and those that the base model stopped at already.
    """
    written = {} if generation is None else generation.model_dump(include=generation.model_fields_set)
    tokens = {
        "eos_token_id": _eos(base, tokenizer, written.get("eos_token_id")),
        **{key: _first(written.get(key), getattr(tokenizer, key)) for key in TOKEN_KEYS},
    }
    return GenerationConfig.from_dict({**_sampling(written), **tokens})


def _eos(base: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase, written: Any) -> int | list[int]:
    if written is not None:
        return written  # type: ignore[no-any-return]
    known = _as_list(None if base is None else base.eos_token_id)
    ids = list(dict.fromkeys([*_as_list(tokenizer.eos_token_id), *known]))
    return ids[0] if len(ids) == 1 else ids


def _as_list(ids: int | list[int] | None) -> list[int]:
    if ids is None:
        return []
    return [ids] if isinstance(ids, int) else list(ids)


def _first(written: Any, own: Any) -> Any:
    return own if written is None else written


def _sampling(written: dict[str, Any]) -> dict[str, Any]:
    """The written keys, without those that contradict each other: sampling options mean nothing to a greedy model."""
    kept = {key: written[key] for key in OTHER_KEYS if written.get(key) is not None}
    is_greedy = written.get("do_sample") is False or written.get("temperature") == 0
    if is_greedy:
        return {**kept, "do_sample": False}
    sampling = {key: written[key] for key in SAMPLING_KEYS if written.get(key) is not None}
    if sampling or written.get("do_sample"):
        return {**kept, **sampling, "do_sample": True}
    return kept

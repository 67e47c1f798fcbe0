"""Texts as vectors, so that texts of like meaning lie close: the mean of an encoder's last hidden states.

Safetensors only, and never code that comes with a model. It runs on the processor, in float32: the accelerator's
memory is the language model's, and an index made on one machine is right on any other.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from llm_runner.errors import ConfigInvalid, ModelNotFound, RunError
from llm_runner.model.folder import read_description, weight_files

KEY = "prompt.retrieval.model_name"
BATCH_TEXTS = 32
MOST_TOKENS = 512
"""What a longer text says after these isn't looked at, as most models that embed know no more."""
UNUSED_WEIGHTS = "pooler."
"""Some models are stored without their pooler, which a mean has no use for."""


class EmbeddingModel:
    """May be asked from several threads."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, most_tokens: int) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._most_tokens = most_tokens
        self._lock = threading.Lock()

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """A row of length 1 for each text, (texts, size of the model)."""
        if not texts:
            return torch.zeros(0, self._model.config.hidden_size)
        # Texts of like length are padded least.
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        batches = [order[start : start + BATCH_TEXTS] for start in range(0, len(order), BATCH_TEXTS)]
        with self._lock:
            found = torch.cat([self._embed([texts[place] for place in batch]) for batch in batches])
        return found[torch.tensor(order).argsort()]

    @torch.inference_mode()
    def _embed(self, texts: list[str]) -> Tensor:
        tokens: Any = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._most_tokens, return_tensors="pt"
        )
        mask = tokens["attention_mask"]
        if mask.shape[1] == 0:  # not a word in any of them
            return torch.zeros(len(texts), self._model.config.hidden_size)
        hidden = self._model(input_ids=tokens["input_ids"].long(), attention_mask=mask.long()).last_hidden_state
        # What attends to nothing may be no number, so it is left out and not only weighed with 0.
        sums = hidden.masked_fill(mask.unsqueeze(-1) == 0, 0.0).sum(1)
        return normalize(sums / mask.sum(1, keepdim=True).clamp(min=1), dim=-1)


def load_embedding_model(path: Path) -> EmbeddingModel:
    """Raises ModelNotFound where files are missing or damaged, ConfigInvalid where the model is of a kind that can't
    be used.
    """
    with _key_named():
        description = read_description(path)
        weight_files(path)
    _check_kind(path, description)
    tokenizer = _load_tokenizer(path)
    model = _load_model(path)
    longest = [MOST_TOKENS, tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None)]
    return EmbeddingModel(model, tokenizer, min(length for length in longest if length is not None))


@contextmanager
def _key_named() -> Iterator[None]:
    """A folder's mistakes are told of under the key that names it."""
    try:
        yield
    except RunError as error:
        raise type(error)(str(error).replace("base_model:", f"{KEY}:", 1)) from error


def _check_kind(path: Path, description: dict[str, Any]) -> None:
    kind = description.get("model_type")
    if kind not in MODEL_MAPPING_NAMES:
        raise ConfigInvalid(
            f"{KEY}: {path} is of the type {kind!r}, which is no part of transformers; code that comes with a model is "
            "never run here. Name one of a known type, such as bert"
        )
    if description.get("is_encoder_decoder"):
        raise ConfigInvalid(f"{KEY}: {path} is an encoder with a decoder ({kind}); name a model that is one of them")


def _load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, use_fast=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelNotFound(f"{KEY}: {path} holds no tokenizer that can be loaded ({error})") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token if tokenizer.eos_token is None else tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise ConfigInvalid(f"{KEY}: the tokenizer in {path} names no token to pad with (pad_token)")
    tokenizer.padding_side = "right"
    return tokenizer  # type: ignore[no-any-return]


def _load_model(path: Path) -> PreTrainedModel:
    try:
        loaded: Any = AutoModel.from_pretrained(
            path, use_safetensors=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ModelNotFound(f"{KEY}: the model in {path} can't be loaded: {str(error).strip()[:300]}") from error
    model: PreTrainedModel = loaded[0]
    missing = sorted(name for name in loaded[1]["missing_keys"] if UNUSED_WEIGHTS not in name)
    if missing:
        raise ModelNotFound(f"{KEY}: the files in {path} lack the weights {', '.join(missing[:3])}")
    model.eval()
    return model

"""Models small enough to make on the spot, of the architectures that differ where it matters; random but seeded.

Their tokenizer has one token for each byte, so any text goes through.
"""

from pathlib import Path
from typing import Any, TypeVar

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

BOS, EOS = "<s>", "</s>"
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
CONTEXT_LENGTH = 256

C = TypeVar("C", bound=PretrainedConfig)


def tiny_tokenizer(pad_token: str | None = None) -> PreTrainedTokenizerFast:
    """One token a byte, then the special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [BOS, EOS, *([] if pad_token is None else [pad_token]), *alphabet]
    tokenizer = Tokenizer(BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=pad_token,
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def llama_config(**changes: Any) -> LlamaConfig:
    """Separate query, key and value projections, grouped keys, rotary positions."""
    given: dict[str, Any] = {
        **SIZES,
        "intermediate_size": 64,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT_LENGTH,
    }
    return _with_tokens(LlamaConfig(**{**given, **changes}))


def gpt2_config(**changes: Any) -> GPT2Config:
    """One fused projection in transposed layers, learned positions."""
    return _with_tokens(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT_LENGTH, **changes))


def neox_config() -> GPTNeoXConfig:
    """One fused projection in plain layers, rotary positions on a part of each head."""
    return _with_tokens(GPTNeoXConfig(**SIZES, intermediate_size=64, max_position_embeddings=CONTEXT_LENGTH))


def build_model(config: PretrainedConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model with random weights, in evaluation mode."""
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.eval()
    return model


def save_model(folder: Path, config: PretrainedConfig, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """A Hugging Face folder with random weights and the byte tokenizer."""
    build_model(config, seed, dtype).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def _with_tokens(config: C) -> C:
    tokenizer = tiny_tokenizer()
    config.vocab_size = len(tokenizer)
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    return config

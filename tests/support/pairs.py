"""Pairs of answers made on the spot, and what a textbook's code makes of them: each sequence by itself, unpadded."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llm_api.run import TrainRun
from llm_runner.data.pairs import Pair, PairRows, build_pair_rows
from llm_runner.data.tokens import Example, TokenizedRows

from tests.support.runs import WORDS, build_run

VOCABULARY = 250


def write_pairs(path: Path, count: int, start: int = 0) -> Path:
    """Rows whose better answer names a room, and whose worse one is an excuse."""
    words = ((number, WORDS[number % len(WORDS)]) for number in range(start, start + count))
    rows = [
        {
            "question": f"Where is {word} {number}?",
            "answer": f"The {word} is in room {number % 5}.",
            "rejected": f"No idea about any {word}.",
        }
        for number, word in words
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def build_pair_run(
    folder: Path, model_path: Path, config: Mapping[str, Any], rows: int = 16, **fields: Any
) -> TrainRun:
    """As ``build_run``, on pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = {
        "train": {"uri": str(write_pairs(folder / "train.jsonl", rows))},
        "validation": {"uri": str(write_pairs(folder / "validation.jsonl", 5, start=1000))},
    }
    return build_run(folder, model_path, config, **{"dataset": dataset, **fields})


def random_pairs(count: int, *, scores: int, seed: int = 0) -> PairRows:
    """Prompts of 2 to 9 tokens with two answers of 1 to 24; the same ones for the same seed."""
    generator = np.random.default_rng(seed)
    prompts = [generator.integers(2, VOCABULARY, generator.integers(2, 10)) for _ in range(count)]
    answers = [[generator.integers(2, VOCABULARY, generator.integers(1, 25)) for _ in prompts] for _ in range(2)]
    chosen, rejected = (_table(prompts, targets) for targets in answers)
    return build_pair_rows(chosen, rejected, scores=scores)


def _table(prompts: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> TokenizedRows:
    rows = [np.concatenate(parts).astype(np.int32) for parts in zip(prompts, targets, strict=True)]
    offsets = np.cumsum([0, *map(len, rows)])
    return TokenizedRows(np.concatenate(rows), offsets, np.array([len(prompt) for prompt in prompts], dtype=np.int32))


def pairs_in(rows: PairRows) -> list[Pair]:
    return [rows.example(place) for place in range(len(rows))]


def plain_log_prob(model: Any, example: Example) -> torch.Tensor:
    """Of the target's tokens, by the library's own forward pass."""
    ids = torch.from_numpy(example.token_ids).long()
    log_probs = model(input_ids=ids[None], use_cache=False).logits[0].log_softmax(-1)
    places = torch.arange(example.prompt_length, len(ids))
    return log_probs[places - 1, ids[places]].sum()


def plain_log_probs(model: Any, pairs: Sequence[Pair], place: int) -> torch.Tensor:
    """[pairs], of the sequence at ``place`` of each."""
    return torch.stack([plain_log_prob(model, pair.sequences[place]) for pair in pairs])


def target_counts(pairs: Sequence[Pair], place: int) -> torch.Tensor:
    return torch.tensor([len(pair.sequences[place]) - pair.sequences[place].prompt_length for pair in pairs])

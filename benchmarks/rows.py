"""Rows for measuring training: real prose of 60 to 700 tokens, the same on every machine with the same Python.

The text is the language reference that Python's standard library carries (``pydoc_data``, PSF licence); nothing of it
is stored here. Lengths follow instruction data: most rows are short, a few long, some two fifths of it answer.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

from llm_runner.model.load import load_tokenizer
from transformers import PreTrainedTokenizerBase

MIN_TOKENS, MEDIAN_TOKENS, MAX_TOKENS = 60, 115, 700
SPREAD = 0.75
"""Standard deviation of the lengths' logarithm."""
ROWS_PER_STEP = 8
ANSWER_SHARE = 0.39
WORDS_PER_TOKEN = 0.6


def save_rows(folder: Path, tokenizer: PreTrainedTokenizerBase, *, train: int, hold_out: int) -> None:
    """Writes train.jsonl and validation.jsonl with the columns prompt and answer."""
    rows = build_rows(tokenizer)
    for name, count in (("train", train), ("validation", hold_out)):
        lines = [json.dumps(next(rows)) for _ in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def save_rows_of_steps(folder: Path, model: Path, steps: int, *, hold_out: int) -> None:
    """For so many optimizer steps, with the tokenizer in a model's folder."""
    save_rows(folder, load_tokenizer(model), train=steps * ROWS_PER_STEP, hold_out=hold_out)


def build_rows(tokenizer: PreTrainedTokenizerBase) -> Iterator[dict[str, str]]:
    """Rows without end, the text of the reference from its start, over and over."""
    generator = random.Random(0)
    words = [word for topic in sorted(topics) for word in topics[topic].split()]
    start = 0
    while True:
        wanted = draw_length(generator)
        taken = words[start : start + int(wanted / WORDS_PER_TOKEN)]
        start = (start + len(taken)) % (len(words) - MAX_TOKENS * 2)
        ids = tokenizer(" ".join(taken))["input_ids"][:wanted]
        cut = int(len(ids) * (1 - ANSWER_SHARE))
        yield {"prompt": str(tokenizer.decode(ids[:cut])), "answer": str(tokenizer.decode(ids[cut:]))}


def draw_length(generator: random.Random) -> int:
    """Tokens of a row."""
    while True:
        length = int(MEDIAN_TOKENS * generator.lognormvariate(0.0, SPREAD))
        if MIN_TOKENS <= length <= MAX_TOKENS:
            return length

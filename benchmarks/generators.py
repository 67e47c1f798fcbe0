"""One way to generate offline, measured: our engine, and the library's ``model.generate`` on batches by length.

All get the same prompts as token ids, greedy, and answers of the same length: no token ends one. Each is meant to have
a process of its own; ``generate.py`` sees to that.
"""

import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from llm_runner.generate.engine import Engine, EngineLimits
from llm_runner.generate.engine_build import CachePlan, apart, build_forward
from llm_runner.generate.engine_request import Answer, End, EndReason, Request
from llm_runner.model.load import load_base, load_tokenizer
from llm_runner.train.device import choose_device
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.rows import build_rows

BATCH_ROWS = 16
CONTEXT_TOKENS = 8192
WARM_UP_TOKENS = 2
"""Reading a prompt and going on from it are different work."""
TEXT_PROMPTS, TEXT_NEW_TOKENS = 64, 64
LABEL_PROMPTS, LABEL_NEW_TOKENS, LABEL_PREFIX_TOKENS, LABEL_OWN_TOKENS = 64, 4, 400, 30


@dataclass(frozen=True)
class Task:
    """What is asked for."""

    prompts: Sequence[Sequence[int]]
    new_tokens: int


@dataclass(frozen=True)
class Figures:
    """What came out."""

    tokens_per_second: float
    """New tokens, over the time from the first prompt to the last answer; loading isn't counted."""
    rows_per_second: float
    peak_memory_bytes: int
    answers: Sequence[Sequence[int]]


def measure(generator: str, task_name: str, model_path: Path) -> Figures:
    """``generator`` is ours, ours-unshared (no prefix is computed once for several) or library."""
    tokenizer = load_tokenizer(model_path)
    task = TASKS[task_name](tokenizer)
    model = apart(lambda: load_base(model_path, dtype=torch.bfloat16, device=choose_device()))
    generate = generate_by_library if generator == "library" else generate_by_engine
    seconds, answers = generate(model, task, shares=generator == "ours")
    new_tokens = sum(map(len, answers))
    if new_tokens != len(task.prompts) * task.new_tokens:
        raise RuntimeError(f"{generator} generated {new_tokens} tokens")
    return Figures(new_tokens / seconds, len(answers) / seconds, peak_memory_bytes(), answers)


def build_text_task(tokenizer: PreTrainedTokenizerBase) -> Task:
    """Prompts of 40 to 430 tokens that have nothing in common."""
    rows = islice(build_rows(tokenizer), TEXT_PROMPTS)
    return Task([encode(tokenizer, row["prompt"]) for row in rows], TEXT_NEW_TOKENS)


def build_label_task(tokenizer: PreTrainedTokenizerBase) -> Task:
    """A long instruction with examples, the same for every row, then the row; an answer is a label."""
    rows = build_rows(tokenizer)
    prefix = list(take_tokens(tokenizer, rows, LABEL_PREFIX_TOKENS))
    prompts = [[*prefix, *take_tokens(tokenizer, rows, LABEL_OWN_TOKENS)] for _ in range(LABEL_PROMPTS)]
    return Task(prompts, LABEL_NEW_TOKENS)


TASKS = {"text": build_text_task, "label": build_label_task}


def take_tokens(tokenizer: PreTrainedTokenizerBase, rows: Iterator[dict[str, str]], count: int) -> Iterator[int]:
    return islice((token for row in rows for token in encode(tokenizer, row["prompt"])), count)


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: Any = tokenizer(text)["input_ids"]
    return list(ids)


def generate_by_engine(model: PreTrainedModel, task: Task, *, shares: bool) -> tuple[float, list[list[int]]]:
    """As a batch of ours does: everything is submitted at once, and the engine decides what runs together."""
    forward: Any = apart(lambda: build_forward(model, CachePlan(CONTEXT_TOKENS, BATCH_ROWS)))[0]
    forward.shares_prefixes = shares
    engine = Engine(forward, EngineLimits(CONTEXT_TOKENS, running=BATCH_ROWS, waiting=len(task.prompts)))
    engine.start()
    try:
        ask_engine(engine, task.prompts[:1], WARM_UP_TOKENS, reversed_ids=True)
        started = time.perf_counter()
        answers = ask_engine(engine, task.prompts, task.new_tokens)
        return time.perf_counter() - started, answers
    finally:
        engine.close()


def ask_engine(
    engine: Engine, prompts: Sequence[Sequence[int]], new_tokens: int, *, reversed_ids: bool = False
) -> list[list[int]]:
    """The warm-up's ids are reversed, so that nothing of it is of use later."""
    waiting: list[SimpleQueue[Answer]] = []
    for prompt in prompts:
        answers: SimpleQueue[Answer] = SimpleQueue()
        engine.submit(Request(prompt[::-1] if reversed_ids else prompt, new_tokens), answers.put)
        waiting.append(answers)
    return [read_answer(answers) for answers in waiting]


def read_answer(answers: "SimpleQueue[Answer]") -> list[int]:
    token_ids: list[int] = []
    while not isinstance(answer := answers.get(), End):
        token_ids.append(answer.id)
    if answer.reason is not EndReason.LENGTH:
        raise RuntimeError(f"an answer ended by {answer.reason}: {answer.error}")
    return token_ids


def generate_by_library(model: PreTrainedModel, task: Task, *, shares: bool) -> tuple[float, list[list[int]]]:
    """The longest prompts first, padded on the left."""
    assert not shares, "the library computes every prompt"
    order = sorted(range(len(task.prompts)), key=lambda index: -len(task.prompts[index]))
    answers: dict[int, list[int]] = {}
    generate_batch(model, [task.prompts[0][::-1]], WARM_UP_TOKENS)
    started = time.perf_counter()
    for start in range(0, len(order), BATCH_ROWS):
        chosen = order[start : start + BATCH_ROWS]
        found = generate_batch(model, [task.prompts[index] for index in chosen], task.new_tokens)
        answers.update(zip(chosen, found, strict=True))
    return time.perf_counter() - started, [answers[index] for index in range(len(order))]


def generate_batch(model: Any, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
    width = max(map(len, prompts))
    pads = [width - len(prompt) for prompt in prompts]
    ids = torch.tensor([[0] * pad + list(prompt) for pad, prompt in zip(pads, prompts, strict=True)])
    mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads])
    with torch.inference_mode():
        found = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )
    rows: list[list[int]] = found[:, width:].tolist()
    return rows


def peak_memory_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

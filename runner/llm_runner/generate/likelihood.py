"""How likely a model holds given texts to be: the loss of known answers, and the probabilities of labels.

Each prompt is read once; all its continuations share what was kept of it. Generates nothing.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llm_runner.generate.rows import RowPlan, Rows, build_rows, plan_batches

Tokens = Sequence[int]
LARGEST_EXPONENT = 700.0


def score_continuations(
    model: Any, prompts: Sequence[Tokens], continuations: Sequence[Sequence[Tokens]]
) -> list[list[list[float]]]:
    """The log-probability of each token of ``continuations[i][j]``, which follow ``prompts[i]``.

    All prompts have the same number of continuations. Neither a prompt nor a continuation is empty.
    """
    rows = build_rows([RowPlan(list(prompt), 0) for prompt in prompts], pad_id=0, device=model.device)
    flat = [list(tokens) for of_prompt in continuations for tokens in of_prompt]
    with torch.no_grad():
        outputs = _read(model, rows.input_ids, rows.attention_mask, last_only=True)
        copies = torch.arange(len(prompts), device=model.device).repeat_interleave(len(flat) // len(prompts))
        first = outputs.logits[:, -1:].index_select(0, copies)
        rest = _read_rest(model, rows, copies, outputs, flat)
    scores = [
        _log_probs(torch.cat([first[row], rest[row, : len(tokens) - 1]]), tokens) for row, tokens in enumerate(flat)
    ]
    count = len(flat) // len(prompts)
    return [scores[start : start + count] for start in range(0, len(scores), count)]


def label_probabilities(
    model: Any, prompts: Sequence[Tokens], texts: Mapping[str, Sequence[tuple[int, ...]]]
) -> list[dict[str, float]]:
    """For each prompt, the probability of each label given that it is one of them.

    ``texts`` are the ways to write a label; its probability is that of all of them together, and of a text that begins
    a longer one only what the longer one leaves.
    """
    written = list(dict.fromkeys(tokens for ways in texts.values() for tokens in ways))
    scored = score_continuations(model, prompts, [written] * len(prompts))
    return [to_label_probabilities(dict(zip(written, scores, strict=True)), texts) for scores in scored]


def to_label_probabilities(
    scores: Mapping[tuple[int, ...], Sequence[float]], texts: Mapping[str, Sequence[tuple[int, ...]]]
) -> dict[str, float]:
    """The same from the log-probability of each token of each text."""
    return _normalize(_masses(list(scores), list(scores.values())), texts)


@dataclass(frozen=True)
class Loss:
    """How well a model foretells known answers."""

    loss: float
    """Mean negative log-likelihood of an answer's token, in nats."""
    tokens: int

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss) if self.loss < LARGEST_EXPONENT else math.inf


def measure_loss(model: Any, prompts: Sequence[Tokens], answers: Sequence[Tokens], *, batch_size: int) -> Loss:
    """Over all tokens of ``answers``, which end as the model should end them."""
    total, count = 0.0, 0
    for places in plan_batches([len(prompts[row]) + len(answers[row]) for row in range(len(prompts))], batch_size):
        scored = score_continuations(model, [prompts[row] for row in places], [[answers[row]] for row in places])
        total += sum(sum(tokens) for of_prompt in scored for tokens in of_prompt)
        count += sum(len(answers[row]) for row in places)
    return Loss(-total / count, count)


def _read_rest(model: Any, rows: Rows, copies: Tensor, outputs: Any, flat: Sequence[list[int]]) -> Tensor:
    """Logits after each token of the continuations but their last, [continuations, tokens, vocabulary]; ``outputs``
    are those of the prompts.
    """
    width = max(map(len, flat)) - 1
    if width == 0:
        return torch.empty(len(flat), 0, outputs.logits.shape[-1], device=copies.device)
    cache = outputs.past_key_values
    cache.reorder_cache(copies)
    ids = torch.zeros(len(flat), width, dtype=torch.long, device=copies.device)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(flat):
        ids[row, : len(tokens) - 1] = torch.tensor(tokens[:-1], device=ids.device)
        mask[row, : len(tokens) - 1] = 1
    whole = torch.cat([rows.attention_mask.index_select(0, copies), mask], dim=1)
    logits: Tensor = _read(model, ids, whole, past_key_values=cache).logits
    return logits


def _read(model: Any, ids: Tensor, mask: Tensor, *, last_only: bool = False, **inputs: Any) -> Any:
    """The model's outputs; positions count tokens only, where the model is told of them."""
    known = inspect.signature(model.forward).parameters
    if "position_ids" in known:
        inputs["position_ids"] = (mask.cumsum(dim=-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    if last_only and "logits_to_keep" in known:
        inputs["logits_to_keep"] = 1
    return model(input_ids=ids, attention_mask=mask, use_cache=True, return_dict=True, **inputs)


def _log_probs(logits: Tensor, tokens: Tokens) -> list[float]:
    """Of each token, from the logits at its place."""
    log_probs = logits.float().log_softmax(dim=-1)
    return log_probs[range(len(tokens)), list(tokens)].tolist()


def _masses(written: Sequence[tuple[int, ...]], scores: Sequence[Sequence[float]]) -> dict[tuple[int, ...], float]:
    """The probability of each text and of nothing longer among them, longest first."""
    masses: dict[tuple[int, ...], float] = {}
    for tokens, score in sorted(zip(written, scores, strict=True), key=lambda pair: -len(pair[0])):
        longer = sum(mass for other, mass in masses.items() if other[: len(tokens)] == tokens)
        masses[tokens] = max(math.exp(sum(score)) - longer, 0.0)
    return masses


def _normalize(
    masses: Mapping[tuple[int, ...], float], texts: Mapping[str, Sequence[tuple[int, ...]]]
) -> dict[str, float]:
    of_label = {label: sum(masses[tokens] for tokens in set(ways)) for label, ways in texts.items()}
    whole = sum(of_label.values())
    return {label: mass / whole if whole > 0 else 1 / len(of_label) for label, mass in of_label.items()}

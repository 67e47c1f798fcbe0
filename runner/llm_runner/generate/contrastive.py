"""Contrastive search (Su et al. 2022, arXiv:2202.06417, eq. 5): the next token is, of the k likeliest, the one with the
highest (1 - alpha) * probability - alpha * greatest cosine likeness of its hidden state to an earlier token's.

Each step reads the k candidates of every row in one forward pass; the chosen one's outputs serve the next step.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import GenerationConfig, PreTrainedModel

from llm_runner.generate.rows import Rows
from llm_runner.generate.stepper import Steer, Stepper, Stop, next_token_logits


@dataclass
class _Context:
    """Directions of the hidden states of all tokens so far."""

    directions: Tensor
    """[rows, tokens, size], of length 1."""
    is_token: Tensor
    """[rows, tokens], false at padding."""

    def likeness(self, candidates: Tensor) -> Tensor:
        """The greatest cosine of each candidate [rows, k, size] to any token: [rows, k]."""
        cosines = candidates @ self.directions.mT
        return cosines.masked_fill(~self.is_token[:, None], float("-inf")).amax(dim=-1)

    def append(self, directions: Tensor) -> None:
        self.directions = torch.cat([self.directions, directions[:, None]], dim=1)
        self.is_token = torch.nn.functional.pad(self.is_token, (0, 1), value=True)


@dataclass(frozen=True)
class ContrastiveSearch:
    """A decoding method for ``generate(custom_generate=...)``."""

    rows: Rows
    pad_id: int
    alpha: float
    candidates: int
    """The k of the paper, ``top_k`` in a config; at least 2."""

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: Steer,
        stopping_criteria: Stop,
        generation_config: GenerationConfig,
        **model_inputs: Any,
    ) -> Tensor:
        """Prompts and answers, [rows, tokens], padded on the right where a row ended early."""
        k = min(self.candidates, model.config.get_text_config().vocab_size)
        stepper = Stepper(model, generation_config, model_inputs)
        outputs = stepper.read_prompts(input_ids, output_hidden_states=True)
        context = _Context(_directions(outputs), self.rows.attention_mask.to(model.device) == 1)
        logits = next_token_logits(outputs, input_ids.device)
        stepper.move_rows(torch.arange(len(input_ids), device=input_ids.device).repeat_interleave(k))
        is_done = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        while not is_done.all():
            scores = logits_processor(input_ids, logits)
            probabilities, tokens = scores.softmax(dim=-1).topk(k)
            outputs = stepper.read_last(_append_each(input_ids, tokens))
            directions = _directions(outputs)[:, -1].view(len(input_ids), k, -1)
            best = _choose(probabilities, context.likeness(directions).to(probabilities), self.alpha)
            places = torch.arange(len(best), device=best.device) * k + best
            chosen = tokens.flatten()[places].masked_fill(is_done, self.pad_id)
            input_ids = torch.cat([input_ids, chosen[:, None]], dim=1)
            is_done = is_done | stopping_criteria(input_ids, None)
            context.append(directions.flatten(0, 1)[places.to(directions.device)])
            logits = next_token_logits(outputs, input_ids.device)[places]
            stepper.move_rows(places.repeat_interleave(k))
        return input_ids


def _directions(outputs: Any) -> Tensor:
    """Of the last layer's hidden states, [rows, tokens, size]."""
    return normalize(outputs.hidden_states[-1].float(), dim=-1)


def _append_each(input_ids: Tensor, tokens: Tensor) -> Tensor:
    """[rows, tokens] and [rows, k] as [rows * k, tokens + 1]."""
    return torch.cat([input_ids.repeat_interleave(tokens.shape[1], dim=0), tokens.reshape(-1, 1)], dim=1)


def _choose(probabilities: Tensor, likeness: Tensor, alpha: float) -> Tensor:
    """The place of each row's best candidate. One without probability is banned, however unlike the others it is."""
    scores = (1 - alpha) * probabilities - alpha * likeness
    return scores.masked_fill(probabilities == 0, float("-inf")).argmax(dim=-1)

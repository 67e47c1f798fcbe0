"""Classifier-free guidance (``guidance_scale``; Sanchez et al. 2023, arXiv:2306.17806): the answer is pushed away from
what the model would say without the prompt.

Works for any search: the library's own mixes beams up, since its cache isn't told when they change places.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel

from llm_runner.generate.rows import Rows


class Guidance(LogitsProcessor):
    """Log-probabilities u + scale * (c - u), where c has seen the prompt and u only its last token."""

    def __init__(self, model: PreTrainedModel, rows: Rows, scale: float) -> None:
        self._model = model
        self._rows = rows
        self._scale = scale
        self._cache: Any = None
        self._seen: dict[tuple[int, ...], int] = {}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        guided = scores.log_softmax(dim=-1)
        unguided = self._without_prompt(input_ids).to(scores).log_softmax(dim=-1)
        return unguided + self._scale * (guided - unguided)

    def _without_prompt(self, input_ids: Tensor) -> Tensor:
        """Logits [rows, vocabulary] of what follows the prompt's last token and the answer so far."""
        answers = input_ids[:, self._rows.width - 1 :]
        places = self._places_in_cache(answers[:, :-1].tolist())
        if places is None:
            self._cache, unread = None, answers
        else:
            self._cache.reorder_cache(torch.tensor(places, device=answers.device))
            unread = answers[:, -1:]
        outputs = self._model(
            unread.to(self._model.device), past_key_values=self._cache, use_cache=True, return_dict=True
        )
        self._cache = outputs.past_key_values
        self._seen = {tuple(row): place for place, row in enumerate(answers.tolist())}
        return outputs.logits[:, -1]  # type: ignore[no-any-return]

    def _places_in_cache(self, rows: Sequence[Sequence[int]]) -> list[int] | None:
        """Where each row was read up to here; None if one wasn't. Rows that read the same are the same to the model."""
        places = [self._seen.get(tuple(row)) for row in rows]
        return None if self._cache is None or None in places else [place for place in places if place is not None]

"""Steps the model through the beam searches of a batch of prompts. What the beams are is decided in ``beams``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from llm_runner.errors import ConfigInvalid
from llm_runner.generate.beams import BeamSettings, PromptSearch
from llm_runner.generate.rows import Rows
from llm_runner.generate.stepper import Steer, Stepper, Stop, next_token_logits


@dataclass(frozen=True)
class BeamSearch:
    """A decoding method for ``generate(custom_generate=...)``, which gives it each prompt once for each beam."""

    rows: Rows
    settings: BeamSettings
    mends_logits: bool = False
    """``remove_invalid_values``: before the softmax, which a single value that is no number would spoil."""

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: Steer,
        stopping_criteria: Stop,
        generation_config: GenerationConfig,
        **model_inputs: Any,
    ) -> Tensor:
        """The best answers of each prompt with it, [prompts * num_return_sequences, tokens], padded on the right."""
        searches = self._build_searches(input_ids.device)
        stepper = Stepper(model, generation_config, model_inputs)
        outputs = stepper.read_prompts(input_ids)
        while True:
            self._advance(searches, input_ids, self._log_probs(outputs, input_ids.device), logits_processor)
            places, tokens = _places(searches, self.settings.beams, input_ids.device)
            input_ids = torch.cat([input_ids[places], tokens[:, None]], dim=1)
            if stopping_criteria(input_ids, None).all():
                break
            if all(search.is_done for search in searches):
                break
            stepper.move_rows(places)
            outputs = stepper.read_last(input_ids)
        return self._collect(searches, generation_config.num_return_sequences or 1)

    def _build_searches(self, device: torch.device) -> list[PromptSearch]:
        return [
            PromptSearch(
                self.settings,
                plan.most_new_tokens,
                torch.Generator(device).manual_seed(plan.seed) if self.settings.samples else None,
            )
            for plan in self.rows.plans
        ]

    def _advance(self, searches: Sequence[PromptSearch], input_ids: Tensor, log_probs: Tensor, steer: Steer) -> None:
        steered = steer(input_ids, log_probs).split(self.settings.beams)
        for search, of_prompt, plain in zip(searches, steered, log_probs.split(self.settings.beams), strict=True):
            search.advance(of_prompt, plain)

    def _log_probs(self, outputs: Any, device: torch.device) -> Tensor:
        logits = next_token_logits(outputs, device)
        return (logits.nan_to_num(nan=0.0) if self.mends_logits else logits).log_softmax(dim=-1)

    def _collect(self, searches: Sequence[PromptSearch], count: int) -> Tensor:
        answers = [self._answers(search, count) for search in searches]
        longest = max(len(tokens) for of_prompt in answers for tokens in of_prompt)
        prompts = self.rows.input_ids.tolist()
        return torch.tensor(
            [
                [*prompt, *tokens, *[self.settings.pad_id] * (longest - len(tokens))]
                for prompt, of_prompt in zip(prompts, answers, strict=True)
                for tokens in of_prompt
            ],
            device=self.rows.input_ids.device,
        )

    def _answers(self, search: PromptSearch, count: int) -> list[tuple[int, ...]]:
        search.close()
        found = [tokens for _, tokens in search.best(count)]
        if not found:
            raise ConfigInvalid(
                "generation: no answer meets all of it at once; look whether forced_decoder_ids leaves room for each "
                "of force_words_ids"
            )
        return found + [found[-1]] * (count - len(found))


def _places(searches: Sequence[PromptSearch], beams: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each row of the batch, the row that it goes on from, and its new token."""
    places, tokens = [], []
    for index, search in enumerate(searches):
        of_prompt, new = search.places()
        places += [index * beams + place for place in of_prompt]
        tokens += new
    return torch.tensor(places, device=device), torch.tensor(tokens, device=device)

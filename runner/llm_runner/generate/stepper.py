"""Steps a model through a search that moves its rows about: the cache, mask and positions follow them.

Takes over where ``generate`` has prepared its inputs. Chooses no tokens.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

Steer = Callable[[Tensor, Tensor], Tensor]
"""Token ids so far and scores of the next token to scores: a list of logits processors."""
Stop = Callable[[Tensor, None], Tensor]
"""Token ids so far to whether each row has ended: a list of stopping criteria."""

ROW_INPUTS = ("attention_mask", "position_ids", "token_type_ids")


class Stepper:
    """One search over one batch."""

    def __init__(self, model: PreTrainedModel, config: GenerationConfig, inputs: dict[str, Any]) -> None:
        """``inputs`` are what ``generate`` hands to a decoding method for the model's own forward."""
        self._model: Any = model
        self._config = config
        self._inputs = inputs

    def read_prompts(self, input_ids: Tensor, **wanted: Any) -> Any:
        """The model's outputs for the prompts; ``wanted`` as in ``output_hidden_states=True``, for all steps."""
        self._inputs = self._inputs | wanted
        return self._keep(self._model._prefill(input_ids, self._config, self._inputs))

    def read_last(self, input_ids: Tensor) -> Any:
        """The model's outputs for the last of ``input_ids``, which hold all tokens up to it."""
        last = 1 if self._inputs["use_cache"] else None
        inputs = self._model.prepare_inputs_for_generation(input_ids, next_sequence_length=last, **self._inputs)
        return self._keep(self._model(**inputs, return_dict=True))

    def move_rows(self, places: Tensor) -> None:
        """Row i goes on from what row ``places[i]`` was; there may be more rows or fewer than before."""
        for name in ROW_INPUTS:
            if self._inputs.get(name) is not None:
                self._inputs[name] = self._inputs[name].index_select(0, places.to(self._inputs[name].device))
        cache = self._inputs.get("past_key_values")
        if cache is not None:
            cache.reorder_cache(places)

    def _keep(self, outputs: Any) -> Any:
        self._inputs = self._model._update_model_kwargs_for_generation(outputs, self._inputs)
        return outputs


def next_token_logits(outputs: Any, device: torch.device) -> Tensor:
    """[rows, vocabulary] in float32, as a copy that doesn't hold the outputs."""
    return outputs.logits[:, -1].to(device=device, dtype=torch.float32, copy=True)  # type: ignore[no-any-return]

"""EVA: LoRA updates that start along what the training rows do most in each layer, with more rank where that is more.

Paischer et al. 2024 (arXiv:2410.07170), by PEFT's own incremental decomposition of the layers' inputs. Here is which
rows it sees, and how: end to end as they are trained, so that no padding is among the inputs, and of the answers'
tokens only unless the config says otherwise. What results is a plain LoRA with ranks of its own for each layer.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from llm_api.config import LoraAdapter
from peft import PeftModel, get_eva_state_dict, initialize_lora_eva_weights
from torch import Tensor, nn
from transformers import PreTrainedModel

from llm_runner.data.tokens import TokenizedRows
from llm_runner.errors import ConfigInvalid
from llm_runner.model.silence import peft_silenced
from llm_runner.train.batch import Row, flatten, pad
from llm_runner.train.forward import FlatForward, choose_forward

TOKENS_PER_BATCH, MOST_TOKENS = 1024, 16384
"""Of a pass as it should be, and where its rows have few positions that count."""
MOST_BATCHES = 512
"""After so many of them it is said that a start was not found."""
IGNORED = -100
_ADAPTER = "default"


def start_by_eva(model: PeftModel, adapter: LoraAdapter, rows: TokenizedRows) -> None:
    """Sets the first matrices and the ranks of every update; the model's outputs stay as they are.

    Raises:
        ConfigInvalid: there are too few tokens for that rank, or the directions don't settle.
    """
    base: Any = model.get_base_model()
    least = _positions_needed(adapter)
    batches = list(group_rows(rows, least, adapter.effective_eva.use_label_mask))
    own_attention = base.config._attn_implementation
    is_flat = isinstance(choose_forward(base)[0], FlatForward)
    loader = [_to_inputs(batch, base.device, is_flat=is_flat) for batch in batches]
    with peft_silenced():
        try:
            found = get_eva_state_dict(model, loader, forward_fn=_CountedForward(base), show_progress_bar=False)
        except ValueError as error:
            if "n_components" not in str(error):
                raise
            raise ConfigInvalid(
                f"adapter.r: EVA looks for up to {least} directions in a layer's inputs, and one has fewer; write a "
                "smaller r or eva_config.rho"
            ) from error
        initialize_lora_eva_weights(model, eva_state_dict=dict(found))
    base.set_attn_implementation(own_attention)
    _hold_in_float32(model, found)
    # What it is from now on.
    config: Any = model.peft_config[_ADAPTER]
    config.init_lora_weights, config.eva_config = True, None


def group_rows(rows: TokenizedRows, least: int, answers_only: bool) -> Iterator[list[Row]]:
    """Rows in a drawn order, in groups of about ``TOKENS_PER_BATCH`` with ``least`` positions that count or more."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    group: list[Row] = []
    tokens = positions = groups = 0
    for index in order:
        row = rows.example(index)
        group.append(row)
        tokens += len(row.token_ids)
        positions += len(row.token_ids) - (row.prompt_length if answers_only else 0)
        if tokens > MOST_TOKENS and positions < least:
            raise ConfigInvalid(
                f"adapter.eva_config.use_label_mask: EVA needs {least} tokens of answers at once with this r and rho, "
                f"and they come with more than {MOST_TOKENS} of prompts; write false, or a smaller r"
            )
        if tokens >= TOKENS_PER_BATCH and positions >= least:
            yield group
            group, tokens, positions, groups = [], 0, 0, groups + 1
        if groups == MOST_BATCHES:
            return
    if positions >= least:
        yield group
    elif groups == 0:
        raise ConfigInvalid(
            f"adapter.init_lora_weights: eva needs {least} tokens to look at with this r and eva_config.rho, and the "
            f"training rows have {positions}; write a smaller r, or leave it out"
        )


def _positions_needed(adapter: LoraAdapter) -> int:
    """As many as directions are looked for, which PEFT's decomposition can't do with."""
    ranks = [adapter.r, *(adapter.rank_pattern or {}).values()]
    return round(max(ranks) * adapter.effective_eva.rho)


def _to_inputs(rows: Sequence[Row], device: torch.device, *, is_flat: bool) -> dict[str, Tensor]:
    """As PEFT's functions for language models read them: what has a label, and isn't padding, is looked at."""
    if is_flat:
        flat = flatten(rows, device)
        labels = torch.cat([_labels(row) for row in rows])[None].to(device)
        lengths = torch.tensor(flat.sequence_lengths)
        return {
            "input_ids": flat.input_ids,
            "position_ids": flat.position_ids,
            "sequence_lengths": lengths,
            "labels": labels,
        }
    padded = pad(rows, device)
    labels = torch.full_like(padded.input_ids, IGNORED)
    for number, row in enumerate(rows):
        labels[number, : len(row.token_ids)] = _labels(row).to(device)
    return {"input_ids": padded.input_ids, "attention_mask": padded.attention_mask, "labels": labels}


def _labels(row: Row) -> Tensor:
    labels = torch.from_numpy(row.token_ids.astype("int64"))
    labels[: row.prompt_length] = IGNORED
    return labels


@dataclass
class _CountedForward:
    """A forward pass without the head, unless that is adapted too."""

    model: PreTrainedModel
    done: int = 0

    def __call__(self, _: PeftModel, inputs: Mapping[str, Tensor]) -> None:
        self.done += 1
        if self.done > MOST_BATCHES:
            raise ConfigInvalid(
                f"adapter.eva_config.tau: the directions have not settled after {MOST_BATCHES} batches; write a "
                "smaller tau, or a smaller r or rho"
            )
        own: dict[str, Any] = {key: value for key, value in inputs.items() if key != "labels"}
        if "sequence_lengths" in own:
            own["sequence_lengths"] = own["sequence_lengths"].tolist()
        hidden = self.model.get_decoder()(**own, use_cache=False).last_hidden_state
        head = self.model.get_output_embeddings()
        if not isinstance(head, nn.Linear):
            head(hidden)


@torch.no_grad()
def _hold_in_float32(model: PeftModel, found: Mapping[str, Tensor]) -> None:
    """A rank that has changed has made new matrices, in the type of the base."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    for name, directions in found.items():
        # A layer that was left no rank is the base's own again.
        if directions.shape[0] > 0:
            layer: Any = model.get_submodule(name)
            layer.lora_A[_ADAPTER].weight.copy_(directions)

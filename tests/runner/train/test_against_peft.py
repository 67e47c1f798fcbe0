"""Several steps of ours and of plain PEFT with torch's own optimizer, padded, end at the same losses and weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from llm_api.config import (
    AdaLoraAdapter,
    BoftAdapter,
    Ia3Adapter,
    LohaAdapter,
    LokrAdapter,
    LoraAdapter,
    OftAdapter,
    VeraAdapter,
)
from llm_runner.model.adapter import Adapter, add_adapter
from llm_runner.model.load import load_base
from llm_runner.train.allocator import build_allocator
from llm_runner.train.batch import pad
from llm_runner.train.forward import FlatForward, choose_forward
from llm_runner.train.learner import Clipping, Learner
from llm_runner.train.lora import fuse_lora
from peft import PeftModel

from tests.support.models import gpt2_config, llama_config, neox_config, save_model
from tests.support.rows import random_rows
from tests.support.smollm2 import smollm2_path

STEPS, RATE = 6, 0.01
CONFIGS = {
    "llama": llama_config(),
    "gpt2": gpt2_config(attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0),
    "neox": neox_config(),
    "mistral": llama_config(sliding_window=8),
}
LORA = LoraAdapter(type="lora", r=4, dropout=0.0)
ADAPTERS: dict[str, Adapter] = {
    "lora": LORA,
    "rslora": LORA.model_copy(update={"use_rslora": True}),
    "dora": LORA.model_copy(update={"use_dora": True}),
    "biases": LORA.model_copy(update={"bias_type": "all"}),
    "adalora": AdaLoraAdapter(type="adalora", init_r=6, target_r=2, dropout=0.0),
    "ia3": Ia3Adapter(type="ia3"),
    "vera": VeraAdapter(type="vera", r=16),
    "loha": LohaAdapter(type="loha", r=4),
    "lokr": LokrAdapter(type="lokr", r=2),
    "oft": OftAdapter(type="oft", oft_block_size=8),
    "coft": OftAdapter(type="oft", r=4, coft=True, eps=0.05),
    "boft": BoftAdapter(type="boft", boft_dropout=0),
}
PLAIN = ("loha", "lokr", "oft", "coft", "boft")
"""Types that go into plain linear layers only, which GPT-2's are not."""


def batches(vocabulary: int = 250, count: int = STEPS) -> list[Any]:
    return [random_rows(5, seed=step, vocabulary=vocabulary).rows for step in range(count)]


def plain_steps(model: PeftModel, rows_of_steps: list[Any]) -> list[float]:
    """The textbook's loop: PEFT's own forward pass over padded rows with labels, and torch's optimizer."""
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer, losses = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0), []
    model.train()
    for step, rows in enumerate(rows_of_steps):
        batch = pad(rows, torch.device("cpu"))
        labels = torch.full_like(batch.input_ids, -100)
        shifted = labels[:, 1:]
        shifted[batch.predicting[:, :-1]] = batch.targets
        loss = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.5)
        optimizer.step()
        if hasattr(model.base_model, "update_and_allocate"):
            model.base_model.update_and_allocate(step + 1)
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def our_steps(model: PeftModel, rows_of_steps: list[Any]) -> list[float]:
    base: Any = model.get_base_model()
    fuse_lora(model)
    forward, reason = choose_forward(base)
    assert isinstance(forward, FlatForward), reason
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
    learner = Learner(base, forward, optimizer, 64, Clipping(global_norm=0.5), build_allocator(model))
    return [learner.take_step(rows, RATE, step).loss for step, rows in enumerate(rows_of_steps)]


def trained_weights(model: PeftModel) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}


def build(path: Path, adapter: Adapter) -> PeftModel:
    torch.manual_seed(0)
    return add_adapter(load_base(path, dtype=torch.float32), adapter, STEPS)


def adalora_penalty(model: PeftModel) -> float:
    """PEFT counts the orthogonality penalty as loss; what is trained on is the same, but ours reports the data's."""
    allocator = build_allocator(model)
    penalty = None if allocator is None else allocator.penalty()
    return 0.0 if penalty is None else penalty.item()


@pytest.mark.proves("adapter.type")
@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in CONFIGS for name in ADAPTERS if kind != "gpt2" or name not in PLAIN],
)
def test_each_steps_loss_and_the_weights_after_are_those_of_plain_peft(kind: str, name: str, tmp_path: Path) -> None:
    path, adapter = save_model(tmp_path, CONFIGS[kind]), ADAPTERS[name]
    plain, ours = build(path, adapter), build(path, adapter)
    if name == "adalora":
        # The penalty is in PEFT's loss; it must be in the comparison's gradients, and not in its figures.
        first = plain_steps(plain, batches())[0] - adalora_penalty(build(path, adapter))
        found = our_steps(ours, batches())
        assert found[0] == pytest.approx(first, abs=1e-3)
    else:
        assert our_steps(ours, batches()) == pytest.approx(plain_steps(plain, batches()), abs=1e-3)
    torch.testing.assert_close(trained_weights(ours), trained_weights(plain), rtol=1e-3, atol=2e-4)


def test_the_real_small_model_takes_the_same_steps() -> None:
    rows = [rows[:3] for rows in batches(vocabulary=40_000, count=3)]
    losses = [steps(build(smollm2_path(), LORA), rows) for steps in (our_steps, plain_steps)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    assert losses[0][0] != pytest.approx(losses[0][2], abs=1e-3)

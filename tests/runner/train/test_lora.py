"""The fused LoRA pass is PEFT's own: outputs, gradients, dropout's statistics, and what is left to PEFT."""

from typing import Any

import pytest
import torch
from llm_runner.model.silence import peft_silenced
from llm_runner.train.lora import fuse_lora, unfuse_lora
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils.warning import PeftWarning

from tests.support.models import build_model, llama_config

IDS = torch.randint(2, 250, (1, 24), generator=torch.Generator().manual_seed(3))


def build_lora(**options: Any) -> PeftModel:
    """A tiny model whose adapter already does something."""
    given = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"], "lora_dropout": 0.0}
    with peft_silenced():
        model = get_peft_model(build_model(llama_config()), LoraConfig(**{**given, **options}))
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def loss_and_gradients(model: PeftModel, dtype: torch.dtype | None = None) -> tuple[torch.Tensor, list[torch.Tensor]]:
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        loss = model(input_ids=IDS, labels=IDS).loss
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return loss.detach(), list(torch.autograd.grad(loss, trained))


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"rank_pattern": {"down_proj": 2}}])
def test_outputs_and_gradients_are_pefts(options: dict[str, Any]) -> None:
    model = build_lora(**options)
    expected = loss_and_gradients(model)
    assert fuse_lora(model) == 6
    torch.testing.assert_close(loss_and_gradients(model), expected)


def test_under_autocast_it_is_near_what_peft_computes() -> None:
    model = build_lora(lora_dropout=0.0)
    expected_loss, expected = loss_and_gradients(model, torch.bfloat16)
    fuse_lora(model)
    loss, found = loss_and_gradients(model, torch.bfloat16)
    torch.testing.assert_close(loss, expected_loss, rtol=2e-3, atol=0.0)
    largest = max(float(gradient.abs().max()) for gradient in expected)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=0.05 * largest)


def single_layer(dropout: float) -> Any:
    model = build_lora(lora_dropout=dropout, target_modules=["q_proj"])
    fuse_lora(model)
    return next(module for module in model.modules() if isinstance(module, LoraLayer))


def test_dropout_keeps_each_input_with_its_probability_and_scales_what_is_left() -> None:
    layer, x = single_layer(0.25), torch.randn(1, 400, 32)
    update = layer(x) - layer.base_layer(x)
    layer.eval()
    whole = layer(x) - layer.base_layer(x)
    assert not torch.allclose(update, whole)
    with torch.no_grad():
        updates = torch.stack([layer.train()(x) - layer.base_layer(x) for _ in range(400)])
    torch.testing.assert_close(updates.mean(0), whole, rtol=0, atol=float(5 * updates.std(0).max() / 20))


def test_backward_sees_the_same_dropout_mask_as_forward() -> None:
    """The numerical derivative along A, with the mask held by the seed, is what backward gives."""
    layer, x = single_layer(0.5), torch.randn(1, 10, 32)
    weight = layer.lora_A["default"].weight

    def total() -> torch.Tensor:
        torch.manual_seed(11)
        return layer(x).double().square().sum()

    (gradient,) = torch.autograd.grad(total(), [weight])
    direction, step = torch.randn_like(weight), 1e-3
    with torch.no_grad():
        weight += step * direction
        above = total()
        weight -= 2 * step * direction
        below = total()
    torch.testing.assert_close((gradient * direction).sum().double(), (above - below) / (2 * step), rtol=2e-3, atol=0)


def test_dropout_is_off_while_the_model_is_evaluated() -> None:
    model = build_lora(lora_dropout=0.5)
    fuse_lora(model)
    with torch.no_grad():
        logits = [model.eval()(input_ids=IDS).logits for _ in range(2)]
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0)


def test_variants_stay_pefts() -> None:
    assert fuse_lora(build_lora(use_dora=True)) == 0
    with pytest.warns(PeftWarning, match="lora_bias"):
        biased = build_lora(lora_bias=True)
    assert fuse_lora(biased) == 0


def test_an_adapter_that_is_switched_off_is_off() -> None:
    model = build_lora()
    fuse_lora(model)
    with torch.no_grad(), model.disable_adapter():
        off = model(input_ids=IDS).logits
        base = build_model(llama_config())(input_ids=IDS).logits
    torch.testing.assert_close(off, base)


def test_unfusing_gives_every_layer_its_own_pass_back() -> None:
    model = build_lora()
    fuse_lora(model)
    unfuse_lora(model)
    assert not any("forward" in module.__dict__ for module in model.modules() if isinstance(module, LoraLayer))


def test_nothing_but_a_bool_mask_is_kept_beside_the_input() -> None:
    layer, x = single_layer(0.1), torch.randn(1, 100, 32, requires_grad=True)
    kept: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer(x)
    whole = [tensor for tensor in kept if tensor.numel() == x.numel()]
    assert sorted(str(tensor.dtype) for tensor in whole if tensor.data_ptr() != x.data_ptr()) == ["torch.bool"]

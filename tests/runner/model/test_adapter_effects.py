"""What each key of an adapter does to a real model's layers, by the papers' own formulas."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_api.config import AdaLoraAdapter, Ia3Adapter, LoraAdapter
from llm_runner.errors import ConfigInvalid
from llm_runner.model.adapter import add_adapter
from llm_runner.model.load import load_base, load_tokenizer
from llm_runner.model.save import BaseName, save_adapter, save_merged
from peft import PeftModel
from peft.tuners.ia3 import IA3Layer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from tests.support.models import SIZES, build_model, llama_config

# PEFT asks transformers by a deprecated name whether gradients are checkpointed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

STEPS = 50
KINDS: dict[str, Any] = {"lora": LoraAdapter, "adalora": AdaLoraAdapter, "ia3": Ia3Adapter}
low_rank = pytest.mark.parametrize("kind", ["lora", "adalora"])


def adapted(path: Path, kind: str, **keys: Any) -> PeftModel:
    adapter = KINDS[kind].model_validate({"type": kind, **keys})
    torch.manual_seed(3)
    return add_adapter(load_base(path, dtype=torch.float32), adapter, STEPS)


def layers_of(model: PeftModel) -> dict[str, Any]:
    """Adapted layers by the end of their paths, as in layers.0.self_attn.q_proj."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    return {re.sub(r"^.*?(layers|h)\.", r"\1.", name): module for name, module in found.items()}


def shaken(model: PeftModel) -> PeftModel:
    """Every trained number is moved, so that the adapter does something."""
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def weights_of(layer: Any) -> tuple[Tensor, Tensor]:
    return layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()


def inputs_of(layer: Any) -> Tensor:
    return torch.randn(7, layer.in_features, generator=torch.Generator().manual_seed(2))


LORA_SCALES: list[tuple[dict[str, Any], Mapping[str, tuple[int, float]]]] = [
    ({}, {".*": (8, 16 / 8)}),
    ({"r": 4}, {".*": (4, 8 / 4)}),
    ({"r": 4, "alpha": 6}, {".*": (4, 6 / 4)}),
    ({"r": 4, "alpha": 6, "use_rslora": True}, {".*": (4, 6 / math.sqrt(4))}),
    ({"r": 4, "rank_pattern": {"v_proj": 2}}, {".*q_proj": (4, 8 / 4), ".*v_proj": (2, 8 / 2)}),
    ({"r": 4, "rank_pattern": {r".*\.0\..*": 3}}, {r".*\.0\..*": (3, 8 / 3), r".*\.1\..*": (4, 8 / 4)}),
    ({"r": 4, "alpha_pattern": {"q_proj": 1}}, {".*q_proj": (4, 1 / 4), ".*v_proj": (4, 8 / 4)}),
]


@pytest.mark.proves("adapter.r[lora]", "adapter.alpha[lora]", "adapter.use_rslora[lora]")
@pytest.mark.proves("adapter.rank_pattern[lora]", "adapter.alpha_pattern")
@pytest.mark.parametrize(("keys", "expected"), LORA_SCALES, ids=lambda value: str(value))
def test_a_layers_update_has_the_rank_and_scale_that_are_written(
    keys: dict[str, Any], expected: Mapping[str, tuple[int, float]], llama_path: Path
) -> None:
    layers = layers_of(shaken(adapted(llama_path, "lora", **keys)))
    assert len(layers) == 4
    for name, layer in layers.items():
        rank, scale = next(value for pattern, value in expected.items() if re.fullmatch(pattern, name))
        (a, b), x = weights_of(layer), inputs_of(layer)
        assert a.shape[0] == rank
        torch.testing.assert_close(layer(x), layer.base_layer(x) + scale * x @ a.T @ b.T)


ADALORA_SCALES: list[tuple[dict[str, Any], float]] = [
    ({}, 16 / 12),
    ({"r": 3}, 6 / 12),
    ({"alpha": 5}, 5 / 12),
    ({"init_r": 9}, 16 / 9),
    ({"init_r": 9, "alpha": 5, "use_rslora": True}, 5 / math.sqrt(9)),
]


@pytest.mark.proves("adapter.r[adalora]", "adapter.alpha[adalora]", "adapter.init_r", "adapter.use_rslora[adalora]")
@pytest.mark.parametrize(("keys", "scale"), ADALORA_SCALES, ids=lambda value: str(value))
def test_adalora_scales_by_alpha_over_the_rank_that_it_starts_with_or_over_its_root(
    keys: dict[str, Any], scale: float, llama_path: Path
) -> None:
    rank = keys.get("init_r", 12)
    for layer in layers_of(shaken(adapted(llama_path, "adalora", **keys))).values():
        a, b, values, x = layer.lora_A["default"], layer.lora_B["default"], layer.lora_E["default"], inputs_of(layer)
        assert a.shape[0] == rank
        torch.testing.assert_close(layer(x), layer.base_layer(x) + scale * x @ (a * values).T @ b.T)


@pytest.mark.proves("adapter.dropout")
@low_rank
def test_dropout_zeroes_its_share_of_the_inputs_while_training_only(kind: str, llama_path: Path) -> None:
    layer = next(iter(layers_of(shaken(adapted(llama_path, kind, dropout=0.25))).values()))
    x = torch.ones(200, layer.in_features)
    kept = layer.train().lora_dropout["default"](x)
    assert float((kept == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert kept.unique().tolist() == pytest.approx([0, 4 / 3])
    assert not torch.equal(layer(x), layer.eval()(x))
    without = next(iter(layers_of(shaken(adapted(llama_path, kind, dropout=0))).values()))
    torch.testing.assert_close(without.train()(x), without.eval()(x))


@pytest.mark.proves("adapter.bias_type")
@low_rank
@pytest.mark.parametrize("bias_type", ["none", "all", "lora_only"])
def test_biases_are_trained_of_no_layer_of_all_or_of_adapted_ones(bias_type: str, kind: str, gpt2_path: Path) -> None:
    model = adapted(gpt2_path, kind, bias_type=bias_type)
    biases = {name: value for name, value in model.named_parameters() if name.endswith("bias")}
    trained = {name for name, value in biases.items() if value.requires_grad}
    adapted_ones = {name for name in biases if "c_attn" in name}
    assert trained == {"none": set(), "all": set(biases), "lora_only": adapted_ones}[bias_type]
    assert 0 < len(adapted_ones) < len(biases)


ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")


@pytest.mark.proves("adapter.target_modules[lora, adalora]")
@low_rank
@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (None, {f"layers.{layer}.self_attn.{name}" for layer in (0, 1) for name in ("q_proj", "v_proj")}),
        (["o_proj", "up_proj"], {f"layers.{n}.{one}" for n in (0, 1) for one in ("self_attn.o_proj", "mlp.up_proj")}),
        (r".*\.1\..*(k_proj|down_proj)", {"layers.1.self_attn.k_proj", "layers.1.mlp.down_proj"}),
        (
            "all-linear",
            {f"layers.{n}.self_attn.{one}" for n in (0, 1) for one in ATTENTION}
            | {f"layers.{n}.mlp.{one}" for n in (0, 1) for one in MLP},
        ),
    ],
    ids=["unwritten", "names", "regex", "all-linear"],
)
def test_exactly_the_layers_that_are_meant_get_an_update(
    targets: Any, expected: set[str], kind: str, llama_path: Path
) -> None:
    assert set(layers_of(adapted(llama_path, kind, target_modules=targets))) == expected


@pytest.mark.proves("adapter.use_dora[lora]")
def test_dora_trains_a_magnitude_beside_the_direction(llama_path: Path) -> None:
    """Equation 5 of the paper: the sum of weight and update, column by column of length one, times the magnitude."""
    for layer in layers_of(shaken(adapted(llama_path, "lora", r=4, use_dora=True))).values():
        (a, b), x = weights_of(layer), inputs_of(layer)
        magnitude = layer.lora_magnitude_vector["default"].weight
        whole = layer.base_layer.weight + 2 * b @ a
        direction = whole / whole.norm(dim=1, keepdim=True)
        assert magnitude.requires_grad
        torch.testing.assert_close(layer(x), x @ (magnitude[:, None] * direction).T, rtol=1e-4, atol=1e-5)


@pytest.mark.proves("adapter.init_lora_weights")
def test_each_start_draws_its_own_matrices_and_none_changes_the_model(llama_path: Path) -> None:
    bound = 1 / math.sqrt(SIZES["hidden_size"])
    for kind in ("default", "gaussian", "orthogonal"):
        layers = layers_of(adapted(llama_path, "lora", r=4, target_modules="all-linear", init_lora_weights=kind))
        pairs = [weights_of(layer) for layer in layers.values()]
        assert all(float((b @ a).abs().max()) < 1e-6 for a, b in pairs)
        drawn = torch.cat([a.flatten() for a, _ in pairs])
        if kind == "default":
            assert 0.95 * bound < float(drawn.abs().max()) <= bound
        if kind == "gaussian":
            assert float(drawn.std()) == pytest.approx(1 / 4, rel=0.05)
        assert all(bool(b.any()) == (kind == "orthogonal") for _, b in pairs)


def test_an_orthogonal_start_of_an_odd_rank_is_refused(llama_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"adapter\.init_lora_weights: .*even, got 3"):
        adapted(llama_path, "lora", r=3, init_lora_weights="orthogonal")


@pytest.mark.proves("adapter.target_modules[ia3]", "adapter.feedforward_modules")
@pytest.mark.parametrize(
    ("keys", "outputs", "inputs"),
    [
        ({}, {"k_proj", "v_proj"}, {"down_proj"}),
        ({"target_modules": ["q_proj", "up_proj"]}, {"q_proj", "up_proj"}, set()),
        ({"target_modules": ["q_proj", "up_proj"], "feedforward_modules": ["up_proj"]}, {"q_proj"}, {"up_proj"}),
        ({"target_modules": r".*\.1\.mlp\.(up|down)_proj"}, {"up_proj"}, {"down_proj"}),
    ],
    ids=["unwritten", "targets", "feedforward", "regex"],
)
def test_ia3_scales_inputs_of_feedforward_modules_and_outputs_of_other_targets(
    keys: dict[str, Any], outputs: set[str], inputs: set[str], llama_path: Path
) -> None:
    layers = layers_of(shaken(adapted(llama_path, "ia3", **keys)))
    assert {name.rpartition(".")[2] for name in layers} == outputs | inputs
    for name, layer in layers.items():
        vector, x = layer.ia3_l["default"].flatten(), inputs_of(layer)
        by_input = name.rpartition(".")[2] in inputs
        expected = layer.base_layer(x * vector) if by_input else layer.base_layer(x) * vector
        torch.testing.assert_close(layer(x), expected)


@pytest.mark.proves("adapter.modules_to_save")
def test_further_modules_are_trained_whole_and_stored_with_the_adapter(llama_path: Path, tmp_path: Path) -> None:
    model = shaken(adapted(llama_path, "ia3", modules_to_save=["lm_head"]))
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad and "lm_head" in name}
    assert [tuple(value.shape) for value in trained.values()] == [(llama_config().vocab_size, SIZES["hidden_size"])]
    save_adapter(model, tmp_path, base=BaseName("acme/base"), tokenizer=load_tokenizer(llama_path))
    again = PeftModel.from_pretrained(load_base(llama_path, dtype=torch.float32), str(tmp_path))
    ids = torch.arange(2, 30)[None]
    torch.testing.assert_close(again(input_ids=ids).logits, model(input_ids=ids).logits)
    assert not torch.allclose(model(input_ids=ids).logits, adapted(llama_path, "ia3")(input_ids=ids).logits, atol=1e-2)


@pytest.mark.proves("adapter.init_ia3_weights")
def test_vectors_start_at_one_or_are_drawn(llama_path: Path) -> None:
    for starts_at_one in (True, False):
        model = adapted(llama_path, "ia3", init_ia3_weights=starts_at_one)
        vectors = torch.cat([m.ia3_l["default"].flatten() for m in model.modules() if isinstance(m, IA3Layer)])
        assert bool((vectors == 1).all()) is starts_at_one
    assert float(vectors.detach().std()) == pytest.approx(1, abs=0.2)


@pytest.mark.proves("adapter.total_step")
def test_adalora_plans_for_the_steps_that_are_written_or_else_for_the_runs() -> None:
    """Equation 12 of the paper: the budget falls along a cube from the first step to the last that is planned."""
    for written, planned in ((20, 20), (None, STEPS)):
        adapter = AdaLoraAdapter(type="adalora", init_r=8, target_r=2, tinit=2, tfinal=3, total_step=written)
        model = add_adapter(build_model(llama_config()), adapter, STEPS)
        layers, plan = len(layers_of(model)), model.base_model.rankallocator  # type: ignore[union-attr]
        for step in (3, 7, 11, 14):
            left = 1 - (step - 2) / (planned - 3 - 2)
            assert plan.budget_schedule(step)[0] == int(layers * (2 + (8 - 2) * left**3))


@pytest.mark.proves("adapter.postprocessor.progressbar")
def test_merging_shows_how_far_it_is_where_asked(
    llama_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = load_tokenizer(llama_path)
    save_adapter(adapted(llama_path, "lora"), tmp_path / "a", base=BaseName("acme/base"), tokenizer=tokenizer)
    shown = []
    for progressbar in (True, False):
        capsys.readouterr()
        save_merged(llama_path, tmp_path / "a", tmp_path / "m", tokenizer=tokenizer, progressbar=progressbar)
        shown.append("Unloading and merging model" in capsys.readouterr().err)
    assert shown == [True, False]


@pytest.mark.proves("adapter.pretrained_adapter_weights[ia3]")
def test_ia3_goes_on_from_stored_vectors(llama_path: Path, tmp_path: Path, token_ids: Tensor) -> None:
    before = shaken(adapted(llama_path, "ia3"))
    save_adapter(before, tmp_path, base=BaseName("acme/base"), tokenizer=load_tokenizer(llama_path))
    after = adapted(llama_path, "ia3", pretrained_adapter_weights=str(tmp_path)).eval()
    torch.testing.assert_close(after(input_ids=token_ids).logits, before(input_ids=token_ids).logits)
    assert any(value.requires_grad for value in after.parameters())

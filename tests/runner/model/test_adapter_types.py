"""VeRA, LoHa, LoKr, OFT and BOFT: each key's effect by the papers' formulas, what they learn, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from llm_api.config import Quantization
from llm_api.config.adapter import AnyAdapter
from llm_runner.errors import ConfigInvalid
from llm_runner.model.adapter import add_adapter, count_trainable
from llm_runner.model.load import load_base, load_tokenizer
from llm_runner.model.pretrained import load_adapter
from llm_runner.model.save import BaseName, save_adapter
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from pydantic import TypeAdapter
from torch import Tensor

from tests.support.models import build_model, gpt2_config, llama_config

# PEFT asks transformers by a deprecated name whether gradients are checkpointed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

TYPES: dict[str, dict[str, Any]] = {
    "vera": {"r": 16},
    "loha": {"r": 3, "alpha": 6},
    "lokr": {"r": 2, "alpha": 5},
    "oft": {"oft_block_size": 8},
    "boft": {"boft_dropout": 0},
}
each_type = pytest.mark.parametrize("kind", TYPES)


def parse(kind: str, **keys: Any) -> AnyAdapter:
    adapter: AnyAdapter = TypeAdapter(AnyAdapter).validate_python({"type": kind, **TYPES[kind], **keys})
    return adapter


def adapted(path: Path, kind: str, dtype: torch.dtype = torch.float32, **keys: Any) -> PeftModel:
    torch.manual_seed(3)
    return add_adapter(load_base(path, dtype=dtype), parse(kind, **keys), 50)


def layers_of(model: PeftModel) -> dict[str, Any]:
    found = {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    return {name[name.index("layers.") :]: module for name, module in found.items()}


def shaken(model: PeftModel, by: float = 0.2) -> PeftModel:
    """Every trained number is moved, so that the adapter does something."""
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += by * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def inputs_of(layer: Any) -> Tensor:
    return torch.randn(7, layer.in_features, generator=torch.Generator().manual_seed(2))


def own(layer: Any, name: str) -> Tensor:
    """A trained tensor of the layer's adapter."""
    tensor: Tensor = getattr(layer, name)["default"]
    return tensor.detach()


@each_type
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_each_starts_as_the_base_and_learns_in_float32(
    kind: str, dtype: torch.dtype, llama_path: Path, token_ids: Tensor
) -> None:
    base, model = load_base(llama_path, dtype=dtype), adapted(llama_path, kind, dtype, target_modules="all-linear")
    tolerance = 1e-6 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(model(input_ids=token_ids).logits, base(token_ids).logits, atol=tolerance, rtol=0)
    assert {one.dtype for one in model.parameters() if one.requires_grad} == {torch.float32}
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=0.02)
    losses = []
    for _ in range(25):
        loss = model(input_ids=token_ids, labels=token_ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.02
    assert 0 < count_trainable(model) < sum(one.numel() for one in model.parameters()) / 2


@pytest.mark.proves("adapter.r[vera]")
def test_vera_scales_two_matrices_that_all_layers_share(llama_path: Path) -> None:
    """Equation 2 of the paper: W x + b * B (d * A x), where b and d alone are trained."""
    model = shaken(adapted(llama_path, "vera", r=12, target_modules=["q_proj", "down_proj"]))
    shared: Any = model.base_model
    a, b = shared.vera_A["default"], shared.vera_B["default"]
    assert a.shape[0] == b.shape[1] == 12
    assert not a.requires_grad
    for layer in layers_of(model).values():
        x, scales, gains = inputs_of(layer), own(layer, "vera_lambda_d"), own(layer, "vera_lambda_b")
        update = (x @ a[:, : layer.in_features].T * scales) @ b[: layer.out_features].T * gains
        torch.testing.assert_close(layer(x), layer.base_layer(x) + update)


@pytest.mark.proves("adapter.projection_prng_key")
def test_the_key_draws_veras_matrices_and_they_are_stored(llama_path: Path, tmp_path: Path, token_ids: Tensor) -> None:
    models = [adapted(llama_path, "vera", projection_prng_key=key) for key in (7, 7, 8)]
    drawn: list[Tensor] = [model.base_model.vera_A["default"] for model in models]  # type: ignore[union-attr, index, misc]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.allclose(drawn[0], drawn[2])
    save_adapter(shaken(models[2]), tmp_path, base=BaseName("acme/base"), tokenizer=load_tokenizer(llama_path))
    again = PeftModel.from_pretrained(load_base(llama_path, dtype=torch.float32), str(tmp_path))
    stored: Any = again.base_model
    assert torch.equal(stored.vera_A["default"], drawn[2])
    torch.testing.assert_close(again(input_ids=token_ids).logits, models[2](input_ids=token_ids).logits)


@pytest.mark.proves("adapter.r[loha, lokr]", "adapter.alpha[loha, lokr]")
@pytest.mark.parametrize("kind", ["loha", "lokr"])
@pytest.mark.parametrize(("r", "alpha"), [(2, 8), (2, 3), (1, 0.5)])
def test_products_have_the_rank_and_scale_that_are_written(kind: str, r: int, alpha: float, llama_path: Path) -> None:
    for layer in layers_of(shaken(adapted(llama_path, kind, r=r, alpha=alpha))).values():
        if kind == "loha":
            first, second = own(layer, "hada_w1_a"), own(layer, "hada_w2_a")
            assert first.shape[1] == second.shape[1] == r
            change = (first @ own(layer, "hada_w1_b")) * (second @ own(layer, "hada_w2_b"))
        else:
            assert own(layer, "lokr_w2_a").shape[1] == r
            change = torch.kron(own(layer, "lokr_w1"), own(layer, "lokr_w2_a") @ own(layer, "lokr_w2_b"))
        x = inputs_of(layer)
        torch.testing.assert_close(layer(x), layer.base_layer(x) + alpha / r * x @ change.T)


def rotation_of(layer: Any) -> Tensor:
    """What a layer's inputs are turned by, from its trained numbers: Cayley's formula for each block."""
    if hasattr(layer, "boft_R"):
        numbers = own(layer, "boft_R")[0]
        skew = (numbers - numbers.transpose(1, 2)) / 2
    else:
        module = layer.oft_R["default"]
        skew = torch.zeros(module.r, module.block_size, module.block_size)
        rows, columns = torch.triu_indices(module.block_size, module.block_size, 1)
        skew[:, rows, columns] = module.weight.detach()
        skew = skew - skew.transpose(1, 2)
    identity = torch.eye(skew.shape[1])
    return torch.block_diag(*[(identity - block) @ torch.linalg.inv(identity + block) for block in skew])


@pytest.mark.proves("adapter.oft_block_size", "adapter.r[oft]", "adapter.boft_block_size")
@pytest.mark.parametrize(
    ("kind", "keys", "block"),
    [
        ("oft", {"oft_block_size": None}, 32),
        ("oft", {"oft_block_size": 8}, 8),
        ("oft", {"oft_block_size": None, "r": 2}, 16),
        ("boft", {}, 4),
        ("boft", {"boft_block_size": 16}, 16),
    ],
    ids=str,
)
def test_inputs_are_rotated_block_by_block(kind: str, keys: dict[str, Any], block: int, llama_path: Path) -> None:
    for layer in layers_of(shaken(adapted(llama_path, kind, **keys), by=1)).values():
        rotation, x = rotation_of(layer), inputs_of(layer)
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(len(rotation)), atol=1e-5, rtol=0)
        inside = torch.block_diag(*[torch.ones(block, block)] * (len(rotation) // block)).bool()
        assert not rotation[~inside].any()
        assert rotation[inside].all()
        scale = own(layer, "boft_s")[:, 0] if kind == "boft" else 1
        torch.testing.assert_close(layer(x), layer.base_layer(x @ rotation) * scale, rtol=1e-4, atol=1e-5)


@pytest.mark.proves("adapter.coft", "adapter.eps")
def test_coft_keeps_rotations_within_eps(llama_path: Path) -> None:
    """What a block's rotation is made of has a norm of eps over the root of the number of blocks at most."""
    for bounded, norms in ((True, 0.5 / 2), (False, None)):
        keys = {"coft": True, "eps": 0.5} if bounded else {}
        model = shaken(adapted(llama_path, "oft", **keys), by=1)
        model(input_ids=torch.tensor([[5, 6, 7]]))
        for layer in layers_of(model).values():
            weight = layer.oft_R["default"].weight.detach()
            found = (2 * weight.square().sum(dim=1)).sqrt()
            assert torch.allclose(found, torch.tensor(norms), atol=1e-6) if norms else bool((found > 1).all())


@pytest.mark.proves("adapter.boft_dropout")
def test_boft_leaves_its_share_of_blocks_as_they_are_while_training_only(llama_path: Path) -> None:
    layer = next(iter(layers_of(shaken(adapted(llama_path, "boft", boft_dropout=0.5))).values()))
    blocks = torch.full((1, 100, 4, 4), 2.0)
    dropped = layer.train().boft_dropout["default"](blocks)
    assert int((dropped == torch.eye(4)).all(dim=(-1, -2)).sum()) == 50
    x = inputs_of(layer)
    assert not torch.allclose(layer(x), layer.eval()(x))
    without = next(iter(layers_of(shaken(adapted(llama_path, "boft", boft_dropout=0))).values()))
    torch.testing.assert_close(without.train()(x), without.eval()(x))


@pytest.mark.proves("adapter.target_modules[vera, loha, lokr, oft, boft]")
@each_type
@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (None, {"self_attn.q_proj", "self_attn.v_proj"}),
        (["o_proj", "up_proj"], {"self_attn.o_proj", "mlp.up_proj"}),
        (r".*\.(k_proj|down_proj)", {"self_attn.k_proj", "mlp.down_proj"}),
    ],
    ids=["unwritten", "names", "regex"],
)
def test_exactly_the_layers_that_are_meant_are_adapted(
    targets: Any, expected: set[str], kind: str, llama_path: Path
) -> None:
    names = layers_of(adapted(llama_path, kind, target_modules=targets))
    assert set(names) == {f"layers.{layer}.{name}" for layer in (0, 1) for name in expected}


@pytest.mark.proves("adapter.pretrained_adapter_weights[vera, loha, lokr, oft, boft]")
@each_type
def test_each_goes_on_from_where_it_was_stored(kind: str, llama_path: Path, tmp_path: Path, token_ids: Tensor) -> None:
    before = shaken(adapted(llama_path, kind))
    save_adapter(before, tmp_path, base=BaseName("acme/base"), tokenizer=load_tokenizer(llama_path))
    after = adapted(llama_path, kind, pretrained_adapter_weights=str(tmp_path)).eval()
    torch.testing.assert_close(after(input_ids=token_ids).logits, before(input_ids=token_ids).logits)
    assert count_trainable(after) == count_trainable(before)


@pytest.mark.parametrize(
    ("kind", "keys", "message"),
    [
        ("vera", {"projection_prng_key": 3}, r"adapter\.projection_prng_key: 3, but the adapter .* has 0"),
        ("loha", {"alpha": 3}, r"adapter\.alpha: 3, but the adapter .* has 6"),
        ("oft", {"oft_block_size": 16}, r"adapter\.oft_block_size: 16, but the adapter .* has 8"),
        ("boft", {"boft_block_size": 8}, r"adapter\.boft_block_size: 8, but the adapter .* has 4"),
    ],
)
def test_a_stored_adapter_of_another_shape_is_refused(
    kind: str, keys: dict[str, Any], message: str, llama_path: Path, tmp_path: Path
) -> None:
    save_adapter(adapted(llama_path, kind), tmp_path, base=BaseName("acme/base"), tokenizer=load_tokenizer(llama_path))
    with pytest.raises(ConfigInvalid, match=message):
        adapted(llama_path, kind, pretrained_adapter_weights=str(tmp_path), **keys)


@pytest.mark.parametrize(
    ("kind", "keys", "message"),
    [
        ("oft", {"oft_block_size": 24}, r"adapter\.oft_block_size: 24, but .*q_proj has 32 inputs.*a divisor of 32"),
        ("oft", {"oft_block_size": None, "r": 5}, r"adapter\.r: 5, but .*q_proj has 32 inputs"),
        ("boft", {"boft_block_size": 12}, r"adapter\.boft_block_size: 12, but .*q_proj has 32 inputs"),
        ("oft", {"target_modules": ["embed_tokens"]}, r"adapter\.type: oft goes into plain .*embed_tokens is a Embedd"),
    ],
)
def test_blocks_and_layers_that_do_not_fit_are_named(kind: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigInvalid, match=message):
        add_adapter(build_model(llama_config()), parse(kind, **keys), 50)


@pytest.mark.parametrize("kind", ["loha", "lokr", "oft", "boft"])
def test_layers_that_store_their_weights_transposed_are_left_to_other_types(kind: str) -> None:
    with pytest.raises(ConfigInvalid, match=rf"adapter\.type: {kind} goes into plain .*c_attn is a Conv1D; write lora"):
        add_adapter(build_model(gpt2_config()), parse(kind), 50)


@each_type
@pytest.mark.parametrize("bits", [4, 8])
def test_beside_a_quantized_base_each_does_what_it_does_beside_a_full_one_or_is_refused(
    kind: str, bits: int, llama_path: Path, tmp_path: Path, token_ids: Tensor
) -> None:
    """A layer's own part is as in full precision: its share of the outputs, of the quantized layer's or of a sum."""
    quantization = Quantization.model_validate({"bits": bits})
    stored = shaken(adapted(llama_path, kind))
    save_adapter(stored, tmp_path, base=BaseName("acme/base"), tokenizer=load_tokenizer(llama_path))
    full = load_base(llama_path, dtype=torch.float32)
    base = load_base(llama_path, quantization=quantization, dtype=torch.float32)
    if bits == 4 and kind in ("loha", "lokr"):
        with pytest.raises(ConfigInvalid, match=rf"is of type {kind}, which can't go beside layers in 4 bits"):
            load_adapter(base, tmp_path)
        return
    model = load_adapter(base, tmp_path)
    with torch.no_grad(), model.disable_adapter():
        lost = model(input_ids=token_ids).logits - full(token_ids).logits
    with torch.no_grad():
        off = model(input_ids=token_ids).logits - stored(input_ids=token_ids).logits
    assert off.norm() < 2 * lost.norm()

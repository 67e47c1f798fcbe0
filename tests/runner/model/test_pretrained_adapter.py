"""Going on from an adapter that was trained before."""

from pathlib import Path
from typing import Any

import pytest
import torch
from llm_api.config import AdaLoraAdapter, LoraAdapter
from llm_runner.errors import ConfigInvalid, ModelNotFound
from llm_runner.model.adapter import add_adapter, count_trainable
from llm_runner.model.load import load_base, load_tokenizer
from llm_runner.model.pretrained import load_adapter
from llm_runner.model.save import BaseName, save_adapter
from peft import PeftModel


def shake(model: PeftModel) -> PeftModel:
    """Stands in for training: every adapter weight changes."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(5))
    return model.eval()


def stored(base_path: Path, folder: Path, adapter: LoraAdapter | AdaLoraAdapter) -> PeftModel:
    model = shake(add_adapter(load_base(base_path, dtype=torch.float32), adapter, 100))
    save_adapter(model, folder, base=BaseName("acme/base"), tokenizer=load_tokenizer(base_path))
    return model


def go_on(base_path: Path, adapter: LoraAdapter | AdaLoraAdapter, **more: Any) -> PeftModel:
    return add_adapter(load_base(base_path, dtype=torch.float32), adapter, 50, **more)


@pytest.mark.proves("adapter.pretrained_adapter_weights[lora]")
def test_it_starts_where_the_stored_adapter_ended_and_is_trained_on(
    llama_path: Path, tmp_path: Path, token_ids: torch.Tensor
) -> None:
    before = stored(llama_path, tmp_path, LoraAdapter(type="lora", r=4, target_modules=["o_proj"]))
    adapter = LoraAdapter(type="lora", dropout=0.5, pretrained_adapter_weights=str(tmp_path))
    after = go_on(llama_path, adapter)
    torch.testing.assert_close(after.eval()(input_ids=token_ids).logits, before(input_ids=token_ids).logits)
    assert count_trainable(after) == count_trainable(before)
    assert after.peft_config["default"].lora_dropout == 0.5
    dropouts = {one.p for name, one in after.named_modules() if isinstance(one, torch.nn.Dropout) and "lora" in name}
    assert dropouts == {0.5}


def test_a_fetched_folder_takes_the_place_of_the_written_address(llama_path: Path, tmp_path: Path) -> None:
    stored(llama_path, tmp_path, LoraAdapter(type="lora"))
    adapter = LoraAdapter(type="lora", pretrained_adapter_weights="s3://models/earlier")
    assert count_trainable(go_on(llama_path, adapter, pretrained_path=tmp_path)) > 0


@pytest.mark.proves("adapter.pretrained_adapter_weights[adalora]")
def test_adalora_goes_on_with_the_schedule_of_the_new_run(llama_path: Path, tmp_path: Path) -> None:
    stored(llama_path, tmp_path, AdaLoraAdapter(type="adalora"))
    adapter = AdaLoraAdapter(type="adalora", tinit=3, pretrained_adapter_weights=str(tmp_path))
    config = go_on(llama_path, adapter).peft_config["default"]
    assert (config.tinit, config.total_step) == (3, 50)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (AdaLoraAdapter(type="adalora"), r"adapter\.type: adalora, but the adapter .* is a lora"),
        (LoraAdapter(type="lora", r=16), r"adapter\.r: 16, but the adapter .* has 8"),
        (LoraAdapter(type="lora", alpha=1), r"adapter\.alpha: 1, but the adapter .* has 16"),
        (LoraAdapter(type="lora", use_rslora=True), r"adapter\.use_rslora: True, but the adapter .* has False"),
        (LoraAdapter(type="lora", use_dora=True), r"adapter\.use_dora: True, but the adapter .* has False"),
        (LoraAdapter(type="lora", bias_type="all"), r"adapter\.bias_type: all, but the adapter .* has none"),
        (
            LoraAdapter(type="lora", rank_pattern={"q_proj": 2}),
            r"adapter\.rank_pattern: .* but the adapter .* has \{\}",
        ),
        (
            LoraAdapter(type="lora", target_modules=["q_proj", "o_proj"]),
            r"adapter\.target_modules: 2 layers more and 2 fewer than .* has \(\['q_proj', 'v_proj'\]\)",
        ),
        (LoraAdapter(type="lora", target_modules="all-linear"), r"adapter\.target_modules: 10 layers more and 0 fewer"),
    ],
)
def test_a_stored_adapter_of_another_shape_is_refused(
    llama_path: Path, tmp_path: Path, adapter: LoraAdapter | AdaLoraAdapter, message: str
) -> None:
    stored(llama_path, tmp_path, LoraAdapter(type="lora"))
    with pytest.raises(ConfigInvalid, match=message):
        go_on(llama_path, adapter, pretrained_path=tmp_path)


def test_what_is_written_of_a_stored_adapter_may_say_it_in_other_words(llama_path: Path, tmp_path: Path) -> None:
    written = LoraAdapter(
        type="lora", r=8, alpha=None, bias_type="none", use_rslora=False, use_dora=False, rank_pattern=None,
        target_modules=r".*\.(q|v)_proj",
    )  # fmt: skip
    stored(llama_path, tmp_path, LoraAdapter(type="lora", alpha=3))
    go_on(llama_path, written, pretrained_path=tmp_path)


def test_a_stored_adapter_of_all_linear_layers_is_known_as_that(llama_path: Path, tmp_path: Path) -> None:
    adapter = LoraAdapter(type="lora", target_modules="all-linear")
    before = stored(llama_path, tmp_path, adapter)
    assert count_trainable(go_on(llama_path, adapter, pretrained_path=tmp_path)) == count_trainable(before)


def test_a_folder_without_an_adapter_is_named(llama_path: Path, tmp_path: Path) -> None:
    adapter = LoraAdapter(type="lora", pretrained_adapter_weights=str(tmp_path))
    with pytest.raises(ModelNotFound, match=r"has no adapter_config.json and no adapter_model.safetensors"):
        go_on(llama_path, adapter)


def test_a_damaged_adapter_is_named(llama_path: Path, tmp_path: Path) -> None:
    stored(llama_path, tmp_path, LoraAdapter(type="lora"))
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64])
    with pytest.raises(ModelNotFound, match="are damaged or do not go into this base"):
        load_adapter(load_base(llama_path, dtype=torch.float32), tmp_path)


def test_an_adapter_for_another_base_is_refused(llama_path: Path, gpt2_path: Path, tmp_path: Path) -> None:
    stored(llama_path, tmp_path, LoraAdapter(type="lora"))
    with pytest.raises(ModelNotFound, match="do not go into this base model"):
        load_adapter(load_base(gpt2_path, dtype=torch.float32), tmp_path)

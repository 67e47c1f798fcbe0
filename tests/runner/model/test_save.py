"""What is saved is loaded by the plain libraries and computes what was trained, merged or not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_api.config import AdaLoraAdapter, Generation, Ia3Adapter, LoraAdapter, Quantization
from llm_runner.model.adapter import Adapter, add_adapter
from llm_runner.model.load import load_base, load_tokenizer
from llm_runner.model.save import BaseName, save_adapter, save_full, save_merged
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.models import build_model, llama_config, tiny_tokenizer

# PEFT asks transformers by a deprecated name whether gradients are checkpointed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

ADAPTERS: list[Adapter] = [
    LoraAdapter(type="lora", bias_type="lora_only"),
    LoraAdapter(type="lora", use_dora=True, use_rslora=True),
    LoraAdapter(type="lora", target_modules="all-linear", rank_pattern={"0.*": 2}, alpha_pattern={"1.*": 3}),
    AdaLoraAdapter(type="adalora"),
    Ia3Adapter(type="ia3"),
]
NAMES = ["lora", "dora", "all-linear", "adalora", "ia3"]


def tuned(path: Path, adapter: Adapter, quantization: Quantization | None = None) -> PeftModel:
    """An adapted model with changed weights, as if it had been trained."""
    base = load_base(path, dtype=torch.float32, quantization=quantization)
    torch.manual_seed(5)
    model = add_adapter(base, adapter, 100)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def read(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / name).read_text())
    return content


@pytest.mark.parametrize("adapter", ADAPTERS, ids=NAMES)
@pytest.mark.parametrize("name", ["llama_path", "gpt2_path"])
def test_plain_peft_loads_the_adapter_and_computes_the_same(
    adapter: Adapter, name: str, request: pytest.FixtureRequest, tmp_path: Path, token_ids: torch.Tensor
) -> None:
    path = request.getfixturevalue(name)
    model = tuned(path, adapter)
    save_adapter(model, tmp_path, base=BaseName("acme/base", "abc123"), tokenizer=load_tokenizer(path))
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), str(tmp_path))
    torch.testing.assert_close(plain.eval()(input_ids=token_ids).logits, model(input_ids=token_ids).logits)


@pytest.mark.parametrize("adapter", ADAPTERS, ids=NAMES)
@pytest.mark.parametrize("name", ["llama_path", "gpt2_path", "neox_path"])
def test_plain_transformers_loads_the_merged_model_and_computes_the_same(
    adapter: Adapter, name: str, request: pytest.FixtureRequest, tmp_path: Path, token_ids: torch.Tensor
) -> None:
    path = request.getfixturevalue(name)
    model, tokenizer = tuned(path, adapter), load_tokenizer(path)
    save_adapter(model, tmp_path / "adapter", base=BaseName("acme/base"), tokenizer=tokenizer)
    merged_path = tmp_path / "merged"
    save_merged(path, tmp_path / "adapter", merged_path, tokenizer=tokenizer, dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(merged_path, dtype=torch.float32)
    wanted = model(input_ids=token_ids).logits
    torch.testing.assert_close(plain(token_ids).logits, wanted, atol=1e-4, rtol=1e-4)
    assert not [file.name for file in merged_path.iterdir() if "adapter" in file.name]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", ["llama_path", "gpt2_path"])
def test_an_adapter_from_a_quantized_base_is_merged_into_the_original_weights(
    bits: int, name: str, request: pytest.FixtureRequest, tmp_path: Path, token_ids: torch.Tensor
) -> None:
    path = request.getfixturevalue(name)
    tokenizer, adapter = load_tokenizer(path), LoraAdapter(type="lora")
    quantized = tuned(path, adapter, Quantization.model_validate({"bits": bits}))
    save_adapter(quantized, tmp_path / "adapter", base=BaseName("acme/base"), tokenizer=tokenizer)
    merged = save_merged(path, tmp_path / "adapter", tmp_path / "merged", tokenizer=tokenizer, dtype=torch.float32)
    wanted = tuned(path, adapter)(input_ids=token_ids).logits
    torch.testing.assert_close(merged(token_ids).logits, wanted, atol=1e-4, rtol=1e-4)
    assert "quantization_config" not in read(tmp_path / "merged", "config.json")


def test_an_adapters_folder_names_the_base_as_it_was_written(llama_path: Path, tmp_path: Path) -> None:
    model = tuned(llama_path, LoraAdapter(type="lora"))
    save_adapter(model, tmp_path, base=BaseName("acme/base", "abc123"), tokenizer=load_tokenizer(llama_path))
    config = read(tmp_path, "adapter_config.json")
    assert (config["base_model_name_or_path"], config["revision"]) == ("acme/base", "abc123")
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_saving_does_not_end_training(llama_path: Path, tmp_path: Path) -> None:
    model = tuned(llama_path, LoraAdapter(type="lora")).train()
    trained = [name for name, one in model.named_parameters() if one.requires_grad]
    save_adapter(model, tmp_path, base=BaseName("acme/base"), tokenizer=load_tokenizer(llama_path))
    assert [name for name, one in model.named_parameters() if one.requires_grad] == trained
    assert model.training


def test_a_fully_tuned_model_is_loaded_by_plain_transformers(tmp_path: Path, token_ids: torch.Tensor) -> None:
    model, tokenizer = build_model(llama_config(tie_word_embeddings=True)), tiny_tokenizer("<pad>")
    save_full(model, tmp_path / "full", tokenizer=tokenizer, generation=Generation(temperature=0.5))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "full", dtype=torch.float32)
    torch.testing.assert_close(plain(token_ids).logits, model(token_ids).logits)
    assert read(tmp_path / "full", "generation_config.json")["temperature"] == 0.5
    assert AutoTokenizer.from_pretrained(tmp_path / "full")("ab").input_ids == tokenizer("ab").input_ids

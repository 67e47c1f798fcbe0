"""Every way in which a model's folder can be bad, and what people are told."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_runner.errors import ConfigInvalid, ModelNotFound
from llm_runner.model.folder import check_folder
from llm_runner.model.load import load_base, load_tokenizer


@pytest.fixture
def folder(llama_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama_path, tmp_path / "model"))


def change(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_whole_folder_passes(folder: Path) -> None:
    check_folder(folder)


def test_what_is_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="nowhere is not a folder"):
        check_folder(tmp_path / "nowhere")


def test_a_missing_config_is_named(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ModelNotFound, match=r"has no config\.json"):
        check_folder(folder)


def test_a_config_that_is_not_json_is_named_with_its_line(folder: Path) -> None:
    (folder / "config.json").write_text('{\n"model_type": llama}')
    with pytest.raises(ModelNotFound, match=r"config\.json is not JSON: .*line 2"):
        check_folder(folder)


def test_pickled_weights_alone_are_refused_with_advice_to_convert(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelNotFound, match=r"lacks model.safetensors\. pytorch_model.bin is pickled.*convert"):
        load_base(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelNotFound, match=r"lacks model-00002-of-00002\.safetensors"):
        load_base(folder)


def test_a_file_that_was_cut_off_is_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelNotFound, match=r"model.safetensors is damaged or cut off \(\d+ bytes"):
        load_base(folder)


def test_a_model_of_another_kind_is_named(folder: Path) -> None:
    change(folder, architectures=["T5ForConditionalGeneration"], model_type="t5")
    with pytest.raises(ConfigInvalid, match="is a T5ForConditionalGeneration, which is not a causal language model"):
        load_base(folder)


def test_a_model_without_architectures_is_judged_by_its_type(folder: Path) -> None:
    change(folder, architectures=None)
    check_folder(folder)
    change(folder, model_type="vit")
    with pytest.raises(ConfigInvalid, match="is a vit"):
        check_folder(folder)


@pytest.mark.proves("trust_remote_code")
def test_a_model_that_needs_its_own_code_is_refused(folder: Path) -> None:
    change(folder, model_type="homemade", auto_map={"AutoModelForCausalLM": "modeling_homemade.HomemadeModel"})
    with pytest.raises(ConfigInvalid, match=r"needs Python code of its own .* never run"):
        load_base(folder)


def test_code_beside_a_known_architecture_is_left_alone(folder: Path) -> None:
    (folder / "modeling_llama.py").write_text("raise SystemExit('this code must not run')")
    change(folder, auto_map={"AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM"})
    assert type(load_base(folder)).__module__.startswith("transformers.")


def test_weights_quantized_by_another_library_are_refused(folder: Path) -> None:
    change(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(ConfigInvalid, match="already quantized by gptq"):
        load_base(folder)


def test_weights_that_the_config_calls_for_and_the_files_lack_are_named(folder: Path) -> None:
    change(folder, num_hidden_layers=3)
    with pytest.raises(ModelNotFound, match=r"lack the weights model\.layers\.2\..* and \d+ more"):
        load_base(folder, dtype=torch.float32)


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    change(folder, intermediate_size=128)
    with pytest.raises(ModelNotFound, match="do not have the shapes"):
        load_base(folder, dtype=torch.float32)


def test_a_missing_tokenizer_is_named(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelNotFound, match="holds no tokenizer"):
        load_tokenizer(folder)

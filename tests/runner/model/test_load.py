"""Base models as they come out of loading: type, quantization, tokens."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from llm_api.config import Quantization
from llm_runner.errors import ConfigInvalid
from llm_runner.model.load import load_base, load_tokenizer
from llm_runner.model.precision import choose_dtype

from tests.support.models import EOS, tiny_tokenizer


def test_a_model_is_loaded_in_the_wanted_type_and_evaluation_mode(llama_path: Path) -> None:
    model = load_base(llama_path, dtype=torch.float32)
    assert model.dtype == torch.float32
    assert not model.training


def test_without_a_wanted_type_it_is_the_machines(llama_path: Path) -> None:
    assert load_base(llama_path).dtype == choose_dtype("cpu")


@pytest.mark.proves("quantization.bits")
def test_four_bits_quantize_all_linear_layers_but_the_head(llama_path: Path) -> None:
    model = load_base(llama_path, quantization=Quantization(bits=4, bnb_4bit_quant_type="fp4"), dtype=torch.float32)
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    assert len(layers) == 2 * 7
    assert {layer.compute_dtype for layer in layers} == {torch.float32}
    assert {layer.weight.quant_type for layer in layers} == {"fp4"}
    assert type(model.get_output_embeddings()) is torch.nn.Linear


@pytest.mark.parametrize("double", [True, False])
def test_double_quantization_is_switched_by_its_key(llama_path: Path, double: bool) -> None:
    model = load_base(llama_path, quantization=Quantization(bnb_4bit_use_double_quant=double), dtype=torch.float32)
    states = [module.weight.quant_state for module in model.modules() if isinstance(module, Linear4bit)]
    assert {state.nested for state in states} == {double}


def test_eight_bits_keep_the_written_threshold(llama_path: Path) -> None:
    model = load_base(llama_path, quantization=Quantization(bits=8, llm_int8_threshold=4.5), dtype=torch.float32)
    thresholds = {module.state.threshold for module in model.modules() if isinstance(module, Linear8bitLt)}
    assert thresholds == {4.5}


def test_a_model_stored_in_four_bits_is_loaded_as_it_is(llama_path: Path, tmp_path: Path) -> None:
    quantized = load_base(llama_path, quantization=Quantization(bits=4), dtype=torch.float32)
    quantized.save_pretrained(tmp_path)
    again = load_base(tmp_path, quantization=Quantization(bits=4), dtype=torch.float32)
    token_ids = torch.arange(2, 20)[None]
    torch.testing.assert_close(again(token_ids).logits, quantized(token_ids).logits)
    with pytest.raises(ConfigInvalid, match=r"quantization\.bits: 8, but the weights in .* are stored in 4 bits"):
        load_base(tmp_path, quantization=Quantization(bits=8))


@pytest.mark.proves("quantization.bnb_4bit_compute_dtype")
def test_an_unwritten_compute_type_is_the_machines_and_a_written_one_is_kept() -> None:
    assert choose_dtype("cpu", Quantization(bits=4)) == choose_dtype("cpu")
    assert choose_dtype("cpu", Quantization(bits=4, bnb_4bit_compute_dtype="float32")) == torch.float32
    assert choose_dtype("cpu", Quantization(bits=8, bnb_4bit_compute_dtype="float32")) == choose_dtype("cpu")


def test_a_type_that_the_cpu_can_not_compute_gives_way_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_runner.model.precision.computes_float16", lambda _device: False)
    warnings: list[str] = []
    dtype = choose_dtype("cpu", Quantization(bits=4, bnb_4bit_compute_dtype="float16"), warnings.append)
    assert dtype == choose_dtype("cpu")
    assert "bnb_4bit_compute_dtype: this CPU does not compute float16" in warnings[0]


def test_a_tokenizer_without_padding_pads_with_a_token_that_it_has(llama_path: Path) -> None:
    tokenizer = load_tokenizer(llama_path)
    assert tokenizer.pad_token == EOS
    assert len(tokenizer) == len(tiny_tokenizer())


def test_a_token_reserved_for_padding_is_preferred(llama_path: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((llama_path / "config.json").read_text())
    own = tiny_tokenizer("<|pad|>")
    own.pad_token = None
    own.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).pad_token == "<|pad|>"


def test_an_adapters_own_tokenizer_needs_no_model_beside_it(tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).eos_token == tiny_tokenizer().eos_token


def test_a_tokenizer_without_an_end_is_refused(llama_path: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((llama_path / "config.json").read_text())
    own = tiny_tokenizer()
    own.eos_token = None
    own.save_pretrained(tmp_path)
    with pytest.raises(ConfigInvalid, match="names no eos_token"):
        load_tokenizer(tmp_path)


def test_the_libraries_say_nothing_while_a_model_is_loaded_and_run(llama_path: Path) -> None:
    program = f"""
import torch
from pathlib import Path
from llm_api.config import Quantization
from llm_runner.model.load import load_base
model = load_base(Path({str(llama_path)!r}), quantization=Quantization(bits=8))
model(torch.ones(1, 8, dtype=torch.long))
"""
    environment = {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""

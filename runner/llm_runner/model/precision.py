"""Which number type to compute in on the device at hand."""

from collections.abc import Callable

import torch
from llm_api.config import Quantization


def choose_dtype(
    device: torch.device | str,
    quantization: Quantization | None = None,
    warn: Callable[[str], None] = lambda _text: None,
) -> torch.dtype:
    """The dtype of weights and activations: what a 4-bit section says, else bfloat16 where it is fast, else float32.

    A compute dtype that was not written is the machine's: the page's default, float16, is for GPUs of its time. A
    written float16 on a CPU that has no instructions for it (hundreds of times slower) gives way, with a warning.
    """
    device = torch.device(device)
    own = torch.bfloat16 if computes_bfloat16(device) else torch.float32
    if quantization is None or quantization.bits != 4 or "bnb_4bit_compute_dtype" not in quantization.model_fields_set:
        return own
    written: torch.dtype = getattr(torch, quantization.bnb_4bit_compute_dtype)
    if written == torch.float16 and not computes_float16(device):
        warn(f"quantization.bnb_4bit_compute_dtype: this CPU does not compute float16; {own} is used instead")
        return own
    return written


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16, rather than imitating it."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def computes_float16(device: torch.device) -> bool:
    """Likewise for float16."""
    return device.type == "cuda" or bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())

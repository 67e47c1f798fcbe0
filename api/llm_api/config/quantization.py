"""Quantization of the base model through bitsandbytes."""

from typing import ClassVar, Literal

from llm_api.config.scalars import NonNegative
from llm_api.model import Model


class Quantization(Model):
    """Weights of the base model in 4 or 8 bits."""

    derived: ClassVar = frozenset({"bnb_4bit_compute_dtype"})
    refused: ClassVar = {
        "backend": "bitsandbytes is used, always",
        "mode": "write bits",
        "qat": "the base model is quantized once, when it is loaded",
    }
    lookalikes: ClassVar = {
        "load_in_4bit": "bits: 4",
        "load_in_8bit": "bits: 8",
        "quant_type": "bnb_4bit_quant_type",
        "compute_dtype": "bnb_4bit_compute_dtype",
        "double_quant": "bnb_4bit_use_double_quant",
    }

    bits: Literal[4, 8] = 4
    """Bits of a weight."""
    llm_int8_threshold: NonNegative = 6.0
    """With 8 bits: activations above this are computed in 16 bits."""
    llm_int8_has_fp16_weight: bool = False
    """With 8 bits: whether the 16-bit weights are kept too."""
    bnb_4bit_compute_dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    """With 4 bits: the type that layers compute in; unset, the machine's best."""
    bnb_4bit_use_double_quant: bool = True
    """With 4 bits: whether the scales are quantized as well."""
    bnb_4bit_quant_type: Literal["fp4", "nf4"] = "nf4"
    """With 4 bits: evenly spaced floats, or spaced for normally distributed weights."""

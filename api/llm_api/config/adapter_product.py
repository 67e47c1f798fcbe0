"""Adapters whose update is a product of another kind than LoRA's: of shared matrices, Hadamard's, Kronecker's."""

from typing import ClassVar, Literal

from llm_api.config.adapter_base import PEFT_NAMES, Adapter, Alpha, TargetModules
from llm_api.config.scalars import Count, PositiveCount


class VeraAdapter(Adapter):
    """Vectors that scale two random matrices, which all layers share and nothing trains (arXiv:2310.11454)."""

    lookalikes: ClassVar = PEFT_NAMES | {"seed": "projection_prng_key"}

    type: Literal["vera"]
    """vera."""
    r: PositiveCount = 256
    """Rank of the random matrices; one number is trained for each, and for each output of a layer."""
    target_modules: TargetModules | None = None
    """The layers that get an update: names, a regular expression, or all-linear. Null: query and value projections."""
    projection_prng_key: Count = 0
    """What the random matrices are drawn by; they are stored with the adapter."""


class _ProductAdapter(Adapter):
    lookalikes: ClassVar = PEFT_NAMES

    r: PositiveCount = 8
    """Rank of the factors."""
    alpha: Alpha = 8
    """Scale of the update, divided by r."""
    target_modules: TargetModules | None = None
    """The layers that get an update: names, a regular expression, or all-linear. Null: query and value projections."""


class LohaAdapter(_ProductAdapter):
    """The Hadamard product of two low-rank updates, of rank r * r at most (arXiv:2108.06098)."""

    type: Literal["loha"]
    """loha."""


class LokrAdapter(_ProductAdapter):
    """The Kronecker product of a small matrix and one of low rank (arXiv:2309.14859).

    Where r is half the second matrix's width or more, PEFT trains that one whole.
    """

    type: Literal["lokr"]
    """lokr."""

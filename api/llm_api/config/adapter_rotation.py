"""Adapters that rotate the inputs of a layer, block by block, rather than add to what comes out."""

from typing import ClassVar, Literal

from llm_api.config.adapter_base import PEFT_NAMES, Adapter, TargetModules
from llm_api.config.scalars import Count, Fraction, Positive, PositiveCount
from llm_api.model import Rule

LEAST_EPS = 0.01
USUAL_EPS = 6e-5
OFT_BLOCK_SIZE = 32


class OftAdapter(Adapter):
    """Rotations of blocks of a layer's inputs (arXiv:2306.07280)."""

    lookalikes: ClassVar = PEFT_NAMES | {"block_size": "oft_block_size", "dropout": "module_dropout"}
    rules: ClassVar = (
        Rule(
            name="oft-blocks",
            message="a number of blocks (r) leaves their size to the layer; write r or oft_block_size, not both",
            holds=lambda adapter: adapter.r == 0 or adapter.oft_block_size is None,
            cel="!has(self.r) || self.r == 0 || !has(self.oft_block_size)",
            path="r",
            needs=("r", "oft_block_size"),
        ),
        Rule(
            name="oft-no-dropout",
            message="PEFT 0.21 takes this key and drops nothing; leave it out",
            holds=lambda adapter: adapter.module_dropout == 0,
            cel="!has(self.module_dropout) || double(self.module_dropout) == 0.0",
            path="module_dropout",
            needs=("module_dropout",),
        ),
        Rule(
            name="coft-with-eps",
            message="a bound on rotations (coft) of less than 0.01 leaves nothing to learn, and without coft no eps "
            "is used; write `coft: true` with such an eps, or neither",
            holds=lambda adapter: adapter.eps >= LEAST_EPS if adapter.coft else adapter.eps == USUAL_EPS,
            cel="(has(self.coft) && self.coft) ? (has(self.eps) && double(self.eps) >= 0.01)"
            " : (!has(self.eps) || double(self.eps) == 0.00006)",
            path="eps",
            needs=("coft", "eps"),
        ),
    )

    type: Literal["oft"]
    """oft."""
    r: Count = 0
    """Number of blocks of each layer's inputs; 0: as many as there are of oft_block_size."""
    oft_block_size: PositiveCount | None = None
    """Inputs of one block, by which each layer's number of inputs must be divisible; null is 32, or what r leaves."""
    module_dropout: Fraction = 0.0
    """Only 0: the library drops nothing."""
    target_modules: TargetModules | None = None
    """The layers whose inputs are rotated: names, a regular expression, or all-linear. Null: query and value
    projections."""
    coft: bool = False
    """Whether the rotations are kept near to none."""
    eps: Positive = USUAL_EPS
    """How far they may go with coft: the norm of what a rotation is made of, times the root of the number of blocks."""

    @property
    def effective_block_size(self) -> int:
        """0 where the number of blocks is written."""
        if self.oft_block_size is not None:
            return self.oft_block_size
        return OFT_BLOCK_SIZE if self.r == 0 else 0


class BoftAdapter(Adapter):
    """Rotations of small blocks of a layer's inputs, and a scale for each output (arXiv:2311.06243)."""

    lookalikes: ClassVar = PEFT_NAMES | {"block_size": "boft_block_size", "dropout": "boft_dropout"}
    rules: ClassVar = (
        Rule(
            name="boft-one-factor",
            message="more butterfly factors than one need code that PEFT compiles for CUDA, and takes one where it "
            "can't, without an error; write 1, or `type: oft` with larger blocks",
            holds=lambda adapter: adapter.boft_n_butterfly_factor == 1,
            cel="!has(self.boft_n_butterfly_factor) || self.boft_n_butterfly_factor == 1",
            path="boft_n_butterfly_factor",
            needs=("boft_n_butterfly_factor",),
        ),
    )

    type: Literal["boft"]
    """boft."""
    boft_block_size: PositiveCount = 4
    """Inputs of one block, by which each layer's number of inputs must be divisible."""
    boft_n_butterfly_factor: PositiveCount = 1
    """Only 1: rotations of more factors need compiled code."""
    boft_dropout: Fraction = 0.05
    """Share of a layer's blocks that are not rotated while training."""
    target_modules: TargetModules | None = None
    """The layers whose inputs are rotated: names, a regular expression, or all-linear. Null: query and value
    projections."""

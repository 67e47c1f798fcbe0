"""The forward pass as the engine calls it: our own decoder, or the library's model over the same block-wise cache.

Both share the model's weights, and adapters stay beside them: a step may mix sequences of several adapters. Knows no
requests and no sampling.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from llm_runner.generate.cache import BLOCK_TOKENS
from llm_runner.generate.cache_tensors import LayerShape, PagedCache
from llm_runner.generate.compiled import can_compile
from llm_runner.generate.engine_adapters import Adapters
from llm_runner.generate.engine_attention import PAGED_ATTENTION, LibraryStep
from llm_runner.generate.engine_batch import Piece, build_batch
from llm_runner.generate.lean import LeanDecoder


class Forward(Protocol):
    """What the engine knows of a model."""

    @property
    def block_count(self) -> int:
        """Blocks of the cache."""
        ...

    @property
    def shares_prefixes(self) -> bool:
        """Whether a sequence may go on from blocks that another one has written."""
        ...

    def __call__(self, pieces: Sequence[Piece]) -> torch.Tensor:
        """Logits [pieces that want them, vocabulary], in the order of ``pieces``; those of one adapter side by side."""
        ...

    def forget(self, sequence: int, broken_blocks: Sequence[int]) -> None:
        """A sequence is over, and some of its blocks may hold something else than numbers."""
        ...


class PagedForward:
    """A model with its cache and its adapters. Everything but the constructor belongs to the engine's thread."""

    shares_prefixes = True

    def __init__(
        self,
        model: PreTrainedModel,
        lean: LeanDecoder | None,
        shapes: dict[int, LayerShape],
        block_count: int,
    ) -> None:
        self.model = model
        self.adapters = Adapters(model, lean)
        self._lean = lean
        self._cache = PagedCache(shapes, block_count, model.dtype, model.device)
        self._pads = not can_compile(model.dtype, model.device)

    @property
    def block_count(self) -> int:
        return self._cache.block_count

    def forget(self, sequence: int, broken_blocks: Sequence[int]) -> None:
        if broken_blocks:
            self._cache.clear(broken_blocks)

    def __call__(self, pieces: Sequence[Piece]) -> torch.Tensor:
        runs = [list(run) for _, run in groupby(pieces, key=self._route)]
        logits = [self._run(run) for run in runs]
        return logits[0] if len(logits) == 1 else torch.cat(logits)

    def _route(self, piece: Piece) -> tuple[bool, str | None]:
        """What is run by itself: all that our own decoder can do, and the rest adapter by adapter."""
        is_lean = self._lean is not None and self._lean.knows_adapter(piece.adapter)
        return is_lean, None if is_lean else piece.adapter

    def _run(self, pieces: Sequence[Piece]) -> torch.Tensor:
        batch = build_batch(pieces, BLOCK_TOKENS, self.model.device, pads=self._pads)
        if self._lean is not None and self._lean.knows_adapter(pieces[0].adapter):
            return self._lean(batch, self._cache)
        with self.adapters.using(pieces[0].adapter), attention_of(self.model, PAGED_ATTENTION):
            return run_library(self.model, LibraryStep(self._cache, batch))


def run_library(model: PreTrainedModel, step: LibraryStep) -> torch.Tensor:
    """Logits [pieces that want them, vocabulary] of the library's model, whose attention is ours for the moment."""
    output: Any = model(
        input_ids=step.batch.token_ids[None],
        position_ids=step.batch.positions[None],
        logits_to_keep=step.batch.sampled_rows,
        use_cache=False,
        paged=step,
    )
    logits: torch.Tensor = output.logits[0]
    return logits


@contextmanager
def attention_of(model: PreTrainedModel, implementation: str) -> Iterator[None]:
    """For as long as it takes, the model attends by one of the library's registered functions."""
    config: Any = model.config
    own = config._attn_implementation
    config._attn_implementation = implementation
    try:
        yield
    finally:
        config._attn_implementation = own

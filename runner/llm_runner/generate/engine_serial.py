"""The last resort of the engine: the library's model with the library's cache, one sequence after the other.

For models that can't be run over the block-wise cache. Slower, and no prefix is shared; the results are the library's.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from llm_runner.generate.engine_adapters import Adapters
from llm_runner.generate.engine_batch import Piece


class SerialForward:
    """Keeps one of the library's caches for each sequence that isn't over."""

    shares_prefixes = False

    def __init__(self, model: PreTrainedModel, block_count: int) -> None:
        self.model = model
        self.adapters = Adapters(model)
        self._block_count = block_count
        self._caches: dict[int, Any] = {}

    @property
    def block_count(self) -> int:
        """Nothing is in blocks; the engine admits by this number all the same."""
        return self._block_count

    def forget(self, sequence: int, broken_blocks: Sequence[int]) -> None:
        self._caches.pop(sequence, None)

    def __call__(self, pieces: Sequence[Piece]) -> torch.Tensor:
        logits = [self._run(piece) for piece in pieces]
        wanted = [row for row, piece in zip(logits, pieces, strict=True) if piece.wants_logits]
        return torch.cat(wanted) if wanted else logits[0][:0]

    def _run(self, piece: Piece) -> torch.Tensor:
        """[1, vocabulary]"""
        if piece.start == 0:
            self._caches[piece.sequence] = DynamicCache(config=self.model.config)
        with self.adapters.using(piece.adapter):
            output: Any = self.model(
                input_ids=torch.tensor([piece.token_ids], device=self.model.device),
                past_key_values=self._caches[piece.sequence],
                logits_to_keep=1,
                use_cache=True,
            )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

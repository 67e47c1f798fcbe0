"""The key-value cache itself: one pair of tensors a layer, in blocks, allocated once.

Which block belongs to whom is the ledger's matter (``cache.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from llm_runner.generate.cache import BLOCK_TOKENS


@dataclass
class LayerCache:
    """[slots, key-value heads, head size] twice: the tokens of a block lie together, and each with all its heads."""

    keys: torch.Tensor
    values: torch.Tensor

    def write(self, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """Puts [heads, tokens, head size] to the places ``slots``, counted in tokens from the first block."""
        self.keys.index_copy_(0, slots, key.transpose(0, 1))
        self.values.index_copy_(0, slots, value.transpose(0, 1))

    def read(self, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The blocks [sequences, blocks of each] as [sequences, heads, tokens, head size]."""
        return _gather(self.keys, table), _gather(self.values, table)

    def clear(self, blocks: torch.Tensor) -> None:
        for one in (self.keys, self.values):
            _blocks_of(one).index_fill_(0, blocks, 0)


def _gather(cache: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """A copy of whole blocks, and a view of it in the order that attention wants."""
    copied = _blocks_of(cache).index_select(0, table.flatten())
    return copied.view(len(table), -1, *cache.shape[1:]).transpose(1, 2)


def _blocks_of(cache: torch.Tensor) -> torch.Tensor:
    """[blocks, tokens of a block, heads, head size]"""
    return cache.view(-1, BLOCK_TOKENS, *cache.shape[1:])


@dataclass(frozen=True)
class LayerShape:
    """What one token needs in one layer."""

    heads: int
    key_size: int
    value_size: int

    def token_bytes(self, dtype: torch.dtype) -> int:
        return self.heads * (self.key_size + self.value_size) * dtype.itemsize


@dataclass
class PagedCache:
    """All layers. Memory is reserved at once; on a host it is taken as blocks are first written."""

    shapes: dict[int, LayerShape]
    """By the layer's number."""
    block_count: int
    dtype: torch.dtype
    device: torch.device
    layers: dict[int, LayerCache] = field(init=False)

    def __post_init__(self) -> None:
        self.layers = {layer: self._allocate(shape) for layer, shape in self.shapes.items()}

    def _allocate(self, shape: LayerShape) -> LayerCache:
        rows = (self.block_count * BLOCK_TOKENS, shape.heads)
        return LayerCache(
            _zeros((*rows, shape.key_size), self.dtype, self.device),
            _zeros((*rows, shape.value_size), self.dtype, self.device),
        )

    def clear(self, blocks: Sequence[int]) -> None:
        """Overwrites blocks: what is not a number would reach whoever is given them next, through their mask."""
        places = torch.tensor(list(blocks), device=self.device)
        for layer in self.layers.values():
            layer.clear(places)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Masked places must hold numbers, too. NumPy's zeros take no memory of the host before they are written to."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size_bytes = int(np.prod(shape)) * dtype.itemsize
    return torch.from_numpy(np.zeros(size_bytes, np.uint8)).view(dtype).view(shape)


def block_bytes(shapes: dict[int, LayerShape], dtype: torch.dtype) -> int:
    """Of one block over all layers."""
    return BLOCK_TOKENS * sum(shape.token_bytes(dtype) for shape in shapes.values())

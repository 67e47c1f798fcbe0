"""One step's work as tensors: the tokens of all sequences in one row, and who attends to what in the cache.

A sequence brings either one token (it is being continued) or several (its prompt is read, perhaps in parts). No token
is padding. Knows no models and no requests.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch

SHORT_TOKENS = 256
"""Up to this length sequences attend together, whatever they waste; beyond, only with those half as long or more."""


@dataclass(frozen=True)
class Piece:
    """What one sequence brings to a step."""

    token_ids: Sequence[int]
    """Tokens whose keys and values are not in the cache yet."""
    start: int
    """How many tokens of the sequence are there already."""
    blocks: Sequence[int]
    """Blocks of the cache that hold the sequence, with room for these tokens."""
    sequence: int = 0
    """The sequence's number."""
    adapter: str | None = None
    wants_logits: bool = True
    """Whether the sequence goes on after the last of these tokens."""

    @property
    def end(self) -> int:
        return self.start + len(self.token_ids)


@dataclass(frozen=True)
class Span:
    """A piece of several tokens: a call of its own."""

    rows: slice
    start: int
    table: torch.Tensor
    """[1, blocks]"""

    @property
    def end(self) -> int:
        return self.start + int(self.rows.stop - self.rows.start)


@dataclass(frozen=True)
class Group:
    """Pieces of one token each, of about the same length: one call for all."""

    rows: torch.Tensor
    """[sequences]: where their tokens stand in the batch."""
    lengths: torch.Tensor
    """[sequences, 1]: tokens to attend to, the new one included."""
    positions: torch.Tensor
    """[1, tokens of the keys that are attended to]"""
    table: torch.Tensor
    """[sequences, blocks]"""
    _biases: dict[int | None, torch.Tensor] = field(default_factory=dict)
    _bounds: dict[int | None, torch.Tensor] = field(default_factory=dict)

    def mask(self, window: int | None) -> torch.Tensor:
        """[sequences, 1, 1, tokens], true where a token is seen."""
        seen = self.positions < self.lengths
        if window is not None:
            seen = seen & (self.positions >= self.lengths - window)
        return seen[:, None, None, :]

    def bounds(self, window: int | None) -> torch.Tensor:
        """[sequences, 2]: the first token that is seen and the one after the last; all layers share it."""
        if window not in self._bounds:
            first = torch.zeros_like(self.lengths) if window is None else (self.lengths - window).clamp(min=0)
            self._bounds[window] = torch.cat([first, self.lengths], dim=1)
        return self._bounds[window]

    def bias(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """The mask as what is added to scores; all layers share it."""
        if window not in self._biases:
            hidden = ~self.mask(window)
            self._biases[window] = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(
                hidden, -math.inf
            )
        return self._biases[window]


@dataclass(frozen=True)
class StepBatch:
    """Tensors of one step, all on the model's device."""

    token_ids: torch.Tensor
    """[tokens]"""
    positions: torch.Tensor
    """[tokens]"""
    slots: torch.Tensor
    """[tokens]: where keys and values go, counted in tokens from the cache's first block."""
    sampled_rows: torch.Tensor
    """[pieces that want logits]: the tokens after which they go on, in the order of the pieces."""
    spans: Sequence[Span]
    groups: Sequence[Group]
    adapters: Sequence[tuple[str | None, slice]]
    """Runs of tokens with the same adapter, in order."""


def build_batch(
    pieces: Sequence[Piece], block_tokens: int, device: torch.device | str = "cpu", *, pads: bool = True
) -> StepBatch:
    """``pieces`` stand in the order that their tokens get; those of one adapter side by side.

    ``pads`` tells whether attention brings the sequences of a group to one length; without, one group holds them all.
    """
    bounds = [0, *accumulate(len(piece.token_ids) for piece in pieces)]
    positions = [place for piece in pieces for place in range(piece.start, piece.end)]
    slots = [
        piece.blocks[place // block_tokens] * block_tokens + place % block_tokens
        for piece in pieces
        for place in range(piece.start, piece.end)
    ]
    sampled = [end - 1 for piece, end in zip(pieces, bounds[1:], strict=True) if piece.wants_logits]
    return StepBatch(
        token_ids=torch.tensor([token for piece in pieces for token in piece.token_ids], device=device),
        positions=torch.tensor(positions, device=device),
        slots=torch.tensor(slots, device=device),
        sampled_rows=torch.tensor(sampled, dtype=torch.int64, device=device),
        spans=_build_spans(pieces, bounds, block_tokens, device),
        groups=_build_groups(pieces, bounds, block_tokens, device, pads=pads),
        adapters=_adapter_runs(pieces, bounds),
    )


def _build_spans(
    pieces: Sequence[Piece], bounds: Sequence[int], block_tokens: int, device: torch.device | str
) -> list[Span]:
    return [
        Span(slice(row, row + len(piece.token_ids)), piece.start, _table([piece], block_tokens, device))
        for piece, row in zip(pieces, bounds, strict=False)
        if len(piece.token_ids) > 1
    ]


def _build_groups(
    pieces: Sequence[Piece], bounds: Sequence[int], block_tokens: int, device: torch.device | str, *, pads: bool
) -> list[Group]:
    single = [(piece, row) for piece, row in zip(pieces, bounds, strict=False) if len(piece.token_ids) == 1]
    if not pads:
        return [_build_group(single, block_tokens, device)] if single else []
    single.sort(key=lambda member: -member[0].end)
    return [_build_group(members, block_tokens, device) for members in _by_length(single)]


def _by_length(members: list[tuple[Piece, int]]) -> list[list[tuple[Piece, int]]]:
    """Splits where padding to the longest would more than double the work; the longest come first."""
    groups: list[list[tuple[Piece, int]]] = []
    for member in members:
        longest = groups[-1][0][0].end if groups else 0
        if groups and (longest <= SHORT_TOKENS or member[0].end * 2 >= longest):
            groups[-1].append(member)
        else:
            groups.append([member])
    return groups


def _build_group(members: list[tuple[Piece, int]], block_tokens: int, device: torch.device | str) -> Group:
    table = _table([piece for piece, _ in members], block_tokens, device)
    return Group(
        rows=torch.tensor([row for _, row in members], device=device),
        lengths=torch.tensor([[piece.end] for piece, _ in members], device=device),
        positions=torch.arange(table.shape[1] * block_tokens, device=device)[None],
        table=table,
    )


def _table(pieces: Sequence[Piece], block_tokens: int, device: torch.device | str) -> torch.Tensor:
    """[pieces, blocks of the longest]; shorter ones are filled up with any block, which their mask hides."""
    counts = [-(-piece.end // block_tokens) for piece in pieces]
    width = max(counts)
    rows = [
        [*piece.blocks[:count], *[piece.blocks[0]] * (width - count)]
        for piece, count in zip(pieces, counts, strict=True)
    ]
    return torch.tensor(rows, device=device)


def _adapter_runs(pieces: Sequence[Piece], bounds: Sequence[int]) -> list[tuple[str | None, slice]]:
    runs: list[tuple[str | None, slice]] = []
    for piece, start, end in zip(pieces, bounds[:-1], bounds[1:], strict=True):
        if runs and runs[-1][0] == piece.adapter:
            runs[-1] = (piece.adapter, slice(runs[-1][1].start, end))
        else:
            runs.append((piece.adapter, slice(start, end)))
    return runs

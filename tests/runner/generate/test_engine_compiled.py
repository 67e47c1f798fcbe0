"""Compiled attention gives what torch's gives of each sequence by itself, wherever the sequence's blocks lie."""

from collections.abc import Sequence

import pytest
import torch
from llm_runner.generate import compiled
from llm_runner.generate.cache import BLOCK_TOKENS
from llm_runner.generate.cache_tensors import LayerCache, LayerShape, PagedCache
from llm_runner.generate.compiled import can_compile
from llm_runner.generate.engine_attention import AttentionRule, paged_attention
from llm_runner.generate.engine_batch import Piece, build_batch
from llm_runner.generate.engine_compiled import SPAN_QUERIES, attend_span
from torch.nn.functional import scaled_dot_product_attention

CPU = torch.device("cpu")
KEY_VALUE_HEADS, SHARED, KEY_SIZE, VALUE_SIZE, BLOCKS = 2, 3, 24, 40, 64
HEADS = KEY_VALUE_HEADS * SHARED
SCALING = 0.3


class Scene:
    """Sequences of given lengths whose blocks are scattered over a cache, each about to get one more token."""

    def __init__(self, lengths: Sequence[int], dtype: torch.dtype = torch.float32) -> None:
        self._random = torch.Generator().manual_seed(len(lengths))
        cache = PagedCache({0: LayerShape(KEY_VALUE_HEADS, KEY_SIZE, VALUE_SIZE)}, BLOCKS, dtype, CPU)
        self.layer: LayerCache = cache.layers[0]
        self.layer.keys.copy_(self.draw(*self.layer.keys.shape))
        self.layer.values.copy_(self.draw(*self.layer.values.shape))
        free = torch.randperm(BLOCKS, generator=self._random).tolist()
        blocks = [[free.pop() for _ in range(-(-length // BLOCK_TOKENS))] for length in lengths]
        self.pieces = [Piece([0], length - 1, own) for length, own in zip(lengths, blocks, strict=True)]
        self.query = self.draw(HEADS, len(lengths), KEY_SIZE).to(dtype)
        self.key = self.draw(KEY_VALUE_HEADS, len(lengths), KEY_SIZE).to(dtype)
        self.value = self.draw(KEY_VALUE_HEADS, len(lengths), VALUE_SIZE).to(dtype)

    def draw(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self._random)

    def attend(self, rule: AttentionRule) -> torch.Tensor:
        batch = build_batch(self.pieces, BLOCK_TOKENS, pads=False)
        return paged_attention(self.layer, batch, self.query, self.key, self.value, rule)

    def expected(self, window: int | None = None) -> torch.Tensor:
        """Sequence by sequence, in float32, after the new tokens have been written."""
        found = []
        for number, piece in enumerate(self.pieces):
            slots = [piece.blocks[at // BLOCK_TOKENS] * BLOCK_TOKENS + at % BLOCK_TOKENS for at in range(piece.end)]
            seen = slots if window is None else slots[-window:]
            keys, values = (one[seen].transpose(0, 1).float() for one in (self.layer.keys, self.layer.values))
            query = self.query[:, number : number + 1].float()
            found.append(scaled_dot_product_attention(query, keys, values, scale=SCALING, enable_gqa=True))
        return torch.cat(found, dim=1)


@pytest.mark.parametrize("lengths", [[1], [17], [1, 16, 33, 150, 16, 2], [40] * 9], ids=str)
@pytest.mark.parametrize("window", [None, 1, 20])
def test_each_sequence_is_attended_to_as_if_it_were_alone(lengths: list[int], window: int | None) -> None:
    scene = Scene(lengths)
    torch.testing.assert_close(scene.attend(AttentionRule(SCALING, window)), scene.expected(window))


def test_in_bfloat16_only_what_goes_in_and_comes_out_is_rounded() -> None:
    scene = Scene([5, 60, 31], torch.bfloat16)
    found = scene.attend(AttentionRule(SCALING))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, scene.expected().to(torch.bfloat16), rtol=0.01, atol=0.001)


def test_without_shared_threads_it_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene([70, 3, 18])
    with_threads = scene.attend(AttentionRule(SCALING))
    monkeypatch.setattr(compiled, "_has_threads", lambda: False)
    compiled._compile.cache_clear()
    torch.testing.assert_close(scene.attend(AttentionRule(SCALING)), with_threads, rtol=0, atol=0)
    compiled._compile.cache_clear()


@pytest.mark.parametrize(
    "rule",
    [AttentionRule(SCALING, softcap=2.0), AttentionRule(SCALING, 9, sinks=torch.linspace(-1, 1, HEADS))],
    ids=["squeezed scores", "sinks and a window"],
)
def test_what_other_architectures_want_of_scores_is_as_over_gathered_blocks(
    rule: AttentionRule, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene([30, 4, 55])
    found = scene.attend(rule)
    monkeypatch.setattr("llm_runner.generate.engine_attention.can_compile", lambda *_: False)
    torch.testing.assert_close(found, scene.attend(rule))


def test_what_is_no_number_in_a_sequence_shows_in_its_answer_and_in_no_other() -> None:
    scene = Scene([20, 20])
    first_block = scene.pieces[0].blocks[0]
    scene.layer.values[first_block * BLOCK_TOKENS + 3] = torch.nan
    broken, whole = scene.attend(AttentionRule(SCALING)).unbind(1)
    assert broken.isnan().all()
    assert whole.isfinite().all()


def test_other_devices_and_types_are_left_to_the_library() -> None:
    assert can_compile(torch.bfloat16, CPU)
    assert not can_compile(torch.float16, CPU)
    assert not can_compile(torch.bfloat16, torch.device("cuda"))


@pytest.mark.parametrize(
    ("start", "tokens", "window"),
    [(0, 1, None), (0, 2 * SPAN_QUERIES + 9, None), (37, SPAN_QUERIES + 1, None), (37, 50, 20), (0, 90, 1)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_each_token_of_a_prompt_sees_what_came_before_it(
    start: int, tokens: int, window: int | None, dtype: torch.dtype
) -> None:
    random = torch.Generator().manual_seed(tokens)
    query = torch.randn(tokens, HEADS, KEY_SIZE, generator=random).to(dtype).transpose(0, 1)
    key, value = (
        torch.randn(start + tokens, KEY_VALUE_HEADS, size, generator=random).to(dtype).transpose(0, 1)
        for size in (KEY_SIZE, VALUE_SIZE)
    )
    found = torch.full((tokens, HEADS, VALUE_SIZE), torch.nan, dtype=dtype).transpose(0, 1)
    attend_span(query, key, value, found, start=start, scaling=SCALING, window=window)
    own, other = torch.arange(start, start + tokens)[:, None], torch.arange(start + tokens)
    mask = (other <= own) & (other > own - (window or start + tokens))
    wide = (one.float() for one in (query, key, value))
    expected = scaled_dot_product_attention(*wide, attn_mask=mask, scale=SCALING, enable_gqa=True)
    # In bfloat16 scores are rounded, too, as in the library's own plain attention.
    tolerance = {"rtol": 0, "atol": 1e-5 if dtype == torch.float32 else 0.04}
    torch.testing.assert_close(found.float(), expected, **tolerance)

"""Chooses how a model is run and how large its cache is.

Whether the library's model can be run over the block-wise cache is measured, not looked up: sequences go both ways and
must agree. One that can't - recurrent state, positions of its own making - is run sequence by sequence.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from transformers import PreTrainedModel

from llm_runner.generate.cache import BLOCK_TOKENS
from llm_runner.generate.cache_tensors import LayerShape, PagedCache, block_bytes
from llm_runner.generate.engine_attention import PAGED_ATTENTION, LibraryStep
from llm_runner.generate.engine_batch import Piece, build_batch
from llm_runner.generate.engine_forward import PagedForward, attention_of, run_library
from llm_runner.generate.engine_serial import SerialForward
from llm_runner.generate.lean import LeanDecoder, plan_lean
from llm_runner.generate.lean_projection import can_pack
from llm_runner.model.memory import available_memory

T = TypeVar("T")

CACHE_SHARE = 0.5
"""Of the memory that is free once the model is loaded."""
PACKED_SHARE = 0.25
"""Of the free memory, that weights may take a second time for speed."""
USUAL_TOKENS = 1024
"""Prompt and answer of most requests: the cache has room for this many for each that is worked on at once."""
SERIAL_TOKENS = 32_768
"""The longest sequence of a model that names no limit and keeps its own caches."""
PROBE_LENGTHS = (9, 21)
PROBE_ERRORS = (AttributeError, KeyError, NotImplementedError, TypeError, ValueError, RuntimeError, IndexError)
LENGTH_DEPENDENT_ROPES = ("dynamic", "longrope")


@dataclass(frozen=True)
class CachePlan:
    """How many tokens the cache is to hold."""

    context_tokens: int
    """The longest sequence."""
    concurrency: int
    max_bytes: int | None = None
    """None: a share of the memory that is free."""

    @property
    def wanted_tokens(self) -> int:
        """Room for the usual sequences, and for the longest one."""
        return max(self.context_tokens, self.concurrency * min(self.context_tokens, USUAL_TOKENS))


def build_forward(model: PreTrainedModel, plan: CachePlan) -> tuple[PagedForward | SerialForward, str | None]:
    """The fastest way to run the model that gives its own results, and why it is not the fastest of all."""
    with torch.inference_mode():
        reason = plan_lean(model)
        if reason is None:
            lean = LeanDecoder(model, packs=plan_packing(model))
            return _build_paged(model, lean, lean.shapes, plan), None
        shapes, problem = probe_paged(model)
        if problem is None:
            return _build_paged(model, None, shapes, plan), reason
    tokens = plan.concurrency * min(plan.context_tokens, SERIAL_TOKENS)
    return SerialForward(model, -(-tokens // BLOCK_TOKENS)), problem


def apart(work: Callable[[], T]) -> T:
    """What the work gives, on a thread that ends with it, as do the threads that it was lent for its products.

    A thread that multiplies has others at its side for as long as it lives. Where all of them together are more than
    there are cores, none waits awake for its next product any more (OpenMP, as GCC has it), and the engine's steps take
    half as long again. So nothing is loaded on a thread that lives on beside it.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def _build_paged(
    model: PreTrainedModel, lean: LeanDecoder | None, shapes: dict[int, LayerShape], plan: CachePlan
) -> PagedForward:
    block_count = plan_block_count(model, shapes, plan)
    return PagedForward(model, lean, shapes, block_count)


def plan_packing(model: PreTrainedModel) -> bool:
    """Whether a second copy of the weights, in the order that the CPU multiplies them in, is worth its memory."""
    own_bytes = sum(parameter.numel() * parameter.itemsize for parameter in model.parameters())
    return can_pack(model.dtype, model.device) and own_bytes <= available_memory(model.device) * PACKED_SHARE


def plan_block_count(model: PreTrainedModel, shapes: dict[int, LayerShape], plan: CachePlan) -> int:
    """As many as are wanted; less where memory is short."""
    free_bytes = int(available_memory(model.device) * CACHE_SHARE) if plan.max_bytes is None else plan.max_bytes
    fitting = free_bytes // block_bytes(shapes, model.dtype)
    return max(1, min(-(-plan.wanted_tokens // BLOCK_TOKENS), fitting))


def probe_paged(model: PreTrainedModel) -> tuple[dict[int, LayerShape], str | None]:
    """What each layer keeps of a token, and why the model can't be run over the cache, if it can't."""
    shapes: dict[int, LayerShape] = {}
    text = model.config.get_text_config()
    rope = (getattr(text, "rope_parameters", None) or {}).get("rope_type")
    if rope in LENGTH_DEPENDENT_ROPES:
        return shapes, f"rotary embeddings of type {rope} depend on the length of a sequence"
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(0, text.vocab_size, (length,), generator=generator).tolist() for length in PROBE_LENGTHS]
    try:
        expected = torch.stack([_last_logits(model, row) for row in rows])
        with attention_of(model, PAGED_ATTENTION):
            model(input_ids=torch.tensor(rows[:1], device=model.device), use_cache=False, shapes=shapes)
            found = _paged_logits(model, shapes, rows)
    except PROBE_ERRORS as error:
        return shapes, f"{type(error).__name__}: {error}".splitlines()[0]
    difference = float((found - expected).abs().max() / expected.abs().max())
    tolerance = 1e-3 if model.dtype == torch.float32 else 5e-2
    return shapes, None if difference <= tolerance else f"its logits differ by {difference:.1%} over the cache"


def _last_logits(model: PreTrainedModel, row: list[int]) -> torch.Tensor:
    output = model(input_ids=torch.tensor([row], device=model.device), use_cache=False)
    logits: torch.Tensor = output.logits[0, -1].float()
    return logits


def _paged_logits(model: PreTrainedModel, shapes: dict[int, LayerShape], rows: list[list[int]]) -> torch.Tensor:
    """Of each row's last token: the first row in two parts, the second one in a step with the first's last token."""
    cache = PagedCache(shapes, 4, model.dtype, model.device)
    first, second = rows
    steps = [
        [Piece(first[:-1], 0, [1], wants_logits=False)],
        [Piece(first[-1:], len(first) - 1, [1]), Piece(second, 0, [3, 0])],
    ]
    for pieces in steps:
        logits = run_library(model, LibraryStep(cache, build_batch(pieces, BLOCK_TOKENS, model.device)))
    return logits.float()

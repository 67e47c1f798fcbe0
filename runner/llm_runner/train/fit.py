"""``batch_size: auto``: how many tokens go through the model at a time, tried out on the run's own longest rows.

A step's rows are the config's to say, and so is its result; only the number of passes that it is cut into is found
here. What doesn't fit shows by a lack of memory, which the trial survives.
"""

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch

from llm_runner.data.pairs import Pair
from llm_runner.data.tokens import Example
from llm_runner.errors import OutOfMemory, is_out_of_memory
from llm_runner.train.batch import Row, Rows
from llm_runner.train.learner import Learner

MIN_TOKENS = 2
"""One to predict from, and one that is predicted."""
MARGIN = 0.1
"""Of the memory that the device has for this process, to stay free: passes differ, and memory falls into pieces."""


class Gauge(Protocol):
    """How full the device is. A host has none: what it lacks shows as an error only."""

    def reset(self) -> None: ...
    def peak_bytes(self) -> int:
        """The most that was held at once since ``reset``."""
        ...

    def room_bytes(self) -> int:
        """What this process can have, with what it has."""
        ...


@dataclass(frozen=True)
class CudaGauge:
    """Of torch's own allocator."""

    device: torch.device

    def reset(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak_bytes(self) -> int:
        return int(torch.cuda.max_memory_allocated(self.device))

    def room_bytes(self) -> int:
        return int(torch.cuda.mem_get_info(self.device)[0]) + int(torch.cuda.memory_reserved(self.device))


def choose_gauge(device: torch.device) -> Gauge | None:
    return CudaGauge(device) if device.type == "cuda" else None


def measure_tokens_per_forward(
    learner: Learner, rows: Rows, sizes: Sequence[int], later_bytes: int, gauge: Gauge | None
) -> int:
    """The largest of ``sizes``, which rise, that goes through forward and backward with memory to spare.

    ``later_bytes`` is what a pass in the midst of a run finds in memory besides: gradients of the passes before it, and
    the optimizer's states. Raises OutOfMemory where not even the smallest goes through.
    """

    def try_out(tokens: int) -> None:
        if gauge is not None:
            gauge.reset()
        learner.try_pass(choose_rows(learner, rows, tokens))
        if gauge is not None:
            _check_margin(gauge.peak_bytes() + later_bytes, gauge.room_bytes())

    return find_largest(sizes, try_out)


def find_largest(sizes: Sequence[int], try_out: Callable[[int], None]) -> int:
    """The last before the first that memory has no room for."""
    found: int | None = None
    for tokens in sizes:
        problem = _lack_of_memory(try_out, tokens)
        if problem is not None:
            if found is None:
                raise OutOfMemory(
                    f"a single pass of {tokens} tokens, the longest row, has no room in memory ({problem}); lower "
                    "preprocessing.global_max_sequence_length, set trainer.enable_gradient_checkpointing, or quantize "
                    "the base model"
                )
            break
        found = tokens
    assert found is not None, "there is a size to try"
    return found


def choose_rows(learner: Learner, rows: Rows, tokens: int) -> list[Sized]:
    """The longest rows, as many as ``tokens`` and the learner's bound let through; the last is cut to fill them, but
    for pairs and what is padded.
    """
    pads = learner.forward.pads
    lengths = getattr(rows, "padded_lengths", rows.lengths) if pads else rows.lengths
    order = np.argsort(-lengths, kind="stable")
    longest = int(lengths[order[0]])
    room, chosen = tokens, list[Sized]()
    for index in order:
        row = rows.example(int(index))
        is_whole = pads or isinstance(row, Pair)
        fitting: Sized = row if is_whole else _cut(cast(Row, row), max(room, MIN_TOKENS))
        least = longest if pads else len(fitting)
        if len(chosen) == learner.most_rows_per_forward or (chosen and room < least):
            break
        chosen.append(fitting)
        room -= longest if pads else len(chosen[-1])
    return chosen


def _cut(row: Row, tokens: int) -> Example:
    kept = row.token_ids[:tokens]
    return Example(kept, min(row.prompt_length, len(kept) - 1))


def _check_margin(peak_bytes: int, room_bytes: int) -> None:
    if peak_bytes > (1 - MARGIN) * room_bytes:
        peak, room = peak_bytes / 2**30, room_bytes / 2**30
        raise torch.OutOfMemoryError(f"{peak:.1f} GiB of {room:.1f} leave less than {MARGIN:.0%} free")


def _lack_of_memory(try_out: Callable[[int], None], tokens: int) -> str | None:
    """What was said of it. The error itself is let go of, as its frames hold the tensors that were too many."""
    problem: str | None = None
    try:
        try_out(tokens)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
    if problem is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return problem

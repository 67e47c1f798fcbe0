"""Sorts what PEFT warns of: what users can't act on is kept from them, and what is their mistake becomes an error."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from peft.tuners.boft import layer as boft_layer

from llm_runner.errors import ConfigInvalid

# BOFT would compile code for CUDA for each layer anew, and warn of each where it can't. One butterfly factor, the only
# number that is taken, needs none.
boft_layer._FBD_CUDA = False  # type: ignore[assignment]


@contextmanager
def peft_silenced(patterns: Literal["error", "ignore"] = "ignore") -> Iterator[None]:
    """``error``: raises ConfigInvalid where ``rank_pattern`` or ``alpha_pattern`` names layers that have no adapter.

    A stored AdaLoRA's rank_pattern is about its own weights and always draws that warning, as does a layer that was
    left no rank. That a start in the base can't be taken back with rsLoRA and patterns is true of PEFT's own way only.
    And PEFT 0.21 asks transformers 5.23 by a deprecated name whether gradients are checkpointed.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        warnings.filterwarnings("ignore", message="Using Rank-Stabilized LoRA with", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*have invalid shape", category=UserWarning)
        warnings.filterwarnings("ignore", message="lora with eva initialization used with", category=UserWarning)
        warnings.filterwarnings(patterns, message=".*pattern keys did not match", category=RuntimeWarning)
        try:
            yield
        except RuntimeWarning as warning:
            raise ConfigInvalid(f"adapter: {warning}") from warning

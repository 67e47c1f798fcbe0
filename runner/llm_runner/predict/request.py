"""A ``generation`` section as the engine is asked for it: how tokens are chosen, one after the other.

Searches (beams, contrastive, guidance) are none of the engine's; ``needs_search`` says so.
"""

from collections.abc import Sequence

from llm_api.config import Generation
from transformers import PreTrainedModel

from llm_runner.generate.decode import BuildConstraint
from llm_runner.generate.defaults import DEFAULTS, or_default
from llm_runner.generate.engine_request import Processor, Sampling
from llm_runner.generate.rows import RowPlan, build_rows
from llm_runner.generate.special import SpecialTokens
from llm_runner.generate.steering import build_steering
from llm_runner.generate.strategy import Strategy, choose_strategy

DONE_BY_THE_ENGINE = frozenset(
    {
        *("max_new_tokens", "max_length", "max_time", "use_cache", "prompt_lookup_num_tokens", "renormalize_logits"),
        *("do_sample", "temperature", "top_k", "top_p", "typical_p", "epsilon_cutoff", "eta_cutoff"),
        *("num_beams", "num_beam_groups", "early_stopping", "length_penalty", "diversity_penalty", "penalty_alpha"),
        *("pad_token_id", "bos_token_id", "eos_token_id"),
    }
)
"""Keys of ``generation`` that ask for no processor: the engine does them by itself, or only beams know them."""


def needs_search(generation: Generation) -> bool:
    """Whether it is more than one token after the other, of one sequence."""
    guidance = generation.guidance_scale
    return choose_strategy(generation) is not Strategy.TOKENS or (guidance is not None and guidance > 1)


def build_sampling(
    generation: Generation, processors: Sequence[Processor], *, min_p: float = 0.0, seed: int | None = None
) -> Sampling:
    if not generation.samples:
        return Sampling(processors=processors)
    return Sampling(
        temperature=float(or_default(generation, "temperature")),
        top_k=or_default(generation, "top_k"),
        top_p=float(or_default(generation, "top_p")),
        min_p=min_p,
        typical_p=float(or_default(generation, "typical_p")),
        epsilon_cutoff=_below_one(float(or_default(generation, "epsilon_cutoff"))),
        eta_cutoff=_below_one(float(or_default(generation, "eta_cutoff"))),
        seed=seed,
        processors=processors,
    )


def build_processors(
    generation: Generation,
    row: RowPlan,
    special: SpecialTokens,
    model: PreTrainedModel,
    build_constraint: BuildConstraint | None = None,
) -> list[Processor]:
    """One that does all that is written, or none where nothing is; ``build_constraint`` limits what may be said."""
    if build_constraint is None and not _is_steered(generation):
        return []
    # Filters and draws are the engine's own.
    greedy = generation.model_copy(update={"do_sample": False})
    rows = build_rows([row], special.pad_id, model.device)
    constraint = None if build_constraint is None else build_constraint(rows, special)
    return [build_steering(greedy, rows, special, model, constraint=constraint)]


def _below_one(cutoff: float) -> float:
    """A cutoff that nothing would pass is none."""
    return cutoff if cutoff < 1 else 0.0


def _is_steered(generation: Generation) -> bool:
    keys = Generation.model_fields.keys() - DONE_BY_THE_ENGINE
    return any(getattr(generation, key) not in (None, getattr(DEFAULTS, key)) for key in keys)

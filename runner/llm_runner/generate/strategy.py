"""Which search a ``generation`` section means, and what of it can't go together in one batch. Runs none.

tokens       one token after the other, the likeliest or a drawn one; prompt lookup guesses several at a time
contrastive  penalty_alpha with top_k of 2 or more, not drawn
beams        the library's beam search
own beams    groups, forced words, draws, mended logits: what the library's beam search dropped, or shares between
             the rows of a batch
"""

from dataclasses import dataclass
from enum import StrEnum

from llm_api.config import Generation
from transformers import GenerationConfig

from llm_runner.errors import ConfigInvalid
from llm_runner.generate.beams import BeamSettings
from llm_runner.generate.defaults import or_default
from llm_runner.generate.special import SpecialTokens
from llm_runner.generate.steering import token_of_place
from llm_runner.generate.words import FixedPlaces, build_forced_words


class Strategy(StrEnum):
    TOKENS = "tokens"
    CONTRASTIVE = "contrastive"
    BEAMS = "beams"
    OWN_BEAMS = "own beams"


def choose_strategy(generation: Generation) -> Strategy:
    """The search that the written keys mean."""
    if generation.is_contrastive and not generation.samples:
        return Strategy.CONTRASTIVE
    if generation.num_beams in (None, 1):
        return Strategy.TOKENS
    is_grouped = generation.num_beam_groups not in (None, 1)
    if is_grouped or generation.force_words_ids or generation.samples or generation.remove_invalid_values:
        return Strategy.OWN_BEAMS
    return Strategy.BEAMS


def refuse_contradictions(generation: Generation, answers: int) -> None:
    """Raises ConfigInvalid where more answers to a prompt are asked for than the search has."""
    strategy = choose_strategy(generation)
    most = {Strategy.TOKENS: answers, Strategy.CONTRASTIVE: 1}.get(strategy, or_default(generation, "num_beams"))
    if answers > most:
        raise ConfigInvalid(f"{answers} answers to a prompt are asked for, and this search has {most}; raise num_beams")


@dataclass(frozen=True)
class Lookup:
    """Whether a batch guesses tokens from its prompt, or why it doesn't."""

    tokens: int | None = None
    why_not: str | None = None


def plan_lookup(generation: Generation, prompts: int) -> Lookup:
    """Prompt lookup for a batch of so many prompts."""
    wanted = generation.prompt_lookup_num_tokens
    if not wanted:
        return Lookup()
    obstacles = {
        "it goes with no beams and no contrastive search": choose_strategy(generation) is not Strategy.TOKENS,
        "it needs use_cache": generation.use_cache is False,
        "it works on one prompt at a time, and these came in a batch": prompts > 1,
    }
    why_not = next((reason for reason, stands in obstacles.items() if stands), None)
    if why_not is None:
        return Lookup(wanted)
    return Lookup(
        why_not=f"generation.prompt_lookup_num_tokens is left out where {why_not}: answers are the same, but slower"
    )


def build_library_config(
    generation: Generation, special: SpecialTokens, *, most_new_tokens: int, lookup: int | None, answers: int
) -> GenerationConfig:
    """What the library does by itself: the search and its end. Tokens are steered by processors of our own, which
    draw, too; so it never samples.
    """
    beams = or_default(generation, "num_beams")
    of_beams = ("num_beams", "early_stopping", "length_penalty")
    return GenerationConfig(
        max_new_tokens=most_new_tokens,
        do_sample=False,
        use_cache=or_default(generation, "use_cache"),
        max_time=generation.max_time,
        prompt_lookup_num_tokens=lookup,
        eos_token_id=list(special.end_ids),
        pad_token_id=special.pad_id,
        bos_token_id=special.begin_id,
        num_return_sequences=answers,
        **({key: or_default(generation, key) for key in of_beams} if beams > 1 else {}),
    )


def build_beam_settings(generation: Generation, special: SpecialTokens, most_new_tokens: int) -> BeamSettings:
    """The same for the beams that are our own; ``most_new_tokens`` of the prompt that leaves the least room."""
    fixed = FixedPlaces(
        frozenset(token_of_place(generation)), is_last_fixed=generation.forced_eos_token_id not in (None, [])
    )
    words = () if generation.force_words_ids is None else generation.force_words_ids
    return BeamSettings(
        beams=or_default(generation, "num_beams"),
        end_ids=frozenset(special.end_ids),
        pad_id=special.pad_id,
        groups=or_default(generation, "num_beam_groups"),
        diversity_penalty=or_default(generation, "diversity_penalty"),
        length_penalty=or_default(generation, "length_penalty"),
        early_stopping=or_default(generation, "early_stopping"),
        samples=generation.samples,
        words=build_forced_words(words, special.end_ids, fixed.count_free(0, most_new_tokens)),
        fixed=fixed,
    )

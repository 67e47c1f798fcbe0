"""For each rule of trainer and generation: sections that keep it, and sections that break it and nothing else."""

from tests.api.config_rule_examples import Examples, trainer


def generation(keys: str) -> str:
    return f"generation: {{{keys}}}"


RUNNING_RULES = {
    "schedule-wsd-fractions": Examples(
        keeps=(
            trainer("learning_rate_scheduler: {decay: wsd}"),
            trainer("learning_rate_scheduler: {decay: cosine, wsd_stable_fraction: 1}"),
        ),
        breaks=(
            trainer("learning_rate_scheduler: {decay: wsd, wsd_stable_fraction: 0.9}"),
            trainer("learning_rate_scheduler: {decay: wsd, wsd_warmup_fraction: 1}"),
        ),
    ),
    "schedule-one-warmup": Examples(
        keeps=(
            trainer("learning_rate_scheduler: {warmup_fraction: 0.1, warmup_evaluations: 0}"),
            trainer("learning_rate_scheduler: {warmup_fraction: 0, warmup_evaluations: 2}"),
        ),
        breaks=(trainer("learning_rate_scheduler: {warmup_fraction: 0.1, warmup_evaluations: 2}"),),
    ),
    "trainer-checkpoint-interval": Examples(
        keeps=(
            trainer("steps_per_checkpoint: 9, checkpoints_per_epoch: 0"),
            "trainer: {type: none, checkpoints_per_epoch: 2}",
        ),
        breaks=(
            trainer("steps_per_checkpoint: 9, checkpoints_per_epoch: 2"),
            "trainer: {type: none, steps_per_checkpoint: 9, checkpoints_per_epoch: 2}",
        ),
    ),
    "trainer-batch-arithmetic": Examples(
        keeps=(
            trainer("batch_size: 2, gradient_accumulation_steps: 8, effective_batch_size: 16"),
            trainer("batch_size: auto, gradient_accumulation_steps: 8, effective_batch_size: 16"),
            trainer("batch_size: 3, effective_batch_size: auto"),
        ),
        breaks=(
            trainer("batch_size: 2, gradient_accumulation_steps: 8, effective_batch_size: 32"),
            trainer("batch_size: 3, effective_batch_size: 16"),
            trainer("batch_size: auto, gradient_accumulation_steps: 3, effective_batch_size: 16"),
        ),
    ),
    "trainer-batch-maximum": Examples(
        keeps=(
            trainer("batch_size: 4, max_batch_size: 4"),
            trainer("batch_size: auto, max_batch_size: 4"),
            trainer("batch_size: null, max_batch_size: 4"),
            trainer("max_batch_size: 1"),
        ),
        breaks=(trainer("batch_size: 8, max_batch_size: 4"),),
    ),
    "trainer-batch-growth": Examples(
        keeps=(
            trainer("increase_batch_size_on_plateau: 2, increase_batch_size_on_plateau_rate: 1.5"),
            trainer("increase_batch_size_on_plateau: 2"),
            trainer("increase_batch_size_on_plateau: 0, increase_batch_size_on_plateau_rate: 1"),
            trainer("increase_batch_size_on_plateau_rate: 0.5"),
        ),
        breaks=(
            trainer("increase_batch_size_on_plateau: 1, increase_batch_size_on_plateau_rate: 1"),
            trainer("increase_batch_size_on_plateau: 3, increase_batch_size_on_plateau_rate: 0.5"),
        ),
    ),
    "generation-new-tokens": Examples(
        keeps=(
            generation("min_new_tokens: 5, max_new_tokens: 5"),
            generation("min_new_tokens: 50"),
            generation("min_new_tokens: 50, max_new_tokens: null"),
        ),
        breaks=(generation("min_new_tokens: 6, max_new_tokens: 5"),),
    ),
    "generation-length": Examples(
        keeps=(generation("min_length: 5, max_length: 5"), generation("min_length: 50")),
        breaks=(generation("min_length: 6, max_length: 5"),),
    ),
    "generation-beam-groups": Examples(
        keeps=(generation("num_beams: 4, num_beam_groups: 2"), generation("num_beams: 3, num_beam_groups: 1")),
        breaks=(generation("num_beams: 3, num_beam_groups: 2"), generation("num_beam_groups: 2")),
    ),
    "generation-groups-do-not-sample": Examples(
        keeps=(
            generation("num_beams: 2, num_beam_groups: 2"),
            generation("num_beams: 2, num_beam_groups: 2, do_sample: false"),
            generation("num_beams: 2, num_beam_groups: 1, do_sample: true"),
        ),
        breaks=(generation("num_beams: 2, num_beam_groups: 2, do_sample: true"),),
    ),
    "generation-contrastive-does-not-sample": Examples(
        keeps=(
            generation("penalty_alpha: 0.6, top_k: 4"),
            generation("penalty_alpha: 0.6, do_sample: false"),
            generation("penalty_alpha: 0, do_sample: true"),
            generation("penalty_alpha: 0.6, top_k: 1, do_sample: true"),
        ),
        breaks=(
            generation("penalty_alpha: 0.6, top_k: 4, do_sample: true"),
            generation("penalty_alpha: 0.6, do_sample: true"),
        ),
    ),
    "generation-contrastive-beams": Examples(
        keeps=(generation("penalty_alpha: 0.6, num_beams: 1"), generation("penalty_alpha: 0, num_beams: 2")),
        breaks=(
            generation("penalty_alpha: 0.6, num_beams: 2"),
            generation("penalty_alpha: 0.6, top_k: null, num_beams: 2"),
        ),
    ),
    "generation-forced-words-beams": Examples(
        keeps=(generation("force_words_ids: [[5]], num_beams: 2"), generation("force_words_ids: []")),
        breaks=(generation("force_words_ids: [[5]]"), generation("force_words_ids: [[5]], num_beams: 1")),
    ),
}

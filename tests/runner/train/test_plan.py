"""From the trainer section to the loop's numbers."""

from typing import Any

import pytest
from llm_api.config import FinetuneTrainer
from llm_runner.train.learner import Clipping
from llm_runner.train.loop import LoopPlan
from llm_runner.train.plan import (
    UNBOUNDED,
    RunSize,
    plan_clipping,
    plan_growth,
    plan_loop,
    plan_plateau,
    plan_tokens_per_forward,
)
from llm_runner.train.plateau import Plateau


def trainer_of(**keys: Any) -> FinetuneTrainer:
    return FinetuneTrainer.model_validate({"type": "finetune", **keys})


def plan_of(rows: int = 100, every: int | None = None, **keys: Any) -> LoopPlan:
    return plan_loop(trainer_of(**keys), RunSize(rows, 200), checkpoint_every=every, seed=7)


@pytest.mark.proves("trainer.batch_size", "trainer.gradient_accumulation_steps", "trainer.effective_batch_size")
@pytest.mark.parametrize(
    ("keys", "rows_per_step"),
    [
        ({}, 1),
        ({"batch_size": 4}, 4),
        ({"batch_size": 4, "gradient_accumulation_steps": 8}, 32),
        ({"gradient_accumulation_steps": 8}, 8),
        ({"batch_size": 4, "effective_batch_size": 24}, 24),
        ({"batch_size": "auto", "effective_batch_size": 24}, 24),
        ({"batch_size": "auto"}, 16),
        ({"batch_size": "auto", "gradient_accumulation_steps": 3}, 3),
    ],
)
def test_one_optimizer_step_takes_the_batch_times_the_accumulation(keys: dict[str, Any], rows_per_step: int) -> None:
    assert plan_of(**keys).rows_per_step == rows_per_step


@pytest.mark.proves("trainer.epochs")
def test_every_row_is_seen_in_each_epoch_the_last_step_taking_what_is_left() -> None:
    plan = plan_of(rows=103, batch_size=10, epochs=3)
    assert (plan.total_steps, plan.steps_per_round) == (33, 11)


@pytest.mark.proves("trainer.train_steps")
def test_train_steps_count_instead_of_epochs() -> None:
    plan = plan_of(rows=100, batch_size=10, epochs=3, train_steps=7)
    assert (plan.total_steps, plan.steps_per_round) == (7, 10)


@pytest.mark.proves("trainer.steps_per_checkpoint", "trainer.checkpoints_per_epoch")
@pytest.mark.parametrize(
    ("keys", "expected"),
    [({}, 10), ({"steps_per_checkpoint": 3}, 3), ({"checkpoints_per_epoch": 2}, 5), ({"checkpoints_per_epoch": 3}, 4)],
)
def test_rounds_end_by_steps_or_by_parts_of_an_epoch(keys: dict[str, Any], expected: int) -> None:
    assert plan_of(rows=100, batch_size=10, **keys).steps_per_round == expected


def test_the_resources_own_checkpoints_come_besides() -> None:
    assert plan_of(every=5).steps_per_checkpoint == 5


def test_the_rest_is_taken_over() -> None:
    plan = plan_of(
        learning_rate="auto",
        early_stop=2,
        validation_metric="next_token_accuracy",
        evaluate_training_set=True,
        skip_all_evaluation=True,
        should_shuffle=False,
    )
    assert (plan.learning_rate, plan.early_stop_rounds, plan.metric) == (1e-4, 2, "next_token_accuracy")
    assert (plan.evaluates, plan.evaluates_training_rows, plan.shuffles) == (False, True, False)
    assert (plan.epochs, plan.rounds_by_epoch, plan.seed) == (3, True, 7)


def test_adafactors_own_rate_counts() -> None:
    optimizer = {"type": "adafactor", "lr": 0.3, "relative_step": False}
    assert plan_of(learning_rate=0.01, optimizer=optimizer).learning_rate == 0.3
    assert plan_of(learning_rate=0.01, optimizer={"type": "adafactor"}).learning_rate == 0.01


def test_an_evaluation_is_bounded_by_batches_of_its_own_size() -> None:
    assert plan_of().most_evaluation_rows is None
    assert plan_of(eval_steps=5, eval_batch_size=4).most_evaluation_rows == 20
    assert plan_of(eval_steps=5, eval_batch_size="auto").most_evaluation_rows == 5


def test_clipping_is_by_a_global_norm_of_a_half_unless_written() -> None:
    assert plan_clipping(trainer_of()) == Clipping(global_norm=0.5)
    written = {"clipglobalnorm": None, "clipnorm": 1.0, "clipvalue": 0.1}
    assert plan_clipping(trainer_of(gradient_clipping=written)) == Clipping(None, 1.0, 0.1)


def test_a_plateau_is_off_unless_written() -> None:
    assert plan_plateau(trainer_of()) == Plateau(0, 10, 0.1)
    written = {"reduce_on_plateau": 3, "reduce_on_plateau_patience": 1, "reduce_on_plateau_rate": 0.5}
    watched = {"reduce_eval_split": "validation", "reduce_eval_metric": "perplexity"}
    found = plan_plateau(trainer_of(learning_rate_scheduler={**written, **watched}))
    assert found == Plateau(3, 1, 0.5, "perplexity", watches_training=False)


@pytest.mark.proves(
    "trainer.increase_batch_size_on_plateau",
    "trainer.increase_batch_size_on_plateau_patience",
    "trainer.increase_batch_size_on_plateau_rate",
    "trainer.increase_batch_size_eval_metric",
    "trainer.increase_batch_size_eval_split",
)
def test_batches_grow_as_the_config_says_and_not_at_all_unless_it_does() -> None:
    assert plan_growth(trainer_of()) == Plateau(0, 5, 2.0)
    written = trainer_of(
        increase_batch_size_on_plateau=3,
        increase_batch_size_on_plateau_patience=1,
        increase_batch_size_on_plateau_rate=1.5,
        increase_batch_size_eval_metric="next_token_accuracy",
        increase_batch_size_eval_split="validation",
    )
    assert plan_growth(written) == Plateau(3, 1, 1.5, "next_token_accuracy", watches_training=False)


@pytest.mark.proves("trainer.max_batch_size")
@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"batch_size": 2, "gradient_accumulation_steps": 8, "max_batch_size": 6}, 48),
        ({"batch_size": 2, "gradient_accumulation_steps": 8}, UNBOUNDED),
        ({"batch_size": "auto", "max_batch_size": 6}, UNBOUNDED),
    ],
)
def test_a_written_batch_grows_to_its_maximum_times_the_accumulation(keys: dict[str, Any], expected: int) -> None:
    assert plan_of(**keys).most_rows_per_step == expected


@pytest.mark.proves("trainer.learning_rate_scaling")
@pytest.mark.parametrize("kind", ["constant", "sqrt", "linear"])
def test_the_learning_rate_stays_as_processes_share_the_rows_that_are_written(kind: str) -> None:
    trainer = trainer_of(learning_rate=0.001, learning_rate_scaling=kind, batch_size=12)
    alone, together = (
        plan_loop(trainer, RunSize(100, 200), checkpoint_every=None, seed=7, ranks=ranks) for ranks in (1, 4)
    )
    assert together == alone
    assert (together.learning_rate, together.rows_per_step) == (0.001, 12)


def test_rows_that_nobody_wrote_are_a_multiple_of_the_processes() -> None:
    trainer = trainer_of(batch_size="auto")
    plan = plan_loop(trainer, RunSize(100, 200), checkpoint_every=None, seed=7, ranks=3)
    assert plan.rows_per_step == 18


def test_a_pass_on_a_gpu_takes_what_its_rows_take_within_bounds() -> None:
    for batch_size, longest, expected in ((1, 100, 1024), (16, 200, 3200), (64, 1000, 16384)):
        tokens = plan_tokens_per_forward(trainer_of(batch_size=batch_size), RunSize(10, longest), "cuda")
        assert tokens == expected
    assert plan_tokens_per_forward(trainer_of(batch_size=64), RunSize(10, 1000), "cpu") == 1024

"""The trainer: its types, amounts, batches, intervals, schedule and clipping."""

import pytest
from llm_api.config import FinetuneTrainer, load_config

from tests.support.documents import build_config
from tests.support.verdicts import Accepted, Refused, assert_accepted, assert_refused, parametrize

FRAME = "trainer: SECTION"
FINETUNE = "trainer: {type: finetune, SECTION}"
SCHEDULE = "trainer: {type: finetune, learning_rate_scheduler: {SECTION}}"
CLIPPING = "trainer: {type: finetune, gradient_clipping: SECTION}"

TYPES_ACCEPTED = [
    Accepted("{type: finetune}", "the page's example"),
    Accepted("{type: none}", "the page's example"),
    Accepted("null", "a null section is one that was left out"),
    Accepted(
        "{type: finetune, learning_rate: 0.0001, batch_size: 1, gradient_accumulation_steps: 8, epochs: 3}",
        "the page's first example",
    ),
    Accepted("{type: none, batch_size: 4, eval_batch_size: 8}", "batches of an evaluation"),
]

TYPES_REFUSED = [
    *(
        Refused(f"{{type: {kind}}}", "trainer.type", "types are finetune, dpo, kto, orpo and none")
        for kind in ("fine_tune", "Finetune", "sft", "grpo", "trainer", "null", "5", "true")
    ),
    Refused("{}", "trainer.type", "a trainer has a type"),
    Refused("{epochs: 3}", "trainer.type", "a trainer has a type"),
    Refused("[finetune]", "trainer", "a section"),
    Refused("{type: none, optimizer: {type: adamw}}", "trainer.optimizer", "nothing is trained"),
    Refused(
        "{type: none, gradient_accumulation_steps: 8}", "trainer.gradient_accumulation_steps", "nothing is trained"
    ),
]

ACCEPTED = [
    *(Accepted(f"learning_rate: {rate}", "a rate") for rate in ("0.0001", "1e-4", "2.0e-05", "0", "1", "auto")),
    *(Accepted(f"epochs: {epochs}", "a positive integer") for epochs in ("1", "3", "100")),
    *(Accepted(f"train_steps: {steps}", "a positive integer or null") for steps in ("1", "1000", "null")),
    *(Accepted(f"batch_size: {size}", "a positive integer or auto") for size in ("1", "8", "auto", "null")),
    *(Accepted(f"eval_batch_size: {size}", "a positive integer or auto") for size in ("4", "auto", "null")),
    *(Accepted(f"gradient_accumulation_steps: {steps}", "a positive integer or auto") for steps in ("1", "8", "auto")),
    *(Accepted(f"effective_batch_size: {size}", "a positive integer or auto") for size in ("16", "auto")),
    *(Accepted(f"max_batch_size: {size}", "a positive integer or null") for size in ("16", "1099511627776", "null")),
    *(Accepted(f"eval_steps: {steps}", "a number of batches") for steps in ("10", "0", "null")),
    *(Accepted(f"early_stop: {times}", "a number of evaluations, -1 is never") for times in ("-1", "0", "5")),
    *(Accepted(f"steps_per_checkpoint: {steps}", "a number of steps") for steps in ("0", "100")),
    *(Accepted(f"checkpoints_per_epoch: {times}", "a number of checkpoints") for times in ("0", "2")),
    *(
        Accepted(f"{key}: {value}", "options true, false")
        for key in (
            "should_shuffle", "evaluate_training_set", "skip_all_evaluation", "use_mixed_precision", "compile",
            "enable_gradient_checkpointing",
        )
        for value in ("true", "false")
    ),
    *(Accepted(f"validation_metric: {metric}", "a metric") for metric in ("loss", "perplexity", "null")),
    Accepted("validation_field: answer", "the one output"),
    *(Accepted(f"regularization_type: {kind}", "an option") for kind in ("l1", "l2", "l1_l2", "null")),
    Accepted("regularization_lambda: 0.1", "a weight"),
    *(Accepted(f"learning_rate_scaling: {how}", "an option") for how in ("constant", "sqrt", "linear")),
    Accepted("increase_batch_size_on_plateau: 2, increase_batch_size_on_plateau_rate: 1.5", "a larger batch"),
    Accepted("layers_to_freeze_regex: 'layers[.][0-3][.]'", "an expression"),
    Accepted("optimizer: null, learning_rate_scheduler: null, gradient_clipping: null", "sections left out"),
]  # fmt: skip

REFUSED = [
    Refused(f"{key}: {value}", f"trainer.{key}", reason)
    for key, values, reason in [
        ("learning_rate", ("-0.1", "2.0", "'0.0001'", "fast", "null", "true", ".inf", "[0.1]"), "a rate from 0 to 1"),
        ("epochs", ("0", "-1", "2.5", "'3'", "null", "auto", "true"), "a positive integer"),
        ("train_steps", ("0", "-5", "1.5", "auto"), "a positive integer or null"),
        ("batch_size", ("0", "-1", "1.5", "'8'", "large", "true"), "a positive integer or auto"),
        ("eval_batch_size", ("0", "-1", "1.5", "big"), "a positive integer or auto"),
        ("gradient_accumulation_steps", ("0", "-1", "1.5", "'8'", "null"), "a positive integer or auto"),
        ("effective_batch_size", ("0", "-1", "many", "null"), "a positive integer or auto"),
        ("max_batch_size", ("0", "auto"), "a positive integer or null"),
        ("eval_steps", ("-1", "all"), "a number of batches"),
        ("early_stop", ("-2", "1.5", "true", "null"), "a number of evaluations"),
        ("steps_per_checkpoint", ("-1", "1.5"), "a number of steps"),
        ("checkpoints_per_epoch", ("-1", "0.5"), "a number of checkpoints"),
        ("should_shuffle", ("1", "'true'", "null"), "options true, false"),
        ("enable_gradient_checkpointing", ("1", "'yes'"), "options true, false"),
        ("use_mixed_precision", ("fp16",), "options true, false"),
        ("validation_metric", ("accuracy", "bleu", "5"), "not one of the metrics"),
        ("validation_field", ("prompt", "5"), "the one output"),
        ("regularization_type", ("l3",), "not an option"),
        ("regularization_lambda", ("-1", "2"), "a weight"),
        ("learning_rate_scaling", ("log",), "not an option"),
        ("optimizer", ("adamw", "[]"), "a section"),
        ("learning_rate_scheduler", ("cosine",), "a section"),
        ("gradient_clipping", ("1.0",), "a section"),
        ("learning_rat", ("0.1",), "a typo"),
        ("lr", ("0.1",), "another tool's name"),
        ("max_steps", ("100",), "another tool's name"),
        ("num_train_epochs", ("3",), "another tool's name"),
        ("warmup_ratio", ("0.1",), "another tool's name"),
        ("weight_decay", ("0.1",), "it belongs to the optimizer"),
        ("loss_balancing", ("none",), "of models with several outputs"),
        ("model_soup", ("uniform",), "not there"),
        ("profiler", ("{}",), "means nothing here"),
        ("bucketing_field", ("prompt",), "means nothing here"),
    ]
    for value in values
]

SCHEDULES_ACCEPTED = [
    *(
        Accepted(f"decay: {curve}", "an option")
        for curve in ("linear", "exponential", "cosine", "one_cycle", "inverse_sqrt", "polynomial", "wsd", "null")
    ),
    Accepted("decay: cosine, warmup_fraction: 0.03", "warm-up and decay"),
    Accepted("warmup_evaluations: 2", "warm-up by evaluations"),
    Accepted("decay: exponential, decay_rate: 0.9, decay_steps: 100, staircase: true", "exponential decay"),
    Accepted("reduce_on_plateau: 2, reduce_on_plateau_patience: 3, reduce_on_plateau_rate: 0.5", "plateaus"),
    Accepted("reduce_eval_metric: perplexity, reduce_eval_split: validation", "what plateaus are seen in"),
    Accepted("decay: cosine, t_0: 100, t_mult: 2, eta_min: 0.00001", "restarts"),
    Accepted("decay: one_cycle, max_lr: 0.001, pct_start: 0.3, div_factor: 25, final_div_factor: 1e4", "one cycle"),
]

SCHEDULES_REFUSED = [
    Refused(f"{key}: {value}", key, reason)
    for key, value, reason in [
        ("decay", "step", "not an option"),
        ("decay", "Cosine", "not an option"),
        ("decay_rate", "1.5", "a factor"),
        ("decay_rate", "-0.1", "a factor"),
        ("decay_steps", "0", "a number of steps"),
        ("warmup_fraction", "1.5", "a share"),
        ("warmup_fraction", "-0.1", "a share"),
        ("warmup_fraction", "'0.1'", "a share"),
        ("warmup_evaluations", "-1", "a number of evaluations"),
        ("warmup_evaluations", "0.5", "a number of evaluations"),
        ("warmup_steps", "100", "not a key"),
        ("type", "cosine", "not a key"),
        ("reduce_on_plateau", "-1", "a number of reductions"),
        ("reduce_on_plateau_rate", "2", "a factor"),
        ("reduce_eval_metric", "accuracy", "not one of the metrics"),
        ("reduce_eval_split", "test", "the test rows are for the end"),
        ("t_0", "0", "a number of steps"),
        ("eta_min", "-1", "a rate"),
        ("staircase", "1", "options true, false"),
        ("pct_start", "2", "a share"),
        ("polynomial_power", "0", "an exponent"),
    ]
]

CLIPPING_ACCEPTED = [
    Accepted("{}", "the default bound"),
    Accepted("{clipglobalnorm: 1.0}", "a bound"),
    Accepted("{clipglobalnorm: null}", "no bound"),
    Accepted("{clipnorm: 1, clipvalue: 0.5}", "bounds together"),
]

CLIPPING_REFUSED = [
    Refused("{clipglobalnorm: 0}", ".clipglobalnorm", "it would stop all training"),
    Refused("{clipglobalnorm: -1}", ".clipglobalnorm", "a bound"),
    Refused("{clipnorm: '1'}", ".clipnorm", "a bound"),
    Refused("{clipvalue: true}", ".clipvalue", "a bound"),
    Refused("{max_grad_norm: 1.0}", ".max_grad_norm", "another tool's name"),
]


@parametrize(TYPES_ACCEPTED)
def test_a_trainer_of_the_page_is_accepted(case: Accepted) -> None:
    assert_accepted(FRAME, case)


@parametrize(TYPES_REFUSED)
def test_a_trainer_of_another_type_is_refused(case: Refused) -> None:
    assert_refused(FRAME, case)


@parametrize(ACCEPTED)
def test_a_trainer_key_in_range_is_accepted(case: Accepted) -> None:
    assert_accepted(FINETUNE, case)


@parametrize(REFUSED)
def test_a_trainer_key_out_of_range_is_refused(case: Refused) -> None:
    assert_refused(FINETUNE, case)


@parametrize(SCHEDULES_ACCEPTED)
def test_a_schedule_in_range_is_accepted(case: Accepted) -> None:
    assert_accepted(SCHEDULE, case)


@parametrize(SCHEDULES_REFUSED)
def test_a_schedule_out_of_range_is_refused(case: Refused) -> None:
    assert_refused(SCHEDULE, case._replace(path=f"trainer.learning_rate_scheduler.{case.path}"))


@parametrize(CLIPPING_ACCEPTED)
def test_bounds_on_gradients_are_accepted(case: Accepted) -> None:
    assert_accepted(CLIPPING, case)


@parametrize(CLIPPING_REFUSED)
def test_bounds_on_gradients_that_bound_nothing_are_refused(case: Refused) -> None:
    assert_refused(CLIPPING, case._replace(path=f"trainer.gradient_clipping{case.path}"))


def load_trainer(keys: str) -> FinetuneTrainer:
    trainer = load_config(build_config(FINETUNE.replace("SECTION", keys))).trainer
    assert isinstance(trainer, FinetuneTrainer)
    return trainer


def test_the_defaults_of_a_fine_tune_are_those_of_the_design() -> None:
    trainer = load_trainer("epochs: 3")
    assert (trainer.learning_rate, trainer.epochs, trainer.batch_size) == (0.0001, 3, 1)
    assert (trainer.optimizer.type, trainer.gradient_clipping.clipglobalnorm) == ("adamw", 0.5)


def test_no_trainer_is_one_that_trains_nothing() -> None:
    assert load_config(build_config()).trainer.type == "none"


@pytest.mark.parametrize(("section", "bound"), [("null", None), ("{}", 0.5), ("{clipglobalnorm: null}", None)])
def test_no_clipping_is_no_bound_and_an_empty_section_the_default_one(section: str, bound: float | None) -> None:
    assert load_trainer(f"gradient_clipping: {section}").gradient_clipping.clipglobalnorm == bound


@pytest.mark.parametrize(
    ("keys", "rows"),
    [
        ("batch_size: 2", 2),
        ("batch_size: 2, gradient_accumulation_steps: 8", 16),
        ("effective_batch_size: 32", 32),
        ("batch_size: auto", 16),
        ("batch_size: auto, gradient_accumulation_steps: 4", 4),
        ("batch_size: null, effective_batch_size: 6", 6),
    ],
)
def test_the_rows_of_a_step_follow_from_what_is_written_of_the_three_batch_keys(keys: str, rows: int) -> None:
    assert load_trainer(keys).rows_per_step() == rows


@pytest.mark.parametrize(("written", "rate"), [("1e-4", 1e-4), ("auto", 1e-4), ("0", 0.0), ("2E-3", 2e-3)])
def test_a_learning_rate_is_a_number_however_yaml_reads_it(written: str, rate: float) -> None:
    assert load_trainer(f"learning_rate: {written}").resolved_learning_rate() == rate

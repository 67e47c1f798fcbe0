"""Optimizers: every type with its own keys, and no key of another's."""

import pytest
from llm_api.config import FinetuneTrainer, load_config

from tests.support.documents import build_config
from tests.support.verdicts import Accepted, Refused, assert_accepted, assert_refused, parametrize

FRAME = "trainer: {type: finetune, optimizer: SECTION}"
BETAS = "betas: [0.9, 0.999], weight_decay: 0.0"
ADAM = f"{BETAS}, eps: 1.0e-08, amsgrad: false"
BLOCKS = "block_wise: true, percentile_clipping: 100"
SGD = "momentum: 0.0, weight_decay: 0.0, dampening: 0.0, nesterov: false"
PRINTED = {
    "sgd": SGD,
    "sgd_8bit": f"{SGD}, block_wise: false, percentile_clipping: 100",
    "lbfgs": "max_iter: 20, max_eval: null, tolerance_grad: 1e-07, tolerance_change: 1e-09, history_size: 100, "
    "line_search_fn: null",
    "adam": ADAM,
    "adam_8bit": f"{ADAM}, {BLOCKS}",
    "paged_adam": f"{ADAM}, {BLOCKS}",
    "paged_adam_8bit": f"{ADAM}, {BLOCKS}",
    "adamw": ADAM,
    "adamw_8bit": f"{ADAM}, {BLOCKS}",
    "paged_adamw": f"{ADAM}, {BLOCKS}",
    "paged_adamw_8bit": f"{ADAM}, {BLOCKS}",
    "adadelta": "rho: 0.9, eps: 1e-06, weight_decay: 0.0",
    "adagrad": "initial_accumulator_value: 0, lr_decay: 0, weight_decay: 0, eps: 1e-10",
    "adagrad_8bit": f"initial_accumulator_value: 0, lr_decay: 0, weight_decay: 0, eps: 1e-10, {BLOCKS}",
    "adamax": f"{BETAS}, eps: 1e-08",
    "nadam": f"{BETAS}, eps: 1e-08, momentum_decay: 0.004",
    "rmsprop": "momentum: 0.0, alpha: 0.99, eps: 1e-08, centered: false, weight_decay: 0.0",
    "rmsprop_8bit": f"momentum: 0.0, alpha: 0.99, eps: 1e-08, centered: false, weight_decay: 0.0, {BLOCKS}",
    "lamb": f"{ADAM}, bias_correction: true, adam_w_mode: true, percentile_clipping: 100, block_wise: false, "
    "max_unorm: 1.0",
    "lamb_8bit": f"{ADAM}, bias_correction: true, adam_w_mode: true, percentile_clipping: 100, max_unorm: 1.0",
    "lars": "momentum: 0.9, dampening: 0.0, weight_decay: 0.0, nesterov: false, percentile_clipping: 100, "
    "max_unorm: 1.0",
    "lars_8bit": "momentum: 0.9, dampening: 0.0, weight_decay: 0.0, nesterov: false, max_unorm: 1.0",
    "lion": f"{BETAS}, {BLOCKS}",
    "lion_8bit": f"{BETAS}, {BLOCKS}",
    "paged_lion": f"{BETAS}, {BLOCKS}",
    "paged_lion_8bit": f"{BETAS}, {BLOCKS}",
    "radam": f"{BETAS}, eps: 1e-08",
    "adafactor": "lr: null, scale_parameter: true, relative_step: true, warmup_init: false",
    "schedule_free_adamw": f"{BETAS}, warmup_steps: 0",
    "muon": "momentum: 0.95, nesterov: true",
}

ACCEPTED = [
    *(Accepted(f"{{type: {kind}}}", "all defaults") for kind in PRINTED),
    *(Accepted(f"{{type: {kind}, {keys}}}", "the printed defaults") for kind, keys in PRINTED.items()),
    Accepted("{type: adamw, weight_decay: 0.01, betas: [0.9, 0.95], eps: 1e-6}", "keys of the optimizer"),
    Accepted("{type: sgd, momentum: 0.9, nesterov: true}", "keys of the optimizer"),
]

REFUSED = [
    Refused("{}", ".type", "an optimizer has a type"),
    Refused("{weight_decay: 0.1}", ".type", "an optimizer has a type"),
    *(
        Refused(f"{{type: {kind}}}", ".type", "not a type")
        for kind in ("AdamW", "adam_w", "adamw_torch", "soap", "null", "5")
    ),
    Refused("{type: adamw, lr: 0.1}", ".lr", "lr belongs to the trainer"),
    Refused("{type: adamw, learning_rate: 0.1}", ".learning_rate", "it belongs to the trainer"),
    Refused("{type: adamw, momentum: 0.9}", ".momentum", "a key of another optimizer"),
    Refused("{type: adamw, beta1: 0.9}", ".beta1", "the key is betas"),
    Refused("{type: sgd, betas: [0.9, 0.999]}", ".betas", "a key of another optimizer"),
    Refused("{type: muon, weight_decay: 0.1}", ".weight_decay", "a key of another optimizer"),
    *(
        Refused(f"{{type: {kind}, {key}: {value}}}", f".{path}", reason)
        for kind in ("adam", "adamw", "adamw_8bit", "paged_adam", "lamb_8bit", "nadam", "radam")
        for key, value, path, reason in [
            ("weight_decay", "-0.1", "weight_decay", "at least 0, with 8 bits too"),
            ("weight_decay", "'0.1'", "weight_decay", "a number"),
            ("eps", "-1e-8", "eps", "at least 0"),
            ("betas", "[0.9]", "betas", "two numbers"),
            ("betas", "[0.9, 0.99, 0.999]", "betas", "two numbers"),
            ("betas", "0.9", "betas", "two numbers"),
            ("betas", "[0.9, 1.5]", "betas[1]", "from 0 to 1"),
            ("betas", "[-0.1, 0.9]", "betas[0]", "from 0 to 1"),
        ]
    ),
    Refused("{type: adamw, amsgrad: 1}", ".amsgrad", "options true, false"),
    Refused("{type: sgd, momentum: -0.9}", ".momentum", "at least 0"),
    Refused("{type: sgd, nesterov: true}", ".nesterov", "nesterov needs momentum"),
    Refused("{type: adam_8bit, percentile_clipping: 101}", ".percentile_clipping", "from 0 to 100"),
    Refused("{type: lion_8bit, percentile_clipping: -1}", ".percentile_clipping", "from 0 to 100"),
    Refused("{type: lbfgs, max_iter: 0}", ".max_iter", "a positive integer"),
    Refused("{type: lbfgs, line_search_fn: armijo}", ".line_search_fn", "not an option"),
    Refused("{type: adafactor, lr: -1}", ".lr", "a positive number"),
    Refused("{type: schedule_free_adamw, warmup_steps: -1}", ".warmup_steps", "a number of steps"),
]


@parametrize(ACCEPTED)
def test_an_optimizer_with_its_keys_is_accepted(case: Accepted) -> None:
    assert_accepted(FRAME, case)


@parametrize(REFUSED)
def test_an_optimizer_with_keys_that_are_not_its_own_or_out_of_range_is_refused(case: Refused) -> None:
    assert_refused(FRAME, case._replace(path=f"trainer.optimizer{case.path}"))


@pytest.mark.parametrize("kind", PRINTED)
def test_the_defaults_of_an_optimizer_are_the_printed_ones(kind: str) -> None:
    bare, printed = (
        load_config(build_config(FRAME.replace("SECTION", f"{{type: {kind}{keys}}}"))).trainer
        for keys in ("", f", {PRINTED[kind]}")
    )
    assert isinstance(bare, FinetuneTrainer)
    assert isinstance(printed, FinetuneTrainer)
    ours = {"block_wise": True}  # bitsandbytes scales by blocks whatever it is told.
    assert bare.optimizer.model_dump() == {
        **printed.optimizer.model_dump(),
        **(ours if "block_wise" in PRINTED[kind] else {}),
    }

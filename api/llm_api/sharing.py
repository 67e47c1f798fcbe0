"""What must hold between a config and the devices that share its work. How they share it is the runner's."""

from typing import Any

from llm_api.config import LLMConfig, LoraAdapter, TuningTrainer
from llm_api.config.adapter import STARTS_IN_BASE
from llm_api.model import Rule

_DEVICES = (
    "(has(self.compute) && has(self.compute.nodes) ? self.compute.nodes : 1)"
    " * (has(self.compute) && has(self.compute.accelerators) ? self.compute.accelerators.count : 1)"
)
_TRAINER = "self.config.trainer"
_TRAINS = f"has({_TRAINER}) && {_TRAINER}.type != 'none'"

_NOT_FSDP = "!has(self.compute) || !has(self.compute.parallelism) || self.compute.parallelism != 'fsdp'"
SHARED_OPTIMIZERS = ("adam", "adamw", "sgd", "adagrad", "adamax", "nadam", "radam", "rmsprop", "adadelta")
"""In torch's own operations, number by number: a share of a weight is as good as all of it."""


def can_share_layers(config: LLMConfig) -> bool:
    """Whether weights, gradients and optimizer states of a run can be shared out over devices."""
    return weights_are_shareable(config) and adapter_is_shareable(config) and trainer_is_shareable(config)


def weights_are_shareable(config: LLMConfig) -> bool:
    return config.quantization is None or config.quantization.bits != 8


def adapter_is_shareable(config: LLMConfig) -> bool:
    adapter = config.adapter
    if adapter is None:
        return True
    return isinstance(adapter, LoraAdapter) and adapter.init_lora_weights not in STARTS_IN_BASE


def trainer_is_shareable(config: LLMConfig) -> bool:
    trainer = config.trainer
    if not isinstance(trainer, TuningTrainer):
        return True
    is_plain = trainer.regularization_lambda == 0 and not trainer.compile
    return trainer.type == "finetune" and trainer.optimizer.type in SHARED_OPTIMIZERS and is_plain


def _is_not_fsdp(spec: Any) -> bool:
    return bool(spec.compute.parallelism != "fsdp")


def _is_number(key: str) -> str:
    return f"has({_TRAINER}.{key}) && type({_TRAINER}.{key}) == int"


def _number(key: str, otherwise: str) -> str:
    return f"({_is_number(key)} ? int({_TRAINER}.{key}) : {otherwise})"


_LEFT_OPEN = (
    f"has({_TRAINER}.batch_size) && type({_TRAINER}.batch_size) != int"
    f" && !({_is_number('gradient_accumulation_steps')})"
)
_PRODUCT = f"({_LEFT_OPEN} ? 0 : {_number('batch_size', '1')} * {_number('gradient_accumulation_steps', '1')})"
_ROWS = _number("effective_batch_size", _PRODUCT)
"""Rows of an optimizer step; 0 where the runner chooses them."""


def rows_are_shared(spec: Any) -> bool:
    """Whether each device gets as many rows of a step as the others."""
    trainer = spec.config.trainer
    if not isinstance(trainer, TuningTrainer) or trainer.leaves_rows_open:
        return True
    return bool(trainer.rows_per_step() % spec.compute.devices == 0)


def _tell_rows(spec: Any) -> str:
    rows, devices = spec.config.trainer.rows_per_step(), spec.compute.devices
    return f"{rows} rows for {devices} devices; {(rows // devices + 1) * devices} would do"


SHARING_RULES = (
    Rule(
        name="rows-need-devices",
        message="nothing is trained by `trainer: {type: none}`, and one device measures it; write one node and one "
        "accelerator",
        cel=f"!has({_TRAINER}) || {_TRAINER}.type != 'none' || {_DEVICES} == 1",
        holds=lambda spec: isinstance(spec.config.trainer, TuningTrainer) or spec.compute.devices == 1,
        path="compute",
        needs=("config.trainer", "compute"),
    ),
    Rule(
        name="rows-shared-by-devices",
        message="the rows of a step, trainer.effective_batch_size or batch_size times gradient_accumulation_steps, "
        "must be a multiple of nodes times accelerators.count, as each device takes as many of them",
        cel=f"!({_TRAINS}) || {_ROWS} % ({_DEVICES}) == 0",
        holds=rows_are_shared,
        found=_tell_rows,
        path="compute",
        needs=("config.trainer", "compute"),
    ),
    Rule(
        name="fsdp-needs-whole-numbers",
        message="8-bit weights can't be shared out, as bitsandbytes keeps what belongs to them beside them; write "
        "quantization: {bits: 4}, or parallelism: ddp",
        cel=f"{_NOT_FSDP} || !has(self.config.quantization) || !has(self.config.quantization.bits)"
        " || self.config.quantization.bits != 8",
        holds=lambda spec: _is_not_fsdp(spec) or weights_are_shareable(spec.config),
        path="compute.parallelism",
        needs=("config.quantization", "compute"),
    ),
    Rule(
        name="fsdp-needs-lora",
        message="layers are shared out without an adapter, or with `adapter: {type: lora}` that starts beside the base "
        f"(not by {', '.join(STARTS_IN_BASE)}); others look at whole weights, so write parallelism: ddp for them",
        cel=f"{_NOT_FSDP} || !has(self.config.adapter) || (self.config.adapter.type == 'lora'"
        " && (!has(self.config.adapter.init_lora_weights)"
        f" || !(self.config.adapter.init_lora_weights in {list(STARTS_IN_BASE)})))",
        holds=lambda spec: _is_not_fsdp(spec) or adapter_is_shareable(spec.config),
        path="compute.parallelism",
        needs=("config.adapter", "compute"),
    ),
    Rule(
        name="fsdp-needs-single-numbers",
        message="layers are shared out for trainer.type finetune with an optimizer that updates each number by itself "
        f"({', '.join(SHARED_OPTIMIZERS)}), without regularization_lambda and compile; else write parallelism: ddp",
        cel=f"{_NOT_FSDP} || !({_TRAINS}) || ({_TRAINER}.type == 'finetune'"
        f" && (!has({_TRAINER}.optimizer) || {_TRAINER}.optimizer.type in {list(SHARED_OPTIMIZERS)})"
        f" && (!has({_TRAINER}.regularization_lambda) || {_TRAINER}.regularization_lambda == 0.0)"
        f" && (!has({_TRAINER}.compile) || !{_TRAINER}.compile))",
        holds=lambda spec: _is_not_fsdp(spec) or trainer_is_shareable(spec.config),
        path="compute.parallelism",
        needs=("config.trainer", "compute"),
    ),
)

"""Puts a run's model and learner together from its config and inputs."""

from typing import Any

import torch
from llm_api.config import LoraAdapter, PreferenceTrainer, TuningTrainer
from llm_api.config.adapter import AnyAdapter as Adapter
from llm_api.run import TrainRun
from peft import PeftModel
from transformers import PreTrainedModel

from llm_runner.model.adapter import add_adapter, mark_trainable
from llm_runner.model.dequantize import dequantize_linears
from llm_runner.model.load import load_base
from llm_runner.model.memory import available_memory
from llm_runner.model.precision import choose_dtype
from llm_runner.report.reporter import Reporter
from llm_runner.train.allocator import build_allocator
from llm_runner.train.batch import count_targets
from llm_runner.train.device import choose_device
from llm_runner.train.eva import start_by_eva
from llm_runner.train.forward import Forward, NoisyForward, TokenForward, choose_forward
from llm_runner.train.inputs import Inputs
from llm_runner.train.learner import RATE_RATIO, Learner, build_regularization
from llm_runner.train.loop import LoopPlan
from llm_runner.train.lora import fuse_lora
from llm_runner.train.master import MasterWeights, build_masters
from llm_runner.train.optimizer import build_optimizer
from llm_runner.train.pairforward import PairForward
from llm_runner.train.plan import plan_clipping, plan_most_rows_per_forward, plan_tokens_per_forward
from llm_runner.train.preference import build_method
from llm_runner.train.ranks import ALONE, Ranks
from llm_runner.train.sharding import shard_layers


def resolve_dtype(run: TrainRun, device: torch.device, reporter: Reporter) -> torch.dtype:
    if run.dtype != "auto":
        dtype: torch.dtype = getattr(torch, run.dtype)
        return dtype
    return choose_dtype(device, run.config.quantization, reporter.warning)


def language_model_of(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The model itself; an adapter is in its layers."""
    if not isinstance(model, PeftModel):
        return model
    base: Any = model.get_base_model()
    return base  # type: ignore[no-any-return]


def build_model(
    run: TrainRun,
    inputs: Inputs,
    plan: LoopPlan,
    *,
    device: torch.device,
    dtype: torch.dtype,
    reporter: Reporter,
    ranks: Ranks = ALONE,
) -> PreTrainedModel | PeftModel:
    """The base model with what is trained of it marked: the adapter, or the weights that aren't frozen.

    What is to be shared out waits on the host, unless it is quantized, which devices do.
    """
    config = run.config
    if ranks.share_layers and config.quantization is None:
        device = torch.device("cpu")
    torch.manual_seed(run.seed)
    model = load_base(
        inputs.base.path,
        quantization=config.quantization,
        model_parameters=config.model_parameters,
        dtype=dtype,
        device=device,
    )
    if config.adapter is None:
        mark_trainable(model, inputs.trainer.layers_to_freeze_regex)
        return model
    # LoftQ asks 4-bit layers what they have lost; other adapters go beside those that they will be trained with.
    starts_by_loss = isinstance(config.adapter, LoraAdapter) and config.adapter.init_lora_weights == "loftq"
    if not starts_by_loss and not ranks.share_layers:
        _dequantize_where_it_fits(model, dtype, reporter)
    adapted = add_adapter(model, config.adapter, plan.total_steps, pretrained_path=inputs.pretrained_adapter_path)
    if starts_by_loss:
        _dequantize_where_it_fits(model, dtype, reporter)
    if isinstance(config.adapter, LoraAdapter) and config.adapter.init_lora_weights == "eva":
        start_by_eva(adapted, config.adapter, inputs.data.train)
    return adapted


def build_learner(
    run: TrainRun,
    inputs: Inputs,
    plan: LoopPlan,
    model: PreTrainedModel | PeftModel,
    reporter: Reporter,
    ranks: Ranks = ALONE,
) -> Learner:
    trainer = inputs.trainer
    language_model = language_model_of(model)
    fuse_lora(model)
    if trainer.enable_gradient_checkpointing:
        language_model.activation_checkpointing_enable({"use_reentrant": False})
    forward, reason = choose_forward(language_model)
    if ranks.share_layers:
        layers = shard_layers(language_model, ranks.count, choose_device())
        reporter.info(f"{layers} layers are shared out over {ranks.count} devices")
    if reason is not None:
        kind = language_model.config.model_type
        reporter.warning(f"{kind} can't be trained without padding ({reason}); batches are padded, which is slower")
    if trainer.compile:
        language_model.get_decoder().compile()
    alpha = 0 if run.config.model_parameters is None else run.config.model_parameters.neftune_noise_alpha
    masters = build_masters(language_model)
    # Starts that are worked out, or drawn on another kind of device, may differ in their last digits.
    ranks.even_out([value.data for value in (*masters.trained.values(), *masters.parameters)])
    optimizer = build_optimizer(trainer.optimizer, _group_by_rate(masters, run.config.adapter), plan.learning_rate)
    if ranks.share_layers:
        # torch can't update shared-out weights and whole ones in one call.
        for group in optimizer.param_groups:
            group["foreach"] = False
    return Learner(
        model=language_model,
        forward=to_objective(trainer, NoisyForward(language_model, forward, alpha) if alpha else forward, ranks),
        optimizer=optimizer,
        most_rows_per_forward=plan_most_rows_per_forward(trainer),
        tokens_per_forward=plan_tokens_per_forward(trainer, inputs.size, language_model.device.type),
        clipping=plan_clipping(trainer),
        allocator=build_allocator(model) if isinstance(model, PeftModel) else None,
        regularization=build_regularization(trainer.regularization_type, trainer.regularization_lambda),
        autocast_dtype=torch.bfloat16 if trainer.use_mixed_precision else None,
        divisor=len if isinstance(trainer, PreferenceTrainer) else count_targets,
        masters=masters,
        ranks=ranks,
        spare=inputs.train_rows.example(0),
    )


def to_objective(trainer: TuningTrainer, forward: TokenForward, ranks: Ranks = ALONE) -> Forward:
    """A forward pass whose loss is the trainer's: over tokens, or over pairs."""
    if not isinstance(trainer, PreferenceTrainer):
        return forward
    return PairForward(forward, build_method(trainer), ranks)


def _group_by_rate(masters: MasterWeights, adapter: Adapter | None) -> list[dict[str, Any]]:
    """LoRA+ has the second matrices of updates learn faster; vectors go with them, as in its authors' own code."""
    ratio = adapter.loraplus_lr_ratio if isinstance(adapter, LoraAdapter) else None
    if ratio is None:
        return [{"params": masters.parameters}]
    second = {name: ".lora_B." in name or value.ndim == 1 for name, value in masters.masters.items()}
    slow, fast = ([value for name, value in masters.masters.items() if second[name] is it] for it in (False, True))
    return [{"params": slow}, {"params": fast, RATE_RATIO: ratio}]


def _dequantize_where_it_fits(model: PreTrainedModel, dtype: torch.dtype, reporter: Reporter) -> None:
    """4-bit layers compute with the same numbers either way, several times faster when they are unpacked once."""
    if not getattr(model, "is_loaded_in_4bit", False):
        return
    unpacked_bytes = dtype.itemsize * model.num_parameters()
    if unpacked_bytes * 3 > available_memory(model.device):
        return
    layers = dequantize_linears(model, dtype)
    reporter.info(f"{layers} 4-bit layers are unpacked once, into {unpacked_bytes / 2**30:.1f} GiB, as memory allows")

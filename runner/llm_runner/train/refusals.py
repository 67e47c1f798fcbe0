"""What a config may ask for and this runner can't do, said before anything is fetched or loaded."""

from collections.abc import Iterator

import torch
from llm_api.config import AdaLoraAdapter, TuningTrainer
from llm_api.run import TrainRun

from llm_runner.errors import ConfigInvalid
from llm_runner.train.optimizer import check_optimizer


def check_config(run: TrainRun, device: torch.device) -> TuningTrainer:
    """The run's trainer. Raises ConfigInvalid naming all that can't be done."""
    trainer = run.config.trainer
    if not isinstance(trainer, TuningTrainer):
        raise ConfigInvalid("trainer.type: this run trains nothing; write `trainer: {type: finetune}`")
    if refused := list(_refuse(run, trainer)):
        raise ConfigInvalid("\n".join(refused))
    check_optimizer(trainer.optimizer, device)
    return trainer


def _refuse(run: TrainRun, trainer: TuningTrainer) -> Iterator[str]:
    adapter, grows = run.config.adapter, trainer.increase_batch_size_on_plateau > 0
    if grows and isinstance(adapter, AdaLoraAdapter) and trainer.train_steps is None:
        yield (
            "trainer.increase_batch_size_on_plateau: AdaLoRA gives out ranks by the number of steps, which is not "
            "known while batches grow; write trainer.train_steps, or leave it out"
        )
    if adapter is not None and trainer.layers_to_freeze_regex is not None:
        yield "trainer.layers_to_freeze_regex: an adapter freezes the whole base model already; leave one of them out"

"""LoRA+: the second matrices learn faster by the written ratio, step by step as with PEFT's own optimizer."""

from pathlib import Path

import pytest
import torch
from llm_runner.report.reporter import Reporter
from llm_runner.train.build import build_learner, build_model
from llm_runner.train.checkpoint import load_checkpoint, save_checkpoint
from llm_runner.train.inputs import gather_inputs
from llm_runner.train.learner import Learner
from llm_runner.train.plan import plan_loop
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer

from tests.support.rows import random_rows
from tests.support.runs import build_run

RATE, STEPS = 0.003, 4
BATCHES = [random_rows(6, seed=step).rows for step in range(STEPS)]
CPU = torch.device("cpu")


def build(
    folder: Path, model_path: Path, ratio: float | None, *, dora: bool = False, optimizer: str = "adamw"
) -> tuple[PeftModel, Learner]:
    """As a run does, up to its first step."""
    adapter = {"type": "lora", "r": 4, "dropout": 0, "use_dora": dora, "loraplus_lr_ratio": ratio}
    trainer = {"type": "finetune", "learning_rate": RATE, "optimizer": {"type": optimizer}}
    config = {"trainer": trainer, "adapter": adapter}
    run, reporter = build_run(folder, model_path, config), Reporter([])
    inputs = gather_inputs(run, folder / "work", reporter)
    plan = plan_loop(inputs.trainer, inputs.size, checkpoint_every=None, seed=run.seed)
    model = build_model(run, inputs, plan, device=CPU, dtype=torch.float32, reporter=reporter)
    assert isinstance(model, PeftModel)
    return model, build_learner(run, inputs, plan, model, reporter)


def take_steps(learner: Learner, first: int = 0, last: int = STEPS) -> dict[str, torch.Tensor]:
    for step in range(first, last):
        learner.take_step(BATCHES[step], RATE, step)
    return {name: value.detach().clone() for name, value in learner.trained.items()}


def take_pefts_steps(model: PeftModel, learner: Learner, ratio: float) -> dict[str, torch.Tensor]:
    """The textbook's loop, with the optimizer that PEFT makes."""
    optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=RATE, loraplus_lr_ratio=ratio)
    trained = [value for value in model.parameters() if value.requires_grad]
    model.train()
    for rows in BATCHES:
        part = learner.forward(rows)
        (part.loss_sum / part.targets).backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.5)
        optimizer.step()
        optimizer.zero_grad()
    return {name: value.detach().clone() for name, value in learner.trained.items()}


@pytest.mark.proves("adapter.loraplus_lr_ratio")
@pytest.mark.parametrize("dora", [False, True], ids=["plain", "dora"])
@pytest.mark.parametrize("ratio", [16.0, 0.5])
def test_the_weights_after_some_steps_are_those_of_pefts_optimizer(
    ratio: float, dora: bool, llama_path: Path, tmp_path: Path
) -> None:
    found = take_steps(build(tmp_path / "ours", llama_path, ratio, dora=dora)[1])
    wanted = take_pefts_steps(*build(tmp_path / "plain", llama_path, None, dora=dora), ratio)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("ratio", [None, 1.0])
def test_without_a_ratio_or_with_one_of_1_all_learn_alike(
    ratio: float | None, llama_path: Path, tmp_path: Path
) -> None:
    found = take_steps(build(tmp_path / "ours", llama_path, ratio)[1])
    wanted = take_pefts_steps(*build(tmp_path / "plain", llama_path, None), 1.0)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit", "sgd"])
def test_a_resumed_run_keeps_the_ratio(optimizer: str, llama_path: Path, tmp_path: Path) -> None:
    def start(name: str) -> Learner:
        return build(tmp_path / name, llama_path, 8.0, optimizer=optimizer)[1]

    whole, stopped, resumed = start("whole"), start("stopped"), start("resumed")
    take_steps(stopped, 0, 2)
    resumed.restore(load_checkpoint(save_checkpoint(tmp_path, 2, stopped.snapshot())))
    torch.testing.assert_close(take_steps(resumed, 2), take_steps(whole), rtol=0, atol=0)

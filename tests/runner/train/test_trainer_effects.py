"""Keys of the trainer that change how a step is computed, not what comes out of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from llm_api.run import TrainRun
from llm_runner.report.reporter import Reporter
from llm_runner.train.build import build_learner, build_model
from llm_runner.train.inputs import gather_inputs
from llm_runner.train.learner import Learner
from llm_runner.train.plan import plan_loop

from tests.support.rows import random_rows
from tests.support.runs import build_run

ROWS = random_rows(8, longest=60).rows
CPU = torch.device("cpu")


def learner_of(run: TrainRun, work_path: Path) -> Learner:
    """As a run builds it, up to its first step."""
    reporter = Reporter([])
    inputs = gather_inputs(run, work_path, reporter)
    plan = plan_loop(inputs.trainer, inputs.size, checkpoint_every=None, seed=run.seed)
    model = build_model(run, inputs, plan, device=CPU, dtype=torch.float32, reporter=reporter)
    return build_learner(run, inputs, plan, model, reporter)


def build(folder: Path, model_path: Path, **trainer: Any) -> Learner:
    run = build_run(folder, model_path, {"trainer": {"type": "finetune", **trainer}})
    return learner_of(run, folder / "work")


def kept_bytes(learner: Learner) -> int:
    """Of everything that a forward pass keeps for backward, but for the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in learner.model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    learner.model.train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = learner.forward(ROWS).loss_sum
    assert loss.requires_grad
    return sum(size for address, size in kept.items() if address not in weights)


@pytest.mark.proves("trainer.enable_gradient_checkpointing")
def test_gradient_checkpointing_keeps_a_part_of_the_activations_only(llama_path: Path, tmp_path: Path) -> None:
    plain, saving = (
        kept_bytes(build(tmp_path / str(saves), llama_path, enable_gradient_checkpointing=saves))
        for saves in (False, True)
    )
    assert saving < plain / 2


@pytest.mark.proves("trainer.compile")
def test_a_compiled_model_is_captured_as_graphs_and_takes_the_same_steps(
    llama_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graphs are run as they were captured: making machine code of them is the compiler's own affair."""
    captured: list[int] = []
    compile_module = torch.nn.Module.compile

    def run_as_it_is(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        captured.append(len(graph.graph.nodes))
        return graph.forward

    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compile_module(module, backend=run_as_it_is))
    plain = build(tmp_path / "plain", llama_path)
    expected = [plain.take_step(ROWS, 0.01, step).loss for step in range(2)]
    assert captured == []
    compiled = build(tmp_path / "compiled", llama_path, compile=True)
    found = [compiled.take_step(ROWS, 0.01, step).loss for step in range(2)]
    assert sum(captured) > 20
    assert found == pytest.approx(expected, abs=1e-4)


def rows_of_passes(learner: Learner) -> list[int]:
    """How many rows go through the model at a time in one step."""
    noted: list[int] = []
    forward = learner.forward

    class Noting:
        pads = forward.pads

        def __call__(self, rows: Any) -> Any:
            noted.append(len(rows))
            return forward(rows)

    learner.forward = Noting()
    learner.take_step(ROWS, 0.01, 0)
    return noted


@pytest.mark.proves("trainer.max_batch_size")
@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ({"batch_size": "auto"}, [8]),
        ({"batch_size": "auto", "max_batch_size": 3}, [3, 3, 2]),
        ({"batch_size": 1, "max_batch_size": 3}, [8]),
    ],
    ids=str,
)
def test_what_auto_lets_through_at_a_time_is_bounded_and_written_sizes_are_packed(
    trainer: dict[str, Any], expected: list[int], llama_path: Path, tmp_path: Path
) -> None:
    assert rows_of_passes(build(tmp_path, llama_path, **trainer)) == expected

"""Whether a run's processes share the model's layers out: as written, or by what fits."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_api.run import TrainRun
from llm_runner.errors import OutOfMemory
from llm_runner.model.memory import estimate_memory
from llm_runner.report.reporter import Reporter
from llm_runner.train.inputs import Inputs, gather_inputs
from llm_runner.train.memory import plan_memory, settle_sharing
from llm_runner.train.plan import plan_tokens_per_forward
from llm_runner.train.ranks import Ranks

from tests.support.runs import build_run

PROCESSES = 4
CPU = torch.device("cpu")
CONFIG: dict[str, Any] = {"adapter": {"type": "lora"}, "trainer": {"type": "finetune", "batch_size": 4}}


class OfOneMind(Ranks):
    """As if all processes found the same."""

    def any(self, flag: bool) -> bool:
        return flag


class Infos(Reporter):
    def __init__(self) -> None:
        super().__init__([])
        self.lines: list[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def make(llama_path: Path, tmp_path: Path) -> Any:
    def made(parallelism: str = "auto", processes: int = PROCESSES, **config: Any) -> tuple[TrainRun, Inputs]:
        together = {"processesPerNode": processes, "parallelism": parallelism}
        run = build_run(tmp_path / "run", llama_path, {**CONFIG, **config}, rows=22, together=together)
        return run, gather_inputs(run, tmp_path / "work", Reporter([]))

    return made


def needs(run: TrainRun, inputs: Inputs) -> tuple[int, int]:
    """Bytes of a process that has all layers, and of one that has its share."""
    plans = (plan_memory(run, inputs.trainer, inputs.size, 10, CPU, torch.float32, count) for count in (1, PROCESSES))
    whole, shared = (estimate_memory(inputs.model_config, one).total_bytes for one in plans)
    return whole, shared


def settle(run: TrainRun, inputs: Inputs, reporter: Reporter, processes: int = PROCESSES) -> bool:
    ranks = OfOneMind(count=processes, count_here=processes)
    return settle_sharing(run, inputs, 10, CPU, torch.float32, ranks, reporter)


def set_free(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    monkeypatch.setattr("llm_runner.train.memory.available_memory", lambda _device, *, processes: free_bytes)


def test_auto_shares_layers_out_where_a_whole_model_does_not_fit(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run, inputs = make()
    whole, shared = needs(run, inputs)
    assert shared < whole
    for free, expected in ((whole, False), (whole - 1, True), (shared, True)):
        set_free(monkeypatch, free)
        reporter = Infos()
        assert settle(run, inputs, reporter) is expected
        assert [line.partition(":")[0] for line in reporter.lines] == ["parallelism auto"] * expected


def test_what_fits_in_no_way_is_refused_with_the_smaller_need(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run, inputs = make()
    set_free(monkeypatch, needs(run, inputs)[1] - 1)
    with pytest.raises(OutOfMemory, match="in each of 4 processes, layers shared out"):
        settle(run, inputs, Infos())


def test_where_layers_are_shared_out_no_smaller_pass_is_counted_on(make: Any) -> None:
    run, inputs = make(trainer={"type": "finetune", "batch_size": "auto", "gradient_accumulation_steps": 8})
    size = replace(inputs.size, train_tokens=10**6, longest_row_tokens=200)
    whole, shared = (plan_memory(run, inputs.trainer, size, 10, CPU, torch.float32, count) for count in (1, PROCESSES))
    assert whole.batch_tokens == 200
    assert shared.batch_tokens == min(plan_tokens_per_forward(inputs.trainer, size, "cpu"), 8 * 200)


def test_what_is_written_is_done_whatever_fits(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run, inputs = make("fsdp")
    whole, _ = needs(run, inputs)
    set_free(monkeypatch, 2 * whole)
    assert settle(run, inputs, Infos())
    run, inputs = make("ddp")
    set_free(monkeypatch, whole - 1)
    with pytest.raises(OutOfMemory):
        settle(run, inputs, Infos())


@pytest.mark.parametrize(
    "config",
    [{"adapter": {"type": "ia3"}}, {"trainer": {"type": "finetune", "batch_size": 4, "optimizer": {"type": "lion"}}}],
    ids=["ia3", "lion"],
)
def test_auto_never_shares_out_what_can_not_be(
    make: Any, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]
) -> None:
    run, inputs = make(**config)
    set_free(monkeypatch, needs(run, inputs)[0] - 1)
    with pytest.raises(OutOfMemory):
        settle(run, inputs, Infos())


def test_a_process_by_itself_shares_with_nobody(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run, inputs = make(processes=1)
    set_free(monkeypatch, needs(run, inputs)[0])
    assert not settle(run, inputs, Infos(), processes=1)

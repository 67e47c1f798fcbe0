"""Several processes train one model as one process does: the same losses in float32, whatever is shared out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from llm_api.run import TrainRun
from llm_runner.train.ranks import ALONE, Ranks
from safetensors.torch import load_file

from tests.support.rank_runs import run_jobs
from tests.support.runs import build_run, read_curve, read_metrics, run_train

PROCESSES = 4
TRAINER: dict[str, Any] = {
    "type": "finetune",
    "batch_size": 4,
    "gradient_accumulation_steps": 2,
    "learning_rate": 0.01,
    "epochs": 3,
    "steps_per_checkpoint": 2,
}
LORA = {"type": "lora", "dropout": 0.0}
CLIPPING = {"gradient_clipping": {"clipglobalnorm": 0.1}}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("ddp", {"adapter": LORA, "trainer": {**TRAINER, **CLIPPING}}),
    "adalora": (
        "ddp",
        {"adapter": {"type": "adalora", "dropout": 0.0, "init_r": 6, "target_r": 2, "tfinal": 4}, "trainer": TRAINER},
    ),
    "full": ("ddp", {"trainer": {**TRAINER, **CLIPPING}}),
    "shared lora": ("fsdp", {"adapter": {**LORA, "use_dora": True}, "trainer": TRAINER}),
    "shared full": ("fsdp", {"trainer": {**TRAINER, **CLIPPING, "enable_gradient_checkpointing": True}}),
    "shared nf4": ("fsdp", {"adapter": LORA, "quantization": {"bits": 4}, "trainer": TRAINER}),
}
"""22 rows make steps of 8, 8 and 6 rows: the last is shared unevenly."""
STOPPED, GROWN, SHRUNK = "stopped", "from one to four", "from four to one"
DROPPING = {"adapter": {"type": "lora", "dropout": 0.3}, "trainer": TRAINER}
PLAIN = {"adapter": LORA, "trainer": TRAINER}
TOLERANCE = 1e-5


def build(folder: Path, model: Path, config: dict[str, Any], parallelism: str, processes: int) -> TrainRun:
    together = {"processesPerNode": processes, "parallelism": parallelism}
    return build_run(folder, model, config, rows=22, together=together)


def losses_of(run: TrainRun) -> list[float]:
    return [float(row[3]) for row in read_curve(Path(run.output_uri))]


@pytest.fixture(scope="module")
def runs(llama_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainRun]:
    """All of them, done by four processes; one was begun by one process, one is left to be ended by one."""
    folder: Path = tmp_path_factory.mktemp("together")
    runs = {name: build(folder / name, llama_path, config, how, PROCESSES) for name, (how, config) in CASES.items()}
    again = {name: build(folder / name, llama_path, DROPPING, "ddp", PROCESSES) for name in ("undisturbed", STOPPED)}
    moved = {name: build(folder / name, llama_path, PLAIN, "ddp", PROCESSES) for name in (GROWN, SHRUNK)}
    begin(moved[GROWN], folder / "begun")
    stopped = {STOPPED: again[STOPPED], SHRUNK: moved[SHRUNK]}
    first = {**{f"{name} at first": run for name, run in stopped.items()}, **runs}
    last = {"undisturbed": again["undisturbed"], STOPPED: again[STOPPED], GROWN: moved[GROWN]}
    stops = {f"{STOPPED} at first": (2, 6), f"{SHRUNK} at first": (3, 5)}
    run_jobs(folder / "jobs", {**first, **last}, PROCESSES, stops)
    return {**runs, **again, **moved}


def begin(run: TrainRun, work_path: Path) -> None:
    """By one process, which stops in mid-run."""
    from llm_runner.errors import Stopped

    from tests.support.runs import stop_after

    with pytest.raises(Stopped):
        run_train(run, work_path, should_stop=stop_after(6))


def alone(folder: Path, model: Path, config: dict[str, Any]) -> TrainRun:
    run = build(folder, model, config, "auto", 1)
    run_train(run, folder / "work")
    return run


@pytest.mark.parametrize("name", CASES)
def test_four_processes_have_the_losses_of_one(
    name: str, runs: dict[str, TrainRun], llama_path: Path, tmp_path: Path
) -> None:
    _, config = CASES[name]
    single = alone(tmp_path, llama_path, config)
    together = runs[name]
    assert len(losses_of(single)) == 9
    assert losses_of(together) == pytest.approx(losses_of(single), abs=TOLERANCE)
    ours, theirs = (read_metrics(Path(run.output_uri)) for run in (together, single))
    assert ours["eval"]["loss"] == pytest.approx(theirs["eval"]["loss"], abs=TOLERANCE)
    assert ours["train"]["tokens"] == theirs["train"]["tokens"]
    assert ours["trained_parameters"] == theirs["trained_parameters"]


@pytest.mark.parametrize("name", [name for name, (how, _) in CASES.items() if how == "fsdp"])
def test_what_was_shared_out_is_stored_whole(
    name: str, runs: dict[str, TrainRun], llama_path: Path, tmp_path: Path
) -> None:
    _, config = CASES[name]
    file = "adapter_model.safetensors" if "adapter" in config else "model.safetensors"
    single = load_file(Path(alone(tmp_path, llama_path, config).output_uri) / file)
    together = load_file(Path(runs[name].output_uri) / file)
    assert together.keys() == single.keys()
    for weight, value in single.items():
        assert together[weight].shape == value.shape
        assert torch.allclose(together[weight], value, atol=1e-3), weight


def test_a_run_that_one_process_was_asked_to_stop_goes_on_exactly(runs: dict[str, TrainRun]) -> None:
    """Dropout is on: each process draws the same numbers again."""
    assert read_curve(Path(runs[STOPPED].output_uri)) == read_curve(Path(runs["undisturbed"].output_uri))


@pytest.mark.parametrize("name", [GROWN, SHRUNK])
def test_a_run_goes_on_with_another_number_of_processes(
    name: str, runs: dict[str, TrainRun], llama_path: Path, tmp_path: Path
) -> None:
    moved = runs[name]
    if name == SHRUNK:
        run_train(moved, tmp_path / "ended")
    single = alone(tmp_path / "single", llama_path, PLAIN)
    assert read_metrics(Path(moved.output_uri))["train"]["steps"] == 9
    assert losses_of(moved) == pytest.approx(losses_of(single), abs=TOLERANCE)


@pytest.mark.parametrize("lengths", [[9, 1, 1, 1, 1, 1, 1, 1], [5, 5, 5, 5], [8, 7, 6, 5, 4, 3, 2, 1], [3]])
def test_rows_are_shared_by_their_tokens(lengths: list[int]) -> None:
    parts = [Ranks(number=number, count=PROCESSES).share(lengths) for number in range(PROCESSES)]
    assert sorted(place for part in parts for place in part) == list(range(len(lengths)))
    tokens = [sum(lengths[place] for place in part) for part in parts]
    assert max(tokens) <= max(max(lengths), sum(lengths) / PROCESSES + max(lengths))
    if len(lengths) == 8:
        assert max(tokens) == 9


def test_a_table_is_dealt_out_whole() -> None:
    dealt = [list(Ranks(number=number, count=3).deal(8)) for number in range(3)]
    assert sorted(place for part in dealt for place in part) == list(range(8))


def test_a_process_by_itself_exchanges_nothing() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.full((2,), 3.0)
    ALONE.sum_gradients([weight])
    assert weight.grad.tolist() == [3.0, 3.0]
    assert (ALONE.total([1.5, 2.0]), ALONE.any(False), ALONE.gather("x")) == ([1.5, 2.0], False, ["x"])
    assert list(ALONE.passes(iter([[1], [2]]), lambda: 0)) == [([1], True), ([2], True)]


def test_the_processes_of_a_machine_tokenize_once_and_use_the_same_files(runs: dict[str, TrainRun]) -> None:
    jobs = Path(runs["lora"].output_uri).parents[1] / "jobs"
    assert [path.parent.name for path in (jobs / "lora").rglob("train.tokens")] == ["rank-0"]

"""``batch_size: auto`` against a memory of a given size: what is found, what it changes, and what it leaves alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_api.config import FinetuneTrainer
from llm_api.run import TrainRun
from llm_runner.errors import OutOfMemory, Stopped
from llm_runner.report.reporter import Reporter
from llm_runner.train.batch import Row
from llm_runner.train.fit import choose_rows, find_largest, measure_tokens_per_forward
from llm_runner.train.forward import FlatForward, Forward, PaddedForward
from llm_runner.train.inputs import gather_inputs
from llm_runner.train.learner import Learner
from llm_runner.train.plan import RunSize, plan_sizes_to_try

from tests.support.models import build_model, llama_config
from tests.support.pairs import build_pair_run, pairs_in, random_pairs
from tests.support.rows import TokenRows, make_row, random_rows
from tests.support.runs import Messages, build_run, read_curve, read_metrics, run_train, stop_after

AUTO = {"type": "finetune", "batch_size": "auto", "learning_rate": 0.01, "epochs": 2, "steps_per_checkpoint": 1}
LORA = {"type": "lora", "r": 4, "dropout": 0.2}


@contextmanager
def memory_for(tokens: int) -> Iterator[list[int]]:
    """While it lasts no pass of more tokens goes through, of whatever part of a run; notes those that train."""
    passed: list[int] = []
    run = FlatForward._predict

    def limited(forward: FlatForward, rows: Sequence[Row]) -> Any:
        count = sum(len(row.token_ids) for row in rows)
        if count > tokens:
            raise torch.OutOfMemoryError(f"no room for {count} tokens")
        if torch.is_grad_enabled():
            passed.append(count)
        return run(forward, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FlatForward, "_predict", limited)
        yield passed


def tune(folder: Path, model_path: Path, messages: Messages | None = None, **trainer: Any) -> Path:
    run = build_run(folder, model_path, {"adapter": LORA, "trainer": {**AUTO, **trainer}})
    run_train(run, folder / "work", messages)
    return Path(run.output_uri)


def losses_of(folder: Path) -> list[float]:
    return [float(row[3]) for row in read_curve(folder)]


@pytest.mark.proves("trainer.batch_size", "trainer.gradient_accumulation_steps", "trainer.eval_batch_size")
def test_what_fits_is_found_told_kept_to_and_changes_no_loss(llama_path: Path, tmp_path: Path) -> None:
    messages = Messages()
    with memory_for(150) as passed:
        small = tune(tmp_path / "small", llama_path, messages, eval_batch_size="auto")
    large = tune(tmp_path / "large", llama_path)
    found = {folder: read_metrics(folder)["train"]["tokens_per_forward"] for folder in (small, large)}
    longest = passed[0]
    assert (found[small], found[large]) == (longest * 2, 16 * longest)
    assert max(passed[1:]) <= found[small]
    assert losses_of(small) == pytest.approx(losses_of(large), abs=0.2)
    assert any(
        f"batch_size auto: {longest * 2} tokens go through the model at a time" in text for text in messages.texts
    )


def test_without_dropout_a_steps_loss_is_the_same_however_it_is_cut(llama_path: Path, tmp_path: Path) -> None:
    losses = []
    for name, tokens in {"narrow": 60, "wide": 100_000}.items():
        run = build_run(tmp_path / name, llama_path, {"adapter": {**LORA, "dropout": 0.0}, "trainer": AUTO})
        with memory_for(tokens):
            run_train(run, tmp_path / name / "work")
        losses.append(losses_of(Path(run.output_uri)))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_trying_leaves_no_trace_in_what_is_trained(llama_path: Path, tmp_path: Path) -> None:
    """Nor in the random numbers of dropout: with the same passes, the same run."""
    tried = tune(tmp_path / "tried", llama_path)
    tokens = read_metrics(tried)["train"]["tokens_per_forward"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llm_runner.train.run.measure_tokens_per_forward", lambda *_: tokens)
        told = tune(tmp_path / "told", llama_path)
    assert read_curve(tried) == read_curve(told)


def test_a_resumed_run_is_cut_as_it_began_though_more_would_fit_now(llama_path: Path, tmp_path: Path) -> None:
    with memory_for(150):
        whole = tune(tmp_path / "whole", llama_path)
    run = build_run(tmp_path / "run", llama_path, {"adapter": LORA, "trainer": AUTO})
    with memory_for(150), pytest.raises(Stopped):
        run_train(run, tmp_path / "run" / "work", None, stop_after(4))
    messages = Messages()
    run_train(run, tmp_path / "run" / "work", messages)
    assert any("resumed after step" in text for text in messages.texts)
    assert not any("batch_size auto" in text for text in messages.texts)
    assert read_curve(Path(run.output_uri)) == read_curve(whole)
    same = [read_metrics(folder)["train"]["tokens_per_forward"] for folder in (whole, Path(run.output_uri))]
    assert same[0] == same[1]


def test_a_row_that_fits_nowhere_is_an_error_that_says_what_to_do(llama_path: Path, tmp_path: Path) -> None:
    with memory_for(45), pytest.raises(OutOfMemory, match=r"a single pass of \d+ tokens, .*global_max_sequence_length"):
        tune(tmp_path, llama_path)


def test_a_written_batch_size_is_not_tried_out(llama_path: Path, tmp_path: Path) -> None:
    folder = tune(tmp_path, llama_path, batch_size=4)
    assert "tokens_per_forward" not in read_metrics(folder)["train"]


@pytest.mark.proves("trainer.max_batch_size")
@pytest.mark.parametrize(
    ("keys", "device", "expected"),
    [
        ({"batch_size": "auto"}, "cpu", [100, 200, 400, 800, 1024]),
        ({"batch_size": None, "effective_batch_size": 3}, "cpu", [100, 200, 300]),
        ({"batch_size": "auto"}, "cuda", [100, 200, 400, 800, 1600]),
        ({"batch_size": "auto", "increase_batch_size_on_plateau": 1}, "cuda", [100 * 2**n for n in range(8)] + [16384]),
        ({"batch_size": "auto", "gradient_accumulation_steps": 1}, "cuda", [100]),
        ({"batch_size": 8}, "cuda", []),
        ({"batch_size": "auto", "max_batch_size": 3}, "cuda", [100, 200, 300]),
    ],
)
def test_sizes_rise_from_the_longest_row_to_a_whole_step(
    keys: dict[str, Any], device: str, expected: list[int]
) -> None:
    trainer = FinetuneTrainer.model_validate({"type": "finetune", **keys})
    assert plan_sizes_to_try(trainer, RunSize(1000, 100), device) == expected


def test_the_largest_is_the_last_before_the_first_that_does_not_fit() -> None:
    tried: list[int] = []

    def limited(tokens: int) -> None:
        tried.append(tokens)
        if tokens >= 400:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    assert find_largest([100, 200, 400, 800], limited) == 200
    assert tried == [100, 200, 400]
    with pytest.raises(ValueError, match="another thing"):
        find_largest([1], lambda _: (_ for _ in ()).throw(ValueError("another thing")))


def learner_of(kind: type[FlatForward] | type[PaddedForward], most_rows: int | None = None) -> Learner:
    model = build_model(llama_config())
    forward: Forward = kind(model)
    return Learner(model, forward, torch.optim.SGD(model.parameters()), 64, most_rows_per_forward=most_rows)


@pytest.mark.proves("trainer.max_batch_size")
def test_what_is_tried_is_the_longest_rows_that_training_could_let_through_together() -> None:
    rows = TokenRows([make_row([5] * length, 3) for length in (4, 30, 9, 20)])

    def lengths(learner: Learner, tokens: int) -> list[int]:
        return [len(row.token_ids) for row in choose_rows(learner, rows, tokens)]

    assert lengths(learner_of(FlatForward), 30) == [30]
    assert lengths(learner_of(FlatForward), 55) == [30, 20, 5]
    assert lengths(learner_of(FlatForward), 1000) == [30, 20, 9, 4]
    assert lengths(learner_of(FlatForward, most_rows=2), 1000) == [30, 20]
    assert lengths(learner_of(PaddedForward), 89) == [30, 20]


def test_pairs_are_tried_whole(llama_path: Path, tmp_path: Path) -> None:
    rows = random_pairs(6, scores=0)
    longest, *others = sorted(map(len, pairs_in(rows)), reverse=True)
    tried = choose_rows(learner_of(FlatForward), rows, longest + others[0] + others[1] - 1)
    assert [len(pair) for pair in tried] == [longest, others[0]]
    trainer = {**AUTO, "type": "dpo", "epochs": 1}
    run = build_pair_run(tmp_path, llama_path, {"adapter": LORA, "trainer": trainer})
    with memory_for(150):
        run_train(run, tmp_path / "work")
    found = read_metrics(Path(run.output_uri))["train"]["tokens_per_forward"]
    assert longest_pair(run) <= found <= 150


def longest_pair(run: TrainRun) -> int:
    data = gather_inputs(run, Path(run.output_uri).parent / "again", Reporter([]))
    return int(data.train_rows.lengths.max())


def test_a_tried_pass_leaves_no_gradient_and_draws_nothing() -> None:
    learner = learner_of(FlatForward)
    before = torch.get_rng_state()
    learner.try_pass(random_rows(4).rows)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in learner.model.parameters())


@dataclass
class Device:
    """One of 1,000 bytes, of which a pass takes one for each token; goes between a learner and its forward pass."""

    inner: Forward
    pads: bool = False
    tokens: int = 0

    def __call__(self, rows: Sequence[Row]) -> Any:
        self.tokens += sum(len(row.token_ids) for row in rows)
        return self.inner(rows)

    def reset(self) -> None:
        self.tokens = 0

    def peak_bytes(self) -> int:
        return self.tokens

    def room_bytes(self) -> int:
        return 1000


@pytest.mark.parametrize(("later_bytes", "found"), [(0, 800), (100, 800), (101, 400), (700, 200), (800, 100)])
def test_a_tenth_of_a_device_stays_free_of_what_a_run_takes_in_its_midst(later_bytes: int, found: int) -> None:
    learner = learner_of(FlatForward)
    learner.forward = device = Device(learner.forward)
    rows = TokenRows([make_row([5] * 100, 3)] * 16)
    sizes = [100, 200, 400, 800, 1600]
    assert measure_tokens_per_forward(learner, rows, sizes, later_bytes, device) == found
    with pytest.raises(OutOfMemory, match=r"a single pass of 100 tokens, .*0.0 GiB of 0.0 leave less than 10% free"):
        measure_tokens_per_forward(learner, rows, sizes, 801, device)

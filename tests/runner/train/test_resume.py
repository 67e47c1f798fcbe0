"""A run that is stopped anywhere and started again leaves what an undisturbed one does: the same losses, exactly."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llm_api.report import ExitCode
from llm_api.run import TrainRun
from llm_runner.errors import Stopped

from tests.support.runner_process import RunnerProcess
from tests.support.runs import Messages, build_run, read_curve, read_metrics, run_train, save_run, stop_after
from tests.support.s3 import S3Server, run_s3_server

TRAINER: dict[str, Any] = {
    "type": "finetune",
    "batch_size": 2,
    "gradient_accumulation_steps": 2,
    "epochs": 3,
    "steps_per_checkpoint": 4,
    "learning_rate": 0.01,
    "learning_rate_scheduler": {"decay": "cosine", "warmup_fraction": 0.2, "reduce_on_plateau": 2},
}
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"adapter": {"type": "lora", "dropout": 0.2}},
    "adalora": {"adapter": {"type": "adalora", "dropout": 0.2, "tfinal": 4, "init_r": 6, "target_r": 2}},
    "given ranks": {"adapter": {"type": "adalora", "dropout": 0.2, "rank_pattern": {"q_proj": 3}}},
    "ia3": {"adapter": {"type": "ia3"}},
    "vera": {"adapter": {"type": "vera", "r": 16, "projection_prng_key": 5}},
    "loha": {"adapter": {"type": "loha", "r": 4}},
    "lokr": {"adapter": {"type": "lokr", "r": 2}},
    "oft": {"adapter": {"type": "oft", "oft_block_size": 8}},
    "coft": {"adapter": {"type": "oft", "oft_block_size": 8, "coft": True, "eps": 0.5}},
    "boft": {"adapter": {"type": "boft", "boft_dropout": 0.5}},
    "pissa": {"adapter": {"type": "lora", "r": 4, "init_lora_weights": "pissa_niter_4"}},
    "olora": {"adapter": {"type": "lora", "r": 4, "init_lora_weights": "olora"}},
    "eva": {"adapter": {"type": "lora", "r": 4, "init_lora_weights": "eva"}},
    "loftq": {"adapter": {"type": "lora", "r": 4, "init_lora_weights": "loftq"}, "quantization": {"bits": 4}},
    "full": {},
    "noisy": {"adapter": {"type": "lora"}, "model_parameters": {"neftune_noise_alpha": 5}},
}


def config_of(method: str, **trainer: Any) -> dict[str, Any]:
    return {**METHODS[method], "trainer": {**TRAINER, **trainer}}


def run_with_stops(run: TrainRun, folder: Path, asked: int, messages: Messages, *, fresh: bool = False) -> int:
    """Starts the run again and again, each time stopped at the ``asked``-th chance; returns how often it was."""
    for attempt in range(100):
        work_path = folder / (f"work-{attempt}" if fresh else "work")
        try:
            run_train(run, work_path, messages, stop_after(asked))
        except Stopped:
            continue
        return attempt
    raise AssertionError("the run never ended")


@pytest.mark.parametrize("method", METHODS)
def test_stops_change_no_loss_of_any_step(method: str, llama_path: Path, tmp_path: Path) -> None:
    whole = build_run(tmp_path / "whole", llama_path, config_of(method))
    run_train(whole, tmp_path / "work-of-whole")
    messages, run = Messages(), build_run(tmp_path / "stopped", llama_path, config_of(method))
    assert run_with_stops(run, tmp_path, 6, messages) >= 4
    assert len([text for text in messages.texts if "resumed after step" in text]) >= 4
    expected = read_curve(Path(whole.output_uri))
    assert len(expected) == 18
    assert len({losses[3] for losses in expected}) == 18
    assert read_curve(Path(run.output_uri)) == expected
    for name in ("loss", "perplexity", "base_loss"):
        assert read_metrics(Path(run.output_uri))["eval"][name] == read_metrics(Path(whole.output_uri))["eval"][name]


@pytest.mark.proves("trainer.increase_batch_size_on_plateau")
@pytest.mark.parametrize("length", [{"epochs": 6}, {"train_steps": 20}], ids=str)
def test_stops_change_no_loss_where_batches_grow(length: dict[str, int], llama_path: Path, tmp_path: Path) -> None:
    """The rate is so high that the loss stops falling now and then."""
    growing = {
        "increase_batch_size_on_plateau": 2,
        "increase_batch_size_on_plateau_patience": 0,
        "increase_batch_size_eval_metric": "next_token_accuracy",
        "learning_rate": 0.1,
        "early_stop": 0,
    }
    config = config_of("lora", **growing, **length)
    whole, said = build_run(tmp_path / "whole", llama_path, config), Messages()
    run_train(whole, tmp_path / "work-of-whole", said)
    assert len([text for text in said.texts if "on a step takes" in text]) == 2
    run = build_run(tmp_path / "stopped", llama_path, config)
    assert run_with_stops(run, tmp_path, 6, Messages()) >= 3
    expected = read_curve(Path(whole.output_uri))
    assert read_curve(Path(run.output_uri)) == expected
    assert len(expected) == 20 if "train_steps" in length else len(expected) < 36
    assert float(expected[-1][1]) == 6.0 if "epochs" in length else float(expected[-1][1]) > 20 / 6


@pytest.mark.parametrize("name", ["trained.safetensors", "state.pt", "digests.json"])
def test_a_torn_checkpoint_is_passed_over_and_the_one_before_goes_on_the_same(
    name: str, llama_path: Path, tmp_path: Path
) -> None:
    config = config_of("lora", steps_per_checkpoint=2)
    whole = build_run(tmp_path / "whole", llama_path, config)
    run_train(whole, tmp_path / "work-of-whole")
    messages, run = Messages(), build_run(tmp_path / "torn", llama_path, config)
    with pytest.raises(Stopped):
        run_train(run, tmp_path / "work", messages, stop_after(14))
    *_, newest = sorted(Path(run.checkpoint.uri).iterdir())
    (newest / name).write_bytes((newest / name).read_bytes()[:-20])
    run_train(run, tmp_path / "work", messages)
    assert any(f"warning: checkpoint {newest.name} is not whole" in text for text in messages.texts)
    assert read_curve(Path(run.output_uri)) == read_curve(Path(whole.output_uri))


def test_checkpoints_of_another_config_are_not_taken(llama_path: Path, tmp_path: Path) -> None:
    messages, first = Messages(), build_run(tmp_path / "run", llama_path, config_of("lora"))
    with pytest.raises(Stopped):
        run_train(first, tmp_path / "work", messages, stop_after(6))
    other = build_run(tmp_path / "run", llama_path, config_of("lora", learning_rate=0.002))
    run_train(other, tmp_path / "work", messages)
    assert any("are of another config, data or model; training starts anew" in text for text in messages.texts)
    assert len(read_curve(Path(other.output_uri))) == 18


def test_a_run_that_is_done_leaves_no_checkpoints(llama_path: Path, tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", llama_path, config_of("ia3"))
    run_train(run, tmp_path / "work")
    assert not Path(run.checkpoint.uri).exists()
    assert (Path(run.output_uri) / "metrics.json").is_file()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with pytest.MonkeyPatch.context() as patch, run_s3_server(tmp_path_factory.mktemp("s3")) as server:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        server.make_bucket("runs")
        yield server


def test_checkpoints_in_s3_go_on_on_another_machine(server: S3Server, llama_path: Path, tmp_path: Path) -> None:
    """Each attempt has an empty work folder, as a pod on another node has."""
    config = config_of("adalora", early_stop=0)
    whole = build_run(tmp_path / "whole", llama_path, config)
    run_train(whole, tmp_path / "work-of-whole")
    uri = "s3://runs/tiny/checkpoints"
    run = build_run(tmp_path / "run", llama_path, config, checkpoint_uri=uri, s3=server.settings)
    messages = Messages()
    assert run_with_stops(run, tmp_path, 7, messages, fresh=True) >= 3
    assert read_curve(Path(run.output_uri)) == read_curve(Path(whole.output_uri))
    assert list((server.folder / "runs").rglob("step-*")) == []


@pytest.fixture
def long_config() -> dict[str, Any]:
    """Steps enough to be hit by a signal."""
    trainer = {**TRAINER, "batch_size": 12, "gradient_accumulation_steps": 1, "epochs": 25, "steps_per_checkpoint": 10}
    return {"adapter": {"type": "lora", "dropout": 0.1}, "trainer": {**trainer, "early_stop": 0}}


def test_signals_to_a_real_process_lose_nothing(long_config: dict[str, Any], llama_path: Path, tmp_path: Path) -> None:
    whole = build_run(tmp_path / "whole", llama_path, long_config, rows=48)
    run_train(whole, tmp_path / "work-of-whole")
    run = build_run(tmp_path / "run", llama_path, long_config, rows=48, checkpoint={
        "uri": str(tmp_path / "checkpoints"), "everySteps": 2, "keep": 2,
    })  # fmt: skip
    environment = {"OMP_NUM_THREADS": "1"}
    with RunnerProcess(tmp_path, "train", save_run(run, tmp_path / "run.json"), environment=environment) as first:
        first.wait_for(lambda line: line["event"] == "step" and line["step"] >= 5)
        first.kill()
    assert any(path.name.startswith("step-") for path in (tmp_path / "checkpoints").iterdir())
    with RunnerProcess(tmp_path, "train", tmp_path / "run.json", environment=environment) as second:
        second.wait_for(lambda line: "resumed after step" in line.get("message", ""))
        second.wait_for(lambda line: line["event"] == "step")
        second.terminate()
        assert second.wait() == ExitCode.STOPPED
        assert "a checkpoint is saved" in second.outcome["message"]
        assert second.outcome["reason"] == "Stopped"
    run_train(run, tmp_path / "work")
    assert read_curve(Path(run.output_uri)) == read_curve(Path(whole.output_uri))


def test_sigterm_while_preparing_ends_the_process_at_once(llama_path: Path, tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", llama_path, config_of("lora", epochs=1000))
    with RunnerProcess(tmp_path, "train", save_run(run, tmp_path / "run.json")) as process:
        process.wait_for(lambda line: line["event"] == "phase" and line["phase"] == "Preparing")
        process.terminate()
        assert process.wait() == ExitCode.STOPPED
        assert process.outcome["reason"] == "Stopped"

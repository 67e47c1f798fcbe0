"""Every way in which a run can't be done, tried by the command itself: its exit code, and words that say what to do."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from llm_api.report import ExitCode
from llm_runner.__main__ import main
from transformers import LlamaForCausalLM

from tests.support.hub import HubServer, run_hub_server
from tests.support.models import llama_config, save_model, tiny_tokenizer
from tests.support.runs import write_rows


@dataclass
class Failed:
    """How a command ended."""

    code: int
    message: str
    """What stands on standard error."""
    outcome: dict[str, Any]
    phases: list[str] = field(default_factory=list)


@dataclass
class Bench:
    """A good fine-tune of a tiny model, to be broken in one place."""

    folder: Path
    model_path: Path
    capture: pytest.CaptureFixture[str]

    def __post_init__(self) -> None:
        write_rows(self.rows, 20)
        self.config: dict[str, Any] = {
            "base_model": str(self.model_path),
            "input_features": [{"name": "question", "type": "text"}],
            "output_features": [{"name": "answer", "type": "text"}],
            "adapter": {"type": "lora"},
            "trainer": {"type": "finetune", "train_steps": 3, "batch_size": 4},
        }
        self.output: dict[str, Any] = {"volume": {"claimName": "work", "path": "out"}}

    @property
    def rows(self) -> Path:
        return self.folder / "rows.csv"

    def run(self, rows: Path | None = None, **spec: Any) -> Failed:
        name = (self.rows if rows is None else rows).name
        manifest = {
            "apiVersion": "llmoperator.dev/v1alpha1",
            "kind": "LLMFineTune",
            "metadata": {"name": "bot"},
            "spec": {
                "config": self.config,
                "dataset": {"train": {"volume": {"claimName": "work", "path": name}}},
                "output": self.output,
                **spec,
            },
        }
        (self.folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
        log = self.folder / "termination.json"
        arguments = ["--volume", f"work={self.folder}", "--termination-log", str(log)]
        self.capture.readouterr()
        code = main(["run", "-f", str(self.folder / "manifest.yaml"), *arguments])
        shown = self.capture.readouterr()
        lines = [json.loads(line) for line in shown.out.splitlines()]
        phases = [line["phase"] for line in lines if line["event"] == "phase"]
        return Failed(code, shown.err, json.loads(log.read_text()), phases)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("tiny") / "llama", llama_config())


@pytest.fixture
def bench(tmp_path: Path, model_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(tmp_path, model_path, capsys)


def expect(failed: Failed, code: ExitCode, reason: str, *words: str, phases: tuple[str, ...] = ("Preparing",)) -> None:
    assert (failed.code, failed.outcome["reason"]) == (code, reason), failed.message
    assert f"error: {reason}: " in failed.message
    for word in words:
        assert word in failed.message
    assert "Traceback" not in failed.message
    assert tuple(failed.phases) == phases


def test_the_bench_itself_runs(bench: Bench) -> None:
    done = bench.run()
    assert (done.code, done.outcome["reason"]) == (ExitCode.DONE, "Succeeded")


def test_a_missing_column_names_the_columns_there_are_and_the_nearest(bench: Bench) -> None:
    bench.config["prompt"] = {"template": "Answer {Qestion} about {product}"}
    expect(
        bench.run(),
        ExitCode.USER_ERROR,
        "DataInvalid",
        f"{bench.rows}: no column 'Qestion' (is it 'question'?), 'product'; ",
        "the columns there are: 'question', 'answer'",
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "the file is empty; a dataset needs at least one row"), ("question,answer\n", "the csv file has no rows")],
)
def test_an_empty_dataset_is_called_so(bench: Bench, content: str, said: str) -> None:
    bench.rows.write_text(content)
    expect(bench.run(), ExitCode.USER_ERROR, "DataInvalid", f"{bench.rows}: {said}")


def test_a_file_that_is_not_there_names_what_is(bench: Bench) -> None:
    failed = bench.run(bench.folder / "rws.csv")
    assert failed.code == ExitCode.USER_ERROR
    assert "spec.dataset.train.volume.path: there is no file" in failed.message
    assert "rows.csv" in failed.message


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "json": (
        "rows.jsonl",
        b'{"question": "a", "answer": "b"}\n{"question": "c" "answer": "d"}\n',
        "line 2: broken JSON",
    ),
    "quotes": ("rows.csv", b'question,answer\na,b\n"c,d\ne,f\n', "line 3: "),
    "cells": ("rows.csv", b"question,answer\na,b\nc,d,e\n", "line 3: 3 cells where the header has 2"),
    "encoding": ("rows.csv", b"question,answer\na,b\nc,\xff\n", "line 3: byte 0xff is not UTF-8"),
    "parquet": ("rows.parquet", b"PAR1 and then nothing of the kind", "the parquet file can't be read"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_can_not_be_read_is_told_by_its_name_and_line(bench: Bench, name: str) -> None:
    file_name, content, said = BROKEN[name]
    path = bench.folder / file_name
    path.write_bytes(content)
    expect(bench.run(path), ExitCode.USER_ERROR, "DataInvalid", str(path), said)


def test_rows_that_leave_no_token_to_learn_are_refused_with_the_key_to_raise(bench: Bench) -> None:
    bench.config["preprocessing"] = {"global_max_sequence_length": 1}
    expect(
        bench.run(),
        ExitCode.USER_ERROR,
        "DataInvalid",
        "no target token is left in any training row: prompt and answer at most 1 token",
        "raise preprocessing.global_max_sequence_length",
    )


def test_a_base_model_folder_that_is_not_there_says_where_it_was_looked_for(bench: Bench) -> None:
    bench.config["base_model"] = "/models/none"
    expect(bench.run(), ExitCode.USER_ERROR, "ModelNotFound", "there is no folder /models/none, and it is no OWNER")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with run_hub_server(tmp_path / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


def test_a_base_model_that_no_hub_has_is_told(bench: Bench, hub: HubServer) -> None:
    bench.config["base_model"] = "acme/none"
    said = "acme/none: the hub has no such public repository"
    expect(bench.run(), ExitCode.USER_ERROR, "ModelNotFound", said, "Check the spelling")


def test_a_gated_base_model_says_how_to_get_at_it(bench: Bench, hub: HubServer) -> None:
    (hub.add_repository("acme/gated") / ".gated").touch()
    bench.config["base_model"] = "acme/gated"
    said = "acme/gated is gated: accept its licence on its page"
    expect(bench.run(), ExitCode.ACCESS_DENIED, "ModelAccessDenied", said, "HF_TOKEN")


def test_a_hub_that_can_not_be_reached_may_be_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    bench.config["base_model"] = "acme/tiny"
    expect(bench.run(), ExitCode.STORAGE_FAILED, "StorageFailed", "acme/tiny: the hub could not be reached")


def test_target_modules_that_match_nothing_name_those_there_are(bench: Bench) -> None:
    bench.config["adapter"] = {"type": "lora", "target_modules": ["query", "q_proj"]}
    expect(
        bench.run(),
        ExitCode.USER_ERROR,
        "TargetModulesNotFound",
        "adapter.target_modules: 'query' matches no module of the model",
        "Its linear modules are down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj",
    )


def test_ranks_that_can_not_be_given_out_in_so_few_steps_are_refused_before_loading(
    bench: Bench,
) -> None:
    bench.config["adapter"] = {"type": "adalora", "tinit": 2, "tfinal": 5}
    said = "tinit (2) and tfinal (5) leave none of the 3 optimizer steps"
    expect(bench.run(), ExitCode.USER_ERROR, "ConfigInvalid", said)


def test_a_model_that_is_too_large_is_told_with_both_figures_and_what_helps(bench: Bench) -> None:
    huge = bench.folder / "huge"
    save_model(huge, llama_config())
    sizes = {"hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126, "num_attention_heads": 128}
    described = json.loads((huge / "config.json").read_text())
    (huge / "config.json").write_text(json.dumps({**described, **sizes, "head_dim": 128}))
    bench.config["base_model"] = str(huge)
    expect(
        bench.run(),
        ExitCode.OUT_OF_MEMORY,
        "OutOfMemory",
        "this fine-tune needs about ",
        "and there are ",
        "quantization: {bits: 4}",
    )


def spoiled_model(folder: Path, spoil: Callable[[LlamaForCausalLM], None]) -> str:
    torch.manual_seed(0)
    model = LlamaForCausalLM(llama_config())
    with torch.no_grad():
        spoil(model)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def test_a_loss_that_is_no_number_ends_the_run_with_what_to_change(bench: Bench) -> None:
    """Full fine-tuning at the highest rate there is, on rows that the model is very wrong about."""

    def spoil(model: LlamaForCausalLM) -> None:
        model.lm_head.weight.mul_(1e18)

    bench.config["base_model"] = spoiled_model(bench.folder / "wild", spoil)
    bench.config["trainer"] |= {
        "learning_rate": 1.0,
        "train_steps": 20,
        "optimizer": {"type": "sgd"},
        "gradient_clipping": {"clipglobalnorm": None},
    }
    del bench.config["adapter"]
    expect(
        bench.run(),
        ExitCode.DIVERGED,
        "Diverged",
        "became ",
        "with learning rate 1; lower trainer.learning_rate",
        phases=("Preparing", "Training"),
    )


def test_a_model_whose_weights_are_spoiled_already_is_not_blamed_on_the_learning_rate(bench: Bench) -> None:
    def spoil(model: LlamaForCausalLM) -> None:
        model.lm_head.weight.fill_(torch.nan)

    bench.config["base_model"] = spoiled_model(bench.folder / "spoiled", spoil)
    said = "the base model's own loss on the hold-out is nan before any training"
    expect(bench.run(), ExitCode.DIVERGED, "Diverged", said)


def test_an_output_that_can_not_be_written_is_found_before_anything_is_read(bench: Bench) -> None:
    (bench.folder / "out").write_text("a file")
    bench.rows.unlink()
    bench.rows.write_text("nothing that would do")
    expect(bench.run(), ExitCode.USER_ERROR, "OutputNotWritable", "out is a file; name a folder")


def test_a_bucket_that_is_not_reached_may_be_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    bench.output = {"uri": "s3://models/bot"}
    expect(bench.run(), ExitCode.STORAGE_FAILED, "StorageFailed", "s3://models/bot could not be reached")


def test_an_adapter_to_go_on_from_that_is_not_there_is_told_by_its_key(bench: Bench) -> None:
    bench.config["adapter"] = {"type": "lora", "pretrained_adapter_weights": "./none"}
    said = "adapter.pretrained_adapter_weights: there is no folder ./none"
    expect(bench.run(), ExitCode.USER_ERROR, "ModelNotFound", said)


def test_a_gate_without_anything_held_out_is_refused_before_training(bench: Bench) -> None:
    bench.config["preprocessing"] = {"split": {"type": "random", "probabilities": [1.0, 0.0, 0.0]}}
    failed = bench.run(gate={"metric": "loss", "max": 1.0})
    expect(failed, ExitCode.USER_ERROR, "ConfigInvalid", "gate: there is no hold-out to measure on")

"""``llm-runner estimate``: the need of a manifest's run on each device, from the model's config alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from llm_api.config import LoraAdapter
from llm_api.report import ExitCode
from llm_runner.__main__ import main
from llm_runner.model.accelerators import ACCELERATORS_MIB
from llm_runner.model.memory import MemoryPlan, cache_token_bytes, estimate_memory
from transformers import LlamaConfig

LLAMA_7B = LlamaConfig(
    architectures=["LlamaForCausalLM"],
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    vocab_size=49152,
    max_position_embeddings=8192,
)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 7.4 billion weights, without any of them."""
    path: Path = tmp_path_factory.mktemp("model")
    LLAMA_7B.save_pretrained(path)
    return path


def fine_tune(base: Path, compute: dict[str, Any], **config: Any) -> dict[str, Any]:
    return {
        "apiVersion": "llmoperator.dev/v1alpha1",
        "kind": "LLMFineTune",
        "metadata": {"name": "bot"},
        "spec": {
            "config": {
                "base_model": str(base),
                "input_features": [{"name": "question", "type": "text"}],
                "output_features": [{"name": "answer", "type": "text"}],
                "adapter": {"type": "lora", "dropout": 0.0},
                "trainer": {"type": "finetune", "batch_size": 8},
                **config,
            },
            "dataset": {"train": {"uri": "s3://data/train.csv"}},
            "output": {"uri": "s3://models/bot"},
            "compute": compute,
        },
    }


def endpoint(base: Path, **serve: Any) -> dict[str, Any]:
    return {
        "apiVersion": "llmoperator.dev/v1alpha1",
        "kind": "LLMInference",
        "metadata": {"name": "answers"},
        "spec": {"config": {"base_model": str(base)}, "serve": serve},
    }


def run_estimate(
    capsys: pytest.CaptureFixture[str], folder: Path, document: dict[str, Any], *options: str
) -> tuple[dict[str, float], list[str]]:
    """Bytes by how it is run, and the lines that were told."""
    manifest = folder / "manifest.yaml"
    manifest.write_text(yaml.safe_dump(document))
    capsys.readouterr()
    assert main(["estimate", "-f", str(manifest), *options]) == ExitCode.DONE
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = [event["message"] for event in events if event["event"] == "info"]
    return events[-1]["metrics"], told


def test_a_fine_tunes_need_is_what_it_is_checked_against(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model_path: Path
) -> None:
    document = fine_tune(model_path, {})
    needs, told = run_estimate(capsys, tmp_path, document, "--longest-row", "300")
    plan = MemoryPlan(2400, torch.bfloat16, adapter=LoraAdapter(type="lora", dropout=0.0))
    assert needs == {"whole_bytes": estimate_memory(LLAMA_7B, plan, "cuda").total_bytes}
    fits = {name: line.split()[-1] for line in told for name in ACCELERATORS_MIB if line.strip().startswith(f"{name} ")}
    assert (fits["NVIDIA L4"], fits["NVIDIA A100 40GB"]) == ("-", "fits")
    assert fits.keys() == ACCELERATORS_MIB.keys()


def test_the_need_on_a_gpu_is_near_what_was_measured_there() -> None:
    """On an H100: 26.0 GiB were allocated at most, and the largest step had 2,494 tokens."""
    plan = MemoryPlan(2494, torch.bfloat16, adapter=LoraAdapter(type="lora", dropout=0.0))
    found = estimate_memory(LLAMA_7B, plan, "cuda")
    assert (found.total_bytes - found.overhead_bytes) / 2**30 == pytest.approx(26.0, rel=0.15)


def test_several_devices_are_estimated_both_ways(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model_path: Path
) -> None:
    document = fine_tune(model_path, {"accelerators": {"count": 4}, "nodes": 2}, adapter=None)
    needs, told = run_estimate(capsys, tmp_path, document, "--longest-row", "300")
    assert needs.keys() == {"ddp_bytes", "fsdp_bytes"}
    assert needs["fsdp_bytes"] < needs["ddp_bytes"] / 3
    (h100,) = [line.split()[-2:] for line in told if "H100" in line]
    assert h100 == ["-", "fits"]


def test_what_can_not_be_shared_out_is_estimated_whole(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model_path: Path
) -> None:
    document = fine_tune(model_path, {"accelerators": {"count": 2}}, adapter={"type": "ia3"})
    needs, _ = run_estimate(capsys, tmp_path, document)
    assert needs.keys() == {"ddp_bytes"}


def test_rows_are_as_long_as_the_limits_allow(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model_path: Path
) -> None:
    limits = {"global_max_sequence_length": 600}
    inputs = [{"name": "question", "type": "text", "preprocessing": {"max_sequence_length": 200}}]
    outputs = [{"name": "answer", "type": "text", "preprocessing": {"max_sequence_length": 100}}]
    told = [
        run_estimate(capsys, tmp_path, fine_tune(model_path, {}, **config))[1][0]
        for config in ({}, {"preprocessing": limits}, {"input_features": inputs, "output_features": outputs})
    ]
    assert [line.partition("up to ")[2].split()[0] for line in told] == ["8192", "600", "300"]


def test_an_endpoints_need_grows_by_its_cache(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model_path: Path
) -> None:
    few, _ = run_estimate(capsys, tmp_path, endpoint(model_path, maxConcurrency=8))
    many, told = run_estimate(capsys, tmp_path, endpoint(model_path, maxConcurrency=32))
    assert any("KV cache" in line for line in told)
    assert many["serve_bytes"] - few["serve_bytes"] == (32 - 8) * 1024 * cache_token_bytes(LLAMA_7B, torch.bfloat16)
    assert cache_token_bytes(LLAMA_7B, torch.bfloat16) == 2 * 32 * 8 * 128 * 2
    quantized = endpoint(model_path, maxConcurrency=8)
    quantized["spec"]["config"]["quantization"] = {"bits": 4}
    assert run_estimate(capsys, tmp_path, quantized)[0]["serve_bytes"] < few["serve_bytes"] - 8 * 10**9


def test_a_cpu_is_not_compared_with_accelerators(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model_path: Path
) -> None:
    _, told = run_estimate(capsys, tmp_path, endpoint(model_path), "--device", "cpu")
    assert not any("NVIDIA" in line for line in told)


def test_what_trains_nothing_is_sent_elsewhere(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model_path: Path
) -> None:
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(yaml.safe_dump(fine_tune(model_path, {}, adapter=None, trainer={"type": "none"})))
    assert main(["estimate", "-f", str(manifest)]) == ExitCode.USER_ERROR
    assert "trains nothing" in capsys.readouterr().out

"""An artifact as vLLM's server is handed it: its settings are options that it has, and what it can't do is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from llm_api.issues import InvalidConfig
from llm_api.report import ExitCode
from llm_api.run import S3Settings, ServeRun
from llm_runner.__main__ import main
from llm_runner.errors import ConfigInvalid, ModelNotFound
from llm_runner.model.load import load_base
from llm_runner.model.silence import peft_silenced
from llm_runner.report.reporter import Reporter
from llm_runner.serve.export import export
from llm_runner.store.publish import publish_folder
from peft import IA3Config, LoraConfig, PeftConfig, TaskType, get_peft_model

from tests.support.servers import serve_run
from tests.support.vllm import check_options, flatten_file, read_options

LORA: dict[str, Any] = {
    "task_type": TaskType.CAUSAL_LM,
    "r": 9,
    "lora_alpha": 32,
    "target_modules": ["q_proj", "v_proj"],
}


def store_artifact(folder: Path, base: Path, peft: PeftConfig, **config: Any) -> ServeRun:
    """As a fine-tune leaves it, with the run that serves it."""
    with peft_silenced():
        adapted = get_peft_model(load_base(base, dtype=torch.float32), peft)
    adapted.save_pretrained(str(folder / "adapter"), save_embedding_layers=False)
    document = {"base_model": str(base), "prompt": {"template": "Q: {question}"}, **config}
    (folder / "adapter" / "llm_config.yaml").write_text(yaml.safe_dump(document))
    published = publish_folder(folder / "adapter", str(folder / "store"), S3Settings())
    run = serve_run(base, model={"artifactUri": published.uri, "artifactDigest": published.digest})
    return run.model_copy(update={"config": type(run.config).model_validate({})})


def read_settings(run: ServeRun, work_path: Path) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The file, and the options that vLLM reads in it."""
    work_path.mkdir(exist_ok=True)
    assert export(run, reporter=Reporter([]), work_path=work_path).reason == "Succeeded"
    content: dict[str, Any] = yaml.safe_load((work_path / "vllm.yaml").read_text())
    options = read_options(flatten_file(content))
    check_options(options)
    return content, options


def test_an_adapter_is_served_by_the_runs_name_beside_its_base(chat_model_path: Path, tmp_path: Path) -> None:
    run = store_artifact(
        tmp_path, chat_model_path, LoraConfig(**LORA), generation={"do_sample": False, "max_new_tokens": 5}
    )
    content, options = read_settings(run, tmp_path / "work")
    assert content["model"] == str(chat_model_path)
    assert content["served-model-name"] == str(chat_model_path)
    (module,) = map(json.loads, options["lora-modules"])
    assert (module["name"], module["base_model_name"]) == ("tiny", str(chat_model_path))
    assert (Path(module["path"]) / "adapter_model.safetensors").is_file()
    assert options["enable-lora"] == []
    assert options["max-lora-rank"] == ["16"]
    assert json.loads(content["override-generation-config"]) == {
        "temperature": 0.0, "top_k": 50, "top_p": 1.0, "repetition_penalty": 1.0
    }  # fmt: skip


def test_requests_that_say_nothing_get_the_configs_way_to_sample(chat_model_path: Path, tmp_path: Path) -> None:
    run = store_artifact(tmp_path, chat_model_path, LoraConfig(**LORA), generation={"temperature": 0.7, "top_k": 9})
    content, _ = read_settings(run, tmp_path / "work")
    defaults = json.loads(content["override-generation-config"])
    assert (defaults["temperature"], defaults["top_k"]) == (0.7, 9)
    assert "max_new_tokens" not in defaults, "vLLM would take it for a bound on every request"


def test_a_whole_model_is_served_by_the_runs_name_without_adapters(chat_model_path: Path, tmp_path: Path) -> None:
    content, options = read_settings(serve_run(chat_model_path), tmp_path)
    assert (content["model"], content["served-model-name"]) == (str(chat_model_path), "tiny")
    assert not {"enable-lora", "lora-modules", "quantization"} & set(options)


def test_a_base_in_four_bits_is_quantized_by_vllm(chat_model_path: Path, tmp_path: Path) -> None:
    content, _ = read_settings(serve_run(chat_model_path, {"quantization": {"bits": 4}}), tmp_path)
    assert content["quantization"] == "bitsandbytes"


@pytest.mark.parametrize(
    ("peft", "says"),
    [
        (LoraConfig(**{**LORA, "use_dora": True}), "use_dora"),
        (LoraConfig(**{**LORA, "bias": "lora_only"}), "bias: lora_only"),
        (LoraConfig(**{**LORA, "rank_pattern": {"q_proj": 4}}), "rank_pattern"),
        (IA3Config(task_type=TaskType.CAUSAL_LM, target_modules=["v_proj"], feedforward_modules=[]), "of type IA3"),
    ],
    ids=["dora", "bias", "ranks", "ia3"],
)
def test_an_adapter_that_vllm_can_not_serve_is_refused_with_the_reason(
    chat_model_path: Path, tmp_path: Path, peft: PeftConfig, says: str
) -> None:
    run = store_artifact(tmp_path, chat_model_path, peft)
    with pytest.raises(ConfigInvalid, match=r"engine: transformers") as raised:
        export(run, reporter=Reporter([]), work_path=tmp_path)
    assert says in str(raised.value)
    assert not (tmp_path / "vllm.yaml").exists()


def test_what_a_fine_tunes_config_asks_for_and_vllm_has_not_is_refused(chat_model_path: Path, tmp_path: Path) -> None:
    run = store_artifact(tmp_path, chat_model_path, LoraConfig(**LORA), generation={"num_beams": 3})
    with pytest.raises(InvalidConfig, match=r"generation\.num_beams"):
        export(run, reporter=Reporter([]), work_path=tmp_path)


def test_a_prompt_that_was_measured_is_not_left_out_silently(chat_model_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prompt"
    folder.mkdir()
    (folder / "llm_config.yaml").write_text(f"base_model: {chat_model_path}\ntrainer: {{type: none}}\n")
    run = serve_run(chat_model_path, model={"artifactUri": str(folder)})
    with pytest.raises(ConfigInvalid, match="nothing was trained there, and vLLM would leave out the prompt"):
        export(run, reporter=Reporter([]), work_path=tmp_path)


def test_a_broken_adapter_is_named(chat_model_path: Path, adapter_without_config: ServeRun, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"adapter_config\.json"):
        export(adapter_without_config, reporter=Reporter([]), work_path=tmp_path)


@pytest.fixture
def adapter_without_config(chat_model_path: Path, tmp_path: Path) -> ServeRun:
    folder = tmp_path / "torn"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("[]")
    adapter = {"type": "lora", "pretrained_adapter_weights": str(folder)}
    return serve_run(chat_model_path, {"adapter": adapter})


def test_no_key_gets_into_the_settings_or_the_outcome(
    chat_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the operator calls it: the key is mounted, and vLLM has it in its environment."""
    (tmp_path / "key").write_text("only-for-tests")
    run = serve_run(chat_model_path, apiKeyPath=str(tmp_path / "key"))
    (tmp_path / "run.json").write_text(run.model_dump_json(by_alias=True, exclude_unset=True))
    log = tmp_path / "termination"
    log.touch()
    arguments = ["export", str(tmp_path / "run.json"), "--work-dir", str(tmp_path / "w"), "--termination-log", str(log)]
    assert main(arguments) == ExitCode.DONE
    said = (tmp_path / "w" / "vllm.yaml").read_text() + log.read_text() + capsys.readouterr().out
    assert "only-for-tests" not in said
    assert "api-key" not in said

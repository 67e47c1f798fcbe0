"""``llm-runner upload``: what a fine-tune stored goes to a hub, and from there into the next fine-tune."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from llm_api.report import ExitCode
from llm_runner.errors import ConfigInvalid, OutputNotWritable, StorageFailed
from llm_runner.local.upload import Upload, upload
from llm_runner.model.load import load_base
from llm_runner.model.pretrained import load_adapter
from llm_runner.report.reporter import Reporter
from llm_runner.store.digest import check_sums, write_sums
from transformers import AutoModelForCausalLM

from tests.support.hub import TOKEN, HubServer, run_hub_server
from tests.support.models import llama_config, save_model
from tests.support.runner_process import call_runner
from tests.support.runs import Messages, build_run, read_curve, run_train, save_run

LORA: dict[str, Any] = {"type": "lora", "r": 4}
TRAINER: dict[str, Any] = {"type": "finetune", "batch_size": 4, "train_steps": 6, "learning_rate": 0.05}
TUNED = {"adapter": LORA, "trainer": TRAINER}


@pytest.fixture(scope="module")
def base_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("upload") / "base", llama_config())


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    with run_hub_server(tmp_path_factory.mktemp("hub")) as server:
        yield server


@pytest.fixture(scope="module")
def artifact(base_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    run = build_run(folder, base_path, TUNED)
    run_train(run, folder / "work")
    return Path(run.output_uri)


def call(hub: HubServer, folder: Path, *arguments: str | Path) -> tuple[int, str, dict[str, Any]]:
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "home"), "HF_TOKEN": TOKEN}
    return call_runner(folder, *arguments, environment=environment)


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=torch.tensor([[1, 5, 9, 30, 7]])).logits
    return found


def test_an_adapter_and_its_merged_model_go_to_a_hub_and_from_there_into_the_next_fine_tune(
    hub: HubServer, artifact: Path, base_path: Path, tmp_path: Path
) -> None:
    (artifact / "notes.txt").write_text("not a part of what was stored")
    code, errors, outcome = call(hub, tmp_path, "upload", artifact, "--repo", "acme/adapter", "--private")
    assert (code, errors, outcome["reason"]) == (ExitCode.DONE, "", "Uploaded")
    assert call(hub, tmp_path, "upload", artifact, "--repo", "acme/merged", "--merged")[0] == ExitCode.DONE
    adapter, merged = (hub.root / "models" / "acme" / name for name in ("adapter", "merged"))
    assert ((adapter / ".private").is_file(), (merged / ".private").is_file()) == (True, False)
    assert not (adapter / "notes.txt").exists()
    check_whole_model(merged, artifact, base_path)
    pushed = {**LORA, "pretrained_adapter_weights": "acme/adapter"}
    run = build_run(tmp_path / "next", Path("acme/merged"), {**TUNED, "adapter": pushed})
    code, errors, _ = call(hub, tmp_path, "train", save_run(run, tmp_path / "next.json"))
    assert (code, errors) == (ExitCode.DONE, "")
    assert len(read_curve(tmp_path / "next" / "out")) == 6


def check_whole_model(merged: Path, artifact: Path, base_path: Path) -> None:
    """As plain transformers loads it, with a card and a config that say what it is."""
    check_sums(merged)
    assert not [path.name for path in merged.iterdir() if path.name.startswith("adapter_")]
    expected = logits_of(load_adapter(load_base(base_path, dtype=torch.float32), artifact))
    found = logits_of(AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32))
    assert torch.allclose(found, expected, atol=1e-4)
    card = (merged / "README.md").read_text()
    assert "library_name: transformers" in card
    assert "Model with a LoRA adapter merged into" in card
    assert "from transformers import AutoModelForCausalLM, AutoTokenizer" in card
    assert "peft" not in card.split("## Settings")[0].lower()
    config = yaml.safe_load((merged / "llm_config.yaml").read_text())
    assert config["adapter"]["postprocessor"]["merge_adapter_into_base_model"] is True
    assert (merged / "tokenizer.json").is_file()
    assert (merged / "metrics.json").is_file()


def push(hub: HubServer, folder: Path, patch: pytest.MonkeyPatch, *, merged: bool = False, token: str = TOKEN) -> None:
    """In this process."""
    patch.setenv("HF_ENDPOINT", hub.endpoint)
    patch.setenv("HF_TOKEN", token)
    upload(Upload(str(folder), f"acme/{folder.name}", merged=merged), reporter=Reporter([]), work_path=folder / "work")


def test_a_whole_model_is_uploaded_as_it_is_and_not_merged_again(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sums(save_model(tmp_path, llama_config()))
    with pytest.raises(ConfigInvalid, match="is a whole model already; leave --merged out"):
        push(hub, tmp_path, monkeypatch, merged=True)
    push(hub, tmp_path, monkeypatch)
    check_sums(hub.root / "models" / "acme" / tmp_path.name)


def test_a_prompt_has_nothing_to_upload(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llm_config.yaml").write_text("base_model: acme/small\ntrainer: {type: none}\n")
    write_sums(tmp_path)
    with pytest.raises(ConfigInvalid, match="holds no weights to push"):
        push(hub, tmp_path, monkeypatch)


def test_who_may_read_a_repository_that_is_there_is_said_before_rows_are_pushed(
    hub: HubServer, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.add_repository("acme/public")
    messages = Messages()
    wanted = Upload(str(artifact), "acme/public", private=True)
    upload(wanted, reporter=Reporter([messages]), work_path=tmp_path)
    assert "warning: acme/public is there already and is public: an upload doesn't make it private" in messages.texts
    assert any("rows of the hold-out stand in" in text for text in messages.texts)


def test_what_corrects_a_base_of_four_bits_is_not_merged_into_a_full_one(
    hub: HubServer, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = tmp_path / "loftq"
    shutil.copytree(artifact, stored)
    config = yaml.safe_load((stored / "llm_config.yaml").read_text())
    config["adapter"]["init_lora_weights"], config["quantization"] = "loftq", {"bits": 4}
    (stored / "llm_config.yaml").write_text(yaml.safe_dump(config))
    write_sums(stored)
    with pytest.raises(ConfigInvalid, match=r"\(LoftQ\), which full weights never did; leave --merged out"):
        push(hub, stored, monkeypatch, merged=True)


def test_what_is_torn_or_not_allowed_is_not_uploaded_and_the_token_is_never_told(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StorageFailed, match="has no SHA256SUMS: writing it was broken off"):
        push(hub, tmp_path, monkeypatch)
    (tmp_path / "file").write_text("x")
    write_sums(tmp_path)
    with pytest.raises(OutputNotWritable) as caught:
        push(hub, tmp_path, monkeypatch, token="hf_wrong_and_secret")
    assert "hf_wrong_and_secret" not in str(caught.value)

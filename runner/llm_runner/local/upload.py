"""``llm-runner upload``: an artifact that a fine-tune has stored, pushed to a Hugging Face hub afterwards.

What is pushed is what was stored, checked against its sums, or the adapter merged into its base first. The token is the
environment's and is never an argument. Trains and evaluates nothing.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from llm_api.config import LLMConfig, LoraAdapter
from llm_api.issues import load
from llm_api.report import Outcome
from llm_api.run import S3Settings

from llm_runner.errors import ConfigInvalid
from llm_runner.model.load import load_config, load_tokenizer
from llm_runner.model.save import save_merged
from llm_runner.predict.source import ADAPTER_CONFIG, is_untrained, read_json
from llm_runner.report.card import CARD_NAME, to_merged_card
from llm_runner.report.reporter import Reporter
from llm_runner.store.digest import SUMS_NAME, list_files, parse_sums, write_sums
from llm_runner.store.fetch import fetch_folder, fetch_model
from llm_runner.train.artifact import CONFIG_NAME
from llm_runner.train.push import push_artifact


@dataclass(frozen=True)
class Upload:
    """What is pushed, and where to."""

    artifact: str
    """A folder or an s3:// address that a run has stored to."""
    repo_id: str
    private: bool = False
    merged: bool = False
    """Whether an adapter is merged into its base first."""


def upload(wanted: Upload, *, reporter: Reporter, work_path: Path) -> Outcome:
    """Raises a RunError that says what to do."""
    stored = fetch_folder(wanted.artifact, work_path / "stored", S3Settings())
    if is_untrained(stored):
        raise ConfigInvalid(f"{wanted.artifact} is a prompt that was measured: it holds no weights to push")
    folder = _merge(wanted, stored, work_path / "merged", reporter) if wanted.merged else stored
    names = [*parse_sums((folder / SUMS_NAME).read_text("utf-8")), SUMS_NAME]
    private = wanted.private
    address = push_artifact(folder, wanted.repo_id, private=private, token=None, reporter=reporter, names=names)
    return Outcome(reason="Uploaded", message=f"{wanted.artifact} is uploaded to {address}")


def _merge(wanted: Upload, stored: Path, folder: Path, reporter: Reporter) -> Path:
    """A folder with the whole model, and all else that the artifact holds."""
    if not (stored / ADAPTER_CONFIG).is_file():
        raise ConfigInvalid(f"--merged: {wanted.artifact} is a whole model already; leave --merged out")
    document = yaml.safe_load((stored / CONFIG_NAME).read_text("utf-8"))
    config = load(LLMConfig, document, prefix=CONFIG_NAME)
    if isinstance(config.adapter, LoraAdapter) and config.adapter.init_lora_weights == "loftq":
        raise ConfigInvalid(
            "--merged: this adapter holds what 4 bits lost of its base (LoftQ), which full weights never did; "
            "leave --merged out"
        )
    revision = read_json(stored / ADAPTER_CONFIG).get("revision")
    base = fetch_model(config.base_model if revision is None else f"{config.base_model.split('@')[0]}@{revision}")
    # As precise as the base was stored: nobody waits for its answers here.
    dtype = load_config(base.path, config.model_parameters).dtype
    reporter.info(f"merging into {config.base_model}")
    shutil.rmtree(folder, ignore_errors=True)
    save_merged(
        base.path,
        stored,
        folder,
        tokenizer=load_tokenizer(stored),
        generation=config.generation,
        model_parameters=config.model_parameters,
        dtype=dtype if isinstance(dtype, torch.dtype) else None,
    )
    _copy_rest(stored, folder, document)
    return folder


def _copy_rest(stored: Path, folder: Path, document: dict[str, Any]) -> None:
    """Config, report and card, which now say that the adapter is merged; no adapter's files."""
    for name in list_files(stored):
        if not name.startswith("adapter_") and not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(stored / name, folder / name)
    document["adapter"]["postprocessor"] = {"merge_adapter_into_base_model": True}
    (folder / CONFIG_NAME).write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), "utf-8")
    card = folder / CARD_NAME
    if card.is_file():
        card.write_text(to_merged_card(card.read_text("utf-8")), "utf-8")
    write_sums(folder)

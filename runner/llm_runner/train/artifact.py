"""What a run leaves behind: weights, tokenizer, resolved config and report in one folder, stored where it belongs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from llm_api.config import LLMConfig, PreferenceTrainer
from llm_api.run import TrainRun
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from llm_runner.data.index import save_index
from llm_runner.data.pool import Pool, save_pool
from llm_runner.model.save import BaseName, save_adapter, save_full, save_merged
from llm_runner.report.artifact import save_report
from llm_runner.report.card import CardExample, CardInfo
from llm_runner.report.metrics_file import RunMetrics
from llm_runner.report.reporter import Reporter
from llm_runner.report.sample import Sample
from llm_runner.store.hub import OWN_CONFIG
from llm_runner.store.uri import public_uri
from llm_runner.train.build import resolve_dtype, to_objective
from llm_runner.train.evaluate import evaluate
from llm_runner.train.forward import choose_forward
from llm_runner.train.inputs import Inputs
from llm_runner.train.plan import plan_tokens_per_forward
from llm_runner.train.preference import build_method
from llm_runner.train.state import LoopState

CONFIG_NAME, COLUMNS_NAME = OWN_CONFIG, "columns.json"
"""Which columns the training table had, for rows that are answered later."""
CARD_EXAMPLES = 3
METHODS = {
    "lora": "LoRA", "adalora": "AdaLoRA", "ia3": "IA3", "vera": "VeRA", "loha": "LoHa", "lokr": "LoKr", "oft": "OFT",
    "boft": "BOFT",
}  # fmt: skip


@dataclass(frozen=True)
class SavedWeights:
    """What was written, and how a merged model does."""

    kind: str
    merged_loss: float | None = None


def save_weights(
    run: TrainRun, inputs: Inputs, model: PreTrainedModel | PeftModel, folder: Path, reporter: Reporter
) -> SavedWeights:
    """An adapter, a merged model without adapter files beside it, or a whole model."""
    generation = run.config.generation
    if not isinstance(model, PeftModel):
        save_full(model, folder, tokenizer=inputs.tokenizer, generation=generation)
        return SavedWeights("full")
    merges = run.config.adapter is not None and run.config.adapter.postprocessor.merge_adapter_into_base_model
    adapter_folder = folder.with_name(f"{folder.name}-adapter") if merges else folder
    base = BaseName(run.config.base_model, inputs.base.revision)
    save_adapter(model, adapter_folder, base=base, tokenizer=inputs.tokenizer, generation=generation)
    if not merges:
        return SavedWeights("adapter")
    device = model.device
    _free(model)
    return SavedWeights("merged", _merge(run, inputs, adapter_folder, folder, device, reporter))


def _free(model: PeftModel) -> None:
    """Gives the memory of weights that are stored by now back, before the base is loaded a second time."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.new_empty(0)


def _merge(
    run: TrainRun, inputs: Inputs, adapter_folder: Path, folder: Path, device: torch.device, reporter: Reporter
) -> float | None:
    """The merged model's loss on the hold-out. What the accelerator can't hold unquantized is merged on the host."""
    try:
        return _merge_on(run, inputs, adapter_folder, folder, device, reporter)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        reporter.warning("the accelerator is too small to merge on; the host does it, which takes longer")
    return _merge_on(run, inputs, adapter_folder, folder, torch.device("cpu"), reporter)


def _merge_on(
    run: TrainRun, inputs: Inputs, adapter_folder: Path, folder: Path, device: torch.device, reporter: Reporter
) -> float | None:
    merged = save_merged(
        inputs.base.path,
        adapter_folder,
        folder,
        tokenizer=inputs.tokenizer,
        generation=run.config.generation,
        model_parameters=run.config.model_parameters,
        dtype=resolve_dtype(run, device, reporter),
        device=device,
        progressbar=run.config.adapter is not None and run.config.adapter.postprocessor.progressbar,
    )
    if len(inputs.hold_out) == 0:
        return None
    forward, _ = choose_forward(merged.eval())
    tokens = plan_tokens_per_forward(inputs.trainer, inputs.size, device.type)
    objective = to_objective(inputs.trainer, forward)
    return evaluate(objective, inputs.hold_out, tokens_per_forward=tokens).loss


def save_rest(
    run: TrainRun,
    inputs: Inputs,
    state: LoopState,
    metrics: RunMetrics,
    kind: Any,
    folder: Path,
    sample: Sample | None = None,
) -> None:
    """The resolved config, the rows that prompts show, what the model says and the report, beside the weights."""
    data, trainer = inputs.data, inputs.trainer
    save_prompting(run.config, data.table_columns, data.pool, data.vectors, folder)
    info = CardInfo(
        name=run.name,
        base_model=run.config.base_model,
        base_revision=inputs.base.revision,
        kind=kind,
        method="full fine-tuning" if run.config.adapter is None else METHODS[run.config.adapter.type],
        preference=build_method(trainer).name if isinstance(trainer, PreferenceTrainer) else None,
        data_uris=[public_uri(location.uri) for location in _locations(run)],
        data_digest=data.digest,
        settings=flatten(run.config.resolved()),
        examples=_examples(inputs, sample)[:CARD_EXAMPLES],
    )
    save_report(folder, info, metrics, state.curve, sample)


def _examples(inputs: Inputs, sample: Sample | None) -> Sequence[CardExample]:
    """With what the tuned model says to them, where it was asked."""
    if sample is not None:
        return sample.examples
    return [CardExample(example.prompt, example.target) for example in inputs.data.examples]


def save_prompting(
    config: LLMConfig, table_columns: Sequence[str], pool: Pool | None, vectors: Tensor | None, folder: Path
) -> None:
    """What later runs need to ask in the same way: the resolved config, and the rows that prompts show."""
    (folder / CONFIG_NAME).write_text(yaml.safe_dump(config.resolved(), sort_keys=False, allow_unicode=True))
    columns = {"columns": list(table_columns)}
    (folder / COLUMNS_NAME).write_text(json.dumps(columns, ensure_ascii=False), encoding="utf-8")
    if pool is not None:
        save_pool(pool, folder)
    if vectors is not None:
        save_index(vectors, config.effective_prompt.retrieval, folder)


def describe_untrained(run: TrainRun, data_digest: str, examples: Sequence[CardExample]) -> CardInfo:
    return CardInfo(
        name=run.name,
        base_model=run.config.base_model,
        kind="prompt",
        method="prompting",
        data_uris=[public_uri(location.uri) for location in _locations(run)],
        data_digest=data_digest,
        settings=flatten(run.config.resolved()),
        examples=examples,
    )


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _locations(run: TrainRun) -> list[Any]:
    dataset = run.dataset
    return [location for location in (dataset.train, dataset.validation, dataset.test) if location is not None]

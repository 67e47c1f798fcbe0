"""One training run by one trainer, measured: ours, Hugging Face's Trainer, TRL's SFTTrainer in three modes.

All get the same rows in the same order, the same adapter with the same start, optimizer, learning rate and clipping.
Each is meant to have a process of its own, so that peak memory is its own; ``train.py`` sees to that.
"""

import csv
import json
import math
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from llm_api.config import load_config
from llm_api.run import DataLocation, DataLocations, RunCheckpoints, TrainRun
from llm_runner.data.prepare import prepare_data
from llm_runner.data.prepared import PreparedData
from llm_runner.data.source import DataFile, DataFiles
from llm_runner.data.tokens import TokenizedRows
from llm_runner.model.load import load_tokenizer
from llm_runner.report.reporter import Reporter
from llm_runner.train.batch import Row
from llm_runner.train.evaluate import evaluate
from llm_runner.train.forward import PaddedForward
from llm_runner.train.run import train
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from benchmarks.rows import ROWS_PER_STEP

if TYPE_CHECKING:
    from datasets import Dataset

LEARNING_RATE = 2e-4
RANK = 8
SEED = 42
IGNORED_LABEL = -100
CONTEXT_TOKENS = 1024
TRL_MODES: dict[str, dict[str, Any]] = {
    "trl-default": {},
    "trl-packing": {"packing": True, "max_length": CONTEXT_TOKENS},
    "trl-padding-free": {"padding_free": True, "max_length": None},
}


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    trainer: str
    """ours, hf, hf-padded (to CONTEXT_TOKENS), or one of TRL_MODES."""
    model_path: Path
    data_path: Path
    work_path: Path
    steps: int
    nf4: bool = False
    float32: bool = False
    rows_at_a_time: int = ROWS_PER_STEP
    """Of a step's, for the peers; what our own takes at a time is its own affair."""


@dataclass(frozen=True)
class Figures:
    """What came out."""

    tokens_per_second: float
    """Tokens of the rows, padding not counted, over the seconds spent in training steps."""
    peak_memory_bytes: int
    """Resident set at its largest until training ended; on a GPU, of its memory."""
    hold_out_loss: float
    losses: Sequence[float]
    """Of each step, per target token."""


def measure(setting: Setting) -> Figures:
    if setting.trainer == "ours":
        return measure_ours(setting)
    return measure_peer(setting, build_hf if setting.trainer in ("hf", "hf-padded") else build_trl)


def measure_ours(setting: Setting) -> Figures:
    """The whole run as a user has it, from the files to the stored artifact."""
    output = setting.work_path / "output"
    output.mkdir()
    run = build_run(setting, output)
    train(run, reporter=Reporter([]), work_path=setting.work_path / "work", should_stop=lambda: False)
    metrics = json.loads((output / "metrics.json").read_text())
    with (output / "loss_curve.csv").open() as file:
        losses = [float(point["train_loss"]) for point in csv.DictReader(file)]
    return Figures(
        tokens_per_second=metrics["train"]["tokens_per_second"],
        peak_memory_bytes=peak_memory_bytes(),
        hold_out_loss=metrics["eval"]["loss"],
        losses=losses,
    )


def build_run(setting: Setting, output: Path) -> TrainRun:
    files = DataLocations(
        train=DataLocation(uri=str(setting.data_path / "train.jsonl")),
        validation=DataLocation(uri=str(setting.data_path / "validation.jsonl")),
    )
    return TrainRun(
        name="benchmark",
        config=load_config(build_config(setting)),
        dataset=files,
        output_uri=str(output),
        checkpoint=RunCheckpoints(uri=str(setting.work_path / "checkpoints")),
        seed=SEED,
        dtype="float32" if setting.float32 else "bfloat16",
    )


def build_config(setting: Setting) -> dict[str, Any]:
    return {
        "base_model": str(setting.model_path),
        "input_features": [{"name": "prompt", "type": "text"}],
        "output_features": [{"name": "answer", "type": "text"}],
        "adapter": {"type": "lora", "r": RANK, "alpha": 2 * RANK, "dropout": 0.0},
        "quantization": {"bits": 4, "bnb_4bit_compute_dtype": "bfloat16"} if setting.nf4 else None,
        "trainer": {
            "type": "finetune",
            "learning_rate": LEARNING_RATE,
            "batch_size": ROWS_PER_STEP,
            "gradient_accumulation_steps": 1,
            "train_steps": setting.steps,
            "should_shuffle": False,
            "skip_all_evaluation": True,
            "gradient_clipping": {"clipglobalnorm": 1.0},
        },
    }


def measure_peer(setting: Setting, build: Callable[[Setting, PeftModel, PreparedData], Trainer]) -> Figures:
    data = prepare(setting)
    model = build_peer_model(setting)
    clock = Clock()
    trainer = build(setting, model, data)
    trainer.add_callback(clock)
    trainer.train()
    peak = peak_memory_bytes()
    seen = min(setting.steps * ROWS_PER_STEP, len(data.train))
    tokens = int(data.train.lengths[:seen].sum())
    return Figures(
        tokens_per_second=tokens / clock.seconds,
        peak_memory_bytes=peak,
        hold_out_loss=hold_out_loss(model, data.validation),
        losses=[entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    )


def prepare(setting: Setting) -> PreparedData:
    """The very rows that our own run trains on."""
    return prepare_data(
        load_config(build_config(setting)),
        load_tokenizer(setting.model_path),
        DataFiles(*(DataFile(setting.data_path / f"{name}.jsonl") for name in ("train", "validation"))),
        context_length=CONTEXT_TOKENS,
        work_path=setting.work_path / "rows",
        seed=SEED,
        warn=lambda _text: None,
    )


def build_peer_model(setting: Setting) -> PeftModel:
    torch.manual_seed(SEED)
    options: dict[str, Any] = {"dtype": torch.float32 if setting.float32 else torch.bfloat16}
    if setting.nf4:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    if torch.cuda.is_available():
        options["device_map"] = {"": 0}
    base = AutoModelForCausalLM.from_pretrained(setting.model_path, **options)
    targets = ["q_proj", "v_proj"]
    lora = LoraConfig(task_type=TaskType.CAUSAL_LM, r=RANK, lora_alpha=2 * RANK, target_modules=targets)
    model: Any = get_peft_model(base, lora)
    return model  # type: ignore[no-any-return]


def to_dataset(rows: TokenizedRows) -> "Dataset":
    """Token ids, and labels that leave the prompt out."""
    from datasets import Dataset

    return Dataset.from_list(to_examples(rows))


def to_examples(rows: TokenizedRows) -> list[dict[str, list[int]]]:
    return [to_columns(rows.example(index)) for index in range(len(rows))]


def to_columns(row: Row) -> dict[str, list[int]]:
    ids = row.token_ids.tolist()
    return {"input_ids": ids, "labels": [IGNORED_LABEL] * row.prompt_length + ids[row.prompt_length :]}


def common_arguments(setting: Setting) -> dict[str, Any]:
    return {
        "output_dir": str(setting.work_path / "peer"),
        "per_device_train_batch_size": setting.rows_at_a_time,
        "gradient_accumulation_steps": ROWS_PER_STEP // setting.rows_at_a_time,
        "max_steps": setting.steps,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch",
        "max_grad_norm": 1.0,
        "gradient_checkpointing": False,
        "bf16": False,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "seed": SEED,
    }


def build_hf(setting: Setting, model: PeftModel, data: PreparedData) -> Trainer:
    """Batches are padded to their longest row, or all of them to one length."""
    tokenizer = load_tokenizer(setting.model_path)
    how: Any = {"padding": True}
    if setting.trainer == "hf-padded":
        how = {"padding": "max_length", "max_length": CONTEXT_TOKENS}
    examples: Any = to_examples(data.train)
    return Trainer(
        model=model,
        args=TrainingArguments(**common_arguments(setting)),
        train_dataset=examples,
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED_LABEL, **how),
    )


def build_trl(setting: Setting, model: PeftModel, data: PreparedData) -> Trainer:
    from trl import SFTConfig, SFTTrainer

    trainer: Trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**common_arguments(setting), **TRL_MODES[setting.trainer]),
        train_dataset=to_dataset(data.train),
        processing_class=load_tokenizer(setting.model_path),
    )
    return trainer


class Clock(TrainerCallback):
    """Seconds from each step's beginning to its end."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = math.nan

    def on_step_begin(self, *_args: Any, **_kwargs: Any) -> None:
        self._started = time.perf_counter()

    def on_step_end(self, *_args: Any, **_kwargs: Any) -> None:
        self.seconds += time.perf_counter() - self._started


def hold_out_loss(model: PeftModel, rows: TokenizedRows) -> float:
    model.eval()
    base: Any = model.get_base_model()
    base.set_attn_implementation("sdpa")
    return evaluate(PaddedForward(base), rows, tokens_per_forward=CONTEXT_TOKENS).loss


def peak_memory_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

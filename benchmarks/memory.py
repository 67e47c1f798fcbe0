"""The estimate of memory beside the measured peak, for one case after another, each in a process of its own.

    python benchmarks/memory.py --save                       # SmolLM2-135M-Instruct where this machine computes
    python benchmarks/memory.py --device cuda --model DIR --sizes own 1b 7b     # and Llamas of random weights

Where DIR has no weights, random ones are made from its config.json: they take the memory of trained ones. The estimate
of a fine-tune is the one that the run itself went by. A GPU's peak is what torch had allocated, so that it is compared
without the libraries; a CPU's is the resident set. A case that fails is told in its row.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console

HERE = Path(__file__).resolve().parent
GIB = 2**30
STEPS, ROWS_PER_STEP = 2, 8
ROW_TOKENS, LONG_ROW_TOKENS = 512, 4096
PROMPT_TOKENS, NEW_TOKENS = 128, 8
"""Of a server's requests; its cache is all there from the start, however short they are."""
TOLERANCE = 0.15
NF4 = {"bits": 4, "bnb_4bit_compute_dtype": "bfloat16"}
LORA = {"type": "lora", "r": 8, "alpha": 16, "dropout": 0.0}


@dataclass(frozen=True)
class Case:
    """What is run. ``config`` is put over that of a fine-tune by LoRA."""

    name: str
    dtype: str = "bfloat16"
    config: Mapping[str, Any] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    row_tokens: int = ROW_TOKENS
    rows_per_step: int = ROWS_PER_STEP
    unpacks: bool = True
    """Whether 4-bit weights may be unpacked once."""
    serves: bool = False


CASES = (
    Case("LoRA, fp32", "float32"),
    Case("LoRA, bf16"),
    Case("LoRA, bf16, checkpointing", trainer={"enable_gradient_checkpointing": True}),
    Case("LoRA, bf16, long rows", row_tokens=LONG_ROW_TOKENS, rows_per_step=1),
    Case("full, fp32", "float32", {"adapter": None}),
    Case("full, bf16", config={"adapter": None}),
    Case("NF4 packed, LoRA", config={"quantization": NF4}, unpacks=False),
    Case("NF4 unpacked once, LoRA", config={"quantization": NF4}),
    Case("serve, bf16", serves=True),
)


def main() -> None:
    from benchmarks.readme import save

    options = parse_options()
    if options.measure is not None:
        sys.stdout.write(json.dumps(measure_here(json.loads(options.measure))) + "\n")
        return
    console = Console(width=140)
    rows = []
    with tempfile.TemporaryDirectory(prefix="llm-bench-", dir=options.scratch) as scratch:
        for row in run_all(options, Path(scratch)):
            console.print(row, markup=False, highlight=False)
            rows.append(row)
    text = describe(rows, options.device)
    console.print(text, markup=False, highlight=False)
    if options.save:
        save("memory", text)


def parse_options() -> argparse.Namespace:
    from benchmarks.models import SIZES

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="folder of the model; default: SmolLM2-135M-Instruct, prepared")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is one")
    parser.add_argument(
        "--sizes", nargs="+", choices=["own", *SIZES], help="the model's own, or those of a Llama of random weights"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="cases, by the names in the table")
    parser.add_argument("--scratch", type=Path, help="where random weights are written")
    parser.add_argument("--save", action="store_true", help="write the table into README.md beside this file")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        return options
    if options.model is None:
        from scripts.prepare_model import prepare_model

        options.model = prepare_model()
    if options.device is None:
        import torch

        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.sizes is None:
        options.sizes = ["own"] if options.device == "cpu" else ["own", "1b"]
    return options


def run_all(options: argparse.Namespace, scratch: Path) -> Iterator[str]:
    """A line of the table for each case."""
    for size in options.sizes:
        with tempfile.TemporaryDirectory(prefix=f"{size}-", dir=scratch) as folder:
            try:
                title, model = find_model(options, size, Path(folder) / "model")
            except subprocess.CalledProcessError as error:
                yield f"| {size} | | | | {last_line(error.stderr)} |"
                continue
            for case in CASES:
                if options.only is None or case.name in options.only:
                    yield describe_row(f"{title}, {case.name}", run_one(options, model, case.name))


def find_model(options: argparse.Namespace, size: str, folder: Path) -> tuple[str, Path]:
    """What it is called, and a folder with weights: made by another process, whose memory goes with it."""
    if size == "own" and any(options.model.glob("*.safetensors")):
        return options.model.name, options.model
    start(options, {"make": size, "model": str(options.model), "folder": str(folder)})
    return options.model.name if size == "own" else f"Llama {size}", folder


def run_one(options: argparse.Namespace, model: Path, case_name: str) -> Mapping[str, Any]:
    with tempfile.TemporaryDirectory(prefix="llm-bench-run-") as work:
        try:
            return start(options, {"case": case_name, "model": str(model), "work": work})
        except subprocess.CalledProcessError as error:
            return {"error": last_line(error.stderr)}


def start(options: argparse.Namespace, order: Mapping[str, str]) -> Mapping[str, Any]:
    """Raises CalledProcessError with what the process said last."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if options.device == "cpu" else {}
    environment = {**os.environ, **hidden, "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(Path(__file__)), "--measure", json.dumps(order)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    figures: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].replace("|", "/")[:200] if lines else "it ended without a word"


def measure_here(order: Mapping[str, str]) -> Mapping[str, Any]:
    """As the process that is measured, or that makes a model."""
    model = Path(order["model"])
    if "make" in order:
        make_model(order["make"], model, Path(order["folder"]))
        return {}
    case = next(case for case in CASES if case.name == order["case"])
    return measure_serving(model) if case.serves else measure_training(case, model, Path(order["work"]))


def make_model(size: str, own: Path, folder: Path) -> None:
    """Random weights in bfloat16."""
    import torch
    from llm_runner.model.load import load_tokenizer
    from transformers import AutoConfig, AutoModelForCausalLM

    from benchmarks.models import build_random_llama

    if size != "own":
        build_random_llama(size, own, folder)
        return
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(own), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    load_tokenizer(own).save_pretrained(folder)


def measure_training(case: Case, model: Path, work: Path) -> Mapping[str, Any]:
    """A whole run, from the file to the stored artifact, with the estimate that it made of itself."""
    import llm_runner.train.build
    import llm_runner.train.memory
    import torch
    from llm_runner.model.memory import MemoryEstimate, MemoryPlan, estimate_memory
    from llm_runner.report.reporter import Reporter
    from llm_runner.train.run import train

    found: list[tuple[MemoryPlan, MemoryEstimate]] = []

    def noted(config: Any, plan: MemoryPlan, device: Any) -> MemoryEstimate:
        found.append((plan, estimate_memory(config, plan, device)))
        return found[-1][1]

    llm_runner.train.memory.estimate_memory = noted
    if not case.unpacks:
        llm_runner.train.build.available_memory = lambda *_args, **_options: 0
    run = build_run(case, model, work)
    train(run, reporter=Reporter([]), work_path=work / "run", should_stop=lambda: False)
    plan, estimate = found[-1]
    libraries = estimate.overhead_bytes if torch.cuda.is_available() else 0
    return to_figures(plan.batch_tokens, estimate.total_bytes - libraries)


def build_run(case: Case, model: Path, work: Path) -> Any:
    from llm_api.config import load_config
    from llm_api.run import DataLocation, DataLocations, RunCheckpoints, TrainRun

    data = work / "data.jsonl"
    data.write_text("\n".join(build_lines(model, case.row_tokens, STEPS * case.rows_per_step)) + "\n")
    output = work / "output"
    output.mkdir()
    trainer = {
        "type": "finetune",
        "learning_rate": 1e-5,
        "batch_size": case.rows_per_step,
        "gradient_accumulation_steps": 1,
        "train_steps": STEPS,
        "skip_all_evaluation": True,
        **case.trainer,
    }
    config = {
        "base_model": str(model),
        "input_features": [{"name": "prompt", "type": "text"}],
        "output_features": [{"name": "answer", "type": "text"}],
        "preprocessing": {"global_max_sequence_length": case.row_tokens},
        "adapter": LORA,
        "trainer": trainer,
        **case.config,
    }
    return TrainRun(
        name="benchmark",
        config=load_config(config),
        dataset=DataLocations(train=DataLocation(uri=str(data)), validation=DataLocation(uri=str(data))),
        output_uri=str(output),
        checkpoint=RunCheckpoints(uri=str(work / "checkpoints")),
        seed=42,
        dtype=case.dtype,
    )


def build_lines(model: Path, tokens: int, count: int) -> Iterator[str]:
    """Rows of JSON that are all cut to the same length, so that a pass holds the tokens that were counted on."""
    from llm_runner.model.load import load_tokenizer

    from benchmarks.generators import take_tokens
    from benchmarks.rows import build_rows

    tokenizer = load_tokenizer(model)
    ids = take_tokens(tokenizer, build_rows(tokenizer), 2 * tokens * count)
    for _ in range(count):
        prompt, answer = (tokenizer.decode(list(islice(ids, part))) for part in (tokens // 2, tokens))
        yield json.dumps({"prompt": prompt, "answer": answer})


def measure_serving(model_path: Path) -> Mapping[str, Any]:
    """The engine of a server with as many answers at a time as it takes on."""
    import torch
    from llm_runner.generate.engine import Engine
    from llm_runner.generate.engine_build import CachePlan, build_forward
    from llm_runner.model.load import load_base, load_tokenizer
    from llm_runner.model.memory import cache_token_bytes, serving_bytes
    from llm_runner.model.rope import context_length
    from llm_runner.predict.load import plan_limits
    from llm_runner.train.device import choose_device

    from benchmarks.generators import ask_engine, take_tokens
    from benchmarks.rows import build_rows

    device, tokenizer = choose_device(), load_tokenizer(model_path)
    model = load_base(model_path, dtype=torch.bfloat16, device=device)
    limits = plan_limits(context_length(model.config, None), device.type, None)
    plan = CachePlan(limits.context_tokens, limits.running)
    engine = Engine(build_forward(model, plan)[0], limits)
    engine.start()
    tokens = take_tokens(tokenizer, build_rows(tokenizer), limits.running * PROMPT_TOKENS)
    try:
        ask_engine(engine, [list(islice(tokens, PROMPT_TOKENS)) for _ in range(limits.running)], NEW_TOKENS)
    finally:
        engine.close()
    step_tokens = max(limits.step_tokens, limits.running)
    needs = serving_bytes(model.config, torch.bfloat16, None, step_tokens, device)
    cache = plan.wanted_tokens * cache_token_bytes(model.config, torch.bfloat16)
    libraries = 0 if device.type == "cpu" else needs["libraries"]
    return to_figures(step_tokens, sum(needs.values()) + cache - libraries)


def to_figures(tokens: int, estimated_bytes: int) -> Mapping[str, Any]:
    from llm_runner.report.memory import peak_memory_bytes

    return {"tokens": tokens, "estimated_bytes": estimated_bytes, "measured_bytes": peak_memory_bytes()}


def describe_row(name: str, figures: Mapping[str, Any]) -> str:
    if "error" in figures:
        return f"| {name} | | | | {figures['error']} |"
    measured, estimated = figures["measured_bytes"], figures["estimated_bytes"]
    off = estimated / measured - 1
    judged = "" if abs(off) <= TOLERANCE else ", OUT OF BOUNDS"
    return f"| {name} | {figures['tokens']:,} | {measured / GIB:.2f} | {estimated / GIB:.2f} | {off:+.0%}{judged} |"


def describe(rows: Sequence[str], device: str) -> str:
    """The result as Markdown."""
    if device == "cpu":
        where = f"{platform.machine()}, {os.cpu_count()} cores; resident set"
    else:
        import torch

        where = f"{torch.cuda.get_device_name()}, torch {torch.__version__}; allocated by torch, without the libraries"
    heads = ["| run | tokens at a time | measured, GiB | estimated, GiB | |", "|---|---|---|---|---|"]
    return "\n".join([f"{where}; at most {TOLERANCE:.0%} apart is meant.", "", *heads, *rows])


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    main()

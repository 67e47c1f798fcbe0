"""Training on an accelerator, side by side with Hugging Face's Trainer that pads all rows to 1,024 tokens.

    python benchmarks/accelerator.py                     # a model of 7.4 billion random weights, in BF16 and in NF4
    python benchmarks/accelerator.py --size 1b --save    # a smaller one, and put the table into benchmarks/README.md

Random weights are as fast as trained ones. Each run has a process of its own, interleaved as in ``train.py``; what our
own step spends its time on is read from torch's profiler in one more.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

HERE = Path(__file__).resolve().parent
GIB = 2**30
CONTESTANTS = {
    "ours": ("ours", False),
    "HF Trainer, padded": ("hf-padded", False),
    "ours, NF4": ("ours", True),
    "HF Trainer, padded, NF4": ("hf-padded", True),
}
"""Trainer, and whether the base is in NF4."""
FEWER_ROWS = (8, 4, 2, 1)
"""At a time, for the peer: what fits is found by trial, most first."""
KERNELS = (
    ("attention", ("flash", "fmha", "attention")),
    ("unpacking NF4", ("dequantize", "Dequantize")),
    ("matrix products", ("gemm", "nvjet", "cutlass", "splitK", "cublas", "gemv")),
    ("optimizer", ("multi_tensor", "adam", "Adam")),
    ("copies", ("Memcpy", "Memset", "copy", "CatArray")),
    ("reductions and softmax", ("reduce", "softmax", "Softmax", "nll", "NLL")),
)
"""Kinds of GPU work, by what their kernels' names hold; the rest goes number by number."""
Rounds = Mapping[str, Sequence[Mapping[str, Any]]]


def main() -> None:
    from benchmarks.models import build_random_llama
    from benchmarks.readme import save

    options = parse_options()
    if options.profile is not None:
        sys.stdout.write(json.dumps(profile_here(json.loads(options.profile))) + "\n")
        return
    console = Console(width=120)
    with tempfile.TemporaryDirectory(prefix="llm-bench-", dir=options.scratch) as folder:
        options.model = Path(folder) / options.size
        options.weights = build_random_llama(options.size, options.tokenizer, options.model)
        data = Path(folder) / "data"
        data.mkdir()
        save_rows(options, data)
        rounds = run_rounds(console, options, data)
        busy = run_profile(options, data)
    text = describe(rounds, busy, options)
    console.print(text, markup=False, highlight=False)
    if options.save:
        save("accelerator", text)


def parse_options() -> argparse.Namespace:
    from benchmarks.models import SIZES

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, help="folder of one; default: SmolLM2's")
    parser.add_argument("--size", choices=SIZES, default="7b")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps of each run, of 8 rows")
    parser.add_argument("--scratch", type=Path, help="where the weights are written")
    parser.add_argument("--save", action="store_true", help="write the table into README.md beside this file")
    parser.add_argument("--profile", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tokenizer is None and options.profile is None:
        from scripts.prepare_model import prepare_model

        options.tokenizer = prepare_model()
    return options


def save_rows(options: argparse.Namespace, data: Path) -> None:
    from llm_runner.model.load import load_tokenizer

    from benchmarks.rows import save_rows as save

    save(data, load_tokenizer(options.tokenizer), train=options.steps * 8, hold_out=8)


def run_rounds(console: Console, options: argparse.Namespace, data: Path) -> Rounds:
    rounds: dict[str, list[Mapping[str, Any]]] = {name: [] for name in CONTESTANTS}
    for number in range(options.rounds):
        for name, (trainer, nf4) in CONTESTANTS.items():
            figures = run_what_fits(options, data, trainer, nf4)
            rounds[name].append(figures)
            speed, memory = figures["tokens_per_second"], figures["peak_memory_bytes"] / GIB
            rows = figures["rows_at_a_time"]
            console.print(f"round {number + 1}: {name}: {speed:.0f} tokens/s, {memory:.2f} GiB, {rows} rows at a time")
    return rounds


def run_what_fits(options: argparse.Namespace, data: Path, trainer: str, nf4: bool) -> Mapping[str, Any]:
    from benchmarks.train import run_one

    for rows in FEWER_ROWS:
        try:
            figures = run_one(options, data, trainer, steps=options.steps, nf4=nf4, rows_at_a_time=rows)
        except subprocess.CalledProcessError:
            if trainer == "ours" or rows == FEWER_ROWS[-1]:
                raise
        else:
            return {**figures, "rows_at_a_time": rows}
    raise AssertionError("the last one raises")


def run_profile(options: argparse.Namespace, data: Path) -> Mapping[str, float]:
    with tempfile.TemporaryDirectory(prefix="llm-bench-run-") as work:
        setting = {"model_path": str(options.model), "data_path": str(data), "work_path": work, "steps": options.steps}
        command = [sys.executable, __file__, "--profile", json.dumps(setting)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        busy: Mapping[str, float] = json.loads(done.stdout.splitlines()[-1])
        return busy


def profile_here(values: Mapping[str, Any]) -> Mapping[str, float]:
    """Seconds of the accelerator by kind of work, during the training steps of one run."""
    import torch
    from llm_runner.train.loop import Loop
    from torch.profiler import ProfilerActivity, profile

    from benchmarks.trainers import Setting, measure

    paths = {name: Path(values[name]) for name in ("model_path", "data_path", "work_path")}
    activities = [ProfilerActivity.CUDA if torch.cuda.is_available() else ProfilerActivity.CPU]
    spent: Counter[str] = Counter()
    fit = Loop.fit

    def profiled(self: Loop, state: Any) -> None:
        with profile(activities=activities) as found:
            fit(self, state)
        for average in found.key_averages():
            spent[kind_of(average.key)] += average.self_device_time_total / 1e6
        spent["in all"] = state.train_seconds

    Loop.fit = profiled  # type: ignore[method-assign]
    measure(Setting(trainer="ours", steps=values["steps"], **paths))
    return dict(spent)


def kind_of(kernel: str) -> str:
    return next((kind for kind, words in KERNELS if any(word in kernel for word in words)), "number by number")


def describe(rounds: Rounds, busy: Mapping[str, float], options: argparse.Namespace) -> str:
    """The result as Markdown."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no accelerator"
    lines = [
        f"{device}; {options.rounds} rounds, interleaved, of {options.steps} steps of 8 rows; a Llama of "
        f"{options.weights / 1e9:.1f} billion random weights, bf16, LoRA r=8 on q and v.",
        "",
        "| trainer | non-padding tokens/s | peak memory, GiB | rows at a time |",
        "|---|---|---|---|",
        *(describe_row(name, figures) for name, figures in rounds.items()),
        "",
        describe_ratio(rounds, "ours", "HF Trainer, padded"),
        describe_ratio(rounds, "ours, NF4", "HF Trainer, padded, NF4"),
        describe_busy(busy),
    ]
    return "\n".join(lines)


def describe_row(name: str, figures: Sequence[Mapping[str, Any]]) -> str:
    from benchmarks.readme import spread

    speeds = [one["tokens_per_second"] for one in figures]
    memory = [one["peak_memory_bytes"] / GIB for one in figures]
    rows = "all" if name.startswith("ours") else spread([one["rows_at_a_time"] for one in figures], 0)
    return f"| {name} | {spread(speeds, 0)} | {spread(memory, 2)} | {rows} |"


def describe_ratio(rounds: Rounds, mine: str, peer: str) -> str:
    from benchmarks.readme import spread

    pairs = list(zip(rounds[mine], rounds[peer], strict=True))
    speeds = [own["tokens_per_second"] / other["tokens_per_second"] for own, other in pairs]
    memory = [own["peak_memory_bytes"] / other["peak_memory_bytes"] for own, other in pairs]
    return f"- {mine}: {spread(speeds, 2)} times the tokens/s of {peer}, {spread(memory, 2)} times its peak memory"


def describe_busy(busy: Mapping[str, float]) -> str:
    total = busy["in all"]
    kinds = {kind: seconds for kind, seconds in busy.items() if kind != "in all"}
    idle = max(0.0, total - sum(kinds.values()))
    shares = sorted({**kinds, "nothing, as it waits for the host": idle}.items(), key=lambda item: -item[1])
    return "- our step in bf16: " + ", ".join(f"{100 * seconds / total:.0f}% {kind}" for kind, seconds in shares)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    main()

"""Training side by side with its peers: speed, peak memory and loss, interleaved in one run, each in its own process.

    python benchmarks/train.py                 # on this machine: rounds of all trainers, then the fp32 comparison
    python benchmarks/train.py --save          # and put the tables into benchmarks/README.md

Prints ratios, since absolute figures are of one machine on one day. Judges nothing by itself but says which of the
bounds hold.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

HERE = Path(__file__).resolve().parent
GIB = 2**30


@dataclass(frozen=True)
class Contestant:
    """A column of the comparison."""

    name: str
    trainer: str
    nf4: bool = False


CONTESTANTS = (
    Contestant("ours", "ours"),
    Contestant("HF Trainer", "hf"),
    Contestant("TRL default", "trl-default"),
    Contestant("TRL padding_free", "trl-padding-free"),
    Contestant("ours, NF4", "ours", nf4=True),
    Contestant("HF Trainer, NF4", "hf", nf4=True),
)
BOUNDS = (
    ("tokens/s of HF Trainer", "HF Trainer", "ours", "tokens_per_second", 2.3),
    ("tokens/s of TRL's best mode", "TRL", "ours", "tokens_per_second", 2.0),
    ("tokens/s of HF Trainer on NF4", "HF Trainer, NF4", "ours, NF4", "tokens_per_second", 2.3),
    ("peak memory of HF Trainer", "HF Trainer", "ours", "peak_memory_bytes", 0.4),
)
"""What, of whom, measured on whom, which figure, and the bound: least for speed, most for memory."""
FLOAT32 = {"ours": "ours", "HF Trainer": "hf"}
"""Who is compared step by step in fp32, where rounding hides nothing."""
FLOAT32_STEPS = 6
Rounds = Mapping[str, Sequence[Mapping[str, Any]]]


def main() -> None:
    from benchmarks.readme import save

    options = parse_options()
    if options.measure is not None:
        measure_here(json.loads(options.measure))
        return
    from benchmarks.rows import save_rows_of_steps

    console = Console(width=120)
    with tempfile.TemporaryDirectory(prefix="llm-bench-") as folder:
        data = Path(folder) / "data"
        data.mkdir()
        save_rows_of_steps(data, options.model, options.steps, hold_out=24)
        rounds = run_rounds(console, options, data)
        exact = {
            name: run_one(options, data, trainer, steps=FLOAT32_STEPS, float32=True)
            for name, trainer in FLOAT32.items()
        }
    text = describe(rounds, exact, options)
    console.print(text, markup=False, highlight=False)
    if options.save:
        save("train", text)


def parse_options() -> argparse.Namespace:
    from benchmarks.options import build_parser, parse

    parser = build_parser(__doc__)
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps of each run, of 8 rows")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="trainers, by the names in the table")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parse(parser)


def run_rounds(console: Console, options: argparse.Namespace, data: Path) -> Rounds:
    """Everyone once, then everyone again: drift of the machine hits all alike."""
    chosen = [one for one in CONTESTANTS if options.only is None or one.name in options.only]
    rounds: dict[str, list[Mapping[str, Any]]] = {one.name: [] for one in chosen}
    for number in range(options.rounds):
        for one in chosen:
            figures = run_one(options, data, one.trainer, steps=options.steps, nf4=one.nf4)
            rounds[one.name].append(figures)
            speed, memory = figures["tokens_per_second"], figures["peak_memory_bytes"] / GIB
            console.print(f"round {number + 1}: {one.name}: {speed:.0f} tokens/s, {memory:.2f} GiB")
    return rounds


def run_one(options: argparse.Namespace, data: Path, trainer: str, *, steps: int, **further: Any) -> Mapping[str, Any]:
    """In a process of its own, ``further`` settings and all; raises CalledProcessError where that fails."""
    with tempfile.TemporaryDirectory(prefix="llm-bench-run-") as folder:
        setting = {
            "trainer": trainer,
            "model_path": str(options.model),
            "data_path": str(data),
            "work_path": folder,
            "steps": steps,
            **further,
        }
        command = [sys.executable, str(Path(__file__)), "--model", str(options.model), "--measure", json.dumps(setting)]
        environment = {**os.environ, "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        figures: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return figures


def measure_here(values: Mapping[str, Any]) -> None:
    from benchmarks.trainers import Setting, measure

    paths = {name: Path(values[name]) for name in ("model_path", "data_path", "work_path")}
    figures = measure(Setting(**{**values, **paths}))
    sys.stdout.write(f"{json.dumps(asdict(figures))}\n")


def describe(rounds: Rounds, exact: Mapping[str, Mapping[str, Any]], options: argparse.Namespace) -> str:
    """The result as Markdown."""
    rows = [describe_row(name, figures) for name, figures in rounds.items()]
    lines = [
        f"{platform.machine()}, {os.cpu_count()} cores; {options.rounds} rounds, interleaved, of {options.steps} steps "
        f"of 8 rows; {options.model.name}, bf16, LoRA r=8 on q and v.",
        "",
        "| trainer | non-padding tokens/s | peak memory, GiB | hold-out loss |",
        "|---|---|---|---|",
        *rows,
        "",
        *(describe_bound(rounds, *bound) for bound in BOUNDS if is_measured(rounds, bound[1], bound[2])),
        *describe_losses(rounds),
        f"- fp32: largest difference of a step's loss to the padded reference {largest_gap(exact):.6f} (at most 0.001)",
    ]
    return "\n".join(lines)


def describe_row(name: str, figures: Sequence[Mapping[str, Any]]) -> str:
    from benchmarks.readme import spread

    speeds = [figure["tokens_per_second"] for figure in figures]
    memory = [figure["peak_memory_bytes"] / GIB for figure in figures]
    losses = [figure["hold_out_loss"] for figure in figures]
    return f"| {name} | {spread(speeds, 0)} | {spread(memory, 2)} | {spread(losses, 4)} |"


def is_measured(rounds: Rounds, peer: str, mine: str) -> bool:
    return mine in rounds and any(name.startswith(peer) for name in rounds)


def describe_bound(rounds: Rounds, what: str, peer: str, mine: str, key: str, bound: float) -> str:
    """The ratio in each round; the bound is held against the median."""
    from benchmarks.readme import spread

    names = [name for name in rounds if name == peer or (peer == "TRL" and name.startswith(peer))]
    best = [max(rounds[name][number][key] for name in names) for number in range(len(rounds[mine]))]
    ratios = [own[key] / other for own, other in zip(rounds[mine], best, strict=True)]
    median = statistics.median(ratios)
    is_speed = key == "tokens_per_second"
    holds = median >= bound if is_speed else median <= bound
    wanted = f"at least {bound}" if is_speed else f"at most {bound}"
    return f"- {median:.2f} times the {what} ({spread(ratios, 2)}; {wanted}: {'holds' if holds else 'DOES NOT HOLD'})"


def describe_losses(rounds: Rounds) -> list[str]:
    if not {"ours", "HF Trainer"} <= rounds.keys():
        return []
    ours, peer = (statistics.median(f["hold_out_loss"] for f in rounds[name]) for name in ("ours", "HF Trainer"))
    return [f"- hold-out loss after the same steps: {abs(ours - peer):.4f} from HF Trainer's (at most 0.01)"]


def largest_gap(exact: Mapping[str, Mapping[str, Any]]) -> float:
    """Over the steps, in nats per target token."""
    pairs = zip(exact["ours"]["losses"], exact["HF Trainer"]["losses"], strict=True)
    return max(abs(float(ours) - float(peer)) for ours, peer in pairs)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    main()

"""One fine-tune by 1, 2 and 4 processes: tokens/s against what their share of the cores promises.

    python benchmarks/ranks.py                 # on this machine: rounds of all, interleaved
    python benchmarks/ranks.py --save          # and put the table into benchmarks/scale.md

Every process has one thread, pinned to one core; where there are more of them than cores, they share cores evenly. One
process on one core is what the others are held against: twice the cores promise twice its tokens/s. Prints ratios,
since absolute figures are of one machine on one day.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

HERE = Path(__file__).resolve().parent
PAGE = HERE / "scale.md"
GIB = 2**30
COUNTS = (1, 2, 4)


@dataclass(frozen=True)
class Way:
    """Of training by several processes."""

    name: str
    parallelism: str
    is_full: bool = False
    """All weights are trained, and not an adapter."""


WAYS = (Way("LoRA, ddp", "ddp"), Way("LoRA, fsdp", "fsdp"), Way("all weights, ddp", "ddp", is_full=True))
Rounds = Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]]


def main() -> None:
    from benchmarks.readme import save

    options = parse_options()
    if options.measure is not None:
        measure_here(json.loads(options.measure))
        return
    from benchmarks.rows import save_rows_of_steps

    console = Console(width=120)
    with tempfile.TemporaryDirectory(prefix="llm-bench-") as folder:
        data = Path(folder)
        save_rows_of_steps(data, options.model, options.steps, hold_out=8)
        rounds = run_rounds(console, options, data)
    text = describe(rounds, options)
    console.print(text, markup=False, highlight=False)
    if options.save:
        save("ranks", text, PAGE)


def parse_options() -> argparse.Namespace:
    from benchmarks.options import build_parser, parse

    parser = build_parser(__doc__)
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps of each run, of 8 rows")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parse(parser)


def run_rounds(console: Console, options: argparse.Namespace, data: Path) -> Rounds:
    """Everyone once, then everyone again: drift of the machine hits all alike."""
    rounds: dict[str, dict[int, list[Mapping[str, Any]]]] = {way.name: {n: [] for n in COUNTS} for way in WAYS}
    for number in range(options.rounds):
        for way in WAYS:
            for count in COUNTS:
                figures = run_one(options, data, way, count)
                rounds[way.name][count].append(figures)
                speed, memory = figures["tokens_per_second"], figures["peak_memory_bytes"] / GIB
                console.print(f"round {number + 1}: {way.name}, {count}: {speed:.0f} tokens/s, {memory:.2f} GiB each")
    return rounds


def run_one(options: argparse.Namespace, data: Path, way: Way, count: int) -> Mapping[str, Any]:
    """By torch's launcher; raises CalledProcessError where that fails."""
    with tempfile.TemporaryDirectory(prefix="llm-bench-run-") as folder:
        setting = {
            "model_path": str(options.model),
            "data_path": str(data),
            "work_path": folder,
            "steps": options.steps,
            "parallelism": way.parallelism,
            "is_full": way.is_full,
        }
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        script = [str(Path(__file__)), "--model", str(options.model), "--measure", json.dumps(setting)]
        quiet = {"TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
        environment = {**os.environ, **quiet}
        subprocess.run([sys.executable, *launcher, *script], check=True, stdout=subprocess.DEVNULL, env=environment)
        figures: Mapping[str, Any] = json.loads((Path(folder) / "figures.json").read_text())
        return figures


def measure_here(values: Mapping[str, Any]) -> None:
    """As one of the processes. The first one tells."""
    rank = int(os.environ["LOCAL_RANK"])
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    from llm_api.config import load_config
    from llm_api.run import Together
    from llm_runner.report.reporter import Reporter
    from llm_runner.train.ranks import join_ranks
    from llm_runner.train.run import train

    from benchmarks.trainers import Setting, build_config, build_run, peak_memory_bytes

    model_path, data_path, work_path = (Path(values[name]) for name in ("model_path", "data_path", "work_path"))
    setting = Setting("ours", model_path, data_path, work_path, values["steps"])
    output = setting.work_path / "output"
    output.mkdir(exist_ok=True)
    config = build_config(setting) | ({"adapter": None} if values["is_full"] else {})
    with join_ranks() as ranks:
        together = Together(processes_per_node=ranks.count, parallelism=values["parallelism"])
        run = build_run(setting, output).model_copy(update={"config": load_config(config), "together": together})
        own_path = setting.work_path / f"rank-{ranks.number}"
        train(run, reporter=Reporter([]), work_path=own_path, should_stop=lambda: False, ranks=ranks)
        peak = max(ranks.gather(peak_memory_bytes()))
    if rank == 0:
        metrics = json.loads((output / "metrics.json").read_text())
        speed = metrics["train"]["tokens_per_second"]
        text = json.dumps({"tokens_per_second": speed, "peak_memory_bytes": peak})
        (setting.work_path / "figures.json").write_text(text)


def describe(rounds: Rounds, options: argparse.Namespace) -> str:
    """The result as Markdown."""
    cores = len(os.sched_getaffinity(0))
    lines = [
        f"{platform.machine()}, {cores} cores; {options.rounds} rounds, interleaved, of {options.steps} steps of 8 "
        f"rows; {options.model.name}, bf16; LoRA r=8 on q and v, or all weights; gloo.",
        "",
        "| training | processes | cores | tokens/s | of the ideal | peak memory of one, GiB |",
        "|---|---|---|---|---|---|",
        *(describe_row(name, count, of_way, cores) for name, of_way in rounds.items() for count in COUNTS),
    ]
    return "\n".join(lines)


def describe_row(name: str, count: int, of_way: Mapping[int, Sequence[Mapping[str, Any]]], cores: int) -> str:
    from benchmarks.readme import spread

    used = min(count, cores)
    speeds = [figures["tokens_per_second"] for figures in of_way[count]]
    alone = [figures["tokens_per_second"] for figures in of_way[1]]
    efficiency = statistics.median(mine / (one * used) for mine, one in zip(speeds, alone, strict=True))
    memory = [figures["peak_memory_bytes"] / GIB for figures in of_way[count]]
    return f"| {name} | {count} | {used} | {spread(speeds, 0)} | {efficiency:.0%} | {spread(memory, 2)} |"


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    main()

"""Offline generation side by side with ``model.generate``, and what a shared prompt prefix saves.

    python benchmarks/generate.py              # on this machine: rounds of all, interleaved, each in its own process
    python benchmarks/generate.py --save       # and put the table into benchmarks/README.md

Prints ratios, since absolute figures are of one machine on one day. Judges nothing by itself but says which of the
bounds hold.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

HERE = Path(__file__).resolve().parent
GIB = 2**30


@dataclass(frozen=True)
class Contestant:
    """A row of the table."""

    name: str
    generator: str
    task: str


TEXT_OURS = Contestant("64 prompts, 64 new tokens: ours", "ours", "text")
TEXT_PEER = Contestant("64 prompts, 64 new tokens: model.generate, sorted, by 16", "library", "text")
LABEL_OURS = Contestant("64 labels after 400 shared tokens: ours", "ours", "label")
LABEL_UNSHARED = Contestant("64 labels after 400 shared tokens: ours without reuse", "ours-unshared", "label")
LABEL_PEER = Contestant("64 labels after 400 shared tokens: model.generate, by 16", "library", "label")
CONTESTANTS = (TEXT_OURS, TEXT_PEER, LABEL_OURS, LABEL_UNSHARED, LABEL_PEER)
BOUNDS = (
    ("the tokens/s of model.generate on sorted batches", TEXT_OURS, TEXT_PEER, 1.2),
    ("the rows/s without reuse of the prefix", LABEL_OURS, LABEL_UNSHARED, 5.0),
)
"""What, of whom, against whom, and the least ratio."""
Rounds = Mapping[str, Sequence[Mapping[str, Any]]]


def main() -> None:
    from benchmarks.readme import save

    options = parse_options()
    if options.measure is not None:
        measure_here(options)
        return
    console = Console(width=120)
    rounds: dict[str, list[Mapping[str, Any]]] = {one.name: [] for one in CONTESTANTS}
    for number in range(options.rounds):
        for one in CONTESTANTS:
            rounds[one.name].append(run_one(options, one))
            console.print(f"round {number + 1}: {describe_row(one.name, rounds[one.name][-1:])}")
    text = describe(rounds, options)
    console.print(text, markup=False, highlight=False)
    if options.save:
        save("generate", text)


def parse_options() -> argparse.Namespace:
    from benchmarks.options import build_parser, parse

    parser = build_parser(__doc__)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    return parse(parser)


def run_one(options: argparse.Namespace, one: Contestant) -> Mapping[str, Any]:
    """In a process of its own; raises CalledProcessError where that fails."""
    command = [sys.executable, str(Path(__file__)), "--model", str(options.model)]
    command += ["--measure", one.generator, one.task]
    environment = {**os.environ, "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    figures: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure_here(options: argparse.Namespace) -> None:
    from benchmarks.generators import measure

    figures = measure(*options.measure, options.model)
    sys.stdout.write(f"{json.dumps(asdict(figures))}\n")


def describe(rounds: Rounds, options: argparse.Namespace) -> str:
    """The result as Markdown."""
    from benchmarks.readme import describe_bound

    lines = [
        f"{platform.machine()}, {os.cpu_count()} cores; {options.rounds} rounds, interleaved; {options.model.name}, "
        "bf16, greedy. Labels are 4 new tokens after 30 of the row's own.",
        "",
        "| what | rows/s | new tokens/s | peak memory, GiB |",
        "|---|---|---|---|",
        *(describe_row(name, figures) for name, figures in rounds.items()),
        "",
    ]
    for what, mine, other, least in BOUNDS:
        pairs = zip(rounds[mine.name], rounds[other.name], strict=True)
        lines.append(describe_bound(what, [a["rows_per_second"] / b["rows_per_second"] for a, b in pairs], least=least))
    lines.append(f"- {describe_agreement(rounds)}")
    return "\n".join(lines)


def describe_row(name: str, figures: Sequence[Mapping[str, Any]]) -> str:
    from benchmarks.readme import spread

    keys = (("rows_per_second", 1.0, 2), ("tokens_per_second", 1.0, 0), ("peak_memory_bytes", GIB, 2))
    cells = [spread([one[key] / unit for one in figures], digits) for key, unit, digits in keys]
    return f"| {' | '.join([name, *cells])} |"


def describe_agreement(rounds: Rounds) -> str:
    """In bf16 batches of another shape round differently, so not all answers are the same to the end."""
    ours, peers = (rounds[one.name][0]["answers"] for one in (TEXT_OURS, TEXT_PEER))
    first = sum(mine[0] == other[0] for mine, other in zip(ours, peers, strict=True))
    whole = sum(mine == other for mine, other in zip(ours, peers, strict=True))
    return f"of {len(ours)} answers {first} begin with the same token in both, and {whole} are the same to the end"


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    main()

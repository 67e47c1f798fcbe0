"""Serving side by side with transformers' own server: speed, waiting time, memory; and what happens under overload.

    python benchmarks/serve.py                 # on this machine: rounds of both servers, then ours under overload
    python benchmarks/serve.py --save          # and put the table into benchmarks/README.md
    python benchmarks/serve.py --random 1b     # on an accelerator, a model of random weights: 1, 16 and 64 clients

Prints ratios, since absolute figures are of one machine on one day. Judges nothing by itself but says which of the
bounds hold.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from benchmarks.clients import Load

HERE = Path(__file__).resolve().parent
GIB = 2**30
OURS, PEER = "ours", "transformers serve, continuous batching"
FEW, MANY, VERY_MANY, FAR_TOO_MANY = 1, 16, 64, 200
REQUESTS = {1: 6, 16: 64}
"""By the number of clients; so many of each for more."""
REQUESTS_PER_CLIENT = 4
OVERLOAD_SECONDS = 30.0
LEAST_SPEED_OF_MANY, LEAST_SPEED_OF_ONE, MOST_MEMORY, MOST_SLOWER = 2.5, 1.0, 0.25, 3.0


@dataclass(frozen=True)
class Figures:
    """One server in one round."""

    loads: Mapping[int, "Load"]
    """By the number of clients."""
    peak_memory_bytes: int


@dataclass(frozen=True)
class Overload:
    """Our server with as many clients as it likes, and with far too many."""

    usual: "Load"
    far_too_many: "Load"


Rounds = Mapping[str, Sequence[Figures]]


def main() -> None:
    from benchmarks.readme import save

    options = parse_options()
    console = Console(width=120)
    with tempfile.TemporaryDirectory(prefix="llm-bench-", dir=options.scratch) as folder:
        if options.random is not None:
            prepare_random(options, Path(folder) / f"Llama-{options.random}-random")
        text = compare(console, options)
    console.print(text, markup=False, highlight=False)
    if options.save:
        save("serve" if options.random is None else "serve-accelerator", text)


def compare(console: Console, options: argparse.Namespace) -> str:
    """The result as Markdown."""
    prompts = iterate_prompts(options.model)
    rounds: dict[str, list[Figures]] = {name: [] for name in (OURS, PEER) if options.only in (None, name)}
    for number in range(options.rounds):
        for name, measured in rounds.items():
            measured.append(measure(name, options, prompts))
            console.print(f"round {number + 1}: {describe_row(name, measured[-1:], options)}")
    overload = measure_overload(options, prompts) if options.random is None and options.only != PEER else None
    return describe(rounds, overload, options)


def parse_options() -> argparse.Namespace:
    from benchmarks.options import build_parser, parse

    parser = build_parser(__doc__)
    from benchmarks.models import SIZES

    parser.add_argument("--clients", type=int, nargs="+", help="how many ask at once")
    parser.add_argument("--only", choices=[OURS, PEER])
    parser.add_argument("--random", choices=SIZES, help="a model of random weights, with --model's tokenizer")
    parser.add_argument("--scratch", type=Path, help="where such a model is written")
    options = parse(parser)
    if options.clients is None:
        options.clients = [FEW, MANY] if options.random is None else [FEW, MANY, VERY_MANY]
    return options


def prepare_random(options: argparse.Namespace, folder: Path) -> None:
    from benchmarks.models import build_random_llama

    build_random_llama(options.random, options.model, folder)
    options.model = folder


def iterate_prompts(model_path: Path) -> Iterator[str]:
    """Without end and all different, so that nobody finds one computed already."""
    from llm_runner.model.load import load_tokenizer

    from benchmarks.rows import build_rows

    rows = build_rows(load_tokenizer(model_path))
    return (f"{number}. {row['prompt']}" for number, row in enumerate(rows))


def measure(name: str, options: argparse.Namespace, prompts: Iterator[str]) -> Figures:
    from benchmarks.clients import run_clients
    from benchmarks.endpoints import running_ours, running_transformers

    start = running_ours if name == OURS else running_transformers
    with tempfile.TemporaryDirectory(prefix="llm-bench-") as folder, start(options.model, Path(folder)) as endpoint:
        run_clients(endpoint, take(prompts, 4), 2)
        loads = {
            clients: run_clients(endpoint, take(prompts, requests_for(clients)), clients) for clients in options.clients
        }
        lost = [outcome for load in loads.values() for outcome in load.outcomes if outcome.tokens == 0]
        if lost:
            raise RuntimeError(f"{name}: {len(lost)} requests weren't answered: {lost[0]}")
        return Figures(loads, endpoint.peak_memory_bytes())


def take(prompts: Iterator[str], count: int) -> Iterator[str]:
    return iter([next(prompts) for _ in range(count)])


def requests_for(clients: int) -> int:
    return REQUESTS.get(clients, clients * REQUESTS_PER_CLIENT)


def measure_overload(options: argparse.Namespace, prompts: Iterator[str]) -> Overload:
    from benchmarks.clients import run_clients
    from benchmarks.endpoints import running_ours

    with tempfile.TemporaryDirectory(prefix="llm-bench-") as folder:
        with running_ours(options.model, Path(folder)) as endpoint:
            run_clients(endpoint, take(prompts, 4), 2)
            usual = run_clients(endpoint, take(prompts, requests_for(MANY)), MANY)
            end = time.monotonic() + OVERLOAD_SECONDS
            far_too_many = run_clients(endpoint, prompts, FAR_TOO_MANY, lambda: time.monotonic() >= end)
        return Overload(usual, far_too_many)


def describe(rounds: Rounds, overload: Overload | None, options: argparse.Namespace) -> str:
    """The result as Markdown."""
    import torch

    from benchmarks.endpoints import NEW_TOKENS

    counts = options.clients
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    if torch.cuda.is_available():
        machine = f"{torch.cuda.get_device_name()}, {machine}, torch {torch.__version__}"
    heads = [head for count in counts for head in (f"tokens/s, {count}", "first token, s")]
    heads += ["peak memory, GiB"] if options.random is None else []
    lines = [
        f"{machine}; {options.rounds} rounds, interleaved; {options.model.name}, bf16, {NEW_TOKENS} new tokens after "
        f"prompts of 40 to 430, streamed to {', '.join(map(str, counts))} clients.",
        "",
        f"| server | {' | '.join(heads)} |",
        f"|---|{'---|' * len(heads)}",
        *(describe_row(name, figures, options) for name, figures in rounds.items()),
        "",
        *(describe_bounds(rounds) if options.random is None else describe_ratios(rounds)),
        *([] if overload is None else describe_overload(overload)),
    ]
    return "\n".join(lines)


def describe_row(name: str, figures: Sequence[Figures], options: argparse.Namespace) -> str:
    from benchmarks.readme import spread

    cells = []
    for count in options.clients:
        loads = [one.loads[count] for one in figures]
        cells.append(spread([load.tokens_per_second for load in loads], 0))
        cells.append(spread([load.first_token_seconds for load in loads], 2))
    if options.random is None:
        cells.append(spread([one.peak_memory_bytes / GIB for one in figures], 2))
    return f"| {' | '.join([name, *cells])} |"


def describe_ratios(rounds: Rounds) -> list[str]:
    """Where no bound was set."""
    from benchmarks.readme import spread

    if rounds.keys() != {OURS, PEER}:
        return []
    pairs = list(zip(rounds[OURS], rounds[PEER], strict=True))
    speeds = {
        clients: [a.loads[clients].tokens_per_second / b.loads[clients].tokens_per_second for a, b in pairs]
        for clients in pairs[0][0].loads
    }
    said = ", ".join(f"{spread(ratios, 2)} with {clients}" for clients, ratios in speeds.items())
    return [f"- times the tokens/s of transformers' server, by clients: {said}"]


def describe_bounds(rounds: Rounds) -> list[str]:
    if rounds.keys() != {OURS, PEER}:
        return []
    from benchmarks.readme import describe_bound

    pairs = list(zip(rounds[OURS], rounds[PEER], strict=True))
    least = {FEW: LEAST_SPEED_OF_ONE, MANY: LEAST_SPEED_OF_MANY}
    lines = [
        describe_bound(
            f"the tokens/s of transformers' server with {clients} client{'s' if clients > 1 else ''}",
            [ours.loads[clients].tokens_per_second / peer.loads[clients].tokens_per_second for ours, peer in pairs],
            least=bound,
        )
        for clients, bound in least.items()
        if all(clients in ours.loads for ours, _ in pairs)
    ]
    memory = [ours.peak_memory_bytes / peer.peak_memory_bytes for ours, peer in pairs]
    return [*lines, describe_bound("its peak memory", memory, most=MOST_MEMORY)]


def describe_overload(overload: Overload) -> list[str]:
    from benchmarks.clients import Fate
    from benchmarks.readme import describe_bound

    flood = overload.far_too_many
    answered, refused, lost = (len(flood.of(fate)) for fate in (Fate.ANSWERED, Fate.REFUSED, Fate.LOST))
    slower = flood.p95_seconds / overload.usual.p95_seconds
    first_lost = f", the first by {flood.of(Fate.LOST)[0].problem}" if lost else ""
    return [
        f"- {FAR_TOO_MANY} clients for {OVERLOAD_SECONDS:.0f} s: {answered} requests answered, {refused} told 429 and "
        f"when to come back, {lost} lost{first_lost}; {flood.tokens_per_second:.0f} tokens/s",
        describe_bound(
            f"the p95 of {MANY} clients, for the answered of {FAR_TOO_MANY} "
            f"({flood.p95_seconds:.1f} s and {overload.usual.p95_seconds:.1f} s)",
            [slower],
            most=MOST_SLOWER,
        ),
    ]


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    main()

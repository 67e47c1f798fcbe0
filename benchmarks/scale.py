"""The operator at scale: many fine-tunes at once, beside as many plain Jobs, and many more that rest.

    python benchmarks/scale.py                 # on a control plane of its own, with fake GPU nodes; no root needed
    python benchmarks/scale.py --save          # and put the tables into benchmarks/operator.md

Times are of one machine on one day, which is why plain Jobs made by kubectl stand beside them. Judges nothing by itself
but says which of the bounds hold.
"""

import argparse
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from benchmarks.operating import Burst, Figures

HERE = Path(__file__).resolve().parent
REPORT = HERE / "operator.md"
MEGABYTE = 1_000_000
MOST_SECONDS, MOST_BUSY_MEGABYTES, MOST_IDLE_MEGABYTES = 60.0, 300.0, 500.0


def main() -> None:
    from benchmarks.operating import measure
    from benchmarks.readme import save

    options = parse_options()
    console = Console(width=120, markup=False, highlight=False)
    with tempfile.TemporaryDirectory(prefix="llm-bench-") as folder:
        text = describe(measure(Path(folder), options.at_once, options.idle, console.print))
    console.print(text)
    if options.save:
        save("operator", text, REPORT)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--at-once", type=int, default=1_000, metavar="COUNT", help="fine-tunes applied at once")
    parser.add_argument("--idle", type=int, default=10_000, metavar="COUNT", help="resources that rest in the end")
    parser.add_argument("--save", action="store_true", help="write the tables into operator.md beside this file")
    return parser.parse_args()


def describe(figures: "Figures") -> str:
    """The result as Markdown."""
    usage, rest = figures.usage, figures.rest
    peak, grown, started = (size / MEGABYTE for size in (usage.peak_bytes, rest.grown_bytes, rest.started_bytes))
    per_resource = usage.writes / figures.at_once
    lines = [
        f"{platform.machine()}, {os.cpu_count()} cores, shared by the whole control plane, kubectl and the operator.",
        "",
        f"| {figures.at_once:,} applied at once | kubectl done, s | last Job there, s |",
        "|---|---|---|",
        f"| LLMFineTunes, Jobs by the operator | {describe_burst(figures.ours)} |",
        f"| plain Jobs of the same pods, by kubectl | {describe_burst(figures.plain)} |",
        "",
        f"- last Job {describe_bound(figures.ours.jobs_seconds, MOST_SECONDS, 's', 0)}",
        f"- operator's peak memory {describe_bound(peak, MOST_BUSY_MEGABYTES, 'MB', 0)}",
        f"- from apply to Succeeded {per_resource:.1f} writes a fine-tune ({usage.requests:,} requests in all)",
        "",
        f"{figures.idle:,} that rest: {figures.at_once:,} finished, with their Jobs and pods, the others suspended.",
        "",
        f"- operator's memory after it saw all of them come {describe_bound(grown, MOST_IDLE_MEGABYTES, 'MB', 0)}",
        f"- an operator started anew is ready in {rest.ready_seconds:.0f} s; peak memory "
        f"{describe_bound(started, MOST_IDLE_MEGABYTES, 'MB', 0)}",
        f"- writes in a minute with a slow round over all in it {describe_bound(rest.writes, 0, 'of anything', 0)}",
    ]
    return "\n".join(lines)


def describe_burst(burst: "Burst") -> str:
    return f"{burst.applied_seconds:.0f} | {burst.jobs_seconds:.0f}"


def describe_bound(value: float, most: float, unit: str, digits: int) -> str:
    holds = "holds" if value <= most else "DOES NOT HOLD"
    return f"{value:.{digits}f} {unit} (at most {most:.0f}: {holds})"


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    main()

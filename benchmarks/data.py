"""The data path by itself: a table that is larger than memory should be, prepared and walked through for an epoch.

    python benchmarks/data.py                  # 2,000,000 rows of Parquet, and as many of JSONL
    python benchmarks/data.py --save           # and put the table into benchmarks/README.md

Each table is prepared in a process of its own, so that its peak memory is its own. No model is loaded, only a
tokenizer; rows are read in the order of training, and nothing is done with them.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from pydoc_data.topics import topics

from rich.console import Console

HERE = Path(__file__).resolve().parent
FORMATS = ("parquet", "jsonl")
GROUP_ROWS = 500_000
"""Of a row group: so large that a reader that holds one whole shows."""
ROWS_PER_STEP = 256
SEED = 42
MEGABYTE = 1_000_000
MOST_MEGABYTES = 1_500


def main() -> None:
    from benchmarks.readme import save

    options = parse_options()
    if options.measure is not None:
        sys.stdout.write(json.dumps(measure(options.measure, options.model)) + "\n")
        return
    console = Console(width=120, markup=False, highlight=False)
    lines = [
        f"{platform.machine()}, {os.cpu_count()} cores; {options.rows:,} rows.",
        "",
        "| table | MB | million tokens | prepared, rows/s | epoch, rows/s | prepared, peak MB | epoch, peak MB |",
        "|---|---|---|---|---|---|---|",
    ]
    peaks = []
    for name in options.formats:
        with tempfile.TemporaryDirectory(prefix="llm-bench-") as folder:
            path = write_table(Path(folder) / f"train.{name}", options.rows)
            figures = measure_apart(path, options.model)
            peaks.append(figures["walked_megabytes"])
            lines.append(describe(name, path.stat().st_size / MEGABYTE, figures))
    holds = "holds" if max(peaks) <= MOST_MEGABYTES else "DOES NOT HOLD"
    lines += ["", f"- peak resident memory {max(peaks):.0f} MB, libraries included (at most {MOST_MEGABYTES}: {holds})"]
    console.print("\n".join(lines))
    if options.save:
        save("data", "\n".join(lines))


def parse_options() -> argparse.Namespace:
    from benchmarks.options import build_parser, parse

    parser = build_parser(__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--measure", type=Path, metavar="TABLE", help="measure this table in this very process")
    return parse(parser)


def describe(name: str, megabytes: float, figures: dict[str, float]) -> str:
    return (
        f"| {name} | {megabytes:.0f} | {figures['tokens'] / 1e6:.0f} | {figures['prepared_rows_per_second']:.0f} "
        f"| {figures['walked_rows_per_second']:.0f} | {figures['prepared_megabytes']:.0f} "
        f"| {figures['walked_megabytes']:.0f} |"
    )


def write_table(path: Path, rows: int) -> Path:
    """By its name as Parquet or JSONL; the same rows in both."""
    built = build_rows(rows)
    if path.suffix == ".jsonl":
        with path.open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in built)
        return path
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    schema = pa.schema([("prompt", pa.string()), ("answer", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        while group := list(islice(built, GROUP_ROWS)):
            writer.write_table(pa.Table.from_pylist(group, schema), row_group_size=GROUP_ROWS)
    return path


def build_rows(rows: int) -> Iterator[dict[str, str]]:
    """Prose of 15 to 175 words from anywhere in Python's reference, so that rows differ; two fifths are answer."""
    from benchmarks.rows import ANSWER_SHARE, draw_length

    generator = random.Random(0)
    words = [word for topic in sorted(topics) for word in topics[topic].split()]
    for _ in range(rows):
        length = draw_length(generator) // 4
        start = generator.randrange(len(words) - length)
        cut = start + int(length * (1 - ANSWER_SHARE))
        yield {"prompt": " ".join(words[start:cut]), "answer": " ".join(words[cut : start + length])}


def measure_apart(table: Path, model: Path) -> dict[str, float]:
    command = [sys.executable, str(HERE / "data.py"), "--measure", str(table), "--model", str(model)]
    result = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    figures: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return figures


def measure(table: Path, model: Path) -> dict[str, float]:
    """Peak resident memory is that of the whole process, its libraries and what it did before included."""
    from llm_api.config import load_config
    from llm_runner.data.prepare import prepare_data
    from llm_runner.data.source import DataFile, DataFiles
    from llm_runner.data.tokens import TokenizedRows
    from llm_runner.model.load import load_tokenizer
    from llm_runner.report.memory import peak_resident_bytes
    from llm_runner.train.course import epoch_order

    def walk(rows: TokenizedRows) -> int:
        order = epoch_order(len(rows), SEED, 0, shuffles=True)
        steps = (order[start : start + ROWS_PER_STEP].tolist() for start in range(0, len(rows), ROWS_PER_STEP))
        return sum(len(rows.example(row)) for step in steps for row in step)

    config = {
        "base_model": str(model),
        "input_features": [{"name": "prompt", "type": "text"}],
        "output_features": [{"name": "answer", "type": "text"}],
    }
    started = time.perf_counter()
    data = prepare_data(
        load_config(config),
        load_tokenizer(model),
        DataFiles(DataFile(table)),
        context_length=8192,
        work_path=table.parent / "work",
        seed=SEED,
        warn=lambda _text: None,
    )
    prepared, prepared_bytes = time.perf_counter(), peak_resident_bytes()
    tokens = walk(data.train)
    return {
        "rows": data.counts.rows_read,
        "tokens": tokens,
        "prepared_rows_per_second": data.counts.rows_read / (prepared - started),
        "walked_rows_per_second": len(data.train) / (time.perf_counter() - prepared),
        "prepared_megabytes": prepared_bytes / MEGABYTE,
        "walked_megabytes": peak_resident_bytes() / MEGABYTE,
    }


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    main()

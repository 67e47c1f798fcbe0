"""How long a run's rows are in tokens: a table of what each limit would cut, and a picture. Loads no weights."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from llm_api.config import LLMConfig
from llm_api.report import Outcome
from llm_api.run import TrainRun

from llm_runner.data.lengths import Cut, RowLengths, measure_cut, measure_lengths, plan_limits_to_try
from llm_runner.data.prepare import plan_limits, prepare_data
from llm_runner.data.tokens import LengthLimits
from llm_runner.model.load import load_config, load_tokenizer
from llm_runner.model.rope import context_length
from llm_runner.report.length_plot import save_length_plot
from llm_runner.report.reporter import Reporter
from llm_runner.report.table import to_lines
from llm_runner.store.hub import read_token
from llm_runner.train.inputs import fetch_base, fetch_data, fetch_embedding_model

PLOT_NAME, TABLE_NAME = "token_lengths.png", "token_lengths.csv"
UNBOUNDED = 2**31 - 1
PERCENTILES = (50, 90, 95, 99, 100)
KEYS = {
    "prompt": "input_features[0].preprocessing.max_sequence_length",
    "answer": "output_features[0].preprocessing.max_sequence_length",
    "both": "preprocessing.global_max_sequence_length",
}
HEADS = ("key", "limit", "prompts cut", "answers cut", "rows lost", "tokens kept")


def profile(run: TrainRun, folder: Path, *, reporter: Reporter, work_path: Path) -> Outcome:
    """Tokenizes all rows as the run would, but uncut; writes picture and table into ``folder``."""
    token = read_token(run.hub_token_path)
    files = fetch_data(run, work_path / "data", token)
    base = fetch_base(run, token)
    context = context_length(load_config(base.path, run.config.model_parameters), run.config.model_parameters)
    data = prepare_data(
        without_limits(run.config),
        load_tokenizer(base.path),
        files,
        context_length=UNBOUNDED,
        work_path=work_path,
        seed=run.seed,
        warn=reporter.warning,
        embed=fetch_embedding_model(run, token),
    )
    lengths = measure_lengths(data)
    _report(run, lengths, plan_limits(run.config, context), folder, reporter)
    return Outcome(reason="Profiled", metrics={"tokens": float(lengths.whole.sum()), "rows": float(len(lengths.whole))})


def without_limits(config: LLMConfig) -> LLMConfig:
    """The same config, cutting nothing."""
    document = config.model_dump(mode="json", exclude_unset=True)
    document.setdefault("preprocessing", {})["global_max_sequence_length"] = None
    for feature in (*document["input_features"], *document["output_features"]):
        feature.setdefault("preprocessing", {})["max_sequence_length"] = None
    return LLMConfig.model_validate(document)


def _report(run: TrainRun, lengths: RowLengths, limits: LengthLimits, folder: Path, reporter: Reporter) -> None:
    parts = {"prompt": lengths.prompts, "answer": lengths.targets, "both": lengths.whole}
    written = {"prompt": limits.prompt, "answer": limits.target, "both": limits.whole}
    for line in describe_lengths(parts):
        reporter.info(line)
    rows = list(build_table(parts, written, lengths))
    for line in to_lines([HEADS, *rows]):
        reporter.info(line)
    now = measure_cut(lengths, limits)
    reporter.info(f"as it is written, and with the model's context of {limits.whole}: {_describe(now)}")
    folder.mkdir(parents=True, exist_ok=True)
    save_length_plot(folder / PLOT_NAME, parts, written, f"{run.name}: {len(lengths.whole)} rows")
    with (folder / TABLE_NAME).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEADS, *rows])
    reporter.info(f"{folder / PLOT_NAME} shows them, {folder / TABLE_NAME} holds the table")


def describe_lengths(parts: dict[str, np.ndarray]) -> Iterator[str]:
    """A line for each part: how many tokens so many rows have at most."""
    for name, counts in parts.items():
        shares = ", ".join(f"{np.percentile(counts, percent):.0f} ({percent} %)" for percent in PERCENTILES)
        yield f"tokens of {name}, at most: {shares}"


def build_table(
    parts: dict[str, np.ndarray], written: dict[str, int | None], lengths: RowLengths
) -> Iterator[tuple[str, ...]]:
    """What each limit would cut, were it the only one."""
    for name, counts in parts.items():
        for limit in plan_limits_to_try(int(counts.max()), [written[name]]):
            yield _to_row(KEYS[name], limit, measure_cut(lengths, _limits_of(name, limit)))


def _limits_of(name: str, limit: int) -> LengthLimits:
    return LengthLimits(
        whole=limit if name == "both" else UNBOUNDED,
        prompt=limit if name == "prompt" else None,
        target=limit if name == "answer" else None,
    )


def _to_row(key: str, limit: int, cut: Cut) -> tuple[str, ...]:
    numbers = (limit, cut.shortened_prompts, cut.shortened_targets, cut.lost_rows)
    return (key, *map(str, numbers), f"{cut.kept_tokens:.1%}")


def _describe(cut: Cut) -> str:
    return (
        f"{cut.shortened_prompts} prompts and {cut.shortened_targets} answers are cut, {cut.lost_rows} rows lost, "
        f"{cut.kept_tokens:.1%} of the tokens kept"
    )

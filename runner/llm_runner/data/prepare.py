"""A config and files become tokenized rows, ready to train on: read, split, rendered, tokenized and cut to
length.

Goes over the training file twice, once to split it and once to tokenize it, and holds a batch of rows at a time.
Fetches no files and makes no training batches.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass, field, replace
from itertools import chain, islice
from pathlib import Path

from llm_api.config import LLMConfig
from transformers import PreTrainedTokenizerBase

from llm_runner.data.losses import describe_losses, refuse_nothing_left
from llm_runner.data.missing import GapCounts
from llm_runner.data.prepared import DataCounts, PreparedData, RenderedExample
from llm_runner.data.prompt import Prompt, build_prompt
from llm_runner.data.read import BATCH_ROWS, Row
from llm_runner.data.semantic import Embed
from llm_runner.data.shown import ShownRows, build_shown_rows
from llm_runner.data.source import DataFiles, Source, Warn, open_source
from llm_runner.data.split import SPLIT_NAMES, TEST, TRAIN, UNUSED, VALIDATION
from llm_runner.data.storedfile import digest, version_of
from llm_runner.data.together import ALONE, Together
from llm_runner.data.tokens import Encoder, LengthLimits, TokenWriter, build_encoder, encode_alternatives
from llm_runner.errors import StorageFailed

KEPT_EXAMPLES = 8
"""Rows of each part as text: the tuned model is asked those of the hold-out."""


def prepare_data(
    config: LLMConfig,
    tokenizer: PreTrainedTokenizerBase,
    files: DataFiles,
    *,
    context_length: int,
    work_path: Path,
    seed: int,
    warn: Warn,
    embed: Embed | None = None,
    together: Together = ALONE,
) -> PreparedData:
    """Tokenizes ``files`` into ``work_path``; the same arguments give the same rows in the same order, however many
    machines do it together: each tokenizes a part of every table, and gets from the others what they made of theirs.

    ``context_length`` is the most tokens that the model takes. ``warn`` gets each thing that a user might not expect.
    ``embed`` is needed where prompts show examples by likeness of meaning, and not kept.

    Raises DataInvalid where a file can't be used or no training row is left, ConfigInvalid where the config asks for
    what isn't there.
    """
    work_path.mkdir(parents=True, exist_ok=True)
    encoder = build_encoder(tokenizer)
    _refuse_differing(files, together)
    source = open_source(config, files, seed=seed, warn=warn, together=together)
    shown = _build_shown_rows(config, source, seed, warn, embed, together)
    prompt = build_prompt(config, source.columns, shown.retriever)
    limits = plan_limits(config, context_length)
    with ExitStack() as stack:
        sinks = [_Sink([stack.enter_context(writer) for writer in writers]) for writers in _writers(config, work_path)]
        gap_counts = GapCounts()
        _write_rows(source.labelled_rows(gap_counts), prompt, encoder, limits, sinks)
        train, validation, test, *rejected = (
            writer.close(together) for writers in _by_answer(sinks) for writer in writers
        )
    counts, gap_counts = _count_all(_count(source, gap_counts, sinks), gap_counts, together)
    refuse_nothing_left(counts, gap_counts, limits)
    for loss in describe_losses(counts, gap_counts, limits):
        warn(loss)
    examples = together.gather(sinks[VALIDATION if len(validation) > 0 else TEST].examples)
    data_digest = together.gather(digest_files(files) if together.number == 0 else "")[0]
    return PreparedData(
        train, validation, test, counts, data_digest, tuple(chain(*examples))[:KEPT_EXAMPLES],
        replace(prompt, retriever=None), source.table_columns, shown.pool, shown.vectors, tuple(rejected),
    )  # fmt: skip


def plan_limits(config: LLMConfig, context_length: int) -> LengthLimits:
    """The three lengths of the config, and the model's own."""
    whole = config.preprocessing.global_max_sequence_length
    return LengthLimits(
        whole=context_length if whole is None else min(whole, context_length),
        prompt=config.input_features[0].preprocessing.max_sequence_length,
        target=config.output_features[0].preprocessing.max_sequence_length,
    )


def _refuse_differing(files: DataFiles, together: Together) -> None:
    """Raises StorageFailed where another machine found other files: their parts would not make up one table."""
    versions = [version_of(file.path) for file in files.by_split.values()]
    if any(found != versions for found in together.gather(versions)):
        named = ", ".join(str(file.path) for file in files.by_split.values())
        raise StorageFailed(
            f"{named}: the machines of this run found different versions of it. Leave the data as it is while a run "
            "begins; trying again may help"
        )


def _build_shown_rows(
    config: LLMConfig, source: Source, seed: int, warn: Warn, embed: Embed | None, together: Together
) -> ShownRows:
    """The first machine has all rows where prompts show any, so the others hear from it what is kept of them."""
    if together.number == 0:
        shown = build_shown_rows(config, source, seed=seed, warn=warn, embed=embed)
        together.gather(replace(shown, retriever=None))
        return shown
    return together.gather(ShownRows())[0]


def _count_all(counts: DataCounts, gaps: GapCounts, together: Together) -> tuple[DataCounts, GapCounts]:
    """Those of all machines."""
    gathered = together.gather((counts, gaps))
    summed = (sum(numbers) for numbers in zip(*(astuple(own) for own, _ in gathered), strict=True))
    filled = sum((own.filled for _, own in gathered), Counter[str]())
    dropped = sum((own.dropped for _, own in gathered), Counter[str]())
    return DataCounts(*summed), GapCounts(filled, dropped)


def digest_files(files: DataFiles) -> str:
    return digest(file.path for file in files.by_split.values())


@dataclass
class _Sink:
    """Where the rows of one split go."""

    writers: Sequence[TokenWriter]
    """One for each answer of a row."""
    written: int = 0
    truncated: int = 0
    without_target: int = 0
    examples: list[RenderedExample] = field(default_factory=list)

    def add(self, text: RenderedExample, prompt_ids: Sequence[int], targets: Sequence[list[int]], cut: bool) -> None:
        if not all(targets):
            self.without_target += 1
            return
        for writer, target_ids in zip(self.writers, targets, strict=True):
            writer.append(prompt_ids, target_ids)
        self.written += 1
        self.truncated += cut
        if len(self.examples) < KEPT_EXAMPLES:
            self.examples.append(text)


def _write_rows(
    rows: Iterator[tuple[int, Row]], prompt: Prompt, encoder: Encoder, limits: LengthLimits, sinks: Sequence[_Sink]
) -> None:
    while batch := list(islice(rows, BATCH_ROWS)):
        prompt.read_ahead([row for _, row in batch])
        texts = [RenderedExample(prompt.render_prompt(row), prompt.render_answer(row)) for _, row in batch]
        answers = [[text.target for text in texts]]
        if prompt.columns.rejected is not None:
            answers.append([prompt.render_rejected(row) for _, row in batch])
        encoded = encode_alternatives(encoder, limits, [text.prompt for text in texts], answers)
        for (split, _), text, (prompt_ids, targets, cut) in zip(batch, texts, encoded, strict=True):
            sinks[split].add(text, prompt_ids, targets, cut)


def _writers(config: LLMConfig, work_path: Path) -> Iterator[list[TokenWriter]]:
    """For each split; one more where there are rejected answers."""
    endings = ("", "-rejected") if config.rejected_column is not None else ("",)
    return ([TokenWriter(work_path / f"{name}{ending}.tokens") for ending in endings] for name in SPLIT_NAMES)


def _by_answer(sinks: Sequence[_Sink]) -> Iterator[tuple[TokenWriter, ...]]:
    return zip(*(sink.writers for sink in sinks), strict=True)


def _count(source: Source, gap_counts: GapCounts, sinks: Sequence[_Sink]) -> DataCounts:
    written = [sink.written for sink in sinks]
    dropped = gap_counts.dropped.total()
    without_target = sum(sink.without_target for sink in sinks)
    not_sampled = int((source.splits == UNUSED).sum())
    return DataCounts(
        rows_read=sum(written) + dropped + without_target + not_sampled,
        rows_train=written[TRAIN],
        rows_validation=written[VALIDATION],
        rows_test=written[TEST],
        rows_dropped_missing_value=dropped,
        rows_dropped_no_target=without_target,
        rows_truncated=sum(sink.truncated for sink in sinks),
        rows_not_sampled=not_sampled,
        values_filled=gap_counts.filled.total(),
    )

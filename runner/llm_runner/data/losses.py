"""What was lost or changed on the way from rows to tokens, in a user's words. Warns and logs nothing itself."""

from collections import Counter
from collections.abc import Iterator

from llm_runner.data.missing import GapCounts
from llm_runner.data.prepared import DataCounts
from llm_runner.data.tokens import LengthLimits
from llm_runner.errors import DataInvalid


def describe_losses(counts: DataCounts, gaps: GapCounts, limits: LengthLimits) -> Iterator[str]:
    """One sentence for each thing that a user might not expect."""
    if gaps.filled:
        yield f"values were missing and filled by missing_value_strategy: {_by_column(gaps.filled)}"
    if gaps.dropped:
        yield f"rows without a value were dropped: {_by_column(gaps.dropped)}"
    if counts.rows_truncated:
        yield f"{counts.rows_truncated} of {counts.rows_used} rows were cut to length ({_describe_limits(limits)})"
    if counts.rows_dropped_no_target:
        yield f"{counts.rows_dropped_no_target} rows were dropped, as no token of their answer fits"
    if counts.rows_validation == 0 and counts.rows_test == 0:
        yield "no rows are held out, so the tuned model is not evaluated; give a validation file or a larger split"
    elif counts.rows_validation == 0:
        yield "no rows are in the validation split, so the model is evaluated on the test rows"


def refuse_nothing_left(counts: DataCounts, gaps: GapCounts, limits: LengthLimits) -> None:
    """Raises DataInvalid where no training row is left, saying why and what to change."""
    if counts.rows_train > 0:
        return
    if counts.rows_dropped_no_target:
        raise DataInvalid(
            f"no target token is left in any training row: {_describe_limits(limits)}; "
            "raise preprocessing.global_max_sequence_length"
        )
    reasons = [f"{counts.rows_read} rows were read"]
    if gaps.dropped:
        reasons.append(f"dropped for a missing value: {_by_column(gaps.dropped)}")
    if counts.rows_not_sampled:
        reasons.append(f"left out by sample_size, sample_ratio or the split: {counts.rows_not_sampled}")
    if counts.rows_validation or counts.rows_test:
        reasons.append(f"split into validation: {counts.rows_validation}, into test: {counts.rows_test}")
    raise DataInvalid(f"no training row is left: {'; '.join(reasons)}")


def _by_column(tally: Counter[str]) -> str:
    return ", ".join(f"{count} in {column!r}" for column, count in tally.most_common())


def _describe_limits(limits: LengthLimits) -> str:
    parts = [f"prompt and answer at most {limits.whole} token{'' if limits.whole == 1 else 's'}"]
    if limits.prompt is not None:
        parts.append(f"prompt at most {limits.prompt}")
    if limits.target is not None:
        parts.append(f"answer at most {limits.target}")
    return ", ".join(parts)

"""Which rows train and which are held out: ``preprocessing.split`` as one small array over a table's rows.

Looks at the split's own column only, and reads no files. The same rows, config and seed give the same split on every
machine. Random, stratified and datetime splits have exact sizes, so that a small table gets its hold-out too; a hash
split has them on average only.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from llm_api.config import DatetimeSplit, FixedSplit, HashSplit, Preprocessing, Split, StratifySplit

from llm_runner.data.together import ALONE, Together
from llm_runner.data.value import is_missing, to_text
from llm_runner.errors import DataInvalid

TRAIN, VALIDATION, TEST = 0, 1, 2
UNUSED = -1
SPLIT_NAMES = ("train", "validation", "test")
FIXED_VALUES = {
    **dict.fromkeys(("0", "train", "training"), TRAIN),
    **dict.fromkeys(("1", "validation", "valid", "val", "dev"), VALIDATION),
    **dict.fromkeys(("2", "test", "testing"), TEST),
}

Splits = npt.NDArray[np.int8]
Keys = npt.NDArray[np.float64]
Probabilities = npt.NDArray[np.float64]
Rule = Callable[[Keys, Probabilities, np.random.Generator], Splits]


def assign_splits(
    preprocessing: Preprocessing,
    values: Iterable[Any],
    *,
    given: Collection[int],
    seed: int,
    together: Together = ALONE,
) -> Splits:
    """TRAIN, VALIDATION, TEST or UNUSED for each row of the training table, or of this machine's part of it.

    ``values`` are the split column's, one a row (anything for a random split). ``given`` are the splits that have a
    file of their own: with a validation file every row trains; with a test file alone none goes to the test split.
    Sampling (``sample_size``, else ``sample_ratio``) comes before splitting. What a row becomes depends on all rows,
    but not on which machine has read it.

    Raises DataInvalid where a fixed or datetime split can't read a value.
    """
    split = preprocessing.split
    rng = np.random.default_rng(seed)
    whole = VALIDATION in given
    classes: dict[str, int] = {}
    own = np.fromiter((0.0 for _ in values) if whole else row_keys(split, values, classes), dtype=np.float64)
    parts = together.gather((own, list(classes)))
    keys = _join_keys(parts)
    chosen = _sample(keys.size, preprocessing, rng)
    splits = np.full(keys.size, UNUSED, dtype=np.int8)
    splits[chosen] = TRAIN if whole else RULES[split.type](keys[chosen], _probabilities(split, given), rng)
    splits[np.isin(splits, list(given))] = UNUSED
    start = sum(part.size for part, _ in parts[: together.number])
    return splits[start : start + own.size]


def row_keys(split: Split, values: Iterable[Any], classes: dict[str, int]) -> Iterator[float]:
    """What a split's rule goes by: a class, a time, a split's number, or a place in [0, 1).

    ``classes`` gets the number of each class, in the order in which they come.
    """
    match split:
        case FixedSplit(column=column):
            return (_fixed_split(value, column) for value in values)
        case DatetimeSplit(column=column):
            return (_unix_seconds(value, column) for value in values)
        case HashSplit():
            return (_hash_place(value) for value in values)
        case StratifySplit():
            return (classes.setdefault(to_text(value), len(classes)) for value in values)
    return (0.0 for _ in values)


def _join_keys(parts: Sequence[tuple[Keys, Sequence[str]]]) -> Keys:
    """Those of all parts, with classes numbered as if one had read them all."""
    classes: dict[str, int] = {}
    joined: list[Keys] = []
    for keys, names in parts:
        numbers = np.array([classes.setdefault(name, len(classes)) for name in names], dtype=np.float64)
        joined.append(numbers[keys.astype(np.int64)] if names else keys)
    return np.concatenate(joined)


def exact_sizes(row_count: int, probabilities: Probabilities) -> npt.NDArray[np.int64]:
    """Rows of each split: the largest remainders are rounded up; no wanted split is empty while another has two
    rows.
    """
    sizes = _largest_remainders(row_count * probabilities, row_count)
    for split in np.flatnonzero((sizes == 0) & (probabilities > 0)):
        if sizes.max() > 1:
            sizes[sizes.argmax()] -= 1
            sizes[split] += 1
    return sizes


def _by_class(keys: Keys, probabilities: Probabilities, rng: np.random.Generator) -> Splits:
    """Each class shuffled and cut by itself; what rounding took from one class it gives back in the next."""
    splits = np.empty(keys.size, dtype=np.int8)
    order = rng.permutation(keys.size)
    order = order[np.argsort(keys[order], kind="stable")]
    owed = np.zeros(len(probabilities))
    for rows in np.split(order, np.flatnonzero(np.diff(keys[order])) + 1):
        wanted = rows.size * probabilities + owed
        sizes = _largest_remainders(wanted, rows.size)
        owed = wanted - sizes
        splits[rows] = np.repeat(np.arange(sizes.size), sizes)
    return splits


def _at_random(keys: Keys, probabilities: Probabilities, rng: np.random.Generator) -> Splits:
    return _cut(rng.permutation(keys.size), probabilities)


def _by_time(keys: Keys, probabilities: Probabilities, rng: np.random.Generator) -> Splits:
    """The oldest rows train, the newest test."""
    return _cut(np.argsort(keys, kind="stable"), probabilities)


def _by_hash(keys: Keys, probabilities: Probabilities, rng: np.random.Generator) -> Splits:
    ends = np.cumsum(probabilities)[:-1]
    return np.searchsorted(ends, keys, side="right").astype(np.int8)


def _as_written(keys: Keys, probabilities: Probabilities, rng: np.random.Generator) -> Splits:
    return keys.astype(np.int8)


RULES: dict[str, Rule] = {
    "random": _at_random,
    "stratify": _by_class,
    "datetime": _by_time,
    "hash": _by_hash,
    "fixed": _as_written,
}


def _cut(order: npt.NDArray[np.int64], probabilities: Probabilities) -> Splits:
    splits = np.empty(order.size, dtype=np.int8)
    splits[order] = np.repeat(np.arange(len(probabilities)), exact_sizes(order.size, probabilities))
    return splits


def _largest_remainders(wanted: npt.NDArray[np.float64], total: int) -> npt.NDArray[np.int64]:
    """Whole numbers near ``wanted`` that add up to ``total``, none below zero."""
    sizes = np.maximum(np.floor(wanted + 1e-9), 0).astype(np.int64)
    while sizes.sum() != total:
        short = sizes.sum() < total
        gaps = np.round(wanted - sizes, 9)  # so that equal remainders are equal
        place = gaps.argmax() if short else np.where(sizes > 0, gaps, np.inf).argmin()
        sizes[place] += 1 if short else -1
    return sizes


def _probabilities(split: Split, given: Collection[int]) -> Probabilities:
    """Adding up to 1 over the splits to be drawn; a fixed split draws none."""
    written = [1.0, 0.0, 0.0] if isinstance(split, FixedSplit) else split.probabilities
    probabilities = np.array(written, dtype=np.float64)
    if TEST in given:
        probabilities[TEST] = 0.0
    total: float = probabilities.sum()
    if total == 0.0:
        raise DataInvalid("preprocessing.split.probabilities leave no rows to train on; give the first of them a value")
    return probabilities / total


def _sample(row_count: int, preprocessing: Preprocessing, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    size, ratio = preprocessing.sample_size, preprocessing.sample_ratio
    wanted = int(size) if size is not None else round(row_count * ratio)
    if wanted >= row_count:
        return np.arange(row_count)
    return np.sort(rng.permutation(row_count)[:wanted])


def _fixed_split(value: Any, column: str) -> int:
    name = to_text(value).strip().lower().removesuffix(".0")
    if name in FIXED_VALUES:
        return FIXED_VALUES[name]
    found = "no value" if is_missing(value) else repr(value)
    raise DataInvalid(
        f"the split column {column!r} holds {found}; write 0 or train, 1 or validation, 2 or test into every row"
    )


def _unix_seconds(value: Any, column: str) -> float:
    """ISO 8601 or seconds since 1970; a time without a zone is UTC."""
    try:
        return _moment(value).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        found = "no value" if is_missing(value) else repr(value)
        raise DataInvalid(
            f"the datetime split's column {column!r} holds {found}; write times as 2024-05-31 or 2024-05-31T12:00:00Z"
        ) from error


def _moment(value: Any) -> datetime:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return datetime.fromtimestamp(value, UTC)
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(to_text(value).strip())
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _hash_place(value: Any) -> float:
    digest = hashlib.blake2b(to_text(value).encode(), digest_size=6).digest()
    return int.from_bytes(digest) / 2**48

"""The solved rows that prompts may show: a bounded part of the training rows, kept with what was trained on them.

Cells are text here, as prompts show them. Which rows suit a question is ``retrieval``'s to say.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from llm_api.config import LLMConfig

from llm_runner.data.columns import Columns
from llm_runner.data.missing import GapCounts
from llm_runner.data.read import Row
from llm_runner.data.retrieval import MAX_POOL_ROWS
from llm_runner.data.source import Source
from llm_runner.data.split import TRAIN
from llm_runner.data.value import to_text
from llm_runner.errors import ConfigInvalid

POOL_NAME = "examples.json"


@dataclass(frozen=True)
class Pool:
    """Training rows with their answers."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    """Each with a text for every column."""
    seed: int
    """Of the run that trained on them: with it, a row gets the examples that it got there."""


def build_pool(config: LLMConfig, source: Source, seed: int) -> Pool:
    """All rows that train, or ``MAX_POOL_ROWS`` of them."""
    lowercase = config.input_features[0].preprocessing.lowercase
    lowered = source.columns.inputs if lowercase else ()
    kept = tuple(column for column in source.columns.read if column != source.columns.rejected)
    rows = tuple(_to_texts(row, kept, lowered) for row in _choose_rows(source, seed))
    return Pool(kept, rows, seed)


def save_pool(pool: Pool, folder: Path) -> None:
    rows = [[row[column] for column in pool.columns] for row in pool.rows]
    content = {"seed": pool.seed, "columns": pool.columns, "rows": rows}
    (folder / POOL_NAME).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def warn_of_rows(folder: Path, repo_id: str, *, private: bool) -> Iterator[str]:
    """What is worth saying before an artifact's folder is pushed to where anybody may read it."""
    if not private and (folder / POOL_NAME).is_file():
        yield (
            f"{POOL_NAME} holds training rows, which prompts show as examples: whoever may read {repo_id} may read "
            "them; make it private if they are not for everybody"
        )


def load_pool(folder: Path) -> Pool:
    """Raises ConfigInvalid where the folder has none, or a damaged one."""
    path = folder / POOL_NAME
    if not path.is_file():
        raise ConfigInvalid(
            f"prompt.retrieval: {folder} keeps no training rows to show ({POOL_NAME} is missing); fine-tune with "
            "prompt.retrieval, with `trainer: {type: none}` to train nothing, or write `retrieval: {type: null}`"
        )
    try:
        return _to_pool(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigInvalid(f"prompt.retrieval: {path} is damaged ({error!r}); store the artifact again") from error


def check_pool_columns(pool: Pool, columns: Columns) -> None:
    """Raises ConfigInvalid where a prompt would show what the kept rows don't have."""
    missing = [column for column in columns.rendered if column not in pool.columns]
    if missing:
        raise ConfigInvalid(
            f"prompt.retrieval: the training rows that were kept have no {', '.join(map(repr, missing))}, which the "
            f"prompt is made of; they have {', '.join(map(repr, pool.columns))}"
        )


def _choose_rows(source: Source, seed: int) -> Iterator[Row]:
    places = np.flatnonzero(source.splits == TRAIN)
    if places.size > MAX_POOL_ROWS:
        places = np.random.default_rng(seed).choice(places, MAX_POOL_ROWS, replace=False)
    wanted = set(places.tolist())
    return (row for place, (_, row) in enumerate(source.training_table_rows(GapCounts())) if place in wanted)


def _to_texts(row: Row, columns: Sequence[str], lowered: Sequence[str]) -> Row:
    texts = {column: to_text(row[column]) for column in columns}
    return texts | {column: texts[column].lower() for column in lowered}


def _to_pool(content: Any) -> Pool:
    columns = tuple(map(str, content["columns"]))
    rows = tuple(dict(zip(columns, _check_cells(cells), strict=True)) for cells in content["rows"])
    if not rows:
        raise ValueError("no rows")
    return Pool(columns, rows, int(content["seed"]))


def _check_cells(cells: Any) -> list[str]:
    if not isinstance(cells, list) or not all(isinstance(cell, str) for cell in cells):
        raise TypeError(f"a row of {type(cells).__name__} where a list of texts was expected")
    return cells

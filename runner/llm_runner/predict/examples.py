"""What the training data leaves for later questions: which columns it had, and solved rows to show.

Where there is no artifact of ours, none of it is known.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_api.config import Generation

from llm_runner.data.columns import column_of, plan_columns
from llm_runner.data.index import load_index
from llm_runner.data.pool import Pool, check_pool_columns, load_pool
from llm_runner.data.retrieval import RandomRetriever, Retriever
from llm_runner.data.semantic import Embed, SemanticRetriever
from llm_runner.data.template import build_template
from llm_runner.errors import ConfigInvalid
from llm_runner.model.embedding import KEY as EMBEDDING_KEY
from llm_runner.model.embedding import load_embedding_model
from llm_runner.predict.source import InferenceRun, ModelSource, fetch_by_name
from llm_runner.predict.task import Task, TaskSetup
from llm_runner.train.artifact import COLUMNS_NAME


@dataclass(frozen=True)
class Index:
    """Where vectors of the kept rows are, and what makes those of questions."""

    folder: Path
    embed: Embed


@dataclass
class Examples:
    """Of one artifact."""

    columns: tuple[str, ...] | None = None
    """All that the training table had; None where that isn't known."""
    pool: Pool | None = None
    """None where prompts show no examples."""
    index: Index | None = None
    """None where they are not chosen by likeness of meaning."""
    _retrievers: dict[tuple[str, ...], Retriever] = field(default_factory=dict)
    """By the columns that prompts are made of: thousands of rows are not gone through for every request."""

    def takes_any_column(self, setup: TaskSetup) -> bool:
        """Whether the whole row is shown, and it isn't known which columns that are."""
        own = column_of(setup.config.input_features[0])
        template = build_template(setup.config.effective_prompt, own)
        return template.has_sample and self.columns is None

    def known_columns(self, task: Task) -> tuple[str, ...]:
        """What a row may have."""
        own = () if self.columns is None else self.columns
        return tuple(dict.fromkeys((*task.prompt.columns.inputs, *own, task.prompt.columns.output)))

    def build_task(self, setup: TaskSetup, row: Mapping[str, Any] | None, generation: Generation | None) -> Task:
        """For rows like ``row``."""
        return self.build_task_for(setup, self._available(setup, row), generation)

    def build_task_for(self, setup: TaskSetup, available: Sequence[str], generation: Generation | None = None) -> Task:
        """For rows with the columns ``available``. Raises ConfigInvalid where the kept rows lack one of a prompt's."""
        return setup.build_task(available, self._retriever_for(setup, available), generation)

    def _retriever_for(self, setup: TaskSetup, available: Sequence[str]) -> Retriever | None:
        if self.pool is None:
            return None
        columns = plan_columns(setup.config, available, splits=False)
        check_pool_columns(self.pool, columns)
        if columns.inputs not in self._retrievers:
            self._retrievers[columns.inputs] = self._build_retriever(self.pool, setup, columns.inputs)
        return self._retrievers[columns.inputs]

    def _build_retriever(self, pool: Pool, setup: TaskSetup, inputs: Sequence[str]) -> Retriever:
        retrieval = setup.config.effective_prompt.retrieval
        if self.index is None:
            return RandomRetriever(pool.rows, inputs, retrieval.k, pool.seed)
        vectors = load_index(retrieval, self.index.folder, pool, inputs, self.index.embed)
        return SemanticRetriever(pool.rows, vectors, inputs, retrieval.k, self.index.embed)

    def _available(self, setup: TaskSetup, row: Mapping[str, Any] | None) -> Sequence[str]:
        if self.columns is not None:
            return self.columns
        if row is not None and self.takes_any_column(setup):
            return list(row)
        return [column_of(setup.config.input_features[0])]


def load_examples(setup: TaskSetup, source: ModelSource, run: InferenceRun) -> Examples:
    """Raises ConfigInvalid where the config retrieves and there is nothing to retrieve from; what fetching the model
    that embeds raises.
    """
    artifact_path = source.artifact_path
    retrieval = setup.config.effective_prompt.retrieval
    columns = _load_columns(artifact_path)
    if retrieval.type is None:
        return Examples(columns)
    if artifact_path is None:
        raise ConfigInvalid(
            "prompt.retrieval: examples come from training rows, which a fine-tune keeps with its artifact, and there "
            "is no artifact here; an LLMFineTune with `trainer: {type: none}` makes one and trains nothing"
        )
    pool = load_pool(artifact_path)
    index = None
    if retrieval.type == "semantic":
        path = fetch_by_name(run, str(retrieval.model_name), EMBEDDING_KEY)
        index = Index(artifact_path, load_embedding_model(path))
    examples = Examples(columns, pool, index)
    examples.build_task(setup, None, None)
    return examples


def _load_columns(artifact_path: Path | None) -> tuple[str, ...] | None:
    path = None if artifact_path is None else artifact_path / COLUMNS_NAME
    if path is None or not path.is_file():
        return None
    try:
        return tuple(map(str, json.loads(path.read_text("utf-8"))["columns"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigInvalid(f"{path} can't be read: {error}") from error

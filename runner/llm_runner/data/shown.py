"""The rows that prompts show as examples, chosen from those that train, and what chooses among them for a question."""

from dataclasses import dataclass

from llm_api.config import LLMConfig
from torch import Tensor

from llm_runner.data.columns import Columns
from llm_runner.data.pool import Pool, build_pool
from llm_runner.data.retrieval import RandomRetriever, Retriever
from llm_runner.data.semantic import Embed, SemanticRetriever, embed_rows
from llm_runner.data.source import Source, Warn


@dataclass(frozen=True)
class ShownRows:
    """Of one run; nothing where its prompts show no examples."""

    pool: Pool | None = None
    vectors: Tensor | None = None
    """Of the pool's rows, where examples are chosen by likeness of meaning."""
    retriever: Retriever | None = None


def build_shown_rows(config: LLMConfig, source: Source, *, seed: int, warn: Warn, embed: Embed | None) -> ShownRows:
    """``embed`` is needed where examples are chosen by likeness of meaning."""
    retrieval = config.effective_prompt.retrieval
    if retrieval.type is None:
        return ShownRows()
    pool = build_pool(config, source, seed)
    if len(pool.rows) <= retrieval.k:
        warn(f"prompt.retrieval.k is {retrieval.k} but only {len(pool.rows)} rows train: prompts show fewer")
    vectors = None if embed is None else embed_rows(pool.rows, source.columns.inputs, embed)
    return ShownRows(pool, vectors, _build_retriever(config, source.columns, pool, vectors, embed))


def _build_retriever(
    config: LLMConfig, columns: Columns, pool: Pool, vectors: Tensor | None, embed: Embed | None
) -> Retriever:
    retrieval = config.effective_prompt.retrieval
    if retrieval.type == "random":
        return RandomRetriever(pool.rows, columns.inputs, retrieval.k, pool.seed)
    if vectors is None or embed is None:
        raise ValueError("examples by likeness of meaning need the model that embeds")
    return SemanticRetriever(pool.rows, vectors, columns.inputs, retrieval.k, embed)

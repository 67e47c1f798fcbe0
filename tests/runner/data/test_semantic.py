"""Examples by likeness of meaning, found with an embedding model whose idea of likeness is set by hand."""

from collections.abc import Sequence

import pytest
import torch
from llm_runner.data.semantic import SemanticRetriever, embed_rows
from llm_runner.model.embedding import EmbeddingModel, load_embedding_model

from tests.support.embeddings import minilm_path, save_topic_model

POOL = [
    {"q": "will the rain stop", "a": "weather"},
    {"q": "where is my cat", "a": "animals"},
    {"q": "is there bread", "a": "food"},
    {"q": "a dog is here", "a": "animals"},
    {"q": "storm and sun", "a": "weather"},
]


@pytest.fixture(scope="module")
def embed(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingModel:
    return load_embedding_model(save_topic_model(tmp_path_factory.mktemp("topics")))


def retriever(embed: EmbeddingModel, k: int = 2, pool: Sequence[dict[str, str]] = POOL) -> SemanticRetriever:
    return SemanticRetriever(pool, embed_rows(pool, ["q"], embed), ["q"], k, embed)


def test_the_rows_most_alike_in_meaning_come_first(embed: EmbeddingModel) -> None:
    assert [row["a"] for row in retriever(embed).retrieve({"q": "the kitten sleeps"})] == ["animals", "animals"]
    assert [row["a"] for row in retriever(embed).retrieve({"q": "drizzle again"})] == ["weather", "weather"]
    assert retriever(embed, k=1).retrieve({"q": "toast and soup please"}) == [POOL[2]]


def test_neither_a_row_nor_its_twin_is_retrieved_for_it(embed: EmbeddingModel) -> None:
    pool = [*POOL, {"q": "Where is  my CAT", "a": "twin"}]
    for row in pool:
        found = retriever(embed, k=9, pool=pool).retrieve(row)
        assert len(found) == 4
        assert all(other["q"].lower().split() != row["q"].lower().split() for other in found)


def test_what_the_answer_is_makes_no_difference(embed: EmbeddingModel) -> None:
    expected = retriever(embed).retrieve({"q": "the kitten sleeps"})
    assert retriever(embed).retrieve({"q": "the kitten sleeps", "a": "bread bread bread"}) == expected
    changed = [{**row, "a": "rain"} for row in POOL]
    assert torch.equal(embed_rows(changed, ["q"], embed), embed_rows(POOL, ["q"], embed))


def test_reading_ahead_changes_nothing_but_how_often_the_model_is_asked(embed: EmbeddingModel) -> None:
    asked: list[int] = []

    def count(texts: Sequence[str]) -> torch.Tensor:
        asked.append(len(texts))
        return embed(texts)

    rows = [{"q": f"{word} {number}"} for number, word in enumerate(("kitten", "toast", "sun"))]
    found = SemanticRetriever(POOL, embed_rows(POOL, ["q"], embed), ["q"], 2, count)
    expected = [found.retrieve(row) for row in rows]
    assert asked == [1, 1, 1]
    found.read_ahead([*rows, POOL[0]])
    assert [found.retrieve(row) for row in [*rows, POOL[0]]][:3] == expected
    assert asked == [1, 1, 1, 3]


def test_a_text_has_the_same_vector_alone_and_among_longer_ones(embed: EmbeddingModel) -> None:
    texts = ["cat", "bread and rain and sun and cake", "", "dog " * 100, "nothing known"]
    together = embed(texts)
    torch.testing.assert_close(together, torch.cat([embed([text]) for text in texts]))
    assert together.norm(dim=-1)[[0, 1, 3]].tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_a_real_model_knows_what_is_alike() -> None:
    real = load_embedding_model(minilm_path())
    for question, topic in {
        "My puppy ran away, have you seen him?": "animals",
        "Do I need an umbrella?": "weather",
    }.items():
        [found] = retriever(real, k=1).retrieve({"q": question})
        assert found["a"] == topic

"""Random examples: other rows only, the same ones for the same row, and no matter what its answer is."""

from llm_runner.data.retrieval import RandomRetriever

POOL = [{"q": f"question {number}", "a": f"answer {number}"} for number in range(20)]


def retriever(k: int = 3, seed: int = 1, pool: list[dict[str, str]] = POOL) -> RandomRetriever:
    return RandomRetriever(pool, ["q"], k, seed)


def test_a_row_never_retrieves_itself() -> None:
    for row in POOL:
        solved = retriever(k=19).retrieve(row)
        assert len(solved) == 19
        assert row not in solved


def test_a_twin_with_the_same_question_is_not_retrieved_either() -> None:
    twins = [{"q": "same", "a": "1"}, {"q": "same", "a": "2"}, {"q": "other", "a": "3"}]
    assert retriever(k=2, pool=twins).retrieve(twins[0]) == [twins[2]]


def test_other_case_and_spacing_ask_the_same() -> None:
    twins = [{"q": "Where is it?", "a": "1"}, {"q": "other", "a": "3"}]
    assert retriever(k=2, pool=twins).retrieve({"q": " where  is IT?"}) == [twins[1]]


def test_the_same_row_gets_the_same_examples_whatever_its_answer() -> None:
    assert retriever().retrieve(POOL[4]) == retriever().retrieve({"q": "question 4"})
    assert retriever().retrieve(POOL[4]) == retriever().retrieve({"q": "question 4", "a": "x"})


def test_other_rows_and_other_seeds_get_other_examples() -> None:
    assert retriever().retrieve(POOL[4]) != retriever().retrieve(POOL[5])
    assert retriever().retrieve(POOL[4]) != retriever(seed=2).retrieve(POOL[4])


def test_a_row_from_elsewhere_gets_k_examples_and_no_more_than_there_are() -> None:
    assert len(retriever(k=3).retrieve({"q": "new"})) == 3
    assert len(retriever(k=30).retrieve({"q": "new"})) == 20

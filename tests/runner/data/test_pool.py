"""Rows that are kept to be shown leave with the artifact, and whoever pushes it to others is told."""

from pathlib import Path

from llm_runner.data.pool import Pool, save_pool, warn_of_rows


def test_who_pushes_training_rows_to_where_anybody_reads_is_warned(tmp_path: Path) -> None:
    assert list(warn_of_rows(tmp_path, "acme/bot", private=False)) == []
    save_pool(Pool(("question", "answer"), ({"question": "Who?", "answer": "Ann"},), seed=3), tmp_path)
    [warning] = warn_of_rows(tmp_path, "acme/bot", private=False)
    assert "examples.json holds training rows" in warning
    assert "whoever may read acme/bot" in warning
    assert list(warn_of_rows(tmp_path, "acme/bot", private=True)) == []

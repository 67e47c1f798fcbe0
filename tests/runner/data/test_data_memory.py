"""Data larger than memory: what preparing and reading it takes does not grow with the file."""

from pathlib import Path

import pytest

from tests.support.data_memory import FEW_ROWS, MOST_GROWTH_BYTES, ROWS, measure_growth, write


@pytest.mark.timeout(300)
def test_a_table_many_times_as_long_takes_no_more_memory(tmp_path: Path) -> None:
    for suffix in ("parquet", "jsonl"):
        write(tmp_path / f"few.{suffix}", FEW_ROWS)
        size = write(tmp_path / f"many.{suffix}", ROWS).stat().st_size
        assert size > 2 * MOST_GROWTH_BYTES, "it would not show if the file were held"
    growth = measure_growth(tmp_path)
    assert {suffix: grown for suffix, grown in growth.items() if grown > MOST_GROWTH_BYTES} == {}

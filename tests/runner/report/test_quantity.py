import pytest
from llm_runner.report.quantity import describe_duration, describe_number, describe_size


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (750, "12m 30s"), (3599.7, "1h 00m"), (11_100, "3h 05m")],
)
def test_a_duration_has_at_most_two_units(seconds: float, words: str) -> None:
    assert describe_duration(seconds) == words


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (3_712_345, "3.71 MB"), (999_600, "1 MB"), (7 * 10**15, "7e+03 TB")],
)
def test_a_size_has_three_digits_and_a_decimal_unit(size_bytes: int, words: str) -> None:
    assert describe_size(size_bytes) == words


@pytest.mark.parametrize(
    ("value", "words"), [(360.0, "360"), (1234567.0, "1,234,567"), (0.81234, "0.8123"), (float("inf"), "inf")]
)
def test_a_whole_number_has_no_decimals(value: float, words: str) -> None:
    assert describe_number(value) == words

"""The house stays readable: functions fit a screen, files hold one idea."""

from statistics import median, quantiles

import pytest

from tests.support.repository import ROOT, functions_of, repository_files

LONGEST_FUNCTION_LINES = 60
LONGEST_FILE_LINES = 400
PRODUCT_FOLDERS = {"api", "operator", "runner"}


def function_lengths(folders: set[str]) -> dict[str, int]:
    return {
        f"{path}:{function.lineno} {function.name}": (function.end_lineno or function.lineno) - function.lineno + 1
        for path in repository_files(".py")
        if path.parts[0] in folders
        for function in functions_of(path)
    }


@pytest.mark.parametrize("folder", sorted({*PRODUCT_FOLDERS, "benchmarks", "scripts", "tests"}))
def test_no_function_is_longer_than_a_screen(folder: str) -> None:
    long = {name: lines for name, lines in function_lengths({folder}).items() if lines > LONGEST_FUNCTION_LINES}
    assert long == {}


def test_the_median_function_is_short_and_nine_in_ten_are_under_thirty_lines() -> None:
    lengths = list(function_lengths(PRODUCT_FOLDERS).values())
    assert median(lengths) < 10
    assert quantiles(lengths, n=10)[-1] < 30


def test_no_python_file_is_longer_than_four_hundred_lines() -> None:
    lines = {str(path): len((ROOT / path).read_text().splitlines()) for path in repository_files(".py")}
    assert {path: count for path, count in lines.items() if count > LONGEST_FILE_LINES} == {}

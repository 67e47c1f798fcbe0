"""Where files may stand, and what may stand in them."""

import ast
import re
import sys

import pytest

from tests.support.repository import ROOT, functions_of, repository_files

SOURCE_FOLDERS = ("api", "operator", "runner")
VAGUE_NAMES = {"common", "helper", "helpers", "manager", "misc", "util", "utils"}
# In pieces, so that this file doesn't hold what it looks for.
MACHINE_PATH = re.compile(r"(?<![\w.:/-])/(?:work|root|home|Users|farm)" + "/")
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
TEXT_SUFFIXES = (".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".json", ".jsonl", ".sh", ".tpl", "")


def texts() -> dict[str, str]:
    return {str(path): (ROOT / path).read_text() for path in repository_files(*TEXT_SUFFIXES)}


@pytest.mark.parametrize("folder", SOURCE_FOLDERS)
def test_a_source_folder_holds_packages_only_so_that_it_shadows_no_module(folder: str) -> None:
    directly_inside = [path.name for path in repository_files(".py") if path.parent.as_posix() == folder]
    assert directly_inside == []


@pytest.mark.parametrize("folder", SOURCE_FOLDERS)
def test_no_package_is_named_like_a_standard_module(folder: str) -> None:
    packages = {path.parts[1] for path in repository_files(".py") if path.parts[0] == folder}
    assert packages & set(sys.stdlib_module_names) == set()


def test_every_folder_of_the_product_that_holds_code_is_a_package() -> None:
    folders = {path.parent for path in repository_files(".py") if path.parts[0] in SOURCE_FOLDERS}
    assert [str(folder) for folder in sorted(folders) if not (ROOT / folder / "__init__.py").is_file()] == []


def test_the_tests_are_no_package_and_have_no_folder_called_operator() -> None:
    tests = [path for path in repository_files(".py") if path.parts[0] == "tests"]
    assert [str(path) for path in tests if path.name == "__init__.py" or "operator" in path.parts] == []


def test_files_of_tests_have_names_of_their_own() -> None:
    names = [path.name for path in repository_files(".py") if path.name.startswith("test_")]
    assert sorted(names) == sorted(set(names))


def test_a_module_is_named_after_one_thing() -> None:
    modules = [path for path in repository_files(".py") if path.parts[0] in SOURCE_FOLDERS]
    assert [str(path) for path in modules if VAGUE_NAMES & {*path.parts, path.stem}] == []


def test_a_module_says_why_it_exists() -> None:
    modules = [path for path in repository_files(".py") if (ROOT / path).read_text().strip()]
    silent = [path for path in modules if path.parts[0] in SOURCE_FOLDERS and not docstring(path.as_posix())]
    assert [str(path) for path in silent] == []


def docstring(path: str) -> str | None:
    return ast.get_docstring(ast.parse((ROOT / path).read_text()))


def test_no_file_names_a_path_of_one_machine() -> None:
    assert {path: found.group() for path, text in texts().items() if (found := MACHINE_PATH.search(text))} == {}


def test_nothing_is_left_unfinished_in_a_comment() -> None:
    assert {path: found.group() for path, text in texts().items() if (found := UNFINISHED.search(text))} == {}


def test_no_test_can_pass_without_running() -> None:
    skipping = re.compile(r"pytest\.(?:skip|importorskip|xfail)\(|mark\.(?:skip|xfail)")
    tests = [path for path in repository_files(".py") if path.parts[0] == "tests"]
    assert [str(path) for path in tests if skipping.search((ROOT / path).read_text())] == []


def test_a_test_is_named_by_a_sentence() -> None:
    tests = [path for path in repository_files(".py") if path.name.startswith("test_")]
    names = {
        f"{path}: {function.name}"
        for path in tests
        for function in functions_of(path)
        if function.name.startswith("test_") and function.name.count("_") < 3
    }
    assert names == set()

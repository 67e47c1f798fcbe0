"""What may import what, beyond the contracts in pyproject.toml."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions

from tests.support.repository import ROOT, repository_files

API_MAY_IMPORT = {"llm_api", "pydantic", "pydantic_core", "yaml", *sys.stdlib_module_names}
HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "numpy", "kubernetes", "kopf", "boto3")
IMPORT_SECONDS = 0.5


def imported_by(text: str) -> set[str]:
    """Top-level packages that a module imports, wherever in it, but for type checkers only."""
    tree = ast.parse(text)
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    ]
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module.partition(".")[0])
    return names


def run_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-P", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def test_the_contract_needs_only_pydantic_pyyaml_and_the_standard_library() -> None:
    modules = [path for path in repository_files(".py") if path.parts[0] == "api"]
    assert modules
    foreign = {str(path): imported_by((ROOT / path).read_text()) - API_MAY_IMPORT for path in modules}
    assert {path: names for path, names in foreign.items() if names} == {}


def declared_distributions(extra: str) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = project["dependencies"] + project["optional-dependencies"][extra]
    return {normal(re.split(r"[<>=!~\[; ]", requirement)[0]) for requirement in requirements}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_what_the_runner_imports_is_declared_and_not_just_there_by_chance() -> None:
    modules = [path for path in repository_files(".py") if path.parts[0] == "runner"]
    imported = set().union(*(imported_by((ROOT / path).read_text()) for path in modules))
    foreign = imported - {"llm_api", "llm_runner", *sys.stdlib_module_names}
    distributions = {name: {normal(one) for one in packages_distributions().get(name, [name])} for name in foreign}
    declared = declared_distributions("runner")
    assert {name for name, providers in distributions.items() if not providers & declared} == set()


def test_importing_the_contract_pulls_in_nothing_heavy() -> None:
    code = f"import sys, llm_api.config, llm_api.run; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert run_python(code) == "[]"


def test_importing_the_contract_takes_less_than_half_a_second_of_processor_time() -> None:
    code = "import time; start = time.process_time(); import llm_api.config; print(time.process_time() - start)"
    assert min(float(run_python(code)) for _ in range(3)) < IMPORT_SECONDS

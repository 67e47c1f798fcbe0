import subprocess
import sys

MEASURE = "from llm_runner.report.memory import peak_memory_bytes; print(peak_memory_bytes())"


GIVE_BACK = """
from llm_runner.report.memory import peak_memory_bytes
before = peak_memory_bytes()
block = bytearray(b"x") * 200_000_000
del block
print(before, peak_memory_bytes())
"""


def run_program(code: str) -> str:
    """In a process of its own: this one's peak is that of whatever test needed most."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_memory_that_was_given_back_still_counts() -> None:
    before, after = map(int, run_program(GIVE_BACK).split())
    assert after > max(before, 200_000_000)


def test_memory_of_the_program_that_started_this_one_does_not_count() -> None:
    block = bytearray(b"x") * 400_000_000
    assert 0 < int(run_program(MEASURE)) < len(block)

"""The tables of ``README.md`` and its neighbours: figures of several rounds in words, and where a table stands."""

import re
import statistics
from collections.abc import Sequence
from pathlib import Path

README = Path(__file__).resolve().parent / "README.md"


def save(name: str, text: str, page: Path = README) -> None:
    """Puts a text between ``<!-- name: begin -->`` and its end; raises ValueError where there are no such markers."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    pattern = re.compile(f"{begin}.*{end}", re.DOTALL)
    written, count = pattern.subn(lambda _match: f"{begin}\n{text}\n{end}", page.read_text())
    if count != 1:
        raise ValueError(f"{page.name} has no place for {name}: {begin} {end}")
    page.write_text(written)


def spread(values: Sequence[float], digits: int) -> str:
    """From the least to the most."""
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{low} to {high}"


def describe_bound(what: str, ratios: Sequence[float], *, least: float | None = None, most: float | None = None) -> str:
    """The ratio of each round; the bound is held against the median."""
    median = statistics.median(ratios)
    holds = (least is None or median >= least) and (most is None or median <= most)
    wanted = f"at least {least}" if least is not None else f"at most {most}"
    rounds = "" if len(ratios) == 1 else f"{spread(ratios, 2)}; "
    return f"- {median:.2f} times {what} ({rounds}{wanted}: {'holds' if holds else 'DOES NOT HOLD'})"

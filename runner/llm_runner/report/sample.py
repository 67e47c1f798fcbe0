"""What the tuned model says to a few rows of the hold-out: a file beside its weights, and figures. Asks nothing."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from llm_runner.report.card import CARD_NAME, EXAMPLES_HEADING, CardExample

SAMPLE_NAME = "hold_out_answers.jsonl"
MOST_CHARACTERS = 4000
"""Of each text in the file: it is there to be looked at."""


@dataclass(frozen=True)
class Sample:
    """Rows that were asked, in the order of the hold-out."""

    examples: Sequence[CardExample]
    rows: int = 0
    """Rows that were answered, which the figures are of."""
    exact_match: float | None = None
    """None where no row was answered."""
    rouge_l: float | None = None


def save_sample(folder: Path, sample: Sample) -> None:
    """One line a row: prompt, target and answer, or the error in its place."""
    lines = (json.dumps(dict(_known(example)), ensure_ascii=False) for example in sample.examples)
    (folder / SAMPLE_NAME).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def warn_of_sample(folder: Path, repo_id: str, *, private: bool) -> Iterator[str]:
    """What is worth saying before an artifact's folder is pushed to where anybody may read it."""
    card = folder / CARD_NAME
    in_card = card.is_file() and EXAMPLES_HEADING in card.read_text("utf-8")
    holders = [SAMPLE_NAME] * (folder / SAMPLE_NAME).is_file() + ["the model card"] * in_card
    if not private and holders:
        yield (
            f"rows of the hold-out stand in {' and '.join(holders)}: whoever may read {repo_id} may read them; "
            "make it private if they are not for everybody"
        )


def _known(example: CardExample) -> Iterator[tuple[str, str]]:
    for name, text in asdict(example).items():
        if text is not None:
            yield name, text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"

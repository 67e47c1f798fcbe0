"""Options that the comparisons on a model share: which model, how many rounds, and whether the table is kept."""

import argparse
from pathlib import Path


def build_parser(doc: str | None) -> argparse.ArgumentParser:
    """``doc`` is the script's own; its first line describes it."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0] if doc else None)
    parser.add_argument("--model", type=Path, help="folder of the model; default: SmolLM2-135M-Instruct, prepared")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--save", action="store_true", help="write the tables into README.md beside this file")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options, with the model made where none was named."""
    options = parser.parse_args()
    if options.model is None:
        from scripts.prepare_model import prepare_model

        options.model = prepare_model()
    return options

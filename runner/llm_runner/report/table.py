"""A table as lines of plain text, wherever they are told."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

WIDTH = 10_000
"""So much that no cell is broken into lines."""


def to_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns below each other: names to the left, numbers to the right."""
    table = Table.grid(padding=(0, 2))
    for number in range(len(rows[0])):
        table.add_column(justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    console = Console(width=WIDTH, force_terminal=False, markup=False, emoji=False, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()

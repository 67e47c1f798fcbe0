"""The machines that prepare one run's data together: each reads and tokenizes a part of every table, and all end up
with the same files as one machine alone would have.

Says what is exchanged, not over what: that is whoever starts the processes' to know.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

Value = TypeVar("Value")


class Together(Protocol):
    """All call the same methods in the same order."""

    @property
    def number(self) -> int:
        """Of this machine, from 0. Its part of a table lies behind those of lower numbers."""

    @property
    def count(self) -> int: ...

    def gather(self, value: Value) -> list[Value]:
        """What each of them has, by number."""

    def join_file(self, path: Path) -> None:
        """Puts everyone's file of that name end to end, by number, and everyone has the whole one then."""


@dataclass(frozen=True)
class Alone:
    """One machine, which has all there is."""

    number: int = 0
    count: int = 1

    def gather(self, value: Value) -> list[Value]:
        return [value]

    def join_file(self, path: Path) -> None:
        """It is whole already."""


ALONE = Alone()

"""Files of the repository that are generated: written, or compared with what they should be. Knows none of them."""

import argparse
import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Generator:
    """What one command generates."""

    module: str
    description: str
    build: Callable[[Path], Mapping[str, str]]
    """From the repository's root to the content of every file, by its path from there."""
    advice: str
    """Said where files differ."""

    def find_differences(self, root: Path) -> list[str]:
        """Lines of a diff from what stands under ``root`` to what should; empty where they agree."""
        lines: list[str] = []
        for name, content in self.build(root).items():
            path = root / name
            found = path.read_text(encoding="utf-8") if path.is_file() else ""
            names = (name, f"{name} (generated)")
            lines += difflib.unified_diff(found.splitlines(), content.splitlines(), *names, lineterm="")
        return lines

    def write(self, root: Path) -> None:
        for name, content in self.build(root).items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """The process's exit code."""
        parser = argparse.ArgumentParser(prog=f"python -m {self.module}", description=self.description)
        parser.add_argument("--check", action="store_true", help="write nothing; fail where files differ from it")
        parser.add_argument("--root", type=Path, default=_ROOT, help="root of the repository")
        options = parser.parse_args(arguments)
        if not options.check:
            self.write(options.root)
            return 0
        differences = self.find_differences(options.root)
        sys.stdout.writelines(f"{line}\n" for line in differences)
        if differences:
            sys.stderr.write(f"{self.advice}\n")
        return 1 if differences else 0

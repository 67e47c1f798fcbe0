"""docs/config.md from the models and the tests: every key of the LLM config, and the test that proves what it does.

``python -m llm_api.docs`` writes it; ``--check`` only says what differs.
"""

import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from llm_api.docs_keys import Key, Section, find_sections
from llm_api.docs_open import OPEN
from llm_api.docs_proofs import Proof, find_covering, find_proofs, find_unproven, parse_claim
from llm_api.generated import Generator

FILE = "docs/config.md"
_INTRODUCTION = """\
<!-- Generated from the models and the tests by `make docs`. Don't edit. -->

# The LLM config, key by key

Every key of `spec.config`: what it means, what it is when you leave it out, what it may be, and the test that proves
that it does what it says. A key without such a test is marked **open**. `kubectl explain llmft.spec.config` shows the
same words, and `python -m llm_api validate FILE` says what is wrong with a file.

A key that a table lists "with" some types belongs to those types of its section only.
"""


def build_page(root: Path) -> str:
    """The whole page; the tests are those under ``root``."""
    proofs = find_proofs(root)
    return "\n".join([_INTRODUCTION, *chain.from_iterable(_section(one, proofs) for one in find_sections())])


def _section(section: Section, proofs: Sequence[Proof]) -> Iterator[str]:
    has_kinds = any(key.kinds for key in section.keys)
    heads = ["Key", *(["With"] if has_kinds else []), "Meaning", "Default", "Values", "Proven by"]
    yield f"## {section.path}" if section.path else "## The whole"
    yield f"\n{section.meaning}\n"
    yield _row(heads)
    yield _row(["---"] * len(heads))
    for key in section.keys:
        kinds = [", ".join(key.kinds)] if has_kinds else []
        yield _row([f"`{key.name}`", *kinds, key.meaning, key.default, _values(key), _proven_by(key, proofs)])
    yield ""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _values(key: Key) -> str:
    if not key.is_section:
        return key.values
    return f"[`{key.path}`](#{key.path.replace('.', '')})"


def _proven_by(key: Key, proofs: Sequence[Proof]) -> str:
    if key.is_section:
        return ""
    missing = find_unproven(key, (proof.claim for proof in proofs))
    opened = [f"**open**{_of(missing, key)}: {_reason(key, missing)}"] if missing else []
    return "; ".join([*(_link(proof) for proof in find_covering(key, proofs)), *opened])


def _of(missing: Sequence[str], key: Key) -> str:
    return "" if len(missing) == max(len(key.kinds), 1) else f" with {', '.join(missing)}"


def _reason(key: Key, missing: Sequence[str]) -> str:
    claims = {parse_claim(text): why for text, why in OPEN.items()}
    reasons = [why for claim, why in claims.items() if any(claim.covers(key.path, kind) for kind in missing)]
    return "; ".join(dict.fromkeys(reasons)) if reasons else "no test of its effect yet"


def _link(proof: Proof) -> str:
    words = proof.test.removeprefix("test_").replace("_", " ")
    return f"[{words}](../{proof.file})"


GENERATOR = Generator(
    "llm_api.docs",
    "Write docs/config.md.",
    lambda root: {FILE: build_page(root)},
    f"{FILE} is not what the models and the tests say: run `make docs`.",
)
find_differences, main = GENERATOR.find_differences, GENERATOR.main


if __name__ == "__main__":
    sys.exit(main())

"""The texts that a category's labels are written as, as tokens, and answers that may be nothing else
(``constrain_to_vocabulary``).

Which label an answer has is found in ``categories``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from llm_api.config.features import CASE_SENSITIVE, CategoryOutputFeature, Match
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from llm_runner.errors import ConfigInvalid
from llm_runner.generate.processors import BANNED
from llm_runner.generate.rows import Rows
from llm_runner.generate.special import SpecialTokens


def plain_text(label: str, match: Match) -> str:
    """What an answer says that has this label: the text that is looked for, where it is one, else the label."""
    return match.value.removeprefix(CASE_SENSITIVE) if match.type == "contains" else label


@dataclass(frozen=True)
class LabelTexts:
    """The ways to write each label, as tokens."""

    ways: Mapping[str, tuple[tuple[int, ...], ...]]

    @property
    def longest(self) -> int:
        return max(len(tokens) for ways in self.ways.values() for tokens in ways)

    def build_constraint(self, rows: Rows, special: SpecialTokens) -> "LabelConstraint":
        """Raises ConfigInvalid where the longest label doesn't fit into an answer."""
        least = min(plan.most_new_tokens for plan in rows.plans)
        if self.longest > least:
            raise ConfigInvalid(
                f"generation.max_new_tokens: an answer may have {least} tokens, and the longest label takes "
                f"{self.longest}; allow that many"
            )
        return LabelConstraint(rows, self._continuations(), list(special.end_ids))

    def _continuations(self) -> dict[tuple[int, ...], set[int | None]]:
        """What follows each beginning of a text; None stands for the end."""
        found: dict[tuple[int, ...], set[int | None]] = {}
        for tokens in (tokens for ways in self.ways.values() for tokens in ways):
            for place, token in enumerate((*tokens, None)):
                found.setdefault(tokens[:place], set()).add(token)
        return found


def build_label_texts(feature: CategoryOutputFeature, tokenizer: PreTrainedTokenizerBase) -> LabelTexts:
    """With a space before and without: which one goes on from a prompt depends on how the prompt ends."""
    texts = {label: plain_text(label, match) for label, match in feature.decoder.match.items()}
    return LabelTexts({label: _ways(tokenizer, text) for label, text in texts.items()})


def _ways(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[tuple[int, ...], ...]:
    written = (tokenizer(way, add_special_tokens=False)["input_ids"] for way in (text, f" {text}"))
    return tuple(dict.fromkeys(tuple(ids) for ids in written))


class LabelConstraint(LogitsProcessor):
    """Leaves the tokens that go on with a label's text, and the end where one is complete."""

    def __init__(
        self, rows: Rows, continuations: Mapping[tuple[int, ...], set[int | None]], end_ids: list[int]
    ) -> None:
        self._rows = rows
        self._allowed = {
            beginning: [token for token in tokens if token is not None] + (end_ids if None in tokens else [])
            for beginning, tokens in continuations.items()
        }
        self._end_ids = end_ids

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        kept = torch.full_like(scores, BANNED)
        for row, answer in enumerate(input_ids[:, self._rows.width :].tolist()):
            allowed = self._allowed.get(tuple(answer), self._end_ids)
            kept[row, allowed] = scores[row, allowed]
        return kept

"""Words that an answer must hold (``force_words_ids``), and how far an answer has come with them.

Lexically constrained decoding (Hokamp & Liu 2017, arXiv:1704.07138; Post & Vilar 2018, arXiv:1804.06609): this is
their bookkeeping, on token ids; the beams stand in ``beams``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llm_runner.errors import ConfigInvalid

Progress = tuple[int, ...]
"""How many tokens of each word stand at the end of an answer; all of them once the word is in it."""


@dataclass(frozen=True)
class ForcedWords:
    """The words, each a sequence of tokens; none is the same as no constraint."""

    words: tuple[tuple[int, ...], ...] = ()

    @property
    def start(self) -> Progress:
        return (0,) * len(self.words)

    def advance(self, progress: Progress, token: int) -> Progress:
        """The progress of an answer that goes on with ``token``."""
        return tuple(
            reached if reached == len(word) else _matched(word, reached, token)
            for word, reached in zip(self.words, progress, strict=True)
        )

    def missing_tokens(self, progress: Progress) -> int:
        """The fewest tokens that surely complete the words: one that was begun is gone on with, the rest follow."""
        still_open = self._open(progress)
        begun = max((reached for _, reached in still_open), default=0)
        return sum(len(word) for word, _ in still_open) - begun

    def met_tokens(self, progress: Progress) -> int:
        """The bank of an answer: tokens of words that are in it or begun."""
        return sum(map(len, self.words)) - self.missing_tokens(progress)

    def next_tokens(self, progress: Progress) -> set[int]:
        """Tokens that take an answer further."""
        return {word[reached] for word, reached in self._open(progress)}

    def _open(self, progress: Progress) -> list[tuple[tuple[int, ...], int]]:
        return [(word, reached) for word, reached in zip(self.words, progress, strict=True) if reached < len(word)]


@dataclass(frozen=True)
class FixedPlaces:
    """Places of an answer whose token is given, so that no word can stand there."""

    places: frozenset[int] = frozenset()
    """From 0."""
    is_last_fixed: bool = False
    """Whether a longest answer's last token is given."""

    def is_fixed(self, place: int, most_new_tokens: int) -> bool:
        return place in self.places or (self.is_last_fixed and place == most_new_tokens - 1)

    def count_free(self, start: int, most_new_tokens: int) -> int:
        """How many are left from ``start`` on."""
        fixed = {place for place in self.places if start <= place < most_new_tokens}
        if self.is_last_fixed and start < most_new_tokens:
            fixed.add(most_new_tokens - 1)
        return most_new_tokens - start - len(fixed)


def build_forced_words(words: Iterable[Sequence[int]], end_ids: Sequence[int], free_places: int) -> ForcedWords:
    """Raises ConfigInvalid where the words can't stand in an answer that has so many places for them."""
    forced = ForcedWords(tuple(dict.fromkeys(map(tuple, words))))
    for word in forced.words:
        if set(word) & set(end_ids):
            raise ConfigInvalid(
                f"generation.force_words_ids: {list(word)} holds a token that ends an answer; leave it out"
            )
    needed = forced.missing_tokens(forced.start)
    if needed > free_places:
        raise ConfigInvalid(
            f"generation.force_words_ids: the words take {needed} tokens, and an answer has room for {free_places}; "
            "raise max_new_tokens, or leave words out"
        )
    return forced


def _matched(word: tuple[int, ...], reached: int, token: int) -> int:
    """The most tokens that ``word`` begins with and the answer now ends with."""
    ending = (*word[:reached], token)
    return next(size for size in range(len(ending), -1, -1) if ending[len(ending) - size :] == word[:size])

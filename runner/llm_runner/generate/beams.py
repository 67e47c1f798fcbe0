"""Beam search for one prompt: groups that keep different from each other, words that must come, and draws.

    groups   diverse beam search (Vijayakumar et al. 2016, arXiv:1610.02424, Hamming diversity): the groups choose one
             after the other, and a token loses ``diversity_penalty`` for each beam of an earlier group that took it
    words    dynamic beam allocation (Post & Vilar 2018, arXiv:1804.06609): beams are dealt out in turn to answers that
             hold more and fewer of the forced words' tokens, and what could no longer fit them in is given up
    draws    candidates are drawn without replacement by their probability, by the Gumbel trick (Kool et al. 2019,
             arXiv:1903.06059)

Sees log-probabilities and tokens only; ``beam_search`` steps the model. With one group, no words and no draws it finds
what the library's own beam search finds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Literal

import torch
from torch import Tensor

from llm_runner.generate.words import FixedPlaces, ForcedWords, Progress

DEAD = float("-inf")


@dataclass(frozen=True)
class BeamSettings:
    """What is the same for all prompts of a batch."""

    beams: int
    end_ids: frozenset[int]
    pad_id: int
    groups: int = 1
    diversity_penalty: float = 0.0
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    samples: bool = False
    words: ForcedWords = field(default_factory=ForcedWords)
    fixed: FixedPlaces = field(default_factory=FixedPlaces)


@dataclass(frozen=True)
class Beam:
    """An answer that is being written."""

    tokens: tuple[int, ...]
    score: float
    """Sum of its log-probabilities, less penalties; -inf holds a place that no answer has."""
    progress: Progress
    parent: int = 0
    """The place that it had among its group's beams a step ago."""


@dataclass
class Finished:
    """The best answers that have ended, at most ``most`` of them."""

    most: int
    answers: list[tuple[float, tuple[int, ...]]] = field(default_factory=list)

    @property
    def is_full(self) -> bool:
        return len(self.answers) == self.most

    @property
    def worst(self) -> float:
        return min(score for score, _ in self.answers)

    def add(self, score: float, tokens: tuple[int, ...]) -> None:
        self.answers = sorted([*self.answers, (score, tokens)], key=lambda answer: -answer[0])[: self.most]


class Group:
    """Beams that compete with each other."""

    def __init__(self, settings: BeamSettings, size: int, most_new_tokens: int) -> None:
        self._settings = settings
        self._most_new_tokens = most_new_tokens
        start = settings.words.start
        # One alive at first: all beams begin with the same prompt, and would all go the same way.
        self.beams = [Beam((), DEAD if place else 0.0, start) for place in range(size)]
        self.finished = Finished(size)
        self.is_done = False

    def advance(self, log_probs: Tensor, unsteered: Tensor, generator: torch.Generator | None) -> None:
        """One token for each beam; ``log_probs`` are [beams, vocabulary], of the token that comes next."""
        ended, going_on = self._split(self._find_candidates(self._lift_words(log_probs, unsteered), generator))
        for beam in ended:
            self._finish(beam)
        size = len(self.beams)
        chosen = _deal(going_on, size, self._settings.words)
        missing = size - len(chosen)
        self.beams = chosen + [Beam((self._settings.pad_id,), DEAD, self._settings.words.start)] * missing
        length = max((len(beam.tokens) for beam in chosen), default=0)
        if not chosen or length == self._most_new_tokens:
            self.close()
        else:
            self.is_done = self._can_stop(length)

    def close(self) -> None:
        """Ends what is still being written, where it stands: its words are in it, or its time is up."""
        if not (self.is_done or (self._settings.early_stopping is True and self.finished.is_full)):
            for beam in self.beams:
                if beam.score > DEAD:
                    self._finish(beam)
        self.is_done = True

    def _finish(self, beam: Beam) -> None:
        self.finished.add(beam.score / len(beam.tokens) ** self._settings.length_penalty, beam.tokens)

    def _can_stop(self, length: int) -> bool:
        """By the rule of ``early_stopping``: never, unless as many answers as beams have ended."""
        settings = self._settings
        if not self.finished.is_full:
            return False
        if settings.early_stopping is True:
            return True
        longest = settings.early_stopping == "never" and settings.length_penalty > 0
        reachable = float(self._most_new_tokens if longest else length) ** settings.length_penalty
        return bool(max(beam.score for beam in self.beams) / reachable <= self.finished.worst)

    def _split(self, candidates: list[Beam]) -> tuple[list[Beam], list[Beam]]:
        """Answers that end here, as far as they are among the best, and those that go on."""
        ends = self._settings.end_ids
        best = candidates[: len(self.beams)]
        ended = [beam for beam in best if beam.tokens[-1] in ends]
        return ended, [beam for beam in candidates if beam.tokens[-1] not in ends]

    def _find_candidates(self, log_probs: Tensor, generator: torch.Generator | None) -> list[Beam]:
        """The best continuations of all beams, and those that further forced words; best first."""
        scores = torch.tensor([beam.score for beam in self.beams], dtype=log_probs.dtype, device=log_probs.device)
        totals = (log_probs + scores[:, None]).flatten()
        keys = totals if generator is None else totals + _gumbel_like(totals, generator)
        count = min((1 + max(1, len(self._settings.end_ids))) * len(self.beams), totals.numel())
        places = keys.topk(count).indices.tolist() + self._places_of_words(log_probs.shape[-1])
        unique = list(dict.fromkeys(places))
        found = zip(unique, totals[unique].tolist(), strict=True)
        candidates = [self._continue(place, log_probs.shape[-1], score) for place, score in found]
        return sorted(filter(self._is_possible, candidates), key=lambda beam: -beam.score)

    def _lift_words(self, log_probs: Tensor, unsteered: Tensor) -> Tensor:
        """A token of a forced word counts as the model sees it where it is banned, but for places that are fixed."""
        step = max(len(beam.tokens) for beam in self.beams)
        if not self._settings.words.words or self._settings.fixed.is_fixed(step, self._most_new_tokens):
            return log_probs
        lifted = log_probs.clone()
        for place, beam in enumerate(self.beams):
            tokens = sorted(self._settings.words.next_tokens(beam.progress))
            given = lifted[place, tokens]
            lifted[place, tokens] = torch.where(given == DEAD, unsteered[place, tokens], given)
        return lifted

    def _places_of_words(self, vocabulary_size: int) -> list[int]:
        words = self._settings.words
        return [
            place * vocabulary_size + token
            for place, beam in enumerate(self.beams)
            for token in sorted(words.next_tokens(beam.progress))
        ]

    def _continue(self, place: int, vocabulary_size: int, score: float) -> Beam:
        parent, token = divmod(place, vocabulary_size)
        beam = self.beams[parent]
        return Beam((*beam.tokens, token), score, self._settings.words.advance(beam.progress, token), parent)

    def _is_possible(self, beam: Beam) -> bool:
        """Whether all words still fit into the answer; one that ends must have them."""
        if beam.score == DEAD:
            return False
        missing = self._settings.words.missing_tokens(beam.progress)
        if beam.tokens[-1] in self._settings.end_ids:
            return missing == 0
        return missing <= self._settings.fixed.count_free(len(beam.tokens), self._most_new_tokens)


class PromptSearch:
    """All groups of one prompt."""

    def __init__(self, settings: BeamSettings, most_new_tokens: int, generator: torch.Generator | None = None) -> None:
        """``generator`` draws, where the settings sample."""
        self._settings = settings
        self._generator = generator
        self._size = settings.beams // settings.groups
        self._groups = [Group(settings, self._size, most_new_tokens) for _ in range(settings.groups)]

    @property
    def is_done(self) -> bool:
        return all(group.is_done for group in self._groups)

    def advance(self, log_probs: Tensor, unsteered: Tensor) -> None:
        """One token for each beam, of [beams, vocabulary], group by group: log-probabilities with all that bans and
        biases, and the model's own.
        """
        taken = torch.zeros(log_probs.shape[-1], dtype=log_probs.dtype, device=log_probs.device)
        parts = zip(self._groups, log_probs.split(self._size), unsteered.split(self._size), strict=True)
        for group, steered, plain in parts:
            if group.is_done:
                continue
            penalty = self._settings.diversity_penalty * taken
            group.advance(steered - penalty, plain - penalty, self._generator)
            tokens = [beam.tokens[-1] for beam in group.beams if beam.score > DEAD]
            taken += torch.bincount(torch.tensor(tokens, dtype=torch.long), minlength=len(taken)).to(taken)

    def close(self) -> None:
        for group in self._groups:
            group.close()

    def places(self) -> tuple[list[int], list[int]]:
        """Of each beam, the place that it had a step ago, and its last token."""
        places, tokens = [], []
        for index, group in enumerate(self._groups):
            for place, beam in enumerate(group.beams):
                places.append(index * self._size + (place if group.is_done else beam.parent))
                tokens.append(self._settings.pad_id if group.is_done else beam.tokens[-1])
        return places, tokens

    def best(self, count: int) -> list[tuple[float, tuple[int, ...]]]:
        """The answers with the highest scores, best first; fewer than ``count`` where no more are possible."""
        answers = (answer for group in self._groups for answer in group.finished.answers)
        return sorted(answers, key=lambda answer: -answer[0])[:count]


def _deal(candidates: Sequence[Beam], size: int, words: ForcedWords) -> list[Beam]:
    """Beams for the next step: in turn the best of each bank, from the one with most of the words down."""
    banks: dict[int, list[Beam]] = {}
    for beam in candidates:
        banks.setdefault(words.met_tokens(beam.progress), []).append(beam)
    rounds: Iterable[tuple[Beam | None, ...]] = zip_longest(*(banks[met] for met in sorted(banks, reverse=True)))
    return [beam for dealt in rounds for beam in dealt if beam is not None][:size]


def _gumbel_like(values: Tensor, generator: torch.Generator) -> Tensor:
    return -torch.empty_like(values).exponential_(generator=generator).log()

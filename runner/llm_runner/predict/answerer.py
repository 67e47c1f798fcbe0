"""Puts questions to a model: one token after the other through the engine, searches in batches between its steps.

Whatever else the engine works on goes on meanwhile. Knows no rows, files or HTTP.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_runner.errors import UserError
from llm_runner.generate.decode import Decoder
from llm_runner.generate.decode import Request as SearchRequest
from llm_runner.generate.engine import Engine
from llm_runner.generate.engine_adapters import Adapters
from llm_runner.generate.engine_request import NothingToChoose, Processor, PromptTooLong, Request, Token
from llm_runner.generate.likelihood import label_probabilities, score_continuations
from llm_runner.generate.rows import RowPlan, plan_batches
from llm_runner.generate.special import SpecialTokens
from llm_runner.predict.flow import Finished, Flow, call_patiently
from llm_runner.predict.labelscores import LabelScores
from llm_runner.predict.request import build_processors, build_sampling, needs_search
from llm_runner.predict.task import Prediction, Question, Task

ROW_ERRORS = (UserError, NothingToChoose, PromptTooLong, ArithmeticError)
"""What can be wrong with one row while others are fine."""

SORTED_ROWS = 256
"""Of so many the next ones that are alike are searched together."""

Result: TypeAlias = Prediction | Exception
Key: TypeAlias = tuple[int, tuple[int, ...]]
"""A question's place, and which of its labels' texts is scored; an empty one is the answer itself."""


@dataclass(frozen=True)
class Pace:
    """How much of the engine is taken at once, and when to stop."""

    most_open: Callable[[], int]
    """Requests that may wait or run."""
    search_rows: int
    """Rows of one search, which nothing else runs beside."""
    should_stop: Callable[[], bool] = lambda: False


@dataclass
class _Open:
    """A question whose requests are under way."""

    left: int
    scores: LabelScores | None
    tokens: Sequence[Token] = ()
    cached_tokens: int = 0
    error: Exception | None = None

    def add(self, text: tuple[int, ...], finished: Finished[Key]) -> None:
        self.left -= 1
        if finished.end is not None and finished.end.error is not None:
            self.error = finished.end.error
        elif not text:
            self.tokens = finished.tokens
            self.cached_tokens = 0 if finished.end is None else finished.end.cached_tokens
        elif self.scores is not None:
            self.scores.add(text, finished.tokens)


@dataclass
class Answerer:
    """A loaded model behind a running engine."""

    engine: Engine
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    special: SpecialTokens
    adapters: Adapters
    adapter: str | None = None

    def answer(
        self, task: Task, questions: Iterable[tuple[int, Question]], seed: int, pace: Pace
    ) -> Iterator[tuple[int, Result]]:
        """Each question's place and what came of it, as they are done; an error is of that question only.

        The same seed and place give the same answer. Raises Stopped and EngineEnded.
        """
        if needs_search(task.generation):
            yield from self._search(task, questions, seed, pace)
            return
        open_questions: dict[int, _Open] = {}
        impossible: dict[int, Result] = {}
        requests = self._build_requests(task, questions, seed, open_questions, impossible)
        for finished in Flow[Key](self.engine, pace.most_open, pace.should_stop).run(requests):
            place, text = finished.key
            question = open_questions[place]
            question.add(text, finished)
            if question.left == 0:
                yield place, self._conclude(task, open_questions.pop(place))
        yield from impossible.items()

    def measure(self, prompts: Sequence[list[int]], answers: Sequence[list[int]], pace: Pace) -> list[float]:
        """The log-likelihood of each known answer, summed over its tokens; all in one batch on the engine's thread."""

        def run() -> list[float]:
            with self.adapters.using(self.adapter):
                scored = score_continuations(self.model, prompts, [[tokens] for tokens in answers])
            return [sum(tokens) for [tokens] in scored]

        return call_patiently(self.engine, run, pace.should_stop)

    def _build_requests(
        self,
        task: Task,
        questions: Iterable[tuple[int, Question]],
        seed: int,
        open_questions: dict[int, _Open],
        impossible: dict[int, Result],
    ) -> Iterator[tuple[Key, Request]]:
        """Notes each question as it is asked."""
        for place, question in questions:
            scores = None if task.labels is None else LabelScores(task.labels.texts)
            try:
                request = self._build_request(task, question, scores, seed_of_row(seed, place))
            except ROW_ERRORS as error:
                impossible[place] = error
                continue
            more = [] if scores is None else scores.build_requests(question.prompt_ids, self.adapter)
            open_questions[place] = _Open(1 + len(more), scores)
            yield (place, ()), request
            yield from (((place, tokens), scoring) for tokens, scoring in more)

    def _build_request(self, task: Task, question: Question, scores: LabelScores | None, seed: int) -> Request:
        row = RowPlan(question.prompt_ids, question.most_new_tokens, question.fewest_new_tokens)
        processors: list[Processor] = [] if scores is None else [scores.first]
        processors += build_processors(task.generation, row, self.special, self.model, task.build_constraint)
        max_time = task.generation.max_time
        return Request(
            question.prompt_ids,
            question.most_new_tokens,
            sampling=build_sampling(task.generation, processors, seed=seed),
            stop_ids=frozenset(self.special.end_ids),
            adapter=self.adapter,
            max_seconds=None if max_time is None else float(max_time),
        )

    def _conclude(self, task: Task, question: _Open) -> Result:
        if question.error is not None:
            return question.error
        probabilities = None if question.scores is None else question.scores.to_probabilities()
        return self._to_result(task, [token.id for token in question.tokens], probabilities, question.cached_tokens)

    def _to_result(
        self, task: Task, token_ids: list[int], probabilities: Mapping[str, float] | None, cached_tokens: int = 0
    ) -> Result:
        text = self._to_text(token_ids)
        try:
            return Prediction(task.to_value(text), text, probabilities, len(token_ids), cached_tokens)
        except ROW_ERRORS as error:
            return error

    def _to_text(self, token_ids: list[int]) -> str:
        text = self.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str), "one answer's tokens"
        return text

    def _search(
        self, task: Task, questions: Iterable[tuple[int, Question]], seed: int, pace: Pace
    ) -> Iterator[tuple[int, Result]]:
        decoder = Decoder(
            self.model, self.tokenizer, task.generation, task.answer_limits, build_constraint=task.build_constraint
        )
        waiting = iter(questions)
        while pool := list(islice(waiting, SORTED_ROWS)):
            for batch in _to_batches(pool, pace.search_rows):
                requests = [SearchRequest(question.prompt_ids, seed_of_row(seed, place)) for place, question in batch]
                results = self._search_batch(task, decoder, requests, pace)
                yield from zip([place for place, _ in batch], results, strict=True)

    def _search_batch(
        self, task: Task, decoder: Decoder, requests: Sequence[SearchRequest], pace: Pace
    ) -> list[Result]:
        """What fails a batch may be one row's fault: then each is asked by itself."""

        def run() -> list[Result]:
            prompts = [list(request.prompt_ids) for request in requests]
            with self.adapters.using(self.adapter):
                found = decoder.answer(requests)
                labels = task.labels
                scored = None if labels is None else label_probabilities(self.model, prompts, labels.texts.ways)
            return [
                self._to_result(task, answers[0], None if scored is None else scored[row])
                for row, answers in enumerate(found)
            ]

        try:
            return call_patiently(self.engine, run, pace.should_stop)
        except ROW_ERRORS as error:
            if len(requests) == 1:
                return [error]
            return [result for request in requests for result in self._search_batch(task, decoder, [request], pace)]


def seed_of_row(seed: int, place: int) -> int:
    return random.Random(f"{seed}/{place}").getrandbits(63)


def _to_batches(questions: Sequence[tuple[int, Question]], batch_size: int) -> Iterator[Sequence[tuple[int, Question]]]:
    """Those of similar length together, so that little is padded."""
    for places in plan_batches([len(question.prompt_ids) for _, question in questions], batch_size):
        yield [questions[place] for place in places]

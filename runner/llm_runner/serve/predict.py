"""``/v1/predict``: rows are checked, all at once, then answered on a thread of their own through the shared engine.

Several requests share a part of the engine's places, so that chats go on beside them. Knows no HTTP but its errors.
"""

import asyncio
import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from llm_api.config import CategoryOutputFeature, Generation
from llm_api.issues import InvalidConfig, load

from llm_runner.data.columns import describe_columns
from llm_runner.errors import ConfigInvalid, DataInvalid
from llm_runner.generate.special import refuse_unknown_tokens
from llm_runner.generate.strategy import refuse_contradictions
from llm_runner.predict.answerer import ROW_ERRORS, Answerer, Pace
from llm_runner.predict.examples import Examples
from llm_runner.predict.flow import EngineEnded
from llm_runner.predict.task import Prediction, Question, Task, TaskSetup
from llm_runner.serve.errors import ApiError, failed, invalid, overloaded, to_api_error
from llm_runner.serve.metrics import ServerMetrics
from llm_runner.serve.predictbodies import (
    OutputForm,
    PredictForm,
    PredictRequest,
    PredictResponse,
    RowPrediction,
)
from llm_runner.serve.protocol import PromptTokensDetails, Usage, new_id

MOST_REQUESTS = 4
"""Requests that are answered at once, each row by row; more are told to come later."""
SHARE = 0.75
"""Of the engine's places, for all of them together."""
SEARCH_ROWS = 2
"""Rows of one search: tokens of everyone else wait for it."""
TOLD_ROWS = 10
"""Rows of which an error tells what is wrong."""


@dataclass
class Predictor:
    """The task of the server's config."""

    setup: TaskSetup
    answerer: Answerer
    metrics: ServerMetrics
    running: int
    """Requests that the engine works on at once."""
    examples: Examples
    open_requests: int = 0
    _threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(MOST_REQUESTS, thread_name_prefix="predict")
    )

    async def predict(self, body: PredictRequest, model: str, adapter: str | None) -> PredictResponse:
        """Raises ApiError naming every row that can't be answered, before any is."""
        if self.open_requests >= MOST_REQUESTS:
            raise overloaded(self.metrics.retry_after_seconds())
        stop = threading.Event()
        self.open_requests += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._answer, body, model, adapter, stop)
        finally:
            # A client that left has cancelled the waiting, not the thread.
            stop.set()
            self.open_requests -= 1

    def build_form(self) -> PredictForm:
        output = self.setup.config.output_features[0]
        labels = list(output.decoder.match) if isinstance(output, CategoryOutputFeature) else None
        task = self.examples.build_task(self.setup, None, None)
        columns = None if self.examples.takes_any_column(self.setup) else list(task.prompt.columns.inputs)
        return PredictForm(columns=columns, output=OutputForm(name=output.name, type=output.type, labels=labels))

    def _answer(self, body: PredictRequest, model: str, adapter: str | None, stop: threading.Event) -> PredictResponse:
        task = self._build_task(body)
        questions = self._read_rows(task, body.rows)
        answerer = replace(self.answerer, adapter=adapter)
        pace = Pace(self._share, SEARCH_ROWS, stop.is_set)
        seed = random.getrandbits(63) if body.seed is None else body.seed
        try:
            found = dict(answerer.answer(task, enumerate(questions), seed, pace))
        except EngineEnded as error:
            raise failed(str(error)) from error
        predictions = [_to_prediction(place, found[place]) for place in range(len(questions))]
        return PredictResponse(
            id=new_id("pred"),
            model=model,
            output=self.setup.config.output_features[0].name,
            predictions=predictions,
            usage=_count(questions, [one for one in found.values() if isinstance(one, Prediction)]),
        )

    def _share(self) -> int:
        return max(1, int(self.running * SHARE) // max(1, self.open_requests))

    def _build_task(self, body: PredictRequest) -> Task:
        generation = None if body.generation is None else _merge(self.setup.config.generation, body.generation)
        if generation is not None:
            try:
                refuse_unknown_tokens(generation, self.answerer.model.config.get_text_config().vocab_size)
                refuse_contradictions(generation, 1)
            except ConfigInvalid as error:
                raise invalid(str(error), "generation") from error
        return self.examples.build_task(self.setup, body.rows[0], generation)

    def _read_rows(self, task: Task, rows: Sequence[dict[str, Any]]) -> list[Question]:
        known = None if self.examples.takes_any_column(self.setup) else self.examples.known_columns(task)
        questions: list[Question] = []
        problems: list[str] = []
        for place, row in enumerate(rows):
            try:
                check_row(row, task.prompt.columns.inputs, known)
                questions.append(task.to_question(row))
            except DataInvalid as error:
                problems.append(f"rows.{place}: {error}")
        if problems:
            more = f"\nand {len(problems) - TOLD_ROWS} more" if len(problems) > TOLD_ROWS else ""
            raise invalid("\n".join(problems[:TOLD_ROWS]) + more, problems[0].partition(":")[0])
        return questions


def check_row(row: dict[str, Any], needed: Sequence[str], known: Sequence[str] | None) -> None:
    """Raises DataInvalid that names what is missing, and what is not known where ``known`` says all there are."""
    missing = [column for column in needed if column not in row]
    if missing:
        raise DataInvalid(f"the row lacks the column {describe_columns(missing, list(row))}")
    unknown = [] if known is None else [column for column in row if column not in known]
    if unknown and known is not None:
        raise DataInvalid(f"there is no column {describe_columns(unknown, known)}")


def _merge(config: Generation, written: Generation) -> Generation:
    own = config.model_dump(include=config.model_fields_set)
    try:
        return load(Generation, {**own, **written.model_dump(include=written.model_fields_set)}, prefix="generation")
    except InvalidConfig as error:
        raise to_api_error(error) from error


def _to_prediction(place: int, result: Prediction | Exception) -> RowPrediction:
    if isinstance(result, Prediction):
        probabilities = None if result.probabilities is None else dict(result.probabilities)
        return RowPrediction(
            index=place,
            value=result.value,
            text=result.text,
            probability=None if probabilities is None else probabilities[result.value],
            probabilities=probabilities,
        )
    raise _to_api_error(place, result) from result


def _to_api_error(place: int, error: Exception) -> ApiError:
    is_ours = not isinstance(error, ROW_ERRORS) or isinstance(error, ArithmeticError)
    return failed(str(error)) if is_ours else invalid(f"rows.{place}: {error}", f"rows.{place}")


def _count(questions: Sequence[Question], predictions: Sequence[Prediction]) -> Usage:
    read = sum(len(question.prompt_ids) for question in questions)
    written = sum(prediction.new_tokens for prediction in predictions)
    cached = sum(prediction.cached_tokens for prediction in predictions)
    return Usage(
        prompt_tokens=read,
        completion_tokens=written,
        total_tokens=read + written,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
    )

import io
import json
import math
from datetime import datetime
from typing import Any

import pytest
from llm_api.report import Outcome, Progress
from llm_runner.report.lines import JsonLines
from llm_runner.report.sink import Evaluated


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def lines(stream: io.StringIO, clock: Clock) -> JsonLines:
    return JsonLines(stream, clock)


def read(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_a_time_with_its_zone_and_an_event(lines: JsonLines, stream: io.StringIO) -> None:
    lines.phase(Progress(phase="Preparing"))
    (line,) = read(stream)
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    assert line == {"event": "phase", "phase": "Preparing"}


def test_a_step_names_its_figures_as_metrics_json_does(lines: JsonLines, stream: io.StringIO) -> None:
    lines.step(Progress(phase="Training", step=1, of=4, epoch=0.5, loss=2.5, tokens_per_second=310.0, eta_seconds=9.0))
    (line,) = read(stream)
    del line["time"]
    assert line == {
        "event": "step",
        "phase": "Training",
        "step": 1,
        "of": 4,
        "percent": 25,
        "epoch": 0.5,
        "loss": 2.5,
        "tokens_per_second": 310.0,
        "eta_seconds": 9.0,
    }


def test_quick_steps_become_one_line_a_second_and_the_last(lines: JsonLines, stream: io.StringIO, clock: Clock) -> None:
    for step in range(1, 31):
        lines.step(Progress(phase="Training", step=step, of=30))
        clock.now += 0.125
    lines.close()
    assert [line["step"] for line in read(stream)] == [1, 9, 17, 25, 30]


def test_slow_steps_are_all_there_and_none_twice(lines: JsonLines, stream: io.StringIO, clock: Clock) -> None:
    for step in range(1, 4):
        lines.step(Progress(phase="Training", step=step, of=3))
        clock.now += 5.0
    lines.close()
    assert [line["step"] for line in read(stream)] == [1, 2, 3]


def test_a_step_held_back_comes_before_what_follows_it(lines: JsonLines, stream: io.StringIO) -> None:
    lines.step(Progress(phase="Training", step=1, of=2))
    lines.step(Progress(phase="Training", step=2, of=2))
    lines.evaluated(Evaluated(2, 1.5, 4.48, 0.6))
    assert [line["event"] for line in read(stream)] == ["step", "step", "evaluated"]


def test_rewards_are_told_where_there_are_pairs_and_left_out_elsewhere(lines: JsonLines, stream: io.StringIO) -> None:
    lines.evaluated(Evaluated(2, 1.5, 4.48, 0.6))
    lines.evaluated(Evaluated(2, 0.5, 4.48, 0.6, reward_accuracy=0.75, reward_margin=1.25))
    plain, pairs = read(stream)
    assert "reward_accuracy" not in plain
    assert (pairs["reward_accuracy"], pairs["reward_margin"]) == (0.75, 1.25)


def test_an_infinite_figure_becomes_null(lines: JsonLines, stream: io.StringIO) -> None:
    lines.evaluated(Evaluated(2, 900.0, math.inf, 0.0))
    lines.outcome(Outcome(reason="Succeeded", metrics={"eval.perplexity": math.inf}))
    evaluated, outcome = read(stream)
    assert evaluated["perplexity"] is None
    assert outcome["metrics"] == {"eval.perplexity": None}


def test_text_of_any_alphabet_stays_on_one_line(lines: JsonLines, stream: io.StringIO) -> None:
    lines.message("warning", "Spalte »größe« fehlt\nin train.csv")
    (line,) = read(stream)
    assert line["message"] == "Spalte »größe« fehlt\nin train.csv"
    assert "größe" in stream.getvalue()


def test_the_outcome_is_the_last_line(lines: JsonLines, stream: io.StringIO) -> None:
    lines.step(Progress(phase="Training", step=1, of=2))
    lines.step(Progress(phase="Training", step=2, of=2))
    lines.outcome(Outcome(reason="Succeeded", last_step=2, artifact_uri="out"))
    lines.close()
    assert [line["event"] for line in read(stream)] == ["step", "step", "outcome"]
    assert read(stream)[-1]["artifact_uri"] == "out"

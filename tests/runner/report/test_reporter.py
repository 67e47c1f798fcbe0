from dataclasses import dataclass

from llm_api.report import Progress
from llm_runner.report.reporter import Reporter
from llm_runner.report.sink import Evaluated, Level, Sink


@dataclass(frozen=True)
class Figures:
    loss: float = 1.5
    perplexity: float = 4.48
    next_token_accuracy: float = 0.6
    reward_accuracy: float | None = None
    reward_margin: float | None = None


class Recorder(Sink):
    def __init__(self) -> None:
        self.events: list[object] = []

    def phase(self, progress: Progress) -> None:
        self.events.append(progress)

    def step(self, progress: Progress) -> None:
        self.events.append(progress)

    def evaluated(self, evaluated: Evaluated) -> None:
        self.events.append(evaluated)

    def message(self, level: Level, text: str) -> None:
        self.events.append((level, text))

    def close(self) -> None:
        self.events.append("closed")


def test_every_destination_hears_everything_in_order() -> None:
    first, second = Recorder(), Recorder()
    reporter = Reporter([first, second])
    reporter.phase("Training")
    reporter.info("3 rows")
    reporter.evaluated(4, Figures())
    reporter.close()
    assert first.events == second.events
    assert first.events == [
        Progress(phase="Training"),
        ("info", "3 rows"),
        Evaluated(4, 1.5, 4.48, 0.6),
        "closed",
    ]


def test_figures_of_pairs_are_told_where_there_are_any() -> None:
    sink = Recorder()
    Reporter([sink]).evaluated(4, Figures(reward_accuracy=0.75, reward_margin=1.5))
    assert sink.events == [Evaluated(4, 1.5, 4.48, 0.6, reward_accuracy=0.75, reward_margin=1.5)]


def test_a_warning_is_passed_on_once() -> None:
    sink = Recorder()
    reporter = Reporter([sink])
    reporter.warning("rows were cut")
    reporter.warning("rows were cut")
    reporter.warning("rows were dropped")
    assert sink.events == [("warning", "rows were cut"), ("warning", "rows were dropped")]


def test_a_phase_that_goes_on_is_not_told_again() -> None:
    sink = Recorder()
    reporter = Reporter([sink])
    for name in ("Preparing", "Preparing", "Training", "Evaluating", "Training"):
        reporter.phase(name)
    assert sink.events == [Progress(phase=name) for name in ("Preparing", "Training", "Evaluating", "Training")]


def test_a_new_phase_keeps_the_figures_of_the_newest_step() -> None:
    reporter = Reporter([])
    reporter.step(Progress(phase="Training", step=7, of=9, loss=0.5))
    reporter.phase("Storing")
    assert reporter.latest == Progress(phase="Storing", step=7, of=9, loss=0.5)


def test_the_loss_on_the_hold_out_stays_known_through_the_steps_that_follow() -> None:
    sink = Recorder()
    reporter = Reporter([sink])
    reporter.evaluated(1, Figures(loss=1.25))
    reporter.step(Progress(phase="Training", step=2, of=9))
    assert sink.events[-1] == Progress(phase="Training", step=2, of=9, eval_loss=1.25)
    assert reporter.latest.eval_loss == 1.25


def test_a_step_that_brings_its_own_loss_on_the_hold_out_is_believed() -> None:
    reporter = Reporter([])
    reporter.evaluated(1, Figures(loss=1.25))
    reporter.step(Progress(phase="Training", step=2, eval_loss=1.0))
    assert reporter.latest.eval_loss == 1.0

import io

import pytest
from llm_api.report import Outcome, Progress
from llm_runner.report.sink import Evaluated
from llm_runner.report.terminal import Terminal
from rich.console import Console


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)


@pytest.fixture
def terminal(console: Console) -> Terminal:
    return Terminal(console)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_bar_shows_step_epoch_loss_speed_and_the_time_left(terminal: Terminal, console: Console) -> None:
    terminal.phase(Progress(phase="Training"))
    terminal.step(
        Progress(phase="Training", step=120, of=360, epoch=1.0, loss=1.2034, tokens_per_second=409.3, eta_seconds=725)
    )
    terminal.close()
    assert "120/360  33%  epoch 1.00  loss 1.2034  409 tok/s  ETA 12m 05s" in shown(console)
    assert "━" in shown(console)


def test_the_bar_ends_on_the_last_step_and_gives_the_cursor_back(terminal: Terminal, console: Console) -> None:
    for step in (1, 2, 3):
        terminal.step(Progress(phase="Training", step=step, of=3))
    terminal.close()
    assert "3/3  100%" in shown(console).splitlines()[-2]
    assert shown(console).rindex("\x1b[?25h") > shown(console).rindex("\x1b[?25l")


def test_a_run_of_unknown_length_has_a_bar_without_an_end(terminal: Terminal, console: Console) -> None:
    terminal.step(Progress(phase="Training", step=5, of=0))
    terminal.close()
    assert "step 5  epoch 0.00" in shown(console)
    assert "%" not in shown(console)


def test_an_evaluation_between_steps_changes_the_words_of_the_bar_and_adds_one_line(
    terminal: Terminal, console: Console
) -> None:
    terminal.phase(Progress(phase="Training"))
    terminal.step(Progress(phase="Training", step=1, of=2))
    terminal.phase(Progress(phase="Evaluating", step=1, of=2))
    terminal.evaluated(Evaluated(1, 0.8034, 2.2331, 0.8137))
    terminal.phase(Progress(phase="Training", step=1, of=2))
    terminal.close()
    lines = shown(console).splitlines()
    assert "step 1: hold-out loss 0.8034, perplexity 2.233, next-token accuracy 81.4%" in shown(console)
    assert [line for line in lines if line.strip() == "Evaluating"] == []


def test_rewards_of_pairs_follow_the_other_figures(terminal: Terminal, console: Console) -> None:
    terminal.evaluated(Evaluated(3, 0.4123, 33.96, 0.278, reward_accuracy=0.9, reward_margin=0.69606))
    assert "next-token accuracy 27.8%, reward accuracy 90.0%, margin 0.6961" in shown(console)


def test_square_brackets_of_users_are_no_markup(terminal: Terminal, console: Console) -> None:
    terminal.message("warning", "column [/bold] is missing from [train.csv]")
    assert shown(console) == "  warning: column [/bold] is missing from [train.csv]\n"


def test_a_long_message_is_not_broken_into_lines(terminal: Terminal, console: Console) -> None:
    terminal.message("info", "word " * 60 + "end")
    assert shown(console).count("\n") == 1


def test_success_lists_the_metrics_and_where_the_artifact_lies(terminal: Terminal, console: Console) -> None:
    terminal.outcome(
        Outcome(
            reason="Succeeded",
            metrics={"eval.loss": 0.81234, "train.steps": 360.0, "eval.perplexity": float("inf")},
            artifact_uri="out/support-tickets",
            artifact_size_bytes=3_712_345,
        )
    )
    assert [line.split() for line in shown(console).splitlines()] == [
        ["Succeeded"],
        ["eval.loss", "0.8123"],
        ["train.steps", "360"],
        ["eval.perplexity", "inf"],
        ["artifact", "out/support-tickets"],
        ["artifact", "size", "3.71", "MB"],
    ]


def test_a_failure_is_left_to_the_end_of_the_program(terminal: Terminal, console: Console) -> None:
    terminal.outcome(Outcome(reason="DataInvalid", message="empty"))
    assert shown(console) == ""

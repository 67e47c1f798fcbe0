"""What a runner says back: exit codes with their meaning, progress, and an outcome that fits."""

import json

import pytest
from llm_api.report import MAX_OUTCOME_BYTES, ExitCode, Outcome, Progress


@pytest.mark.parametrize(
    ("code", "number", "is_final"),
    [
        (ExitCode.DONE, 0, True),
        (ExitCode.UNEXPECTED, 1, False),
        (ExitCode.USER_ERROR, 10, True),
        (ExitCode.ACCESS_DENIED, 11, True),
        (ExitCode.OUT_OF_MEMORY, 12, True),
        (ExitCode.DIVERGED, 13, True),
        (ExitCode.GATE_NOT_MET, 14, True),
        (ExitCode.STORAGE_FAILED, 20, False),
        (ExitCode.PEER_LOST, 21, False),
        (ExitCode.STOPPED, 143, False),
    ],
)
def test_an_exit_code_is_that_of_the_design_and_says_whether_to_try_again(
    code: ExitCode, number: int, is_final: bool
) -> None:
    assert (code, code.is_final) == (number, is_final)


def test_the_table_of_exit_codes_is_complete() -> None:
    assert sorted(ExitCode) == [0, 1, 10, 11, 12, 13, 14, 20, 21, 143]


@pytest.mark.parametrize(
    ("step", "of", "percent"), [(0, 0, 0), (5, 0, 0), (1, 3, 33), (299, 300, 99), (4, 4, 100), (5, 4, 100)]
)
def test_percent_is_rounded_down_so_that_100_is_the_end(step: int, of: int, percent: int) -> None:
    assert Progress(phase="Training", step=step, of=of).percent == percent


def test_progress_goes_over_the_wire_in_kubernetes_spelling() -> None:
    progress = Progress(phase="Training", step=3, of=9, tokens_per_second=12.5)
    sent = progress.model_dump_json(by_alias=True)
    assert json.loads(sent)["tokensPerSecond"] == 12.5
    assert Progress.model_validate_json(sent) == progress


def test_an_outcome_leaves_out_what_is_not_known() -> None:
    assert json.loads(Outcome(reason="Succeeded").to_termination_message()) == {"reason": "Succeeded"}


@pytest.mark.parametrize("message", ["x" * 9000, "ß" * 9000, "\n" * 9000, "short", ""])
@pytest.mark.parametrize("figures", [0, 3, 500])
def test_an_outcome_fits_however_long_its_message_is_and_however_many_figures_it_has(
    message: str, figures: int
) -> None:
    outcome = Outcome(
        reason="DataInvalid",
        message=message,
        last_step=7,
        metrics={f"eval.{number}": 0.123456789 for number in range(figures)},
        artifact_uri="s3://models/" + "a" * 1000,
    )
    text = outcome.to_termination_message()
    assert len(text.encode()) <= MAX_OUTCOME_BYTES
    kept = Outcome.model_validate_json(text)
    assert (kept.reason, kept.last_step, kept.artifact_uri) == (outcome.reason, 7, outcome.artifact_uri)
    assert kept.metrics in (outcome.metrics, {})


def test_a_cut_message_keeps_its_beginning_and_says_that_it_was_cut() -> None:
    kept = Outcome.model_validate_json(Outcome(reason="Unexpected", message="ab" * 5000).to_termination_message())
    assert kept.message.startswith("ab" * 1000)
    assert kept.message.endswith(" …")

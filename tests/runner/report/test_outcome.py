import json
from pathlib import Path

import pytest
from llm_api.report import MAX_OUTCOME_BYTES, Outcome
from llm_runner.report.outcome import save_outcome


def test_the_termination_message_is_the_outcome_as_json(tmp_path: Path) -> None:
    outcome = Outcome(reason="DataInvalid", message="train.csv is empty", last_step=0)
    save_outcome(outcome, tmp_path / "log")
    assert Outcome.model_validate_json((tmp_path / "log").read_text()) == outcome


@pytest.mark.parametrize("message", ["x" * 20_000, "ß" * 20_000, "😀" * 20_000, "row 7: »größe« is no number\n" * 300])
def test_a_long_message_is_cut_to_what_kubernetes_keeps(tmp_path: Path, message: str) -> None:
    save_outcome(Outcome(reason="DataInvalid", message=message, last_step=7, metrics={"loss": 1.5}), tmp_path / "log")
    content = (tmp_path / "log").read_bytes()
    assert len(content) <= MAX_OUTCOME_BYTES
    kept = json.loads(content)
    assert (kept["reason"], kept["lastStep"], kept["metrics"]) == ("DataInvalid", 7, {"loss": 1.5})
    assert kept["message"].startswith(message[:500])


def test_without_a_place_of_its_own_nothing_is_written_where_there_is_no_kubernetes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_runner.report.outcome.DEFAULT_TERMINATION_LOG", tmp_path / "log")
    save_outcome(Outcome(reason="Succeeded"), None)
    assert list(tmp_path.iterdir()) == []


def test_without_a_place_of_its_own_it_goes_where_kubernetes_mounts_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_runner.report.outcome.DEFAULT_TERMINATION_LOG", tmp_path / "log")
    (tmp_path / "log").touch()
    save_outcome(Outcome(reason="Succeeded"), None)
    assert json.loads((tmp_path / "log").read_text()) == {"reason": "Succeeded"}

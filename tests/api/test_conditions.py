"""Conditions: one of each type, whose time is that of its last change."""

from datetime import UTC, datetime, timedelta

import pytest
from llm_api.conditions import MAX_MESSAGE_LENGTH, Condition, Reason, find_condition, is_true, set_condition
from llm_api.issues import InvalidConfig, load

from tests.support.documents import paths_of

THEN = datetime(2026, 1, 1, tzinfo=UTC)
NOW = THEN + timedelta(hours=1)


def condition(type_: str = "Running", status: str = "True", at: datetime = THEN, message: str = "") -> Condition:
    return Condition.model_validate(
        {
            "type": type_,
            "status": status,
            "lastTransitionTime": at,
            "reason": Reason.RUNNING.value,
            "message": message,
        }
    )


def test_the_first_of_its_type_goes_to_the_end() -> None:
    assert set_condition([condition("SpecValid")], condition()) == [condition("SpecValid"), condition()]


def test_another_of_its_type_takes_its_place() -> None:
    before = [condition("SpecValid"), condition(), condition("Succeeded")]
    after = set_condition(before, condition(status="False", at=NOW))
    assert after == [condition("SpecValid"), condition(status="False", at=NOW), condition("Succeeded")]


def test_its_time_stays_while_the_status_does_whatever_is_said_about_it() -> None:
    after = set_condition([condition()], condition(at=NOW, message="step 7"))
    assert after == [condition(at=THEN, message="step 7")]


def test_its_time_changes_with_the_status() -> None:
    assert set_condition([condition()], condition(status="Unknown", at=NOW))[0].last_transition_time == NOW


def test_the_list_that_is_given_is_not_changed() -> None:
    before = [condition()]
    set_condition(before, condition(status="False"))
    assert before == [condition()]


@pytest.mark.parametrize(("status", "expected"), [("True", True), ("False", False), ("Unknown", False)])
def test_a_condition_is_true_only_where_its_status_is(status: str, expected: bool) -> None:
    assert is_true([condition(status=status)], "Running") is expected


def test_a_condition_that_is_not_there_is_none_and_not_true() -> None:
    assert find_condition([condition()], "Succeeded") is None
    assert not is_true([condition()], "Succeeded")


def test_a_condition_is_written_as_kubernetes_does() -> None:
    assert condition().model_dump(mode="json", by_alias=True, exclude_none=True) == {
        "type": "Running",
        "status": "True",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "reason": "Running",
        "message": "",
    }


def test_a_condition_that_kubernetes_would_not_store_is_refused() -> None:
    wrong = {
        "type": "is running",
        "status": True,
        "lastTransitionTime": "now",
        "reason": "not a word",
        "message": "x" * (MAX_MESSAGE_LENGTH + 1),
    }
    with pytest.raises(InvalidConfig) as caught:
        load(Condition, wrong)
    assert sorted(paths_of(list(caught.value.issues))) == sorted(wrong)


def test_every_reason_is_one_that_a_condition_may_have() -> None:
    for reason in Reason:
        assert condition().model_copy(update={"reason": reason}).reason == reason
        load(Condition, {**condition().model_dump(by_alias=True, exclude_none=True), "reason": reason.value})


def test_every_error_of_the_runner_is_a_reason() -> None:
    named = {reason.value for reason in Reason}
    assert {"ConfigInvalid", "DataInvalid", "ModelNotFound", "ModelAccessDenied", "OutOfMemory", "Diverged"} <= named
    assert {"GateNotMet", "StorageFailed", "OutputNotWritable", "TargetModulesNotFound", "Stopped"} <= named

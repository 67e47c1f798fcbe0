"""Names, amounts and times as Kubernetes spells them, with what to write where they are spelt otherwise."""

from datetime import datetime, timedelta, timezone
from typing import Annotated, Any

import pytest
from llm_api.names import (
    MAX_RESOURCE_NAME_LENGTH,
    DataKey,
    LabelName,
    LabelValue,
    ObjectName,
    QualifiedName,
    Quantity,
    ResourceName,
    Spelling,
    Time,
    to_rfc3339,
)
from pydantic import TypeAdapter, ValidationError

SPELLINGS = {
    "label name": (LabelName, ["a", "a-b", "0a", "a" * 63], ["", "A", "-a", "a-", "a.b", "a_b", "a" * 64, "a\n"]),
    "object name": (ObjectName, ["a", "a.b-c", "0", "a" * 253], ["", "A", "a..b", ".a", "a.", "a/b", "a" * 254]),
    "resource name": (ResourceName, ["a", "bot-2", "a" * 48], ["", "2bot", "bot-", "a.b", "Bot", "a" * 49]),
    "data key": (DataKey, ["train.csv", "_A-1", "a" * 253], ["", "a/b", "a b", "é", "a" * 254]),
    "qualified name": (
        QualifiedName,
        ["cpu", "nvidia.com/gpu", "A_b.c"],
        ["", "/gpu", "nvidia.com/", "a/b/c", "N.com/a"],
    ),
    "label value": (LabelValue, ["", "a", "A_b.c-1", "a" * 63], ["-a", "a-", "a b", "a" * 64]),
    "quantity": (Quantity, ["1", "500m", "0.5", "32Gi", "1e3", "2E9", 4, 0], ["", "-1", "1GB", "1 Gi", "Gi", 1.5, -1]),
}
GOOD = [(name, value) for name, (_, good, _) in SPELLINGS.items() for value in good]
BAD = [(name, value) for name, (_, _, bad) in SPELLINGS.items() for value in bad]


def check(name: str, value: Any) -> Any:
    return TypeAdapter(SPELLINGS[name][0]).validate_python(value, strict=True)


@pytest.mark.parametrize(("name", "value"), GOOD)
def test_what_kubernetes_accepts_is_accepted(name: str, value: Any) -> None:
    assert check(name, value) == value


@pytest.mark.parametrize(("name", "value"), BAD)
def test_what_kubernetes_refuses_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        check(name, value)


def test_a_wrong_spelling_says_what_to_write() -> None:
    with pytest.raises(ValidationError, match="lower-case letters, digits and '-'"):
        check("label name", "Support_Bot")


def test_a_spelling_hands_its_pattern_to_the_schema() -> None:
    schema = TypeAdapter(Annotated[str, Spelling("^a+$", "write a")]).json_schema()
    assert schema == {"type": "string", "pattern": "^a+$"}


def test_a_resource_name_leaves_room_for_a_hash_and_an_index_in_a_pods_host_name() -> None:
    assert MAX_RESOURCE_NAME_LENGTH + len("-0123456789") + len("-999") <= 63


def test_times_are_written_in_utc_and_whole_seconds() -> None:
    moment = datetime(2026, 3, 1, 14, 30, 15, 999, tzinfo=timezone(timedelta(hours=2)))
    assert to_rfc3339(moment) == "2026-03-01T12:30:15Z"
    assert TypeAdapter(Time).dump_python(moment, mode="json") == "2026-03-01T12:30:15Z"


def test_times_are_read_back_from_what_is_written_and_need_a_zone() -> None:
    adapter = TypeAdapter(Time)
    assert to_rfc3339(adapter.validate_python("2026-03-01T12:30:15Z")) == "2026-03-01T12:30:15Z"
    with pytest.raises(ValidationError):
        adapter.validate_python("2026-03-01T12:30:15")

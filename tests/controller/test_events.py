from datetime import UTC, datetime, timedelta
from typing import Any

from llm_operator.events import MAX_NOTE_BYTES, build_event
from llm_operator.reconcile.plan import EventNote

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
NOTE = EventNote("Warning", "OutOfMemory", "needs 20 GiB, has 16")


def document(version: str = "5", generation: int = 1) -> dict[str, Any]:
    metadata = {
        "namespace": "team",
        "name": "bot",
        "uid": "u",
        "resourceVersion": version,
        "generation": generation,
    }
    return {"apiVersion": "llmoperator.dev/v1alpha1", "kind": "LLMFineTune", "metadata": metadata}


def name(note: EventNote = NOTE, now: datetime = NOW, attempts: int = 0, **state: Any) -> str:
    status = {"attempts": [{}] * attempts}
    return str(build_event(document(**state), status, note, "me", now)["metadata"]["name"])


def test_telling_the_same_twice_is_one_event() -> None:
    assert name() == name(now=NOW + timedelta(seconds=30))


def test_what_happens_again_and_again_in_one_attempt_is_told_once() -> None:
    assert name(version="5") == name(version="6")


def test_what_happens_in_another_attempt_or_after_an_edit_is_another_event() -> None:
    other = EventNote("Normal", "Training", "it trains")
    assert len({name(), name(attempts=1), name(generation=2), name(note=other)}) == 4


def test_an_event_points_at_its_resource() -> None:
    regarding = build_event(document(), {}, NOTE, "me", NOW)["regarding"]
    assert regarding == {
        "apiVersion": "llmoperator.dev/v1alpha1",
        "kind": "LLMFineTune",
        "namespace": "team",
        "name": "bot",
        "uid": "u",
        "resourceVersion": "5",
    }


def test_its_time_always_has_the_six_digits_that_the_api_server_asks_for() -> None:
    assert build_event(document(), {}, NOTE, "me", NOW)["eventTime"] == "2026-03-01T12:00:00.000000Z"


def test_a_long_note_is_cut_between_characters() -> None:
    note = build_event(document(), {}, EventNote("Normal", "Long", "ä" * 2000), "me", NOW)["note"]
    assert len(note.encode()) <= MAX_NOTE_BYTES
    assert note.endswith("ä …")

"""What `kubectl describe` shows of a resource: one event for each thing that a plan has to tell.

An event's name is made from what it says and of which attempt, so telling it twice records it once.
"""

import hashlib
from datetime import UTC, datetime
from typing import Any

from llm_operator.build.names import FIELD_MANAGER
from llm_operator.observed import Manifest
from llm_operator.reconcile.plan import EventNote

MAX_NOTE_BYTES = 1024
ACTION = "Reconcile"


def build_event(document: Manifest, status: Manifest, note: EventNote, instance: str, now: datetime) -> dict[str, Any]:
    """For events.k8s.io/v1, of what became true with ``status``; ``instance`` is the replica that tells it."""
    metadata = document["metadata"]
    reference = {key: document[key] for key in ("apiVersion", "kind")}
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"namespace": metadata["namespace"], "name": _name(document, status, note)},
        "eventTime": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "type": note.type,
        "reason": note.reason,
        "note": _shorten(note.message),
        "action": ACTION,
        "reportingController": FIELD_MANAGER,
        "reportingInstance": instance[:128],
        "regarding": {
            **reference,
            **{key: metadata[key] for key in ("namespace", "name", "uid", "resourceVersion") if key in metadata},
        },
    }


def _name(document: Manifest, status: Manifest, note: EventNote) -> str:
    """The same for the same news of one attempt: a run that evaluates again and again says so once."""
    metadata = document["metadata"]
    attempts = len(status.get("attempts", []))
    state = (metadata["uid"], str(metadata.get("generation", 0)), str(attempts))
    said = "\n".join((*state, note.type, note.reason, note.message))
    return f"{metadata['name']}.{hashlib.sha256(said.encode()).hexdigest()[:16]}"


def _shorten(message: str) -> str:
    """The API server refuses longer notes."""
    text = message.encode()
    if len(text) <= MAX_NOTE_BYTES:
        return message
    return text[: MAX_NOTE_BYTES - 4].decode(errors="ignore") + " …"

"""What is to be done about one resource: plain data, carried out elsewhere.

The order is: ``delete``, ``patch``, ``apply`` (each in its own order), ``finalizer``, ``status``, ``events``. An object
that can't be made is no reason to leave the status unwritten: what the API server refused goes back in as a Refusal.
"""

from dataclasses import dataclass
from typing import Any, Literal

from llm_operator.observed import Manifest


@dataclass(frozen=True)
class ObjectKey:
    """An object in the resource's namespace."""

    api_version: str
    kind: str
    name: str


@dataclass(frozen=True)
class Deletion:
    """An object that goes, with all that it owns; its pods get SIGTERM and their grace period."""

    key: ObjectKey
    uid: str | None = None
    """Precondition: a later object of the same name is left alone."""


@dataclass(frozen=True)
class Patch:
    """A JSON merge patch to an object of which the rest is somebody else's, or can't be changed any more."""

    key: ObjectKey
    body: Manifest


@dataclass(frozen=True)
class EventNote:
    """A Kubernetes event about the resource, to be recorded once."""

    type: Literal["Normal", "Warning"]
    reason: str
    """CamelCase."""
    message: str


@dataclass(frozen=True)
class Plan:
    """Everything empty: nothing is to be done."""

    delete: tuple[Deletion, ...] = ()
    patch: tuple[Patch, ...] = ()
    apply: tuple[Manifest, ...] = ()
    """Whole objects as they are to be, with the operator's field manager; what is somebody else's is refused."""
    finalizer: Literal["add", "remove"] | None = None
    """What becomes of ``build.names.FINALIZER`` on the resource."""
    status: dict[str, Any] | None = None
    """The whole status, for server-side apply on the subresource; None: it is already so, or too soon to say."""
    events: tuple[EventNote, ...] = ()
    again_after_seconds: float | None = None
    """When to look again though nothing is seen to change; None: at the next change or resync."""

"""What the watches have told, in the little memory that ten thousand resources leave for each.

An object is kept as JSON text without what nobody here reads, and parsed when it is asked for. Which resource an object
belongs to is read from its labels. Nothing is fetched and nothing is decided here.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from llm_operator.build.names import FINE_TUNE_LABEL, INFERENCE_LABEL
from llm_operator.compact import from_text, to_text
from llm_operator.observed import Manifest

FINE_TUNE = "LLMFineTune"
INFERENCE = "LLMInference"
OWNER_LABELS: Mapping[str, str] = {FINE_TUNE: FINE_TUNE_LABEL, INFERENCE: INFERENCE_LABEL}


class ObjectId(NamedTuple):
    """One object of any kind."""

    kind: str
    namespace: str
    name: str


ResourceKey = ObjectId
"""One resource of ours; what the queue holds."""


@dataclass(frozen=True, slots=True)
class _Kept:
    uid: str
    version: int
    text: str
    owners: tuple[ResourceKey, ...]
    follows: ResourceKey | None


class Store:
    """Objects by kind, namespace and name, and by the resource that they belong to."""

    def __init__(self) -> None:
        self._kept: dict[ObjectId, _Kept] = {}
        self._belongings: defaultdict[ResourceKey, set[ObjectId]] = defaultdict(set)
        self._followers: defaultdict[ResourceKey, set[ResourceKey]] = defaultdict(set)

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, manifest: Manifest) -> list[ResourceKey]:
        """Keeps the object; returns the resources that it matters to, none if nothing about it is new."""
        id_, metadata = id_of(manifest), manifest["metadata"]
        version = int(metadata.get("resourceVersion", 0))
        known = self._kept.get(id_)
        if known is not None and known.uid == metadata["uid"] and known.version >= version:
            return []
        concerned = self.concerned(id_)
        self._forget(id_)
        self._keep(id_, _Kept(metadata["uid"], version, to_text(manifest), _owners(manifest), _followed(manifest)))
        return list(dict.fromkeys([*concerned, *self.concerned(id_)]))

    def drop(self, id_: ObjectId, uid: str) -> list[ResourceKey]:
        """Forgets the object, unless a later one has its name by now; returns the resources that it mattered to."""
        known = self._kept.get(id_)
        if known is None or known.uid != uid:
            return []
        concerned = self.concerned(id_)
        self._forget(id_)
        return concerned

    def get(self, id_: ObjectId) -> Manifest | None:
        kept = self._kept.get(id_)
        return None if kept is None else from_text(kept.text)

    def uid(self, id_: ObjectId) -> str | None:
        kept = self._kept.get(id_)
        return None if kept is None else kept.uid

    def concerned(self, id_: ObjectId) -> list[ResourceKey]:
        """Resources that must be looked at when the object changes."""
        kept = self._kept.get(id_)
        return [] if kept is None else [*kept.owners, *self._followers.get(id_, ())]

    def belongings(self, key: ResourceKey, kind: str) -> list[Manifest]:
        """Objects of ``kind`` that carry the resource's label, by name."""
        ids = sorted(id_ for id_ in self._belongings.get(key, ()) if id_.kind == kind)
        return [from_text(self._kept[id_].text) for id_ in ids]

    def resources(self) -> Iterator[ResourceKey]:
        """All resources of ours."""
        return (id_ for id_ in list(self._kept) if id_.kind in OWNER_LABELS)

    def identities(self, kind: str) -> dict[ObjectId, str]:
        """UIDs of all objects of a kind."""
        return {id_: kept.uid for id_, kept in self._kept.items() if id_.kind == kind}

    def _keep(self, id_: ObjectId, kept: _Kept) -> None:
        self._kept[id_] = kept
        for owner in kept.owners:
            self._belongings[owner].add(id_)
        if kept.follows is not None:
            self._followers[kept.follows].add(id_)

    def _forget(self, id_: ObjectId) -> None:
        kept = self._kept.pop(id_, None)
        if kept is None:
            return
        for owner in kept.owners:
            _discard(self._belongings, owner, id_)
        if kept.follows is not None:
            _discard(self._followers, kept.follows, id_)


def id_of(manifest: Manifest) -> ObjectId:
    metadata = manifest["metadata"]
    return ObjectId(manifest["kind"], metadata["namespace"], metadata["name"])


def _owners(manifest: Manifest) -> tuple[ResourceKey, ...]:
    id_ = id_of(manifest)
    if id_.kind in OWNER_LABELS:
        return (id_,)
    labels = manifest["metadata"].get("labels", {})
    return tuple(
        ResourceKey(kind, id_.namespace, labels[label]) for kind, label in OWNER_LABELS.items() if labels.get(label)
    )


def _followed(manifest: Manifest) -> ResourceKey | None:
    """The fine-tune whose artifact an inference uses."""
    if manifest["kind"] != INFERENCE:
        return None
    reference = ((manifest.get("spec") or {}).get("model") or {}).get("fineTuneRef") or {}
    name = reference.get("name")
    return ResourceKey(FINE_TUNE, manifest["metadata"]["namespace"], name) if isinstance(name, str) else None


def _discard(index: defaultdict[ResourceKey, set[ObjectId]], key: ResourceKey, id_: ObjectId) -> None:
    index[key].discard(id_)
    if not index[key]:
        del index[key]

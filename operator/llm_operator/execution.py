"""A plan, carried out in its order against the cluster. Each write asks first whether this replica still leads.

What the API server refuses is returned, as nobody but the user can change it; what may pass is raised.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

from llm_api.conditions import Reason

from llm_operator.build.names import FINALIZER
from llm_operator.cluster import Cluster
from llm_operator.errors import ClusterError, NameTaken, NotFound, OperatorError, Refused
from llm_operator.events import build_event
from llm_operator.observed import Manifest, Refusal
from llm_operator.reconcile.plan import EventNote, ObjectKey, Patch, Plan

logger = logging.getLogger(__name__)

Write = Callable[[], Awaitable[None]]


class LeadershipLost(OperatorError):
    """Another replica may be writing by now."""


class Leader(Protocol):
    @property
    def is_leading(self) -> bool: ...

    @property
    def identity(self) -> str: ...


class Execution:
    """Writes for the leader; ``keep`` is told each object as it is after a write."""

    def __init__(self, cluster: Cluster, leader: Leader, keep: Callable[[Manifest], None]) -> None:
        self._cluster = cluster
        self._leader = leader
        self._keep = keep

    async def carry_out(self, plan: Plan, document: Manifest) -> tuple[Refusal, ...]:
        """What was refused of ``plan``, whose resource is ``document``."""
        refusals = await self._write_objects(plan, document)
        if await self._write_resource(plan, document):
            for note in plan.events:
                await self._tell(document, plan.status, note)
        return refusals

    async def _write_objects(self, plan: Plan, document: Manifest) -> tuple[Refusal, ...]:
        """Ends with the first that is refused: the next ones may need it."""
        for key, write in self._writes(plan, document["metadata"]["namespace"]):
            self._check_leadership()
            try:
                await write()
            except Refused as error:
                reason = Reason.NAME_TAKEN if isinstance(error, NameTaken) else None
                return (Refusal(key.kind, key.name, str(error), reason),)
            except NotFound:
                # It or its namespace went meanwhile; its watch says so, and what then is for the next plan.
                logger.debug("%s %s is gone", key.kind, key.name)
        return ()

    def _writes(self, plan: Plan, namespace: str) -> Iterator[tuple[ObjectKey, Write]]:
        for deletion in plan.delete:
            yield deletion.key, partial(self._cluster.delete, deletion, namespace)
        for patch in plan.patch:
            yield patch.key, partial(self._patch, patch, namespace)
        for manifest in plan.apply:
            yield _key_of(manifest), partial(self._apply, manifest)

    async def _patch(self, patch: Patch, namespace: str) -> None:
        self._keep(await self._cluster.patch(patch.key, namespace, patch.body))

    async def _apply(self, manifest: Manifest) -> None:
        self._keep(await self._cluster.apply(manifest))

    async def _write_resource(self, plan: Plan, document: Manifest) -> bool:
        """Whether the resource was still there to write to."""
        try:
            if plan.finalizer is not None:
                self._check_leadership()
                self._keep(await self._cluster.patch_finalizers(document, _finalizers(plan, document)))
            if plan.status is not None:
                self._check_leadership()
                self._keep(await self._cluster.apply_status(document, plan.status))
        except NotFound:
            return False
        return True

    async def _tell(self, document: Manifest, status: Manifest | None, note: EventNote) -> None:
        """An event that can't be recorded is no reason to do anything again."""
        self._check_leadership()
        known = document.get("status", {}) if status is None else status
        try:
            await self._cluster.create(build_event(document, known, note, self._leader.identity, datetime.now(UTC)))
        except ClusterError as error:
            logger.debug("%s", error)

    def _check_leadership(self) -> None:
        if not self._leader.is_leading:
            raise LeadershipLost("this replica doesn't lead any more")


def _finalizers(plan: Plan, document: Manifest) -> list[str]:
    others = [finalizer for finalizer in document["metadata"].get("finalizers", []) if finalizer != FINALIZER]
    return [*others, FINALIZER] if plan.finalizer == "add" else others


def _key_of(manifest: Manifest) -> ObjectKey:
    return ObjectKey(manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"])

"""A Lease in front of a hot standby: one replica writes, the others watch and wait.

The library's own election neither bounds a renewal that hangs nor survives a refused connection, so a leader that is
cut off would go on believing in itself. Here leadership is a moment on a monotonic clock: who could not renew until
then has stopped writing well before anyone else may begin. Clocks of other machines are never compared with.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from llm_operator.errors import AlreadyExists, ClusterError, Conflict, NotFound
from llm_operator.reconcile.plan import ObjectKey

logger = logging.getLogger(__name__)

API_VERSION, KIND = "coordination.k8s.io/v1", "Lease"

LEASE_SECONDS = 15
"""How long the others wait after the last renewal that they saw."""
RENEW_SECONDS = 10
"""How long a leader believes in its last renewal; less than the above, for requests that are under way."""
RETRY_SECONDS = 2
"""Between two tries."""
TRY_SECONDS = 5
"""How long a try may take: an API server that is busy answers late, which is no reason to stop working for it."""
RELEASE_SECONDS = 2

Lease = Mapping[str, Any]


class Objects(Protocol):
    """What is needed of the cluster; replacing an object that was changed meanwhile raises Conflict."""

    async def read(self, key: ObjectKey, namespace: str | None) -> Lease: ...

    async def create(self, manifest: Lease) -> Lease: ...

    async def replace(self, manifest: Lease) -> Lease: ...


class Leadership:
    """Whether this replica leads, renewed for as long as ``run`` runs."""

    def __init__(
        self,
        objects: Objects,
        namespace: str,
        name: str,
        identity: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.identity = identity
        self.holder: str | None = None
        """Who was last seen to lead."""
        self._objects = objects
        self._namespace = namespace
        self._key = ObjectKey(API_VERSION, KIND, name)
        self._clock = clock
        self._leads_until = float("-inf")
        self._seen: tuple[Any, ...] | None = None
        self._seen_at = float("-inf")
        self._gained = asyncio.Event()

    @property
    def is_leading(self) -> bool:
        return self._clock() < self._leads_until

    async def wait(self) -> None:
        """Until this replica leads."""
        while not self.is_leading:
            self._gained.clear()
            await self._gained.wait()

    async def run(self) -> None:
        """Never returns; gives the lease back when it is cancelled."""
        try:
            while True:
                await self._try()
                await asyncio.sleep(RETRY_SECONDS)
        finally:
            if self.is_leading:
                await self._release()

    async def _try(self) -> None:
        was_leading, started = self.is_leading, self._clock()
        try:
            async with asyncio.timeout(TRY_SECONDS):
                taken = await self._take()
        except (TimeoutError, ClusterError) as error:
            logger.warning("the lease %s/%s can't be renewed now: %s", self._namespace, self._key.name, _cause(error))
            return
        self._leads_until = started + RENEW_SECONDS if taken else float("-inf")
        if taken:
            self._gained.set()
        if taken != was_leading:
            logger.info("%s %s", self.identity, "leads" if taken else f"stands by for {self.holder}")

    async def _take(self) -> bool:
        """Whether the lease is ours now."""
        try:
            lease = await self._objects.read(self._key, self._namespace)
            if not self._may_take(lease):
                return False
            await self._objects.replace({**lease, "spec": self._spec(lease.get("spec", {}))})
        except NotFound:
            return await self._create()
        except Conflict:
            return False
        self.holder = self.identity
        return True

    async def _create(self) -> bool:
        metadata = {"namespace": self._namespace, "name": self._key.name}
        lease = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": self._spec({})}
        try:
            await self._objects.create(lease)
        except AlreadyExists:
            return False
        self.holder = self.identity
        return True

    def _may_take(self, lease: Lease) -> bool:
        spec = lease.get("spec", {})
        record = (spec.get("holderIdentity"), spec.get("renewTime"), spec.get("leaseTransitions"))
        if record != self._seen:
            self._seen, self._seen_at = record, self._clock()
        self.holder = spec.get("holderIdentity")
        if not self.holder or self.holder == self.identity:
            return True
        lasts_seconds: float = spec.get("leaseDurationSeconds", LEASE_SECONDS)
        return self._clock() > self._seen_at + lasts_seconds

    def _spec(self, old: Mapping[str, Any]) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        renewed = {"holderIdentity": self.identity, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now}
        if old.get("holderIdentity") == self.identity:
            return {**old, **renewed}
        return {**old, **renewed, "acquireTime": now, "leaseTransitions": old.get("leaseTransitions", 0) + 1}

    async def _release(self) -> None:
        """Lets the standby begin at once instead of when the lease runs out."""
        self._leads_until = float("-inf")
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                lease = await self._objects.read(self._key, self._namespace)
                if lease.get("spec", {}).get("holderIdentity") == self.identity:
                    await self._objects.replace({**lease, "spec": {**lease["spec"], "holderIdentity": ""}})
        except (TimeoutError, ClusterError) as error:
            logger.info("the lease is left to run out: %s", _cause(error))


def _cause(error: Exception) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else str(error)


class SoleReplica:
    """Leads always: for one replica without a Lease."""

    is_leading = True
    identity = holder = "sole-replica"

    async def wait(self) -> None:
        return

    async def run(self) -> None:
        await asyncio.Event().wait()

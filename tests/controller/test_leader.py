import asyncio
import copy
from collections.abc import Mapping
from typing import Any

import pytest
from llm_operator.errors import AlreadyExists, Conflict, NotFound, Unavailable
from llm_operator.leader import LEASE_SECONDS, RENEW_SECONDS, Leadership
from llm_operator.reconcile.plan import ObjectKey


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Leases:
    """One Lease as the API server keeps it: versions are checked, and it may be out of reach."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.is_down = False
        self.hangs = False
        self.late_seconds = 0.0

    async def read(self, key: ObjectKey, namespace: str | None) -> Mapping[str, Any]:
        await self._answer()
        if self.lease is None:
            raise NotFound("no lease")
        return copy.deepcopy(self.lease)

    async def create(self, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
        await self._answer()
        if self.lease is not None:
            raise AlreadyExists("there is one")
        return self._store(manifest, 1)

    async def replace(self, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
        await self._answer()
        assert self.lease is not None
        version = self.lease["metadata"]["resourceVersion"]
        if manifest["metadata"]["resourceVersion"] != version:
            raise Conflict("somebody was faster")
        return self._store(manifest, int(version) + 1)

    def _store(self, manifest: Mapping[str, Any], version: int) -> Mapping[str, Any]:
        lease = copy.deepcopy(dict(manifest))
        lease["metadata"]["resourceVersion"] = str(version)
        self.lease = lease
        return copy.deepcopy(lease)

    async def _answer(self) -> None:
        await asyncio.sleep(self.late_seconds)
        if self.hangs:
            await asyncio.Event().wait()
        if self.is_down:
            raise Unavailable("connection refused")

    @property
    def holder(self) -> str:
        assert self.lease is not None
        holder: str = self.lease["spec"]["holderIdentity"]
        return holder


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leases() -> Leases:
    return Leases()


def replica(leases: Leases, clock: Clock, name: str) -> Leadership:
    return Leadership(leases, "system", "llm-operator", name, clock)


def turn(*replicas: Leadership) -> None:
    for one in replicas:
        asyncio.run(one._try())


def test_the_first_leads_and_the_second_stands_by(leases: Leases, clock: Clock) -> None:
    first, second = replica(leases, clock, "a"), replica(leases, clock, "b")
    turn(first, second)
    assert (first.is_leading, second.is_leading) == (True, False)
    assert second.holder == "a"


def test_a_leader_that_renews_is_not_replaced(leases: Leases, clock: Clock) -> None:
    first, second = replica(leases, clock, "a"), replica(leases, clock, "b")
    for _ in range(30):
        turn(first, second)
        assert (first.is_leading, second.is_leading) == (True, False)
        clock.now += RENEW_SECONDS / 2


def test_a_leader_that_died_is_replaced_after_its_lease_and_not_before(leases: Leases, clock: Clock) -> None:
    first, second = replica(leases, clock, "a"), replica(leases, clock, "b")
    turn(first, second)
    clock.now += LEASE_SECONDS
    turn(second)
    assert not second.is_leading
    clock.now += 0.1
    turn(second)
    assert second.is_leading
    assert leases.holder == "b"
    assert leases.lease is not None
    assert leases.lease["spec"]["leaseTransitions"] == 2


@pytest.mark.parametrize("fault", ["is_down", "hangs"])
def test_a_leader_that_is_cut_off_stops_before_another_may_begin(leases: Leases, clock: Clock, fault: str) -> None:
    first = replica(leases, clock, "a")
    turn(first)
    setattr(leases, fault, True)
    clock.now += RENEW_SECONDS - 0.1
    turn(first)
    assert first.is_leading, "one renewal that fails is no reason to stop"
    clock.now += 0.1
    assert not first.is_leading
    assert RENEW_SECONDS < LEASE_SECONDS


def test_an_api_server_that_answers_late_is_no_reason_to_stop(leases: Leases, clock: Clock) -> None:
    first = replica(leases, clock, "a")
    turn(first)
    leases.late_seconds = 1.2  # twice, as a renewal is two requests
    clock.now += RENEW_SECONDS - 1
    turn(first)
    clock.now += RENEW_SECONDS - 1
    assert first.is_leading


def test_of_two_that_take_over_at_once_one_wins(leases: Leases, clock: Clock) -> None:
    turn(replica(leases, clock, "gone"))
    first, second = replica(leases, clock, "a"), replica(leases, clock, "b")
    turn(first, second)
    clock.now += LEASE_SECONDS + 1

    async def both() -> None:
        await asyncio.gather(first._try(), second._try())

    asyncio.run(both())
    assert [first.is_leading, second.is_leading].count(True) == 1


def test_a_leader_that_ends_hands_over_at_once(leases: Leases, clock: Clock) -> None:
    first, second = replica(leases, clock, "a"), replica(leases, clock, "b")

    async def lead_and_end() -> None:
        running = asyncio.create_task(first.run())
        await first.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(lead_and_end())
    assert leases.holder == ""
    turn(second)
    assert second.is_leading


def test_a_lease_that_was_deleted_is_made_anew(leases: Leases, clock: Clock) -> None:
    first = replica(leases, clock, "a")
    turn(first)
    leases.lease = None
    turn(first)
    assert first.is_leading
    assert leases.holder == "a"

"""Reports that reach a replica which doesn't lead: they are passed on, once, with the token that they came with."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientSession
from llm_operator.errors import Unavailable
from llm_operator.observed import Manifest, ProgressReport
from llm_operator.progress import ProgressEndpoint
from llm_operator.replica import address_of
from llm_operator.serving import serve
from llm_operator.tokens import Tokens

from tests.support.pod_tokens import Reviewer, token

POD = {"metadata": {"uid": "uid-0", "labels": {"batch.kubernetes.io/job-name": "bot-1"}}}


class Role:
    """Of one replica; ``holder`` is whom it takes for the leader."""

    def __init__(self, is_leading: bool, holder: str | None = None) -> None:
        self.is_leading = is_leading
        self.holder = holder


class Taken:
    """What a replica took."""

    def __init__(self) -> None:
        self.reports: list[ProgressReport] = []

    def pod(self, namespace: str, name: str) -> Manifest | None:
        return POD

    def take_report(self, namespace: str, report: ProgressReport) -> None:
        self.reports.append(report)


@asynccontextmanager
async def replica(role: Role, taken: Taken, reviewer: Any = None) -> AsyncIterator[int]:
    tokens = Tokens(Reviewer() if reviewer is None else reviewer, lambda: 1_800_000_000.0)
    endpoint = ProgressEndpoint(tokens, taken, role, lambda status: None, address_of)
    async with serve(endpoint.build_app(), "127.0.0.1", 0) as port:
        yield port


async def send(port: int, body: str = '{"phase": "Training", "step": 3}') -> int:
    url = f"http://127.0.0.1:{port}/progress/team/bot-1"
    async with (
        ClientSession() as session,
        session.post(url, data=body, headers={"Authorization": f"Bearer {token()}"}) as answer,
    ):
        return answer.status


def test_a_standby_passes_a_report_on_to_the_leader() -> None:
    async def scenario() -> None:
        led, idle = Taken(), Taken()
        async with (
            replica(Role(True), led) as leader,
            replica(Role(False, f"first@127.0.0.1:{leader}"), idle) as standby,
        ):
            assert await send(standby) == 204
            assert await send(standby, "nonsense") == 400, "the leader's answer comes back"
        assert [report.progress.step for report in led.reports] == [3]
        assert idle.reports == []

    asyncio.run(scenario())


def test_two_replicas_that_take_each_other_for_the_leader_do_not_pass_on_for_ever() -> None:
    async def scenario() -> None:
        first, second = Role(False), Role(False)
        async with replica(first, Taken()) as one, replica(second, Taken()) as other:
            first.holder, second.holder = f"second@127.0.0.1:{other}", f"first@127.0.0.1:{one}"
            async with asyncio.timeout(5):
                assert await send(one) == 503

    asyncio.run(scenario())


def test_without_a_leader_that_can_be_reached_the_runner_is_told_so() -> None:
    async def scenario() -> None:
        for holder in (None, "first", "first@127.0.0.1:9"):
            async with replica(Role(False, holder), Taken()) as port:
                assert await send(port) == 503

    asyncio.run(scenario())


def test_an_api_server_that_can_not_check_a_token_is_no_fault_of_the_token() -> None:
    class Silent:
        async def review_token(self, token: str, audience: str) -> Mapping[str, Any]:
            raise Unavailable("no answer")

    async def scenario() -> None:
        async with replica(Role(True), Taken(), Silent()) as port:
            assert await send(port) == 503

    asyncio.run(scenario())

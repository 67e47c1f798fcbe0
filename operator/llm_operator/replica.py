"""One replica of the operator, put together: who knows whom, what runs beside what, and what ends when."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import kopf

from llm_operator import webhook
from llm_operator.cluster import Cluster, connect
from llm_operator.connection import build_login
from llm_operator.controller import Controller, Planner
from llm_operator.errors import Unavailable
from llm_operator.execution import Execution
from llm_operator.feed import Feed
from llm_operator.handlers import build_registry, build_settings
from llm_operator.health import Heartbeats, wait_for_beginning
from llm_operator.leader import Leadership, SoleReplica
from llm_operator.metrics import Metrics
from llm_operator.observation import Observer
from llm_operator.options import Options
from llm_operator.progress import ProgressEndpoint
from llm_operator.resync import Resync
from llm_operator.serving import build_status_app, serve
from llm_operator.settings import Settings
from llm_operator.store import ResourceKey
from llm_operator.tokens import Tokens
from llm_operator.watched import ALL, RESOURCES
from llm_operator.workqueue import WorkQueue

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 5.0


class Replica:
    """Everything that lives as long as the process."""

    def __init__(self, options: Options, settings: Settings, planners: Mapping[str, Planner]) -> None:
        self._options = options
        self._settings = settings
        self._planners = planners
        self._namespaces: tuple[str | None, ...] = settings.watch_namespaces or (None,)
        self._queue: WorkQueue[ResourceKey] = WorkQueue()
        self._feed = Feed(self._queue, settings.status_interval_seconds)
        self._metrics = Metrics()
        self._heartbeats = Heartbeats()
        self._ports = AsyncExitStack()

    async def run(self) -> None:
        """Until SIGTERM or SIGINT; raises what stopped it otherwise."""
        async with connect(self._metrics.trace()) as cluster, self._ports:
            leadership = self._build_leadership(cluster)
            self._watch_values(leadership)
            await self._open_status_port()
            await wait_for_kinds(cluster)
            await self._open_progress_port(cluster, leadership)
            async with run_beside(*self._background(cluster, leadership), *await self._open_webhook()):
                await self._watch()
            self._queue.close()

    def _build_leadership(self, cluster: Cluster) -> Leadership | SoleReplica:
        options = self._options
        if not options.leader_election:
            return SoleReplica()
        return Leadership(cluster, options.lease_namespace, options.lease_name, identity_of(options))

    def _watch_values(self, leadership: Leadership | SoleReplica) -> None:
        watch, metrics = self._metrics.watch_value, self._metrics
        watch("llm_operator_queue_depth", "Resources that wait to be looked at.", lambda: len(self._queue))
        watch("llm_operator_leading", "1 on the replica that writes.", lambda: float(leadership.is_leading))
        watch("llm_operator_watch_age_seconds", "Since the quietest watch was heard.", self._heartbeats.age_seconds)
        metrics.watch_runs(self._feed)

    def _background(self, cluster: Cluster, leadership: Leadership | SoleReplica) -> list[Coroutine[Any, Any, None]]:
        execution = Execution(cluster, leadership, self._feed.keep)
        observer = Observer(self._feed, cluster)
        controller = Controller(self._queue, observer, self._planners, execution, leadership, self._metrics)
        resync = Resync(cluster, self._feed, self._queue, self._namespaces, self._options.resync_seconds)
        workers = [self._work(controller) for _ in range(self._options.workers)]
        return [leadership.run(), resync.run(), resync.follow(self._heartbeats.gap), *workers]

    async def _work(self, controller: Controller) -> None:
        await wait_for_beginning(self._is_heard, lambda: self._feed.taken)
        await controller.work()

    def _is_heard(self) -> bool:
        return self._heartbeats.has_heard([kind.path(namespace) for kind in ALL for namespace in self._namespaces])

    async def _open_status_port(self) -> None:
        app = build_status_app(self._metrics.registry, self._heartbeats.is_alive, self._is_heard)
        await self._open("status", serve(app, self._options.listen_address, self._options.status_port))

    async def _open_progress_port(self, cluster: Cluster, leadership: Leadership | SoleReplica) -> None:
        def count(status: int) -> None:
            self._metrics.progress_reports.labels(str(status)).inc()

        endpoint = ProgressEndpoint(Tokens(cluster), self._feed, leadership, count, address_of)
        app = endpoint.build_app()
        await self._open("progress", serve(app, self._options.listen_address, self._options.progress_port))

    async def _open_webhook(self) -> list[Coroutine[Any, Any, None]]:
        """What must run beside it."""
        options = self._options
        if options.webhook_cert_dir is None:
            return []
        certificate = webhook.Certificate(options.webhook_cert_dir)
        port = serve(webhook.build_app(), options.listen_address, options.webhook_port, certificate.context)
        await self._open("webhook", port)
        return [certificate.follow()]

    async def _open(self, name: str, port: AbstractAsyncContextManager[int]) -> None:
        logger.info("%s port %d is open", name, await self._ports.enter_async_context(port))

    async def _watch(self) -> None:
        login = build_login([self._heartbeats.trace(), self._metrics.trace()])
        namespaces = self._settings.watch_namespaces
        await kopf.operator(
            registry=build_registry(self._feed, login, self._ports.aclose),
            settings=build_settings(),
            standalone=True,
            clusterwide=not namespaces,
            namespaces=namespaces,
        )


async def wait_for_kinds(cluster: Cluster) -> None:
    """kopf looks once which kinds there are; CRDs that come later than the operator would never be watched."""
    for kind in RESOURCES:
        while not await _has_kind(cluster, kind.api_version, kind.kind):
            logger.warning("the cluster has no %s yet: apply the CRDs", kind.kind)
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)


async def _has_kind(cluster: Cluster, api_version: str, kind: str) -> bool:
    while True:
        try:
            return await cluster.has_kind(api_version, kind)
        except Unavailable as error:
            logger.warning("%s", error)
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)


@asynccontextmanager
async def run_beside(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Until the body ends. One that fails ends the body, and its error is raised."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in work]
        yield
        for task in tasks:
            task.cancel()


def identity_of(options: Options) -> str:
    """What a Lease shows as its holder, with the address at which the others find it."""
    if options.replica_address is None:
        return options.replica_name
    host = f"[{options.replica_address}]" if ":" in options.replica_address else options.replica_address
    return f"{options.replica_name}@{host}:{options.progress_port}"


def address_of(identity: str) -> str | None:
    """Where reports for the replica of that identity go."""
    _, found, address = identity.rpartition("@")
    return f"http://{address}" if found else None

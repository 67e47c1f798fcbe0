"""How the watches reach the API server: kopf's own ways to log in, with a session that tells how it fares."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohttp
import kopf

from llm_operator.cluster import is_in_cluster

SECONDS_BETWEEN_LOGINS = 1.0
"""A token that is refused is read anew, but not as fast as the API server can refuse it."""


def build_login(traces: Sequence[aiohttp.TraceConfig]) -> Callable[..., Awaitable[kopf.AiohttpSession]]:
    """A login handler of kopf; it is called again whenever the session's token is refused."""
    next_login = 0.0

    async def login(settings: kopf.OperatorSettings, **arguments: Any) -> kopf.AiohttpSession:
        nonlocal next_login
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, next_login - loop.time()))
        next_login = loop.time() + SECONDS_BETWEEN_LOGINS
        return _open(_find_account(settings), traces)

    return login


def _find_account(settings: kopf.OperatorSettings) -> kopf.ConnectionInfo:
    read = kopf.login_with_service_account if is_in_cluster() else kopf.login_with_kubeconfig
    info = read(settings=settings)
    if info is None:
        raise kopf.LoginError("there is neither a service account nor a kubeconfig: set KUBECONFIG")
    return info


def _open(info: kopf.ConnectionInfo, traces: Sequence[aiohttp.TraceConfig]) -> kopf.AiohttpSession:
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
        headers=info.as_http_headers(),
        proxy=info.proxy_url,
        trust_env=info.trust_env,
        trace_configs=list(traces),
    )
    return kopf.AiohttpSession(server=info.server, aiohttp_session=session, default_namespace=info.default_namespace)

"""``llm-runner serve``: a ServeRun from its file to a server that was stopped."""

import socket
from pathlib import Path

from llm_api.report import Outcome
from llm_api.run import ServeRun

from llm_runner.errors import ConfigInvalid
from llm_runner.generate.engine import Load
from llm_runner.report.reporter import Reporter
from llm_runner.serve.adapters import to_adapter_runs
from llm_runner.serve.app import ServerState, build_app
from llm_runner.serve.follow import ArtifactFollower
from llm_runner.serve.load import load_service
from llm_runner.serve.metrics import ServerMetrics
from llm_runner.serve.server import ModelServer
from llm_runner.serve.service import Service

BACKLOG = 2048
"""Connections that may wait to be accepted."""


def serve(run: ServeRun, *, reporter: Reporter, work_path: Path) -> Outcome:
    """Serves until SIGTERM or Ctrl-C. Raises a RunError that says what went wrong."""
    key_path = None if run.api_key_path is None else Path(run.api_key_path)
    _check_key(key_path)
    state = ServerState(ServerMetrics(lambda: _load_of(state)))
    with _listen(run.host, run.port) as listener:
        port = listener.getsockname()[1]

        def load() -> Service:
            followers = [ArtifactFollower(one, reporter, work_path) for one in (run, *to_adapter_runs(run))]
            service = load_service(run, state.metrics, reporter, work_path)
            for follower in followers:
                follower.start(service)
            names = ", ".join(model.name for model in service.models.all())
            reporter.info(f"{names}: served at http://{run.host}:{port}")
            return service

        ModelServer(build_app(state, api_key_path=key_path), state, load).run(listener)
    return Outcome(reason="Stopped")


def _load_of(state: ServerState) -> Load | None:
    return None if state.service is None else state.service.engine.load()


def _check_key(path: Path | None) -> None:
    if path is None:
        return
    try:
        is_empty = not path.read_bytes().strip()
    except OSError as error:
        raise ConfigInvalid(f"serve.apiKey: the key in {path} can't be read: {error.strerror}") from error
    if is_empty:
        raise ConfigInvalid(f"serve.apiKey: {path} is empty, and an empty key would open the server to all")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        raise ConfigInvalid(f"{host}:{port} can't be listened at: {error}") from error

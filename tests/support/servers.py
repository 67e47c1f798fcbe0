"""Real servers on loopback, each in a thread of this process, over models small enough to make on the spot."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socket import create_server
from typing import Any

from llm_api.run import ServeRun
from llm_runner.report.reporter import Reporter
from llm_runner.serve.app import ServerState, build_app
from llm_runner.serve.load import load_service
from llm_runner.serve.metrics import ServerMetrics
from llm_runner.serve.server import ModelServer
from llm_runner.serve.service import Service
from openai import OpenAI

from tests.support.models import llama_config, save_model, tiny_tokenizer

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'assistant' and loop.first %}"
    "{{ raise_exception('the assistant may not begin') }}{% endif %}"
    "<{{ message.role }}>{{ message.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@dataclass
class Answer:
    """Of a plain HTTP request."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)

    @property
    def error(self) -> Any:
        return self.body["error"]


@dataclass
class RunningServer:
    """A server that is ready."""

    port: int
    state: ServerState
    server: ModelServer
    thread: threading.Thread
    clients: list[OpenAI] = field(default_factory=list)

    @property
    def service(self) -> Service:
        return self.state.ready_service()

    def client(self, **options: Any) -> OpenAI:
        """Closed with the server."""
        url = f"http://127.0.0.1:{self.port}/v1"
        client = OpenAI(base_url=url, **{"api_key": "-", "max_retries": 0, "timeout": 60, **options})
        self.clients.append(client)
        return client

    def get(self, path: str) -> Answer:
        return self._send(urllib.request.Request(f"http://127.0.0.1:{self.port}{path}"))

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.port}{path}"
        return self._send(urllib.request.Request(url, data, {"Content-Type": "application/json", **headers}))

    def _send(self, request: urllib.request.Request) -> Answer:
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return Answer(response.status, dict(response.headers), response.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers), error.read().decode())


def save_chat_model(folder: Path, **changes: Any) -> Path:
    """A tiny model that can be chatted with; what it says is noise, but always the same."""
    save_model(folder, llama_config(**changes))
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def serve_run(base: Path, config: dict[str, Any] | None = None, **changes: Any) -> ServeRun:
    document = {
        "kind": "ServeRun",
        "name": "tiny",
        "config": {"base_model": str(base), **({} if config is None else config)},
        "model": {},
        "host": "127.0.0.1",
        "port": 0,
        **changes,
    }
    return ServeRun.model_validate(document)


@contextmanager
def running_server(run: ServeRun, work_path: Path, **options: Any) -> Iterator[RunningServer]:
    """Yields once the model is loaded; on leaving, the server is stopped without waiting for anyone."""
    state = ServerState(ServerMetrics(lambda: None if state.service is None else state.service.engine.load()))
    app = build_app(state, api_key_path=None if run.api_key_path is None else Path(run.api_key_path), **options)
    loaded = threading.Event()

    def load() -> Service:
        try:
            return load_service(run, state.metrics, Reporter([]), work_path)
        finally:
            loaded.set()

    with create_server(("127.0.0.1", 0)) as listener:
        server = ModelServer(app, state, load, drain_seconds=0)
        thread = threading.Thread(target=server.run, args=[listener])
        thread.start()
        assert loaded.wait(timeout=120)
        running = RunningServer(listener.getsockname()[1], state, server, thread)
        try:
            while running.get("/readyz").status != 200:
                pass
            yield running
        finally:
            for client in running.clients:
                client.close()
            server.drain()
            thread.join(timeout=60)
    assert not thread.is_alive()

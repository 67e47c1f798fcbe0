"""The server against its own OpenAPI document: schemathesis writes requests that keep and break it.

Each is answered with a status, a type and a shape that the document names, never by 5xx. A body that the document
allows may still be refused: how fields go together is not said in it.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from llm_runner.serve.app import ServerState, build_app
from llm_runner.serve.metrics import ServerMetrics
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks

from tests.support.servers import RunningServer, running_server, save_chat_model, serve_run

EXAMPLES = 150
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
]
BOUNDED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)

load_all_checks()
schema = schemathesis.openapi.from_dict(
    build_app(ServerState(ServerMetrics(lambda: None))).openapi(),
    # Every bound of every one of some sixty fields would take minutes.
    config=schemathesis.Config.from_dict({"phases": {"coverage": {"enabled": False}}}),
)


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Its context is short, so that no answer takes long."""
    folder = tmp_path_factory.mktemp("described")
    base = save_chat_model(folder / "model", max_position_embeddings=64)
    with running_server(serve_run(base, {"generation": {"max_new_tokens": 4}}), folder / "work") as running:
        yield running


@schema.parametrize()
@BOUNDED
def test_every_path_answers_as_the_document_says(case: schemathesis.Case, described: RunningServer) -> None:
    if case.meta.generation.mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
        case.body["model"] = "tiny"
    case.call_and_validate(base_url=f"http://127.0.0.1:{described.port}", checks=CHECKS)


def test_the_document_names_every_path_and_status(described: RunningServer) -> None:
    paths = described.get("/openapi.json").body["paths"]
    assert {"/v1/models", "/v1/models/{name}", "/v1/completions", "/v1/chat/completions"} <= paths.keys()
    told = paths["/v1/completions"]["post"]["responses"]
    assert set(told) == {"200", "400", "404", "413", "429", "500", "503"}


def test_the_document_of_a_server_with_a_key_says_so(chat_model_path: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret")
    with running_server(serve_run(chat_model_path, apiKeyPath=str(tmp_path / "key")), tmp_path) as running:
        document = running.get("/openapi.json").body
    assert document["components"]["securitySchemes"] == {"apiKey": {"type": "http", "scheme": "bearer"}}
    assert "401" in document["paths"]["/v1/models"]["get"]["responses"]
    assert "security" not in document["paths"]["/healthz"]["get"]

"""The HTTP application: OpenAI's paths, what Kubernetes asks for, and metrics. Handlers hand over and never block."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from llm_api.issues import InvalidConfig, load
from llm_api.model import Model
from starlette.exceptions import HTTPException

from llm_runner.serve.answer import AnswerSource
from llm_runner.serve.answering import CLIENT_CLOSED_REQUEST, Answering, unless_gone
from llm_runner.serve.document import add_document
from llm_runner.serve.errors import ApiError, failed, invalid, not_ready, to_api_error
from llm_runner.serve.guard import MAX_BODY_BYTES, Guard, Leaving
from llm_runner.serve.metrics import ServerMetrics
from llm_runner.serve.models import ServedModel
from llm_runner.serve.page import show_page
from llm_runner.serve.predictbodies import PredictForm, PredictRequest, PredictResponse
from llm_runner.serve.protocol import (
    ChatCompletion,
    ChatRequest,
    Completion,
    CompletionRequest,
    ModelCard,
    ModelList,
    SamplingRequest,
    new_id,
)
from llm_runner.serve.render import ChatShape, CompletionShape, Count, TokenText
from llm_runner.serve.service import Service

BODIES: dict[str, type[Model]] = {
    "/v1/completions": CompletionRequest,
    "/v1/chat/completions": ChatRequest,
    "/v1/predict": PredictRequest,
}
EVENT_STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


@dataclass
class ServerState:
    """Where the server stands; the application reads it at each request."""

    metrics: ServerMetrics
    service: Service | None = None
    """None while the model is being loaded."""
    is_draining: bool = False
    """Whether it was asked to stop: what is there is finished."""

    def ready_service(self) -> Service:
        if self.service is None:
            raise not_ready("the model is still being loaded")
        return self.service


class Api:
    """The handlers."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    async def healthz(self) -> Response:
        """Whether the process does its work; it need not be ready yet."""
        service = self._state.service
        failure = None if service is None else service.engine.failure
        if failure is not None:
            return PlainTextResponse(f"the engine has ended: {failure}", HTTPStatus.INTERNAL_SERVER_ERROR)
        return PlainTextResponse("ok")

    async def readyz(self) -> Response:
        """Whether requests may come: the model is loaded, has answered once, and the server is not stopping."""
        if self._state.is_draining:
            return PlainTextResponse("stopping", HTTPStatus.SERVICE_UNAVAILABLE)
        if self._state.service is None:
            return PlainTextResponse("loading", HTTPStatus.SERVICE_UNAVAILABLE)
        return PlainTextResponse("ok")

    async def metrics(self) -> Response:
        """Figures for Prometheus."""
        return Response(self._state.metrics.to_text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def list_models(self) -> ModelList:
        """The names that can be asked for."""
        service = self._state.ready_service()
        return ModelList(data=[_to_card(model, service) for model in service.models.all()])

    async def show_model(self, name: str) -> ModelCard:
        """One of them."""
        service = self._state.ready_service()
        return _to_card(service.models.find(name), service)

    async def complete(self, body: CompletionRequest, client: Request) -> Response:
        """Text that goes on from prompts."""
        service = self._state.ready_service()
        with ExitStack() as resources:
            model = resources.enter_context(service.models.lease(body.model))
            prompts = await service.encode_prompts(body.prompts)
            if not prompts:
                raise invalid("prompt: write at least one", "prompt")
            tells = body.logprobs is not None
            shape = CompletionShape(new_id("cmpl"), body.model, TokenText(service.tokenizer), tells_logprobs=tells)
            sources = self._start(service, body, prompts, model, body.top_logprob_count)
            answering = Answering(shape, sources, Count(sum(map(len, prompts))), resources.pop_all())
        return await _tell(answering, body, client)

    async def chat(self, body: ChatRequest, client: Request) -> Response:
        """The assistant's next turn."""
        service = self._state.ready_service()
        with ExitStack() as resources:
            model = resources.enter_context(service.models.lease(body.model))
            prompt = await service.encode_chat(body.messages)
            tells = bool(body.logprobs)
            shape = ChatShape(new_id("chatcmpl"), body.model, TokenText(service.tokenizer), tells_logprobs=tells)
            sources = self._start(service, body, [prompt], model, body.top_logprob_count)
            answering = Answering(shape, sources, Count(len(prompt)), resources.pop_all())
        return await _tell(answering, body, client)

    async def predict(self, body: PredictRequest, client: Request) -> Response:
        """The output's values for rows with the data's columns."""
        service = self._state.ready_service()
        service.find_predictor()
        with service.models.lease(service.models.main().name if body.model is None else body.model) as model:
            predictor = service.find_predictor(model)
            told = await unless_gone(client, predictor.predict(body, model.name, model.adapter))
        if told is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return JSONResponse(told.model_dump(mode="json"))

    async def show_form(self) -> PredictForm:
        """What a row needs to be answered."""
        return self._state.ready_service().find_predictor().build_form()

    def _start(
        self,
        service: Service,
        body: SamplingRequest,
        prompts: Sequence[Sequence[int]],
        model: ServedModel,
        top_logprobs: int | None,
    ) -> list[AnswerSource]:
        """All answers to all prompts, or none."""
        parameters = service.resolve(body, model, top_logprobs)
        answers = 1 if body.n is None else body.n
        sources: list[AnswerSource] = []
        try:
            for prompt in prompts:
                started = service.ask(parameters, prompt, model.adapter, answers=answers, stops=body.stop_texts)
                sources.extend(started)
        except BaseException:
            for source in sources:
                source.cancel()
            raise
        return sources


async def _tell(answering: Answering, body: SamplingRequest, client: Request) -> Response:
    if not body.stream:
        return await answering.respond(client)
    return answering.stream(include_usage=body.stream_options is not None and body.stream_options.include_usage)


def _to_card(model: ServedModel, service: Service) -> ModelCard:
    return ModelCard(id=model.name, created=model.created_seconds, max_model_len=service.limits.context_tokens)


def build_app(state: ServerState, *, api_key_path: Path | None = None, max_body_bytes: int = MAX_BODY_BYTES) -> FastAPI:
    """The application over a state that may not be ready yet."""
    app = FastAPI(title="llm-operator", docs_url=None, redoc_url=None)
    api = Api(state)
    for path, handler in {"/healthz": api.healthz, "/readyz": api.readyz, "/metrics": api.metrics}.items():
        app.add_api_route(path, handler, methods=["GET"], response_class=PlainTextResponse)
    app.add_api_route("/", show_page, methods=["GET"], include_in_schema=False)
    app.add_api_route("/v1/models", api.list_models, methods=["GET"])
    app.add_api_route("/v1/models/{name:path}", api.show_model, methods=["GET"])
    completing: dict[str, Any] = {"methods": ["POST"], "responses": EVENT_STREAM}
    app.add_api_route("/v1/completions", api.complete, response_model=Completion, **completing)
    app.add_api_route("/v1/chat/completions", api.chat, response_model=ChatCompletion, **completing)
    app.add_api_route("/v1/predict", api.predict, methods=["POST"], response_model=PredictResponse)
    app.add_api_route("/v1/predict", api.show_form, methods=["GET"])
    app.add_exception_handler(ApiError, _tell_api_error)
    app.add_exception_handler(HTTPException, _tell_http_error)
    app.add_exception_handler(RequestValidationError, _tell_invalid_body)
    app.add_exception_handler(Exception, _tell_unexpected)
    add_document(app, is_guarded=api_key_path is not None)
    app.add_middleware(Guard, api_key_path=api_key_path, metrics=state.metrics, max_body_bytes=max_body_bytes)
    app.add_middleware(Leaving, is_leaving=lambda: state.is_draining)
    return app


async def _tell_api_error(_client: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.status, error.headers)


async def _tell_http_error(client: Request, error: Exception) -> Response:
    """Of the framework: a path or method that isn't there."""
    assert isinstance(error, HTTPException)
    told = ApiError(error.status_code, f"{client.method} {client.url.path}: {error.detail}")
    return JSONResponse(told.body, told.status, error.headers)


async def _tell_invalid_body(client: Request, error: Exception) -> Response:
    """All that is wrong with a body, in the words of the config's own errors."""
    assert isinstance(error, RequestValidationError)
    told = _read_body_error(client, error)
    return JSONResponse(told.body, told.status)


async def _tell_unexpected(_client: Request, error: Exception) -> Response:
    """The framework logs it; a client has no use for more."""
    told = failed(f"unexpected: {type(error).__name__}; the server's log says more")
    return JSONResponse(told.body, told.status)


def _read_body_error(client: Request, error: RequestValidationError) -> ApiError:
    model = BODIES.get(client.url.path)
    first = error.errors()[0]
    if model is None or first["type"] == "json_invalid" or not isinstance(error.body, dict):
        return invalid(f"the body must be a JSON object: {first.get('ctx', {}).get('error', first['msg'])}")
    try:
        load(model, error.body)
    except InvalidConfig as issues:
        return to_api_error(issues)
    return invalid(str(first["msg"]))

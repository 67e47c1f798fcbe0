"""From a ServeRun to a service that has answered once: fetches, loads, starts the engine, warms up."""

from pathlib import Path
from queue import SimpleQueue

from llm_api.config import Generation
from llm_api.run import ServeRun

from llm_runner.data.tokens import build_encoder
from llm_runner.errors import ConfigInvalid
from llm_runner.generate.engine import Engine, EngineLimits
from llm_runner.generate.engine_request import Answer, End, EndReason, Request
from llm_runner.generate.special import SpecialTokens
from llm_runner.model.load import load_tokenizer
from llm_runner.predict.answerer import Answerer
from llm_runner.predict.examples import load_examples
from llm_runner.predict.load import load_engine
from llm_runner.predict.source import ADAPTER_CONFIG, ModelSource, fetch_source, read_json
from llm_runner.predict.task import build_setup, complete_config
from llm_runner.report.reporter import Reporter
from llm_runner.serve.adapters import add_adapters, check_names
from llm_runner.serve.metrics import ServerMetrics
from llm_runner.serve.models import Models
from llm_runner.serve.predict import Predictor
from llm_runner.serve.service import Service

WARM_UP_TOKENS = 2


class WarmUpFailed(RuntimeError):
    """The model was loaded and can't answer: nobody's mistake that is known, so it may be tried again."""


def load_service(run: ServeRun, metrics: ServerMetrics, reporter: Reporter, work_path: Path) -> Service:
    """Ready to answer; close its engine in the end. Raises a RunError that says what to do."""
    check_names(run)
    source = fetch_source(run, work_path)
    if (doubt := describe_other_base(source)) is not None:
        reporter.warning(doubt)
    tokenizer = load_tokenizer(source.tokenizer_path)
    generation = Generation() if source.config.generation is None else source.config.generation
    loaded = load_engine(source, tokenizer, generation, reporter, max_concurrency=run.max_concurrency, observer=metrics)
    engine = loaded.engine
    service = Service(
        engine=engine,
        model=loaded.model,
        tokenizer=tokenizer,
        encoder=build_encoder(tokenizer),
        special=loaded.special,
        config=source.config,
        models=Models(engine, loaded.adapters),
        adapters=loaded.adapters,
        metrics=metrics,
    )
    _add_predictor(service, source, run, loaded.limits, reporter)
    engine.start()
    try:
        _name_models(run, source, service.models)
        add_adapters(run, service, work_path)
        _warm_up(service)
    except BaseException:
        engine.close()
        raise
    return service


def describe_other_base(source: ModelSource) -> str | None:
    """None where the adapter is served on what it says it was tuned on, or says nothing."""
    if source.adapter_path is None or not (source.adapter_path / ADAPTER_CONFIG).is_file():
        return None
    own = read_json(source.adapter_path / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not own or own in (source.base_name, str(source.base_path)):
        return None
    return f"the adapter was tuned on {own} and is served on {source.base_name}: answers are only right if they are one"


def _add_predictor(
    service: Service, source: ModelSource, run: ServeRun, limits: EngineLimits, reporter: Reporter
) -> None:
    """Rows can be answered where the config says what they are made of; a model can be chatted with without."""
    try:
        config = complete_config(source.config, source.base_name)
        setup = build_setup(config, service.tokenizer, service.encoder, service.limits.context_tokens)
        examples = load_examples(setup, source, run)
    except ConfigInvalid as error:
        service.no_predictor = str(error)
        reporter.info(f"/v1/predict is off: {error}")
        return
    answerer = Answerer(service.engine, service.model, service.tokenizer, service.special, service.adapters)
    service.predictor = Predictor(setup, answerer, service.metrics, limits.running, examples)


def _name_models(run: ServeRun, source: ModelSource, models: Models) -> None:
    """The run's name is what is asked for; beside an adapter, its base can be asked by its own."""
    if source.adapter_path is None:
        models.add_base(run.name)
        return
    models.add_adapter(run.name, source.adapter_path)
    if source.base_name != run.name:
        models.add_base(source.base_name)


def _warm_up(service: Service) -> None:
    """One answer from each model, so that the first client doesn't wait for what is done once."""
    for model in service.models.all():
        end = _answer_once(service.engine, service.special, model.adapter)
        if end.reason is EndReason.FAILED:
            raise WarmUpFailed(f"{model.name} was loaded and can't answer: {end.error}") from end.error


def _answer_once(engine: Engine, special: SpecialTokens, adapter: str | None) -> End:
    answers: SimpleQueue[Answer] = SimpleQueue()
    # Two tokens, since a prompt is read by other code than what goes on from it.
    prompt = special.open_prompt([]) * 2
    engine.submit(Request(prompt, WARM_UP_TOKENS, adapter=adapter), answers.put)
    while not isinstance(answer := answers.get(), End):
        pass
    return answer

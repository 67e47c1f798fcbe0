"""Further adapters of a server, on the base that it has: each as if it were served by itself, but for the base.

Each answers prompts and chats by the config that is stored with it. Rows are answered by the server's own config only.
"""

from pathlib import Path

from llm_api.config.partial import PartialLLMConfig
from llm_api.run import ModelLocation, ServeRun

from llm_runner.errors import ConfigInvalid
from llm_runner.predict.source import fetch_source
from llm_runner.serve.follow import find_obstacle, has_same_task
from llm_runner.serve.service import Service


def check_names(run: ServeRun) -> None:
    """Raises ConfigInvalid where a name stands for two models."""
    names = [run.name, *(adapter.name for adapter in run.adapters)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigInvalid(
            f"adapters: {', '.join(map(repr, twice))} stands for more than one model; name each its own"
        )


def to_adapter_runs(run: ServeRun) -> list[ServeRun]:
    """Each adapter as a run that serves nothing else. Its base is the one that it says itself."""
    written = run.config.model_dump(mode="json", exclude_unset=True, exclude={"base_model"})
    config = PartialLLMConfig.model_validate(written)
    return [
        run.model_copy(
            update={
                "name": adapter.name,
                "config": config,
                "model": ModelLocation(artifact_uri=adapter.artifact_uri, artifact_digest=adapter.artifact_digest),
                "adapters": [],
            }
        )
        for adapter in run.adapters
    ]


def add_adapters(run: ServeRun, service: Service, work_path: Path) -> None:
    """Raises ConfigInvalid where one is of another base or no adapter, else what fetching and loading it raises."""
    for number, one in enumerate(to_adapter_runs(run)):
        folder = work_path / f"adapter-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        source = fetch_source(one, folder)
        obstacle = find_obstacle(source, service)
        if obstacle is not None or source.adapter_path is None:
            base = service.model.name_or_path
            raise ConfigInvalid(f"adapters: {one.name!r} can't be served on {base}: {obstacle}; serve it by itself")
        own = None if has_same_task(source.config, service.config) else source.config
        service.models.add_adapter(one.name, source.adapter_path, own)

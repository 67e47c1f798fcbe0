"""The names that can be asked for: the base, and adapters that come and go while others are being asked."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import time

from llm_api.config.partial import PartialLLMConfig

from llm_runner.generate.engine import Engine
from llm_runner.generate.engine_adapters import Adapters
from llm_runner.serve.errors import unknown_model


@dataclass(frozen=True)
class ServedModel:
    """What a name stands for."""

    name: str
    adapter: str | None
    """What the engine calls its adapter; another one each time that it is loaded."""
    created_seconds: int
    config: PartialLLMConfig | None = None
    """What its answers go by; None: the server's own."""


class Models:
    """Adapters of this list only are loaded in the engine."""

    def __init__(self, engine: Engine, adapters: Adapters) -> None:
        self._engine = engine
        self._adapters = adapters
        self._models: dict[str, ServedModel] = {}
        self._leases: Counter[str] = Counter()
        self._retired: set[str] = set()
        self._loaded = 0
        self._lock = Lock()

    def all(self) -> list[ServedModel]:
        return list(self._models.values())

    def main(self) -> ServedModel:
        """The one that the server is named after, which was added first."""
        return self.all()[0]

    def find(self, name: str) -> ServedModel:
        """Raises ApiError 404 with the names there are."""
        model = self._models.get(name)
        if model is None:
            raise unknown_model(name, list(self._models))
        return model

    def add_base(self, name: str) -> None:
        self._models[name] = ServedModel(name, None, int(time()))

    def add_adapter(self, name: str, folder: Path, config: PartialLLMConfig | None = None) -> None:
        """Loads an adapter; waits until it is there, so don't call it in the event loop.

        One that had the name goes once nobody asks it any more. Raises what ``Adapters.add`` raises.
        """
        with self._lock:
            self._loaded += 1
            key = f"{name}@{self._loaded}"
        self._engine.call(lambda: self._adapters.add(key, folder)).result()
        with self._lock:
            old = self._models.get(name)
            self._models[name] = ServedModel(name, key, int(time()), config)
            self._retire(old)

    def remove_adapter(self, name: str) -> None:
        """New requests don't find it any more; those that are on their way are answered."""
        with self._lock:
            self._retire(self._models.pop(name, None))

    @contextmanager
    def lease(self, name: str) -> Iterator[ServedModel]:
        """A model that stays loaded for as long as this takes."""
        with self._lock:
            model = self.find(name)
            if model.adapter is not None:
                self._leases[model.adapter] += 1
        try:
            yield model
        finally:
            self._give_back(model)

    def _give_back(self, model: ServedModel) -> None:
        if model.adapter is None:
            return
        with self._lock:
            self._leases[model.adapter] -= 1
            if self._leases[model.adapter] == 0 and model.adapter in self._retired:
                self._unload(model.adapter)

    def _retire(self, model: ServedModel | None) -> None:
        if model is None or model.adapter is None:
            return
        self._retired.add(model.adapter)
        if self._leases[model.adapter] == 0:
            self._unload(model.adapter)

    def _unload(self, adapter: str) -> None:
        self._retired.discard(adapter)
        del self._leases[adapter]
        self._engine.call(lambda: self._adapters.remove(adapter))

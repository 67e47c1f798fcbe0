"""Adapters beside a model, several at a time, none merged; and which of them the library's model uses."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel

from llm_runner.errors import RunError
from llm_runner.generate.lean import LeanDecoder
from llm_runner.generate.lean_adapter import read_adapter
from llm_runner.model.pretrained import add_stored_adapter, load_adapter


class Adapters:
    """Belongs to the engine's thread. Names are the caller's; PEFT's own may hold no dots."""

    def __init__(self, model: PreTrainedModel, lean: LeanDecoder | None = None) -> None:
        self._model = model
        self._lean = lean
        self._adapted: PeftModel | None = None
        self._keys: dict[str, str] = {}
        self._loaded = 0

    def __contains__(self, name: str) -> bool:
        return name in self._keys

    def add(self, name: str, folder: Path) -> None:
        """Loads an adapter from a folder; one of the same name is replaced once the new one is there.

        Raises:
            ModelNotFound: there is no adapter in the folder, or it does not go into this model.
            ConfigInvalid: it is of another type than those that are there.
        """
        self._loaded += 1
        key = f"adapter_{self._loaded}"
        if self._adapted is None:
            self._adapted = self._load_first(folder, key)
        else:
            add_stored_adapter(self._adapted, folder, key)
        self.remove(name)
        self._keys[name] = key
        changes = None if self._lean is None else read_adapter(self._adapted, key)
        if self._lean is not None and changes is not None:
            self._lean.add_adapter(name, changes)

    def remove(self, name: str) -> None:
        if self._lean is not None:
            self._lean.remove_adapter(name)
        key = self._keys.pop(name, None)
        if key is None or self._adapted is None:
            return
        if len(self._adapted.peft_config) == 1:
            self._adapted = None
            strip_adapters(self._model)
            return
        # PEFT says so where it deletes the one that happens to be in use.
        self._adapted.set_adapter(
            next(other for other in self._adapted.peft_config if other != key), inference_mode=True
        )
        self._adapted.delete_adapter(key)

    def _load_first(self, folder: Path, key: str) -> PeftModel:
        try:
            return load_adapter(self._model, folder, key)
        except RunError:
            strip_adapters(self._model)
            raise

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """The library's model with this adapter, or with none."""
        if self._adapted is not None and name is not None:
            self._adapted.set_adapter(self._keys[name], inference_mode=True)
        is_bare = self._adapted is not None and name is None
        with self._adapted.disable_adapter() if is_bare and self._adapted is not None else nullcontext():
            yield


def strip_adapters(model: PreTrainedModel) -> None:
    """Puts the model's own layers back where PEFT has wrapped them."""
    wrapped = {path: module for path, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    for path, module in wrapped.items():
        model.set_submodule(path, module.get_base_layer())
    model.__dict__.pop("peft_config", None)

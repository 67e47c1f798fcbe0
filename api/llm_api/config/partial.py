"""The parts of an LLM config that an inference sets by itself; what is unset comes from the fine-tune.

Every key of a whole config is accepted, so that one pastes in unchanged. Of the rules between sections only those
stand here that nothing which is left out could mend.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from llm_api.config.adapter import AnyAdapter
from llm_api.config.base import BaseModelName
from llm_api.config.features import InputFeature, OutputFeature
from llm_api.config.generation import Generation
from llm_api.config.llm import NO_FOUR_BIT_PRODUCTS, NO_REMOTE_CODE, Backend, LLMConfig
from llm_api.config.model_parameters import ModelParameters
from llm_api.config.preference import find_rejected_column
from llm_api.config.preprocessing import Preprocessing
from llm_api.config.prompt import Prompt
from llm_api.config.quantization import Quantization
from llm_api.config.scalars import Name
from llm_api.config.trainer import Trainer
from llm_api.model import Model


class PartialLLMConfig(Model):
    """Sections of an LLM config, each of them optional."""

    refused: ClassVar = LLMConfig.refused
    lookalikes: ClassVar = LLMConfig.lookalikes
    rules: ClassVar = (NO_REMOTE_CODE, NO_FOUR_BIT_PRODUCTS)

    model_type: Literal["llm"] | None = None
    """Only llm."""
    base_model: BaseModelName | None = None
    """The pretrained model, where neither a fine-tune nor an artifact is named."""
    input_features: Annotated[list[InputFeature], Field(min_length=1, max_length=1)] | None = None
    """The one input, of type text."""
    output_features: Annotated[list[OutputFeature], Field(min_length=1, max_length=1)] | None = None
    """The one output, text or category."""
    prompt: Prompt | None = None
    """What the model is asked; replaces the fine-tune's as a whole."""
    preprocessing: Preprocessing | None = None
    """Lengths of the data; replaces the fine-tune's as a whole."""
    adapter: AnyAdapter | None = None
    """An adapter to load, by its pretrained_adapter_weights; one of a fine-tune or artifact is loaded anyway."""
    quantization: Quantization | None = None
    """The base in 4 or 8 bits; replaces the fine-tune's as a whole."""
    model_parameters: ModelParameters | None = None
    """Context length."""
    trainer: Trainer | None = None
    """Accepted and ignored: nothing is trained."""
    generation: Generation | None = None
    """How answers are generated; what is written here goes before the fine-tune's, key by key."""
    trust_remote_code: bool = False
    """Only false: code that comes with a model is never run."""
    backend: Backend | None = None
    """Accepted for configs from elsewhere, and ignored."""
    ludwig_version: Name | None = None
    """Accepted for configs from elsewhere, and ignored."""

    @property
    def rejected_column(self) -> str | None:
        """The column of the worse answers that a fine-tune was on, where there were any: no prompt shows it."""
        return find_rejected_column(self.trainer)

    def warnings(self) -> list[str]:
        """What was written and has no effect."""
        ignored = {
            "trainer": "an inference trains nothing",
            "backend": "machines are chosen by spec.compute",
            "ludwig_version": "it names another program's version",
        }
        return [f"{key} is ignored: {why}" for key, why in ignored.items() if key in self.model_fields_set]

    def over(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """``base``, an LLM config as written or resolved, with what is set here in its place.

        Sections are replaced as a whole, but ``generation`` key by key. What comes out is yet to be validated.
        """
        own = self.model_dump(mode="json", exclude_unset=True)
        generation = {**_section(base, "generation"), **_section(own, "generation")}
        return {**base, **own, **({"generation": generation} if generation else {})}


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name)
    return section if isinstance(section, Mapping) else {}

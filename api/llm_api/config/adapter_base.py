"""What every type of adapter shares; the types themselves stand in ``adapter`` and beside it."""

from typing import Annotated, ClassVar

from pydantic import Field

from llm_api.config.scalars import MAX_STEPS, Name, Names, Number, compiles
from llm_api.model import Model, Rule

PEFT_NAMES = {
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "bias": "bias_type",
    "rank": "r",
    "modules": "target_modules",
    "deltaT": "delta_t",
    "total_steps": "total_step",
}
"""PEFT's and others' names for the keys of adapters -> what they are called here."""
TargetModules = Names | Name
Alpha = Annotated[int, Field(gt=0, le=MAX_STEPS)] | Annotated[Number, Field(gt=0, le=MAX_STEPS)]
"""Whole or not; a whole one stays so where it is stored."""


class Postprocessor(Model):
    """What is done with a trained adapter."""

    lookalikes: ClassVar = {"merge": "merge_adapter_into_base_model", "progress_bar": "progressbar"}

    merge_adapter_into_base_model: bool = False
    """Whether the result is the whole model with the adapter merged into it, rather than the adapter."""
    progressbar: bool = False
    """Whether merging shows how far it is."""


class Adapter(Model):
    """What all adapters share."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="target-regex-compiles",
            message="a text is a regular expression, and this one does not compile; mend it, or write a list of names",
            holds=lambda adapter: not isinstance(adapter.target_modules, str) or compiles(adapter.target_modules),
            path="target_modules",
            needs=("target_modules",),
        ),
    )

    pretrained_adapter_weights: Name | None = None
    """An adapter to go on from: a folder, an s3:// folder or a hub's id."""
    postprocessor: Postprocessor = Postprocessor()
    """Merging."""

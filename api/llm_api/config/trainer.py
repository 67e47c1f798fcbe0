"""The trainer: fine-tuning on answers or on pairs of answers, or none, which evaluates a model as it is."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from llm_api.config.preference import ONLY_ONE, ONLY_PAIRS, DpoTrainer, KtoTrainer, OrpoTrainer
from llm_api.config.tuning import REFUSED, BaseTrainer, TuningTrainer
from llm_api.model import TYPE_ERROR


class FinetuneTrainer(TuningTrainer):
    """Supervised fine-tuning on prompts and answers."""

    refused: ClassVar = REFUSED | ONLY_ONE | ONLY_PAIRS

    type: Literal["finetune"]
    """finetune; dpo, kto or orpo for pairs of answers; or none for a model that is used as it is."""


class NoneTrainer(BaseTrainer):
    """The model as it is: prompts alone decide what it does, and metrics say how well."""

    refused: ClassVar = (
        REFUSED
        | ONLY_ONE
        | ONLY_PAIRS
        | dict.fromkeys(
            TuningTrainer.model_fields.keys() - BaseTrainer.model_fields.keys(), "it belongs to `type: finetune`"
        )
    )

    type: Literal["none"]
    """none."""


def _refuse_rollouts(value: Any) -> Any:
    if isinstance(value, Mapping) and value.get("type") == "grpo":
        raise PydanticCustomError(
            TYPE_ERROR,
            "grpo learns from answers that the model samples as it trains, and from a reward that scores them, which "
            "no data can hold; write one of finetune, dpo, kto, orpo",
        )
    return value


Trainer = Annotated[
    FinetuneTrainer | DpoTrainer | KtoTrainer | OrpoTrainer | NoneTrainer,
    Field(discriminator="type"),
    BeforeValidator(_refuse_rollouts),
]

"""How the base model is changed as it is loaded: longer contexts, noise on the embeddings."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llm_api.config.scalars import NonNegative, Number
from llm_api.model import Model, Rule


class RopeScaling(Model):
    """Positions are squeezed so that more of them fit into what the model was trained on."""

    rules: ClassVar = (
        Rule(
            name="rope-kind",
            message="rope scaling needs a type, linear or dynamic, and a factor",
            holds=lambda scaling: (scaling.kind is None) == (scaling.factor is None),
            cel="(has(self.type) || has(self.rope_type)) == has(self.factor)",
            path="type",
            needs=("type", "rope_type", "factor"),
        ),
        Rule(
            name="rope-one-name",
            message="type and rope_type say the same; write one of them",
            holds=lambda scaling: None in (scaling.type, scaling.rope_type) or scaling.type == scaling.rope_type,
            cel="!has(self.type) || !has(self.rope_type) || self.type == self.rope_type",
            path="rope_type",
            needs=("type", "rope_type"),
        ),
    )

    type: Literal["linear", "dynamic"] | None = None
    """linear or dynamic; null is none."""
    rope_type: Literal["linear", "dynamic"] | None = None
    """Another name of type."""
    factor: Annotated[Number, Field(gt=1, le=1024)] | None = None
    """How many times longer the context becomes."""

    @property
    def kind(self) -> Literal["linear", "dynamic"] | None:
        """The type, under whichever name it was written."""
        return self.rope_type if self.type is None else self.type


class ModelParameters(Model):
    """Changes to the base model."""

    rope_scaling: RopeScaling | None = None
    """A longer context; an empty mapping is none."""
    neftune_noise_alpha: NonNegative | None = 0.0
    """Strength of the noise on embeddings while training (arXiv:2310.05914); 0 is none."""

"""The bodies of ``/v1/predict``: rows with the data's columns in, the output's values out. Decides nothing."""

from time import time
from typing import Annotated, Literal

from llm_api.config import Generation
from llm_api.model import Model
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from llm_runner.serve.protocol import Usage

MOST_ROWS = 1024


class PredictRequest(Model):
    """Rows to answer, as the config's prompt, retrieval, generation and output feature say."""

    model_config = ConfigDict(defer_build=False, protected_namespaces=())

    rows: Annotated[list[dict[str, JsonValue]], Field(min_length=1, max_length=MOST_ROWS)]
    """Each a row of the data: its columns by name. The output's own column may be there, and is not looked at."""
    model: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """The served model's name, or that of one of its adapters; left out: the one that the server is named after."""
    generation: Generation | None = None
    """How answers are generated; what is written here goes before the config's, key by key."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """The same seed gives the same answers; left out: others each time, where they are drawn."""


class RowPrediction(BaseModel):
    """What came of one row."""

    index: int
    """The row's place in the request."""
    value: str
    """The output feature's value: the text, or the label."""
    text: str
    """The answer as it was generated."""
    probability: float | None = None
    """Of the label; null where the output is text."""
    probabilities: dict[str, float] | None = None
    """Of each label, given that it is one of them; null where the output is text."""


class PredictResponse(BaseModel):
    """Predictions in the order of the rows."""

    id: str
    object: Literal["prediction"] = "prediction"
    created: int = Field(default_factory=lambda: int(time()))
    model: str
    output: str
    """The output feature's name."""
    predictions: list[RowPrediction]
    usage: Usage


class OutputForm(BaseModel):
    """What comes out."""

    name: str
    type: Literal["text", "category"]
    labels: list[str] | None = None
    """All that a category may be."""


class PredictForm(BaseModel):
    """What ``/v1/predict`` wants of a row."""

    object: Literal["prediction.form"] = "prediction.form"
    columns: list[str] | None
    """Those that a row needs; null: whatever it has is shown to the model."""
    output: OutputForm

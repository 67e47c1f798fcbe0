"""How a table is divided into rows that train and rows that are held out."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llm_api.config.scalars import Fraction, Name
from llm_api.model import Model, Rule

Probabilities = Annotated[list[Fraction], Field(min_length=3, max_length=3)]


_SUM = "self.probabilities[0] + self.probabilities[1] + self.probabilities[2]"


class _DrawnSplit(Model):
    rules: ClassVar = (
        Rule(
            name="split-probabilities-sum",
            message="the three probabilities (training, validation, test) must add up to 1",
            holds=lambda split: abs(sum(split.probabilities) - 1.0) <= 1e-6,
            cel=f"!has(self.probabilities) || ({_SUM} > 0.999999 && {_SUM} < 1.000001)",
            path="probabilities",
            needs=("probabilities",),
        ),
    )

    probabilities: Probabilities = [0.7, 0.1, 0.2]
    """Shares of training, validation and test rows; they add up to 1."""


class RandomSplit(_DrawnSplit):
    """Rows are drawn at random, the same ones each time."""

    type: Literal["random"] = "random"
    """random, fixed, stratify, datetime or hash."""


class FixedSplit(Model):
    """A column says where each row belongs."""

    type: Literal["fixed"]
    """fixed."""
    column: Name = "split"
    """The column: 0 or train, 1 or validation, 2 or test."""


class StratifySplit(_DrawnSplit):
    """Drawn at random with the same shares of each value of a column in every part."""

    type: Literal["stratify"]
    """stratify."""
    column: Name | None = None
    """The column whose values are kept in proportion; null is the output's."""


class DatetimeSplit(_DrawnSplit):
    """The oldest rows train, the newest are tested on."""

    type: Literal["datetime"]
    """datetime."""
    column: Name
    """The column with the dates. Required."""


class HashSplit(_DrawnSplit):
    """Rows with the same value of a column are never in different parts."""

    type: Literal["hash"]
    """hash."""
    column: Name
    """The column whose values are hashed. Required."""


Split = Annotated[RandomSplit | FixedSplit | StratifySplit | DatetimeSplit | HashSplit, Field(discriminator="type")]

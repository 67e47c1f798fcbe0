"""What is done to the whole data set: how much of it is used, how it is split, how long its sequences are."""

from typing import ClassVar

from llm_api.config.scalars import Fraction, NonNegative, PositiveCount
from llm_api.config.split import RandomSplit, Split
from llm_api.model import Model, Rule


class Preprocessing(Model):
    """Sampling, split and the length of whole sequences."""

    refused: ClassVar = {
        "oversample_minority": "rows are used as they are; repeat or leave out rows in the data",
        "undersample_majority": "rows are used as they are; repeat or leave out rows in the data",
        "audio": "the data is text",
        "image": "the data is text",
        "cache_encoder_embeddings": "a language model has no encoders",
    }
    lookalikes: ClassVar = {
        "global_max_seq_length": "global_max_sequence_length",
        "max_sequence_length": "global_max_sequence_length",
        "max_seq_length": "global_max_sequence_length",
    }
    rules: ClassVar = (
        Rule(
            name="preprocessing-one-sample",
            message="write sample_ratio or sample_size, not both",
            holds=lambda section: section.sample_size is None or section.sample_ratio == 1.0,
            cel="!has(self.sample_size) || !has(self.sample_ratio) || self.sample_ratio == 1.0",
            path="sample_size",
            needs=("sample_size", "sample_ratio"),
        ),
    )

    sample_ratio: Fraction = 1.0
    """The share of the rows that is used."""
    sample_size: NonNegative | None = None
    """How many rows are used; null is all."""
    split: Split = RandomSplit()
    """How rows are divided where no validation set is given."""
    global_max_sequence_length: PositiveCount | None = None
    """Most tokens of prompt and answer together; null is what the model takes."""

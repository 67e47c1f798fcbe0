"""Trainers on pairs of answers to the same prompt, of which the output's is better and another column's worse."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llm_api.config.scalars import Number, Positive
from llm_api.config.tuning import LOOKALIKES, REFUSED, BaseTrainer, TuningTrainer
from llm_api.model import Rule

ONLY_ONE = {
    **dict.fromkeys(("dpo_beta", "dpo_loss_type", "dpo_label_smoothing"), "it belongs to `type: dpo`"),
    "kto_beta": "it belongs to `type: kto`",
    "orpo_beta": "it belongs to `type: orpo`",
}
ONLY_PAIRS = {"rejected_column": "it belongs to trainers on pairs of answers: `type: dpo`, `kto` or `orpo`"}
_LOOKALIKES = LOOKALIKES | {"rejected": "rejected_column", "rejected_field": "rejected_column"}


def _others(own: str) -> dict[str, str]:
    """Why the keys of other methods are not taken here."""
    return {key: reason for key, reason in ONLY_ONE.items() if not key.startswith(f"{own}_")}


class PreferenceTrainer(TuningTrainer):
    """What trainers on pairs of answers have in common; a batch counts pairs."""

    # Shorter than other names may be: a rule looks for it in the template, which costs the API server length by length.
    rejected_column: Annotated[str, Field(min_length=1, max_length=128)] = "rejected"
    """The column of the data that holds the answer that is worse than the output's."""


def find_rejected_column(trainer: BaseTrainer | None) -> str | None:
    """The column of worse answers, where a trainer takes any."""
    return trainer.rejected_column if isinstance(trainer, PreferenceTrainer) else None


class DpoTrainer(PreferenceTrainer):
    """Direct preference optimization: better answers gain likelihood over worse ones, near the model as it was."""

    refused: ClassVar = REFUSED | _others("dpo")
    lookalikes: ClassVar = _LOOKALIKES | {
        "beta": "dpo_beta",
        "loss_type": "dpo_loss_type",
        "label_smoothing": "dpo_label_smoothing",
    }
    rules: ClassVar = (
        Rule(
            name="ipo-no-smoothing",
            message="the ipo loss has no labels to smooth; leave it out, or write `dpo_loss_type: sigmoid`",
            holds=lambda trainer: trainer.dpo_loss_type != "ipo" or trainer.dpo_label_smoothing == 0.0,
            cel="!has(self.dpo_loss_type) || self.dpo_loss_type != 'ipo'"
            " || !has(self.dpo_label_smoothing) || self.dpo_label_smoothing == 0.0",
            path="dpo_label_smoothing",
            needs=("dpo_loss_type", "dpo_label_smoothing"),
        ),
    )

    type: Literal["dpo"]
    """dpo."""
    dpo_beta: Positive = 0.1
    """How much it costs to leave the model that training starts from; smaller is further."""
    dpo_loss_type: Literal["sigmoid", "ipo"] = "sigmoid"
    """sigmoid is DPO's own loss; ipo aims at a margin of 1 / (2 * dpo_beta) a token and at no more."""
    dpo_label_smoothing: Annotated[Number, Field(ge=0, le=0.5)] = 0.0
    """sigmoid: the share of pairs that are taken to be the wrong way round."""


class KtoTrainer(PreferenceTrainer):
    """Kahneman-Tversky optimization: each answer counts by itself, as a gain or as a loss."""

    refused: ClassVar = REFUSED | _others("kto")
    lookalikes: ClassVar = _LOOKALIKES | {"beta": "kto_beta"}

    type: Literal["kto"]
    """kto."""
    kto_beta: Positive = 0.1
    """How much it costs to leave the model that training starts from; smaller is further."""


class OrpoTrainer(PreferenceTrainer):
    """Odds ratio preference optimization: fine-tuning on better answers that lowers the odds of worse ones."""

    refused: ClassVar = REFUSED | _others("orpo")
    lookalikes: ClassVar = _LOOKALIKES | {"beta": "orpo_beta", "lambda": "orpo_beta"}

    type: Literal["orpo"]
    """orpo."""
    orpo_beta: Positive = 0.1
    """The weight of the odds ratio beside the loss of fine-tuning."""

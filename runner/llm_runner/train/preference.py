"""Losses over pairs of answers to one prompt, from the log-probabilities of each; formulas only, on tensors of [pairs].

Everywhere log p is that of an answer's target tokens (the end-of-sequence too), summed over them, and a ratio is log p
of the model that is trained less that of the reference: the model as it was before the first step. Knows no models, no
rows and no batches.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from llm_api.config import DpoTrainer, KtoTrainer, OrpoTrainer, PreferenceTrainer
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class Answers:
    """One answer of each pair; all are [pairs]."""

    log_probs: torch.Tensor
    targets: torch.Tensor
    """Tokens that ``log_probs`` are summed over."""
    reference: torch.Tensor | None = None
    """log p under the reference model; None for methods without one."""

    @property
    def ratios(self) -> torch.Tensor:
        assert self.reference is not None, "the method says how many scores of the reference it wants"
        return self.log_probs - self.reference


class Method(Protocol):
    """What is made of pairs."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def scores(self) -> int:
        """Of how many sequences of a pair it wants the reference's log-probability."""

    def losses(self, chosen: Answers, rejected: Answers) -> torch.Tensor:
        """Of each pair."""

    def rewards(self, answers: Answers) -> torch.Tensor | None:
        """What each answer is worth to the model that is trained; None where there is no reference to compare with."""


@dataclass(frozen=True)
class Dpo:
    """-log sigmoid(beta * (ratio of chosen - ratio of rejected)): Rafailov et al. 2023, arXiv:2305.18290, equation 7.

    With ``label_smoothing`` e the pair counts (1 - e) as it is and e the other way round: Mitchell's conservative DPO,
    2023, equation 3 of his note (ericmitchell.ai/cdpo.pdf).
    """

    beta: float
    label_smoothing: float = 0.0
    name: ClassVar[str] = "DPO"
    scores: ClassVar[int] = 2

    def losses(self, chosen: Answers, rejected: Answers) -> torch.Tensor:
        margins = self.beta * (chosen.ratios - rejected.ratios)
        return -(1 - self.label_smoothing) * logsigmoid(margins) - self.label_smoothing * logsigmoid(-margins)

    def rewards(self, answers: Answers) -> torch.Tensor:
        return self.beta * answers.ratios


@dataclass(frozen=True)
class Ipo:
    """(ratio of chosen - ratio of rejected - 1 / (2 beta)) squared: Azar et al. 2023, arXiv:2310.12036, equation 17.

    Ratios are per target token, as in its authors' experiments and in TRL: else the aim would be nearer the longer the
    answers are. So are rewards, that their margin is the one which is aimed at.
    """

    beta: float
    name: ClassVar[str] = "IPO"
    scores: ClassVar[int] = 2

    def losses(self, chosen: Answers, rejected: Answers) -> torch.Tensor:
        margins = chosen.ratios / chosen.targets - rejected.ratios / rejected.targets
        return (margins - 1 / (2 * self.beta)).square()

    def rewards(self, answers: Answers) -> torch.Tensor:
        return self.beta * answers.ratios / answers.targets


@dataclass(frozen=True)
class Kto:
    """1 - sigmoid(beta * (ratio - z)) for a chosen answer and 1 - sigmoid(beta * (z - ratio)) for a rejected one:
    Ethayarajh et al. 2024, arXiv:2402.01306, equation 8, with both weights 1, as there is one of each in every pair.

    z is ``divergence``, how far the model has moved from its reference. The paper estimates it (section 4.1) by prompts
    with other prompts' answers, the mean of their ratios over the batch, never below 0, and sends no gradient through
    it. A pair's loss is the mean of its two answers'.
    """

    beta: float
    divergence: float = 0.0
    name: ClassVar[str] = "KTO"
    scores: ClassVar[int] = 4

    def losses(self, chosen: Answers, rejected: Answers) -> torch.Tensor:
        gains = 1 - torch.sigmoid(self.beta * (chosen.ratios - self.divergence))
        losses = 1 - torch.sigmoid(self.beta * (self.divergence - rejected.ratios))
        return (gains + losses) / 2

    def rewards(self, answers: Answers) -> torch.Tensor:
        return self.beta * answers.ratios


@dataclass(frozen=True)
class Orpo:
    """-log P(chosen) - beta * log sigmoid(log odds of chosen - log odds of rejected), where log P is log p per target
    token and odds are P / (1 - P): Hong et al. 2024, arXiv:2403.07691, equations 1 and 4 to 7. There is no reference.
    """

    beta: float
    name: ClassVar[str] = "ORPO"
    scores: ClassVar[int] = 0

    def losses(self, chosen: Answers, rejected: Answers) -> torch.Tensor:
        likely, unlikely = chosen.log_probs / chosen.targets, rejected.log_probs / rejected.targets
        return -likely - self.beta * logsigmoid(_log_odds(likely) - _log_odds(unlikely))

    def rewards(self, answers: Answers) -> None:
        return None


def build_method(trainer: PreferenceTrainer) -> Method:
    match trainer:
        case DpoTrainer(dpo_loss_type="ipo"):
            return Ipo(trainer.dpo_beta)
        case DpoTrainer():
            return Dpo(trainer.dpo_beta, trainer.dpo_label_smoothing)
        case KtoTrainer():
            return Kto(trainer.kto_beta)
        case OrpoTrainer():
            return Orpo(trainer.orpo_beta)
    raise TypeError(f"{type(trainer).__name__} has no loss over pairs")


def _log_odds(log_probs: torch.Tensor) -> torch.Tensor:
    """log(P / (1 - P)) from log P, also where P is nearly 1 or nearly 0 (Maechler 2012, "log(1 - exp(-|a|))")."""
    below = log_probs.clamp(max=-torch.finfo(log_probs.dtype).eps)
    near_one = below > -math.log(2)
    # Each branch sees harmless numbers where the other one is taken: their gradients are 0 then, and not NaN.
    large, small = (below.masked_fill(mask, -math.log(2)) for mask in (~near_one, near_one))
    return log_probs - torch.where(near_one, torch.log(-torch.expm1(large)), torch.log1p(-torch.exp(small)))

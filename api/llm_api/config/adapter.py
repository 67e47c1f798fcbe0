"""Adapters: small trained matrices or vectors beside frozen weights."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from llm_api.config.adapter_base import PEFT_NAMES, Adapter, Alpha, TargetModules
from llm_api.config.adapter_product import LohaAdapter, LokrAdapter, VeraAdapter
from llm_api.config.adapter_rotation import BoftAdapter, OftAdapter
from llm_api.config.scalars import Count, Fraction, Name, Names, Number, PositiveCount
from llm_api.model import TYPE_ERROR, Model, Rule

Ranks = Annotated[dict[Name, PositiveCount], Field(max_length=1024)]
Alphas = Annotated[dict[Name, Alpha], Field(max_length=1024)]
GivenRanks = Annotated[dict[Name, PositiveCount | list[bool]], Field(max_length=1024)]
"""Ranks as numbers, or as AdaLoRA stores them: which of those that a layer started with are left."""
LoraStart = Literal[
    "default", "gaussian", "orthogonal", "pissa", "pissa_niter_4", "pissa_niter_8", "pissa_niter_16", "pissa_niter_32",
    "olora", "loftq", "eva",
]  # fmt: skip
"""PEFT's names; ``pissa_niter_N`` finds PiSSA's directions in N rounds, which is much faster."""
STARTS_IN_BASE = ("pissa", "pissa_niter_4", "pissa_niter_8", "pissa_niter_16", "pissa_niter_32", "olora")
STARTS_UNQUANTIZED = ("orthogonal", *STARTS_IN_BASE)
"""Those that are not right on a quantized base."""


class EvaConfig(Model):
    """How `init_lora_weights: eva` looks at the training rows."""

    rho: Annotated[Number, Field(ge=1, le=1024)] = 2.0
    """How many times its r a layer's rank may become, where others get less; 1 leaves ranks alone."""
    tau: Fraction = 0.99
    """How alike (cosine) a direction must be from one batch to the next to count as found."""
    use_label_mask: bool = True
    """Whether only the answers' tokens are looked at."""
    label_mask_value: Literal[-100] = -100
    """Only -100: what tokens that are not looked at are marked by."""
    whiten: bool = False
    """Whether directions are divided by the root of how much the inputs go along them."""
    adjust_scaling_factors: bool = True
    """Whether a layer's alpha grows and shrinks with its rank, so that its scale stays."""


class _LowRankAdapter(Adapter):
    lookalikes: ClassVar = PEFT_NAMES
    refused: ClassVar = {
        "loftq_config": "write `init_lora_weights: loftq`; the bits are those of quantization, and one round is done",
        "corda_config": "of the starts from what the training rows do in each layer, write eva",
        "layer_replication": "it changes the base model; use a base model with these layers",
        "modules_to_save": "write layers in target_modules, or fine-tune without an adapter",
    }

    r: PositiveCount = 8
    """Rank of the update."""
    alpha: Alpha | None = None
    """Scale of the update, divided by r (or by its root with use_rslora); null is 2 * r."""
    dropout: Fraction = 0.05
    """Probability with which an input of the update is dropped while training."""
    bias_type: Literal["none", "all", "lora_only"] = "none"
    """Which biases are trained as well."""
    target_modules: TargetModules | None = None
    """The layers that get an update: names, a regular expression, or all-linear. Null: query and value projections."""
    use_rslora: bool = False
    """Whether the scale is alpha / sqrt(r) (arXiv:2312.03732)."""
    use_dora: bool = False
    """Whether magnitude and direction are trained apart (arXiv:2402.09353); only on an unquantized base."""

    @property
    def effective_alpha(self) -> int | float:
        """alpha, or its default for this rank."""
        return 2 * self.r if self.alpha is None else self.alpha


class LoraAdapter(_LowRankAdapter):
    """Low-rank updates beside frozen weights (arXiv:2106.09685)."""

    rules: ClassVar = (
        Rule(
            name="start-in-the-base-no-dora",
            message="PiSSA and OLoRA take their start out of the base's weights, whose length DoRA trains by itself; "
            "leave out use_dora, or init_lora_weights",
            holds=lambda adapter: not (adapter.starts_in_base and adapter.use_dora),
            cel=f"!has(self.init_lora_weights) || !(self.init_lora_weights in {list(STARTS_IN_BASE)})"
            " || !has(self.use_dora) || !self.use_dora",
            path="init_lora_weights",
            needs=("init_lora_weights", "use_dora"),
        ),
        Rule(
            name="loftq-is-not-merged",
            message="LoftQ's update makes up for what 4 bits lost, which merging into unquantized weights would add to "
            "them; leave out merge_adapter_into_base_model, or init_lora_weights",
            holds=lambda adapter: (
                adapter.init_lora_weights != "loftq" or not adapter.postprocessor.merge_adapter_into_base_model
            ),
            cel="!has(self.init_lora_weights) || self.init_lora_weights != 'loftq' || !has(self.postprocessor)"
            " || !has(self.postprocessor.merge_adapter_into_base_model)"
            " || !self.postprocessor.merge_adapter_into_base_model",
            path="init_lora_weights",
            needs=("init_lora_weights", "postprocessor.merge_adapter_into_base_model"),
        ),
        Rule(
            name="eva-config-needs-eva",
            message="this says how a start by EVA is found; write `init_lora_weights: eva`, or leave it out",
            holds=lambda adapter: adapter.eva_config is None or adapter.init_lora_weights == "eva",
            cel="!has(self.eva_config) || (has(self.init_lora_weights) && self.init_lora_weights == 'eva')",
            path="eva_config",
            needs=("init_lora_weights", "eva_config"),
        ),
        Rule(
            name="stored-adapter-has-started",
            message="a stored adapter goes on from where it ended, so that no start has an effect; leave out "
            "init_lora_weights, or pretrained_adapter_weights",
            holds=lambda adapter: adapter.init_lora_weights == "default" or adapter.pretrained_adapter_weights is None,
            cel="!has(self.init_lora_weights) || self.init_lora_weights == 'default'"
            " || !has(self.pretrained_adapter_weights)",
            path="init_lora_weights",
            needs=("init_lora_weights", "pretrained_adapter_weights"),
        ),
    )

    type: Literal["lora"]
    """lora, adalora, ia3, vera, loha, lokr, oft or boft."""
    init_lora_weights: LoraStart = "default"
    """How the update's matrices start. The update itself starts at zero; with pissa and olora at the base's own largest
    directions, taken out of it while training (arXiv:2404.02948, 2406.01775), and with loftq at what 4 bits lost
    (arXiv:2310.08659). With eva its first matrix is what the training rows do most in the layer, and ranks go where
    that is more (arXiv:2410.07170)."""
    eva_config: EvaConfig | None = None
    """How eva looks at the training rows."""
    rank_pattern: Ranks | None = None
    """Layer name or expression -> rank, where it differs from r."""
    alpha_pattern: Alphas | None = None
    """Layer name or expression -> alpha, where it differs."""
    loraplus_lr_ratio: Annotated[Number, Field(gt=0, le=1024)] | None = None
    """How many times faster the update's second matrix learns than its first (LoRA+, arXiv:2402.12354); null is 1."""

    @property
    def effective_eva(self) -> EvaConfig:
        return EvaConfig() if self.eva_config is None else self.eva_config

    @property
    def starts_in_base(self) -> bool:
        """Whether the update starts as a part of the base's own weights."""
        return self.init_lora_weights in STARTS_IN_BASE


class AdaLoraAdapter(_LowRankAdapter):
    """Low-rank updates whose ranks are moved to where they help most (arXiv:2303.10512)."""

    refused: ClassVar = _LowRankAdapter.refused | {
        "loraplus_lr_ratio": "LoRA+ is about two matrices, and AdaLoRA has three; leave it out, or write `type: lora`",
        "eva_config": "AdaLoRA gives out its ranks while it trains; leave it out, or write `type: lora`",
    }
    rules: ClassVar = (
        Rule(
            name="adalora-ranks",
            message="ranks are pruned from init_r down to target_r, so init_r must be at least target_r",
            holds=lambda adapter: adapter.init_r >= adapter.target_r,
            cel="(has(self.init_r) ? self.init_r : 12) >= (has(self.target_r) ? self.target_r : 8)",
            path="init_r",
            needs=("init_r", "target_r"),
        ),
        Rule(
            name="adalora-steps",
            message="tinit and tfinal together must be less than total_step, or no step is left to move ranks in",
            holds=lambda adapter: adapter.total_step is None or adapter.tinit + adapter.tfinal < adapter.total_step,
            cel="!has(self.total_step) || (has(self.tinit) ? self.tinit : 0)"
            " + (has(self.tfinal) ? self.tfinal : 0) < self.total_step",
            path="total_step",
            needs=("tinit", "tfinal", "total_step"),
        ),
        Rule(
            name="adalora-no-dora",
            message="AdaLoRA and DoRA can't be combined; leave out use_dora, or write `type: lora`",
            holds=lambda adapter: not adapter.use_dora,
            cel="!has(self.use_dora) || !self.use_dora",
            path="use_dora",
            needs=("use_dora",),
        ),
        Rule(
            name="adalora-given-ranks",
            message="ranks are what is left of init_r; write numbers up to that, or lists of so many true and false",
            holds=lambda adapter: all(
                _is_left_of(adapter.init_r, rank) for rank in (adapter.rank_pattern or {}).values()
            ),
            path="rank_pattern",
            needs=("rank_pattern", "init_r"),
        ),
        Rule(
            name="adalora-stored-ranks",
            message="a stored adapter has ranks of its own; leave out rank_pattern, or pretrained_adapter_weights",
            holds=lambda adapter: adapter.rank_pattern is None or adapter.pretrained_adapter_weights is None,
            cel="!has(self.rank_pattern) || !has(self.pretrained_adapter_weights)",
            path="rank_pattern",
            needs=("rank_pattern", "pretrained_adapter_weights"),
        ),
    )

    type: Literal["adalora"]
    """adalora."""
    target_r: PositiveCount = 8
    """Mean rank at the end."""
    init_r: PositiveCount = 12
    """Rank of every layer at the start."""
    tinit: Count = 0
    """Optimizer steps before ranks are pruned."""
    tfinal: Count = 0
    """Optimizer steps at the end with ranks as they are."""
    delta_t: PositiveCount = 1
    """Optimizer steps from one pruning to the next."""
    beta1: Annotated[Number, Field(gt=0, lt=1)] = 0.85
    """Smoothing of a weight's importance."""
    beta2: Annotated[Number, Field(gt=0, lt=1)] = 0.85
    """Smoothing of how uncertain that importance is."""
    orth_reg_weight: Fraction = 0.5
    """Weight of the penalty that keeps the update's factors orthogonal."""
    total_step: PositiveCount | None = None
    """Optimizer steps that ranks are planned for; null is the run's own number."""
    rank_pattern: GivenRanks | None = None
    """Layer name -> the rank that an earlier run has given it. These layers start with it, and no rank is moved."""


class Ia3Adapter(Adapter):
    """Vectors that scale keys, values and activations (arXiv:2205.05638)."""

    rules: ClassVar = (
        Rule(
            name="ia3-feedforward",
            message="feedforward_modules must be some of target_modules; write both",
            holds=lambda adapter: _is_subset(adapter.feedforward_modules, adapter.target_modules),
            path="feedforward_modules",
            needs=("feedforward_modules", "target_modules"),
        ),
    )

    type: Literal["ia3"]
    """ia3."""
    target_modules: TargetModules | None = None
    """The layers that are scaled; null: keys, values and the second layer of the MLP."""
    feedforward_modules: TargetModules | None = None
    """Those of them whose input is scaled rather than their output."""
    fan_in_fan_out: bool = False
    """Whether layers store their weights transposed, as GPT-2's do."""
    modules_to_save: Names | None = None
    """Further layers that are trained and stored whole."""
    init_ia3_weights: bool = True
    """Whether the vectors start at one, which changes nothing."""


_FEW_NUMBERS = "of the types that train very few numbers, write vera"
_TOKENS = "it trains tokens before the prompt rather than layers; write lora"
REFUSED_TYPES = {
    "fourierft": _FEW_NUMBERS, "waveft": _FEW_NUMBERS, "c3a": _FEW_NUMBERS, "vblora": _FEW_NUMBERS,
    "tinylora": _FEW_NUMBERS, "ln_tuning": "of the types that scale what is there, write ia3",
    "hra": "of the types that rotate the inputs of layers, write oft or boft",
    "prompt_tuning": _TOKENS, "prefix_tuning": _TOKENS, "p_tuning": _TOKENS, "adaption_prompt": _TOKENS,
}  # fmt: skip
"""Types that people bring along from elsewhere -> what to write."""


def _refuse_type(value: Any) -> Any:
    kind = value.get("type") if isinstance(value, Mapping) else None
    if isinstance(kind, str) and kind in REFUSED_TYPES:
        raise PydanticCustomError(TYPE_ERROR, "{message}", {"message": f"not supported: {REFUSED_TYPES[kind]}"})
    return value


AnyAdapter = Annotated[
    LoraAdapter | AdaLoraAdapter | Ia3Adapter | VeraAdapter | LohaAdapter | LokrAdapter | OftAdapter | BoftAdapter,
    Field(discriminator="type"),
    BeforeValidator(_refuse_type),
]


def _is_left_of(init_r: int, rank: int | list[bool]) -> bool:
    return rank <= init_r if isinstance(rank, int) else len(rank) == init_r


def _is_subset(part: Any, whole: Any) -> bool:
    if part is None or isinstance(whole, str):
        return True
    if whole is None:
        return False
    return {part} <= set(whole) if isinstance(part, str) else set(part) <= set(whole)

"""The whole LLM config, the rules between its sections, and what it resolves to."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from llm_api.config.adapter import STARTS_UNQUANTIZED, AnyAdapter
from llm_api.config.base import BaseModelName
from llm_api.config.features import InputFeature, OutputFeature
from llm_api.config.generation import Generation
from llm_api.config.model_parameters import ModelParameters
from llm_api.config.preference import PreferenceTrainer, find_rejected_column
from llm_api.config.preprocessing import Preprocessing
from llm_api.config.prompt import Prompt
from llm_api.config.quantization import Quantization
from llm_api.config.scalars import Name
from llm_api.config.trainer import NoneTrainer, Trainer
from llm_api.config.tuning import TuningTrainer
from llm_api.model import Model, Rule

_FINETUNES = "(has(self.trainer) && self.trainer.type != 'none')"
_PREFERS = "(has(self.trainer) && self.trainer.type in ['dpo', 'kto', 'orpo'])"
_REJECTED = "(has(self.trainer.rejected_column) ? self.trainer.rejected_column : 'rejected')"
_TEMPLATE = "self.prompt.template.replace('{{', '')"
_INPUT, _OUTPUT = "self.input_features[0]", "self.output_features[0]"
_SWEEP = "one resource is one run; apply several resources with different names instead"


def _column_cel(feature: str) -> str:
    return f"(has({feature}.column) ? {feature}.column : {feature}.name)"


NO_REMOTE_CODE = Rule(
    name="no-remote-code",
    message="models that bring code of their own are not supported, as it would run unseen; leave it out, and "
    "choose a model that transformers knows by itself",
    holds=lambda config: not config.trust_remote_code,
    cel="!has(self.trust_remote_code) || !self.trust_remote_code",
    path="trust_remote_code",
    needs=("trust_remote_code",),
)

NO_FOUR_BIT_PRODUCTS = Rule(
    name="no-four-bit-products",
    message="LoHa and LoKr can't go beside layers in 4 bits; leave out quantization",
    holds=lambda config: (
        config.quantization is None
        or config.quantization.bits != 4
        or config.adapter is None
        or config.adapter.type not in ("loha", "lokr")
    ),
    cel="!has(self.quantization) || (has(self.quantization.bits) && self.quantization.bits != 4)"
    " || !has(self.adapter) || !(self.adapter.type in ['loha', 'lokr'])",
    path="quantization",
    needs=("quantization.bits", "adapter.type"),
)


class Backend(Model):
    """Where another program would run; here the resource itself says so."""

    rules: ClassVar = (
        Rule(
            name="backend-local",
            message="only `local` is accepted, and changes nothing; machines are chosen by spec.compute",
            holds=lambda backend: backend.type == "local",
            cel="!has(self.type) || self.type == 'local'",
            path="type",
            needs=("type",),
        ),
    )

    type: Name = "local"
    """Only local; machines are chosen by spec.compute."""


class LLMConfig(Model):
    """Base model, features, prompt, adapter, quantization, trainer and generation of one model."""

    refused: ClassVar = {
        "hyperopt": _SWEEP,
        "defaults": "write the keys at the feature",
        "adapters": "one adapter is trained; write adapter",
        "is_multimodal": "models of text only",
        "combiner": "there is one input, so nothing is combined",
    }
    lookalikes: ClassVar = {
        "model": "base_model",
        "model_name": "base_model",
        "inputs": "input_features",
        "outputs": "output_features",
        "lora": "adapter",
        "training": "trainer",
        "rope_scaling": "model_parameters.rope_scaling",
        "neftune_noise_alpha": "model_parameters.neftune_noise_alpha",
    }
    rules: ClassVar = (
        NO_REMOTE_CODE,
        NO_FOUR_BIT_PRODUCTS,
        Rule(
            name="finetune-needs-text",
            message="fine-tuning needs an output of type text, for categories too",
            holds=lambda config: not config.finetunes or config.output_features[0].type == "text",
            cel=f"!{_FINETUNES} || self.output_features[0].type == 'text'",
            path="output_features",
            needs=("trainer.type", "output_features"),
        ),
        Rule(
            name="adapter-needs-training",
            message="an adapter is trained, or loaded from pretrained_adapter_weights; write "
            "`trainer: {type: finetune}`, or the weights",
            holds=lambda config: (
                config.adapter is None or config.finetunes or config.adapter.pretrained_adapter_weights is not None
            ),
            cel=f"!has(self.adapter) || {_FINETUNES} || has(self.adapter.pretrained_adapter_weights)",
            path="adapter",
            needs=("trainer.type", "adapter"),
        ),
        Rule(
            name="quantized-finetune-needs-lora",
            message="fine-tuning a quantized model needs `adapter: {type: lora}`; or leave quantization out",
            holds=lambda config: (
                not config.finetunes
                or config.quantization is None
                or (config.adapter is not None and config.adapter.type == "lora")
            ),
            cel=f"!{_FINETUNES} || !has(self.quantization) || (has(self.adapter) && self.adapter.type == 'lora')",
            path="adapter",
            needs=("trainer.type", "quantization", "adapter.type"),
        ),
        Rule(
            name="dora-needs-full-precision",
            message="DoRA works on unquantized models only; leave out use_dora, or quantization",
            holds=lambda config: config.quantization is None or not getattr(config.adapter, "use_dora", False),
            cel="!has(self.quantization) || !has(self.adapter)"
            " || !has(self.adapter.use_dora) || !self.adapter.use_dora",
            path="adapter.use_dora",
            needs=("quantization", "adapter.use_dora"),
        ),
        Rule(
            name="start-needs-full-precision",
            message="this start needs the base's full weights; leave out quantization, or write default, gaussian or "
            "loftq",
            holds=lambda config: config.quantization is None or _start(config) not in STARTS_UNQUANTIZED,
            cel="!has(self.quantization) || !has(self.adapter) || !has(self.adapter.init_lora_weights)"
            f" || !(self.adapter.init_lora_weights in {list(STARTS_UNQUANTIZED)})",
            path="adapter.init_lora_weights",
            needs=("quantization", "adapter.init_lora_weights"),
        ),
        Rule(
            name="loftq-needs-4-bits",
            message="LoftQ makes up for what 4 bits lose of the base's weights; write `quantization: {bits: 4}`, or "
            "leave it out",
            holds=lambda config: (
                _start(config) != "loftq" or (config.quantization is not None and config.quantization.bits == 4)
            ),
            cel="!has(self.adapter) || !has(self.adapter.init_lora_weights)"
            " || self.adapter.init_lora_weights != 'loftq'"
            " || (has(self.quantization) && (!has(self.quantization.bits) || self.quantization.bits == 4))",
            path="adapter.init_lora_weights",
            needs=("quantization.bits", "adapter.init_lora_weights"),
        ),
        Rule(
            name="template-without-answer",
            message="the answer must not stand in the prompt; take the output's column out of the template",
            holds=lambda config: not _answer_columns(config) & config.effective_prompt.variables,
            cel="!has(self.prompt) || !has(self.prompt.template)"
            f" || ![{_OUTPUT}.name, {_column_cel(_OUTPUT)}].exists(name,"
            " self.prompt.template.replace('{{', '').contains('{' + name + '}')"
            " || self.prompt.template.replace('{{', '').contains('{' + name + ':'))",
            path="prompt.template",
            needs=("prompt.template", "output_features"),
        ),
        Rule(
            name="features-differ",
            message="input and output are the same column; the answer would stand in the prompt",
            holds=lambda config: (
                config.effective_prompt.template is not None
                or _column(config.input_features[0]) != _column(config.output_features[0])
            ),
            cel=f"(has(self.prompt) && has(self.prompt.template)) || {_column_cel(_INPUT)} != {_column_cel(_OUTPUT)}",
            path="output_features",
            needs=("prompt.template", "input_features", "output_features"),
        ),
        Rule(
            name="rejected-has-a-column",
            message="the rejected answer needs a column of its own: not the output's, not the input's, and none that "
            "stands in the prompt's template",
            holds=lambda config: (
                not isinstance(config.trainer, PreferenceTrainer)
                or config.trainer.rejected_column
                not in {*_answer_columns(config), _column(config.input_features[0]), *config.effective_prompt.variables}
            ),
            cel=f"!{_PREFERS} || (!({_REJECTED} in [{_OUTPUT}.name, {_column_cel(_OUTPUT)}, {_column_cel(_INPUT)}])"
            " && (!has(self.prompt) || !has(self.prompt.template)"
            f" || !({_TEMPLATE}.contains('{{' + {_REJECTED} + '}}')"
            f" || {_TEMPLATE}.contains('{{' + {_REJECTED} + ':'))))",
            path="trainer.rejected_column",
            needs=("trainer", "prompt.template", "input_features", "output_features"),
        ),
        Rule(
            name="validation-field-is-the-output",
            message="there is one output to watch; write its name, or leave validation_field out",
            holds=lambda config: config.trainer.validation_field in (None, "combined", config.output_features[0].name),
            cel="!has(self.trainer) || !has(self.trainer.validation_field)"
            " || self.trainer.validation_field in ['combined', self.output_features[0].name]",
            path="trainer.validation_field",
            needs=("trainer", "output_features"),
        ),
    )

    model_type: Literal["llm"] = "llm"
    """Only llm."""
    base_model: BaseModelName
    """The pretrained model: a hub's OWNER/NAME, a folder, or an s3:// folder. Required."""
    input_features: Annotated[list[InputFeature], Field(min_length=1, max_length=1)]
    """The one input, of type text."""
    output_features: Annotated[list[OutputFeature], Field(min_length=1, max_length=1)]
    """The one output: text, or category with `trainer: {type: none}`."""
    prompt: Prompt | None = None
    """What the model is asked; null sends the input column as it is."""
    preprocessing: Preprocessing = Preprocessing()
    """Sampling, split and lengths of the data."""
    adapter: AnyAdapter | None = None
    """What is trained beside the frozen base; null trains all weights."""
    quantization: Quantization | None = None
    """The base in 4 or 8 bits; null keeps its precision."""
    model_parameters: ModelParameters | None = None
    """Context length and noise."""
    trainer: Trainer = NoneTrainer(type="none")
    """How the model is trained."""
    generation: Generation = Generation()
    """How answers are generated."""
    trust_remote_code: bool = False
    """Only false: code that comes with a model is never run."""
    backend: Backend | None = None
    """Accepted for configs from elsewhere, and ignored."""
    ludwig_version: Name | None = None
    """Accepted for configs from elsewhere, and ignored."""

    @property
    def finetunes(self) -> bool:
        return isinstance(self.trainer, TuningTrainer)

    @property
    def rejected_column(self) -> str | None:
        """The column of the worse answers, where there are any."""
        return find_rejected_column(self.trainer)

    @property
    def effective_prompt(self) -> Prompt:
        return Prompt() if self.prompt is None else self.prompt

    def warnings(self) -> list[str]:
        """What was written and has no effect."""
        ignored = {
            "backend": "machines are chosen by spec.compute",
            "ludwig_version": "it names another program's version",
        }
        return [f"{key} is ignored: {why}" for key, why in ignored.items() if key in self.model_fields_set]

    def resolved(self) -> dict[str, Any]:
        """Everything with its defaults, as it is stored beside an artifact. What is worked out later stays unset."""
        without_effect = dict.fromkeys(("backend", "ludwig_version", "trust_remote_code"), True)
        return self.model_dump(mode="json", exclude=self.unwritten_derived() | without_effect)


def _start(config: LLMConfig) -> str | None:
    return getattr(config.adapter, "init_lora_weights", None)


def _column(feature: Any) -> str:
    return str(feature.name if feature.column is None else feature.column)


def _answer_columns(config: LLMConfig) -> set[str]:
    return {_column(feature) for feature in config.output_features} | {
        feature.name for feature in config.output_features
    }
